"""Every page of the built site in Chromium: what it loads, says, shows, and how it can be used."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tools import site

KB = 1000
WEIGHT = 700 * KB  # of everything that a page loads, compressed
SCHEMES = ("light", "dark")


def page_names() -> list[str]:
    """The pages there have to be, from the contents; the site may not have fewer."""
    toc = yaml.safe_load((site.BOOK / "_toc.yml").read_text("utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [f"{name}.html" for name in ["index", toc["root"], *files, "search"]]


PAGES = page_names()
WITH_WIDGETS = [name for name in PAGES if name == "index.html" or name.startswith("chapters/")]


class Watch:
    """What goes wrong while a page is open, and what it loads."""

    def __init__(self, page: Page, address: str) -> None:
        self.problems: list[str] = []
        self.loaded: set[str] = set()
        self.origin = "{0.scheme}://{0.netloc}".format(urlsplit(address))
        page.on("console", lambda m: m.type in ("error", "warning") and self.problem(m.text))
        page.on("pageerror", lambda error: self.problem(str(error)))
        page.on("requestfailed", lambda r: self.problem(f"failed: {r.url} {r.failure}"))
        page.on("response", lambda r: r.status >= 400 and self.problem(f"{r.status}: {r.url}"))
        page.on("request", lambda r: self.requested(r.url))

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def requested(self, url: str) -> None:
        if url.startswith(("data:", "blob:")):
            return
        if url.startswith(self.origin + "/"):
            self.loaded.add(url.split("#")[0].split("?")[0])
        else:
            self.problem(f"request to another origin: {url}")


@pytest.fixture(scope="module", params=SCHEMES)
def reader(request: pytest.FixtureRequest, browser: Browser) -> Iterator[BrowserContext]:
    """A reader whose system asks for light or dark colours."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=request.param
    )
    context.scheme = request.param
    yield context
    context.close()


