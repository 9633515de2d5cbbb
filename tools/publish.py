"""Put together what is published: the site, the package's wheel, and Colab's notebooks.

``EFFEDU_SITE_URL=… python -m tools.publish`` writes, below ``book/_build/publish``,

* the built site,
* ``wheels/effedu-….whl``, the package, which is in no public index under our name,
* ``colab/chapters/NN_name.ipynb`` and ``colab/exercises/NN_name.ipynb``: the same notebooks with a
  first cell that installs that wheel from the site, checked against its SHA-256.

No address stands in the sources: it comes from the environment, and every link of a notebook to
another page of the book is made absolute with it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import posixpath
import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from nbformat import NotebookNode

from tools import exercises, site, wheel
from tools.pins import pinned

ROOT = site.ROOT
OUT = site.BOOK / "_build" / "publish"

INSTALL = """\
# This notebook's package, from the book's own site (nothing to do where it is installed already).
%pip install --quiet {packages}
try:
    from google.colab import output  # Colab shows other people's widgets on request

    output.enable_custom_widget_manager()
except ImportError:
    pass"""


def requirement(package: Path, address: str) -> str:
    """What pip installs: the wheel below the site's address, and the hash that it has to have."""
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return f'"effedu @ {address}/wheels/{package.name}#sha256={digest}"'


def absolute_links(text: str, page: str, address: str) -> str:
    """Make the relative links of Markdown absolute: notebooks of the book lead to its pages.

    >>> absolute_links("[06](06_hardware.ipynb#on-trial)", "chapters/04_b", "https://a.example/b")
    '[06](https://a.example/b/chapters/06_hardware.html#on-trial)'
    >>> absolute_links("[up](../ledger.md), [out](https://b.example/)", "chapters/04_b", "https://a.example")
    '[up](https://a.example/ledger.html), [out](https://b.example/)'
    """

    def absolute(found: re.Match[str]) -> str:
        parts = urlsplit(found[2])
        if parts.scheme or parts.netloc or not parts.path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), parts.path))
        path = re.sub(r"\.(ipynb|md)$", ".html", path)
        return f"{found[1]}{address}/{path}{'#' * bool(parts.fragment)}{parts.fragment}{found[3]}"

    text = re.sub(r"(\]\()([^)\s]+)(\))", absolute, text)
    return re.sub(r'((?:href|src)=")([^"]+)(")', absolute, text)


def edition(notebook: NotebookNode, page: str, address: str, packages: list[str]) -> NotebookNode:
    """Return a notebook as Colab opens it: an installing cell first, links to the site."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = absolute_links(cell.source, page, address)
    install = nbformat.v4.new_code_cell(INSTALL.format(packages=" ".join(packages)), id="install")
    install.metadata["tags"] = ["nbval-ignore-output"]
    copy.cells.insert(0, install)
    copy.metadata["colab"] = {"name": f"{page.rpartition('/')[2]}.ipynb", "provenance": []}
    return copy


def editions(out: Path, address: str, package: str) -> list[Path]:
    """Write the edition of each chapter in the contents and of each exercise below ``out``."""
    (grader,) = pinned(["otter-grader"])
    toc = (site.BOOK / "_toc.yml").read_text("utf-8")
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        exercises.build(Path(scratch))
        sources = [
            (site.BOOK / f"{name}.ipynb", name, [package])
            for name in re.findall(r"file: (chapters/\w+)", toc)
        ]
        sources += [
            (path, f"exercises/{path.stem}", [package, grader])
            for path in sorted((Path(scratch) / "student").glob("*.ipynb"))
        ]
        for path, page, packages in sources:
            target = out / f"{page}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(edition(nbformat.read(path, 4), page, address, packages), target)
            written.append(target)
    return written


def publish(address: str, out: Path = OUT) -> list[Path]:
    """Write the whole publication below ``out``; return the notebooks for Colab."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"EFFEDU_SITE_URL must be the address at which the site will be, such as "
            f"https://name.example/book; got {address!r}"
        )
    address = address.rstrip("/")
    shutil.rmtree(out, ignore_errors=True)
    problems = site.build(strict=True)
    if problems:
        raise RuntimeError("the site was not built:\n" + "\n".join(problems))
    shutil.copytree(site.OUT, out)
    (out / ".nojekyll").touch()  # or GitHub would leave out what begins with an underscore
    package = requirement(wheel.build(out / "wheels"), address)
    return editions(out / "colab", address, package)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    try:
        notebooks = publish(os.environ.get("EFFEDU_SITE_URL", ""), options.out)
    except (ValueError, RuntimeError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{options.out}: the site, its wheel and {len(notebooks)} notebooks for Colab.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
