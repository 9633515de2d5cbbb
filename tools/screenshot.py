"""Take the README's picture from the built site: ``make screenshot``."""

from __future__ import annotations

import argparse
import functools
import http.server
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from tools import chromium

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "book" / "_build" / "html"
PICTURE = ROOT / "book" / "images" / "screenshot.png"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not print every request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def screenshot(
    page: str = "intro.html",
    target: Path = PICTURE,
    *,
    site: Path = SITE,
    width: int = 1280,
    height: int = 800,
    theme: str = "light",
    anchor: str = "",
) -> Path:
    """Show one page of the built site in a window of this size; save what one sees.

    With ``anchor`` the page is scrolled to that element first. Raises ``ValueError`` if the page
    is not there, or if it shows an error instead of its widgets.
    """
    if not (site / page).is_file():
        raise ValueError(f"page must be a file of the built site {site}, got {page!r}: make site")
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    problems: list[str] = []
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium.ensure())
            window = browser.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=1.5,
                color_scheme="dark" if theme == "dark" else "light",
                reduced_motion="reduce",
            )
            window.on("pageerror", lambda error: problems.append(str(error)))
            window.goto(f"http://127.0.0.1:{server.server_port}/{page}", wait_until="networkidle")
            if anchor:
                window.locator(anchor).first.scroll_into_view_if_needed()
            window.wait_for_timeout(1000)  # widgets are drawn when they come near the window
            target.parent.mkdir(parents=True, exist_ok=True)
            window.screenshot(path=target)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    if problems:
        raise ValueError(f"page {page!r} has errors: {'; '.join(problems)}")
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a picture of a page of the built site.")
    parser.add_argument("page", nargs="?", default="intro.html")
    parser.add_argument("--target", type=Path, default=PICTURE)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--anchor", default="", help="a CSS selector to scroll to")
    options = vars(parser.parse_args())
    print(screenshot(options.pop("page"), options.pop("target"), **options))
