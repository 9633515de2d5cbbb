"""A browser for the tests of pages. Add fixtures freely; ``open_page`` watches every page it opens.

Set ``CHROMIUM`` to use another browser than the one found on the path. Without any the tests fail:
a missing browser must not look like a passing site.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, sync_playwright

from tools import chromium, site

FOLDER = "some/folder"  # the site must not assume that it lives at a server's root
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    if path is None:
        pytest.fail("No Chromium: install the package `chromium`, or set CHROMIUM to its path.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(chromium.FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open HTML text as a page: ``open_page(html, width=1200)``.

    Console errors, uncaught errors and requests that leave the page fail the test at its end,
    unless their text holds one of the strings in ``expected``.
    """
    problems: list[str] = []
    allowed: list[str] = []
    contexts = []

    def open_(
        html: str, *, width: int = 1200, expected: tuple[str, ...] = (), **options: Any
    ) -> Page:
        allowed.extend(expected)
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(html, "utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda r: (
                r.url.startswith(("file:", "blob:", "data:"))
                or problems.append(f"request to {r.url}")
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [p for p in problems if not any(text in p for text in allowed)] == []


@pytest.fixture
def load_module(open_page: Callable[..., Page]) -> Callable[[type], Page]:
    """Open a page whose ``window.widget`` is a widget class's module as it is shipped."""

    def load(widget: type) -> Page:
        page = open_page("<!DOCTYPE html><html lang=en><title>module</title></html>")
        page.evaluate(
            """async (text) => {
                 const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
                 window.widget = await import(url);
               }""",
            str(widget._esm),
        )
        return page

    return load


@pytest.fixture
def axe() -> Callable[..., list[str]]:
    """Return what axe-core finds wrong on a page: WCAG 2.2 A and AA, target size included.

    ``contrast=False`` leaves out colours, which take it most of the time, where another test of
    the same page looks at them.
    """
    from axe_playwright_python.sync_playwright import Axe

    def run(page: Page, *, contrast: bool = True) -> list[str]:
        options = {
            "runOnly": {"type": "tag", "values": WCAG},
            "rules": {"target-size": {"enabled": True}, "color-contrast": {"enabled": contrast}},
            "resultTypes": ["violations"],
        }
        violations = Axe().run(page, options=options).response["violations"]
        return [f"{v['id']}: {n['html']}" for v in violations for n in v["nodes"]]

    return run


def newest(*folders: Path) -> float:
    """When the youngest source below these folders was changed."""
    times = [0.0]
    for folder in folders:
        for path in folder.rglob("*"):
            built = {"_build", "__pycache__", ".ipynb_checkpoints"} & set(path.parts)
            if path.is_file() and not built:
                times.append(path.stat().st_mtime)
    return max(times)


@pytest.fixture(scope="session")
def site_folder() -> Path:
    """The built site; it is built now if a source is newer than the last build.

    ``EFFEDU_BUILT_SITE`` names another one, which is then taken as it is.
    """
    given = os.environ.get("EFFEDU_BUILT_SITE")
    if given:
        return Path(given)
    home = site.OUT / "index.html"
    sources = newest(site.BOOK, site.ROOT / "effedu")
    site.OUT.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(site.OUT.parent / "site.lock"):  # of several test processes, one builds
        if not home.is_file() or home.stat().st_mtime < sources:
            command = [sys.executable, "-m", "tools.site", "build", "--strict"]
            done = subprocess.run(command, cwd=site.ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return site.OUT


@pytest.fixture(scope="session")
def address(site_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the site is served, below a folder of a server; no slash at the end."""
    root = tmp_path_factory.mktemp("server")
    place = root / FOLDER
    place.parent.mkdir(parents=True)
    place.symlink_to(site_folder.resolve(), target_is_directory=True)
    with site.served(root) as server:
        yield f"{server}/{FOLDER}"
