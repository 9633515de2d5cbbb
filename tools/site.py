"""Build the site, check what was built, serve it: ``python -m tools.site build`` or ``serve``.

``build --strict`` reads every page afresh and fails on any warning. Both kinds of build then look
at what came out: a page that would load something from elsewhere, or link to nothing, fails.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
OUT = BOOK / "_build" / "html"

# What an element loads by itself, as opposed to what a reader may follow.
LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src", "srcdoc"),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src", "data-src"),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
PASSIVE_LINKS = {"canonical", "prev", "next", "license", "alternate", "author"}
# Addresses in scripts and style sheets that name a vocabulary and are never fetched.
NAMES_ONLY = ("http://www.w3.org/", "https://www.w3.org/")
# What the default theme and Jupyter Book put on pages; none of it may come back unnoticed.
UNWANTED = ("fontawesome", "bootstrap", "require.min.js", "thebe", "mathjax", "sphinx-design")


@dataclass
class Page(HTMLParser):
    """The anchors, the links and the loaded files of one page."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # inline scripts and styles
    _inside: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name in ("id", "name"):
            if values.get(name) and (name == "id" or tag == "a"):
                self.anchors.add(values[name])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if not (tag == "link" and set(values.get("rel", "").split()) & PASSIVE_LINKS):
            for name in LOADING.get(tag, ()):
                value = values.get(name, "").strip()
                if name == "srcset":  # several addresses, each perhaps with a width behind it
                    self.loads += [part.split()[0] for part in value.split(",") if part.strip()]
                elif value:
                    self.loads.append(value)
        if "style" in values:
            self.code.append(values["style"])
        data = tag == "script" and "json" in values.get("type", "")
        self._inside = tag if tag in ("script", "style") and not data else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code.append(data)


def is_elsewhere(address: str) -> bool:
    """Whether fetching this address would leave the site's own origin.

    >>> is_elsewhere("//cdn.example/x.js"), is_elsewhere("../_static/book.css")
    (True, False)
    """
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ws", "wss", "ftp")


def loads_in_code(text: str) -> Iterator[str]:
    """Addresses elsewhere that a style sheet or script would fetch.

    >>> list(loads_in_code("a{background:url('https://cdn.example/a.png')} /* //b.example */"))
    ['https://cdn.example/a.png']
    """
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    called = r"""(?:url\(|@import|\bimport\(|fetch\(|importScripts\(|\.src\s*=)\s*["'`]?"""
    named = r"""(?:\bimport|\bfrom)\s*["'`]"""
    pattern = rf"""(?:{called}|{named})\s*((?:https?:|wss?:)?//[^\s"'`)]+)"""
    for address in re.findall(pattern, text):
        if not address.startswith(NAMES_ONLY):
            yield address


def html_files(out: Path) -> list[Path]:
    """The pages of a built site; what lies below ``_sources`` and ``_static`` is no page."""
    return sorted(
        path
        for path in out.rglob("*.html")
        if path.relative_to(out).parts[0] not in ("_sources", "_static", "_downloads")
    )


def problems(out: Path) -> list[str]:
    """Everything wrong with a built site that can be seen without a browser, one line each."""
    pages = {path.resolve(): Page(path) for path in html_files(out)}
    if not pages:
        return [f"no pages in {out}"]
    found = []
    for page in pages.values():
        name = page.path.relative_to(out)
        elsewhere = [address for address in page.loads if is_elsewhere(address)]
        elsewhere += [address for text in page.code for address in loads_in_code(text)]
        found += [f"{name} loads {address} from elsewhere" for address in elsewhere]
        found += [
            f"{name} loads {address}, which the book does without"
            for address in page.loads
            if any(word in address.lower() for word in UNWANTED)
        ]
        for address in page.links + page.loads:
            problem = dead(address, page, pages, out)
            if problem:
                found.append(f"{name}: {problem}")
    for path in sorted([*out.rglob("*.css"), *out.rglob("*.js")]):
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(out)} loads {address} from elsewhere"
            for address in loads_in_code(text)
        ]
        if path.suffix == ".css":
            for address in re.findall(r"""url\(\s*["']?([^"')]+)["']?\s*\)""", text):
                local = not is_elsewhere(address) and not address.startswith(("data:", "#"))
                if local and not (path.parent / unquote(urlsplit(address).path)).is_file():
                    found.append(f"{path.relative_to(out)}: no file {address}")
    return found