@pytest.fixture
def desktop(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield context.new_page()
    context.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    yield context.new_page()
    context.close()


def show_everything(page: Page) -> None:
    """Scroll through the page until every widget has been drawn."""
    views = page.locator(".widget-view")
    for number in range(views.count()):
        views.nth(number).scroll_into_view_if_needed()
        expect(views.nth(number)).to_have_attribute("data-widget", "shown", timeout=20_000)
    page.evaluate(
        "() => { for (const one of document.querySelectorAll('details')) one.open = true }"
    )
    page.evaluate("() => document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
    page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")


def too_wide(page: Page) -> list[str]:
    """The outermost elements that stick out of the window and don't scroll inside a box."""
    return page.evaluate(
        """() => {
          const wide = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= wide) return [];
          return [...document.body.querySelectorAll('*')]
            .filter((el) => el.getBoundingClientRect().right > wide + 1)
            .map((el) => el.outerHTML.slice(0, 120));
        }"""
    )


def served_file(folder: Path, address: str, url: str) -> Path:
    path = folder / urlsplit(url).path.removeprefix(urlsplit(address).path).lstrip("/")
    return path / "index.html" if path.is_dir() else path


@pytest.mark.parametrize("name", PAGES)
def test_page(
    name: str,
    reader: BrowserContext,
    address: str,
    site_folder: Path,
    axe: Callable[..., list[str]],
    request: pytest.FixtureRequest,
) -> None:
    """One page in one colour scheme: quiet, self-contained, drawn, light, accessible."""
    page = reader.new_page()
    try:
        watch = Watch(page, address)
        page.goto(f"{address}/{name}")
        assert page.locator("html").get_attribute("data-theme") == reader.scheme
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("h1").count() == 1
        show_everything(page)

        # Every view became a widget, and none of them is the sentence that says it failed.
        views = page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count()
        assert page.locator(".widget-view .fx").count() >= views
        assert page.locator(".fx-error").count() == 0
        noscript = page.locator('script[type$="widget-view+json"] ~ noscript').count()
        assert noscript >= views, "a widget without a fallback for readers without scripts"

        # Mathematics is typeset while building: no source is left over, and its fonts are here.
        assert page.locator(".katex-error").count() == 0
        assert leftover_latex(page) == []
        if page.locator(".katex").count():
            fonts = [u for u in watch.loaded if "/katex/fonts/" in u]
            assert fonts, "mathematics without its fonts"
            assert page.locator(".katex .katex-mathml math").count()

        assert too_wide(page) == []
        assert axe(page) == []
        assert watch.problems == []

        files = {served_file(site_folder, address, url) for url in watch.loaded}
        weight = sum(len(gzip.compress(path.read_bytes(), 6)) for path in files)
        request.node.user_properties.append((f"{name} kB", round(weight / KB)))
        assert weight <= WEIGHT, f"{name} weighs {weight / KB:.0f} kB"
    finally:
        page.close()


def leftover_latex(page: Page) -> list[str]:
    """Text that still looks like LaTeX, outside of code and of what only screen readers get."""
    return page.evaluate(
        r"""() => {
          const walk = document.createTreeWalker(
            document.querySelector('main'), NodeFilter.SHOW_TEXT);
          const found = [];
          while (walk.nextNode()) {
            const { data, parentElement: el } = walk.currentNode;
            if (el.closest('pre, code, script, style, noscript, math, .fx')) continue;
            if (/\\[a-zA-Z]{2,}|\$[^$\s][^$]*\$/.test(data)) found.push(data.trim().slice(0, 80));
          }
          return found;
        }"""
    )


@pytest.mark.parametrize("name", PAGES)
def test_phone(name: str, phone: Page, address: str, axe: Callable[..., list[str]]) -> None:
    """Nothing sticks out at 360 pixels, what scrolls inside its box can be focused, and the pages
    with widgets are accessible in this width too (their colours are those of the wide page)."""
    watch = Watch(phone, address)
    phone.goto(f"{address}/{name}")
    show_everything(phone)
    assert too_wide(phone) == []
    stuck = phone.evaluate(
        """() => [...document.querySelectorAll('.text pre, .equation-body')]
          .concat([...document.querySelectorAll('.table-scroll, .effedu-figure')])
          .filter((el) => el.scrollWidth > el.clientWidth + 1 && el.tabIndex < 0)
          .map((el) => el.outerHTML.slice(0, 120))"""
    )
    assert stuck == []
    if name in WITH_WIDGETS:
        assert axe(phone, contrast=False) == []
    assert watch.problems == []


LOOK = """() => [...document.querySelectorAll('.widget-view .fx, .widget-view .fx *')].map((el) =>
  el.tagName === "CANVAS" ? el.toDataURL() : getComputedStyle(el).backgroundColor)"""


def settled_look(page: Page) -> list[str]:
    """The colours and pictures of all widgets, once nothing is drawn any more."""
    looks: list[list[str]] = [[], page.evaluate(LOOK)]
    while looks[-1] != looks[-2]:
        page.wait_for_timeout(200)
        looks.append(page.evaluate(LOOK))
    return looks[-1]


@pytest.mark.parametrize("name", WITH_WIDGETS)
def test_a_view_that_is_put_on_the_page_late_looks_the_same(
    name: str, desktop: Page, address: str
) -> None:
    """JupyterLab renders a widget first and puts it on the page then; the site does it at once."""
    at_once = "await widget.render({ model, el });"
    late = """const place = document.createElement("div");
      await widget.render({ model, el: place });
      el.append(place);"""
    host = (site.BOOK / "_static/widget-host.js").read_text("utf-8")
    assert at_once in host
    looks = []
    for render in (at_once, late):
        served = host.replace(at_once, render)
        desktop.route("**/widget-host.js*", partial(Route.fulfill, body=served))
        desktop.goto(f"{address}/{name}")
        show_everything(desktop)
        looks.append(settled_look(desktop))
        desktop.unroute("**/widget-host.js*")
    assert looks[0] == looks[1]


def test_chapters_say_when_and_with_what_they_were_stored(desktop: Page, address: str) -> None:
    desktop.goto(f"{address}/status.html")
    chapters = [name for name in PAGES if name.startswith("chapters/")]
    expect(desktop.locator("main tbody tr")).to_have_count(len(chapters))
    for name in chapters:
        desktop.goto(f"{address}/{name}")
        expect(desktop.locator(".page-stored")).to_contain_text("with Python 3.")
    desktop.locator(".page-stored a").click()
    expect(desktop.locator("h1")).to_contain_text("Status")


def test_ledger_can_be_filtered(desktop: Page, address: str) -> None:
    desktop.goto(f"{address}/ledger.html")
    rows = desktop.locator(".claims-ledger tbody tr")
    every = rows.count()
    said = desktop.locator(".ledger-filter output")
    expect(said).to_have_text(f"{every} of {every} claims")
    desktop.get_by_label("Verdict").select_option("fails")
    failed = desktop.locator(".claims-ledger tbody tr:visible")
    count = failed.count()
    assert 0 < count < every
    assert failed.locator(".claim-verdict-fails").count() == count
    expect(said).to_have_text(f"{count} of {every} claims")
    desktop.get_by_label("Article").select_option("4")
    sections = failed.locator("td:nth-child(2)").all_inner_texts()
    assert sections
    assert all(section.startswith("4.") for section in sections)
    failed.first.get_by_role("link").click()  # to the experiment, not to the chapter's beginning
    expect(desktop.locator("#on-trial h2")).to_be_in_viewport()


def test_nothing_is_dead_or_from_elsewhere(site_folder: Path) -> None:
    """Every link and anchor of every page leads somewhere, and no file names another host."""
    assert site.problems(site_folder) == []
    built = {path.relative_to(site_folder).as_posix() for path in site.html_files(site_folder)}
    assert built == set(PAGES)


def test_the_checks_of_the_files_can_fail(site_folder: Path, tmp_path: Path) -> None:
    """The same checks on a copy with one fault of each kind."""
    copy = tmp_path / "copy"
    shutil.copytree(site_folder, copy)
    page = copy / "glossary.html"
    text = page.read_text("utf-8")
    fault = {
        '<a href="nowhere.html">x</a>': "no page or file nowhere.html",
        '<a href="#nowhere">x</a>': "no anchor #nowhere",
        '<a href="/glossary.html">x</a>': "starts at the root",
        '<a href="../../../etc/hosts">x</a>': "leaves the site's folder",
        '<img src="https://cdn.example/a.png" alt="x">': "from elsewhere",
        '<link rel="stylesheet" href="//cdn.example/a.css">': "from elsewhere",
        '<script>import("https://cdn.example/a.js")</script>': "from elsewhere",
        '<style>@import "https://cdn.example/a.css";</style>': "from elsewhere",
        '<p style="background:url(https://cdn.example/a.png)">x</p>': "from elsewhere",
        '<script data-src="nowhere.widgets.js"></script>': "no page or file nowhere.widgets.js",
        '<script src="_static/bootstrap.js"></script>': "does without",
    }
    for html, words in fault.items():
        page.write_text(text.replace("</main>", html + "</main>"), "utf-8")
        found = [line for line in site.problems(copy) if "glossary.html" in line]
        assert found, html
        assert words in found[0], html


def test_home_shows_a_widget_above_the_fold(desktop: Page, address: str) -> None:
    """A visitor can do something at once: the widget is in the first window, and answers."""
    desktop.goto(f"{address}/")
    widget = desktop.locator(".widget-view .fx").first
    expect(widget).to_be_visible()
    assert widget.bounding_box()["y"] < 450
    before = widget.inner_text()
    control = widget.locator("select, input[type=range]").first
    control.focus()
    desktop.keyboard.press(
        "ArrowDown" if control.evaluate("el => el.tagName") == "SELECT" else "ArrowRight"
    )
    desktop.wait_for_function(
        "([el, text]) => el.innerText !== text", arg=[widget.element_handle(), before]
    )


def test_home_lists_the_whole_path(desktop: Page, address: str) -> None:
    desktop.goto(f"{address}/")
    chapters = desktop.locator(".book-path li")
    assert chapters.count() == 14
    finished = [name for name in PAGES if name.startswith("chapters/")]
    assert desktop.locator(".book-path li a").count() == len(finished)
    assert desktop.locator(".book-path li.is-coming").count() == 14 - len(finished)


def test_theme_button(desktop: Page, address: str) -> None:
    """Auto, light, dark and around, by keyboard; remembered on the next page and after a reload."""
    desktop.goto(f"{address}/glossary.html")
    html = desktop.locator("html")
    button = desktop.get_by_role("button", name="Colours")
    paper = "() => getComputedStyle(document.documentElement).backgroundColor"
    light = desktop.evaluate(paper)
    seen = []
    for _ in range(3):
        button.focus()
        desktop.keyboard.press("Enter")
        seen.append((html.get_attribute("data-mode"), html.get_attribute("data-theme")))
    assert seen == [("light", "light"), ("dark", "dark"), ("auto", "light")]
    desktop.emulate_media(color_scheme="dark")  # auto follows the system at once
    expect(html).to_have_attribute("data-theme", "dark")
    assert desktop.evaluate(paper) != light
    desktop.keyboard.press("Enter")
    desktop.goto(f"{address}/notation.html")
    expect(html).to_have_attribute("data-theme", "light")
    assert desktop.evaluate(paper) == light


def test_keyboard_starts_with_the_skip_link(desktop: Page, address: str) -> None:
    desktop.goto(f"{address}/glossary.html")
    desktop.keyboard.press("Tab")
    skip = desktop.locator(".skip-link")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    desktop.keyboard.press("Enter")
    expect(desktop.locator("main")).to_be_focused()
    desktop.keyboard.press("Tab")
    assert desktop.evaluate("() => document.activeElement.closest('main') !== null")
    style = desktop.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_search_by_keyboard(desktop: Page, address: str) -> None:
    """The slash reaches the field from anywhere; the results come from the site's own index."""
    watch = Watch(desktop, address)
    desktop.goto(f"{address}/notation.html")
    desktop.keyboard.press("/")
    field = desktop.get_by_role("searchbox", name="Search the book")
    expect(field).to_be_focused()
    desktop.keyboard.type("receptive field")
    desktop.keyboard.press("Enter")
    desktop.wait_for_url("**/search.html?q=receptive*")
    results = desktop.locator("#search-results li a")
    expect(results.first).to_be_visible()
    expect(desktop.locator("#search-results")).to_contain_text("Search finished")
    assert any("glossary" in link.get_attribute("href") for link in results.all())
    desktop.wait_for_load_state("networkidle")  # the page still reads what it quotes from results
    results.first.focus()
    desktop.keyboard.press("Enter")
    desktop.wait_for_url(lambda url: "search.html" not in url)
    assert watch.problems == []


def test_search_results_are_accessible(
    desktop: Page, address: str, axe: Callable[[Page], list[str]]
) -> None:
    desktop.goto(f"{address}/search.html?q=attention")
    expect(desktop.locator("#search-results")).to_contain_text("Search finished")
    assert axe(desktop) == []


def test_a_query_is_text(desktop: Page, address: str) -> None:
    desktop.goto(f"{address}/search.html?q=%3Cimg+src%3Dx+onerror%3D%22window.bad%3D1%22%3E")
    expect(desktop.locator("#search-results")).to_contain_text("Search")
    desktop.wait_for_timeout(300)
    assert desktop.evaluate("() => window.bad") is None
    assert desktop.locator("main img").count() == 0


def test_menu_on_a_phone(phone: Page, address: str) -> None:
    """The contents open and close by keyboard, take the focus and give it back."""
    phone.goto(f"{address}/glossary.html")
    button = phone.get_by_role("button", name="Contents")
    nav = phone.get_by_role("navigation", name="Contents of the book")
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(nav).to_be_hidden()
    button.focus()
    phone.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(nav).to_be_visible()
    expect(nav.get_by_role("link").first).to_be_focused()
    phone.keyboard.press("Escape")
    expect(nav).to_be_hidden()
    expect(button).to_be_focused()
    button.tap()
    nav.get_by_role("link", name="Notation").tap()
    phone.wait_for_url("**/notation.html")


def test_chapters_can_be_downloaded(desktop: Page, address: str, site_folder: Path) -> None:
    chapters = [name for name in PAGES if name.startswith("chapters/")]
    assert chapters
    for name in chapters:
        desktop.goto(f"{address}/{name}")
        with desktop.expect_download() as download:
            desktop.get_by_role("link", name="Download the notebook").click()
        source = site.BOOK / Path(name).with_suffix(".ipynb")
        assert download.value.suggested_filename == source.name
        shipped = site_folder / "_sources" / Path(name).with_suffix(".ipynb")
        assert Path(download.value.path()).read_bytes() == shipped.read_bytes()


def test_without_scripts(browser: Browser, address: str) -> None:
    """Text, contents and mathematics are there; a widget has a picture and words in its place."""
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(f"{address}/index.html")
    expect(page.locator("noscript figure, noscript .fx-fallback").first).to_be_visible()
    expect(page.get_by_role("navigation", name="Contents of the book")).to_be_visible()
    page.goto(f"{address}/notation.html")
    expect(page.locator(".katex-display").first).to_be_visible()
    context.close()


def test_works_from_a_folder_of_files(browser: Browser, site_folder: Path) -> None:
    """Opened as a file, without any server, a page still has its style, mathematics and widgets."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((site_folder / "index.html").as_uri())
    show_everything(page)
    assert page.locator(".widget-view .fx").count() >= 1
    assert page.locator(".site-title").evaluate("el => getComputedStyle(el).fontWeight") == "600"
    page.get_by_role("link", name="Notation").first.click()
    expect(page.locator(".katex-display").first).to_be_visible()
    assert problems == []
    context.close()


def test_on_paper(desktop: Page, address: str) -> None:
    """Printing leaves the frame away and turns dark pages light."""
    desktop.goto(f"{address}/glossary.html")
    desktop.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
    desktop.emulate_media(media="print")
    for part in (".site-header", ".site-nav", ".page-turn"):
        expect(desktop.locator(part)).to_be_hidden()
    paper = desktop.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
