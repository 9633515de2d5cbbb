"""Lighthouse on the built site: ``make lighthouse`` prints the scores and keeps the reports.

Serves the site compressed, as a static host does, and lets Lighthouse (from npm, its phone with a
slow processor and network) load the home page and some chapters. Each page is measured three times
and the run in the middle counts. Exit status 1 if a score is below the aim.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tools import chromium, site

VERSION = "13.5.0"  # of the npm package
PAGES = (
    "index.html",
    "chapters/03_attention.html",
    "chapters/04_blocking.html",
    "chapters/07_quantization.html",
)
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
AIM = 95
OUT = site.BOOK / "_build" / "lighthouse"


class Compressing(site.QuietHandler):
    """Text goes out gzipped, and may be kept, as from any static host."""

    TEXT = (".html", ".css", ".js", ".svg", ".json", ".ipynb", ".txt")

    def do_GET(self) -> None:
        name = self.translate_path(urlsplit(self.path).path)
        path = Path(name) / "index.html" if Path(name).is_dir() else Path(name)
        if not path.is_file() or path.suffix not in self.TEXT:
            super().do_GET()
            return
        body = packed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()


@functools.cache
def packed(path: Path) -> bytes:
    """Return a file compressed, once for all requests."""
    return gzip.compress(path.read_bytes(), 6)


def measure(page: str, address: str, browser: str) -> dict[str, float]:
    """Let Lighthouse load one page; return its scores from 0 to 100, and keep its report."""
    report = OUT / page.replace("/", "-").replace(".html", ".json")
    command = ["npx", "--yes", f"lighthouse@{VERSION}", f"{address}/{page}", "--quiet"]
    command += [
        "--output=json",
        f"--output-path={report}",
        f"--chrome-flags={' '.join(chromium.FLAGS)}",
    ]
    command += [f"--only-categories={','.join(CATEGORIES)}"]
    done = subprocess.run(
        command, env={**os.environ, "CHROME_PATH": browser}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"Lighthouse failed on {page}:\n{done.stdout}{done.stderr}")
    found = json.loads(report.read_text("utf-8"))["categories"]
    return {name: 100 * found[name]["score"] for name in CATEGORIES}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lighthouse", description=__doc__)
    parser.add_argument("pages", nargs="*", default=PAGES, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    browser = chromium.find()
    missing = [page for page in options.pages if not (site.OUT / page).is_file()]
    if missing or not browser or not shutil.which("npx"):
        print(
            f"no page {', '.join(missing)} in the built site: make site"
            if missing
            else "Lighthouse needs npx (of Node.js, 18 or later) and Chromium",
            file=sys.stderr,
        )
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{'':32}" + "".join(f"{name:>16}" for name in CATEGORIES))
    low = False
    try:
        with site.served(site.OUT, Compressing) as address:
            for page in options.pages:
                runs = [measure(page, address, browser) for _ in range(options.runs)]
                scores = {name: statistics.median(run[name] for run in runs) for name in CATEGORIES}
                low |= min(scores.values()) < AIM
                print(f"{page:32}" + "".join(f"{scores[name]:16.0f}" for name in CATEGORIES))
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    return int(low)


if __name__ == "__main__":
    raise SystemExit(main())