def dead(address: str, page: Page, pages: dict[Path, Page], out: Path) -> str:
    """Say what is wrong with a link of a page to the site itself; empty if nothing is."""
    parts = urlsplit(address.strip())
    if is_elsewhere(address) or parts.scheme in ("mailto", "data", "blob", "javascript"):
        return "" if parts.scheme != "javascript" else f"{address} runs a script"
    if parts.path.startswith("/"):
        return f"{address} starts at the root, so the site can't live in a folder"
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(out.resolve()) and parts.path:
        return f"{address} leaves the site's folder"
    if not target.is_file():
        return f"no page or file {address[:200]}"
    anchor = unquote(parts.fragment)
    there = pages.get(target.resolve())
    if anchor and there and anchor not in there.anchors:
        return f"no anchor {address}"
    return ""


def build(*, strict: bool = False, book: Path = BOOK, out: Path | None = None) -> list[str]:
    """Build the site below ``out``; return what is wrong with it, one line each.

    A strict build starts from nothing, because Sphinx repeats no warning of a page that it
    doesn't read again.
    """
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    from jupyter_book.sphinx import build_sphinx

    out = out or book / "_build" / "html"
    doctrees = out.parent / ".doctrees"
    if strict:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(doctrees, ignore_errors=True)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the reference is made from the package in this tree
    status = io.StringIO()
    with redirect_stdout(status):  # warnings go to stderr and stay visible
        result = build_sphinx(
            book,
            out,
            noconfig=True,
            path_config=book / "_config.yml",
            confoverrides={
                "external_toc_path": (book / "_toc.yml").as_posix(),
                "latex_individualpages": False,
                "nitpicky": True,
            },
            doctreedir=doctrees,
            warningiserror=strict,
            keep_going=True,
            quiet=False,
        )
    if result != 0:
        sys.stderr.write(status.getvalue()[-2000:])
        if isinstance(result, Exception):
            return [f"the build stopped: {result}"]
        return ["the build has warnings, which are above"] if strict else ["the build failed"]
    # The root of the site shows the home page itself: no redirect, no empty moment.
    shutil.copyfile(out / "intro.html", out / "index.html")
    for unused in (
        "file.png",
        "minus.png",
        "plus.png",
        "basic.css",
        "pygments.css",
        "mystnb.*.css",
    ):
        for path in (out / "_static").glob(unused):
            path.unlink()
    return problems(out)


def serve(out: Path = OUT, port: int = 0) -> None:
    """Serve the built site on a free port of this machine until Ctrl-C."""
    if not (out / "index.html").is_file():
        raise FileNotFoundError(f"no site in {out}: build it first with `make site`")
    handler = functools.partial(QuietHandler, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"The book: http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C stops it)")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nStopped.")


@contextmanager
def served(folder: Path, handler: type[QuietHandler] | None = None) -> Iterator[str]:
    """Serve a folder on a free port of this machine for a while; give its address, no slash."""
    make = functools.partial(handler or QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Static files as any server gives them, without a line of log for each."""

    extensions_map = {  # noqa: RUF012 - the base class declares it so
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".ipynb": "application/x-ipynb+json",
        ".woff2": "font/woff2",
    }

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build_command = commands.add_parser("build", help="build below book/_build/html")
    build_command.add_argument("--strict", action="store_true", help="warnings are errors")
    serve_command = commands.add_parser("serve", help="serve what was built")
    serve_command.add_argument("--port", type=int, default=0, help="default: a free one")
    options = parser.parse_args(arguments)
    if options.command == "serve":
        try:
            serve(port=options.port)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    start = time.monotonic()
    print("Building the site …", flush=True)
    wrong = build(strict=options.strict)
    for line in wrong:
        print(f"  {line}", file=sys.stderr)
    seconds = time.monotonic() - start
    if wrong:
        print(f"The site has {len(wrong)} problem(s) ({seconds:.0f} s).", file=sys.stderr)
        return 1
    print(f"{len(html_files(OUT))} pages in book/_build/html, {seconds:.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
