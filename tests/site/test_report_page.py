"""A report's page in a browser: on a phone, in the dark, without a script and without a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from effedu.lm import heldout_text, load_lm
from effedu.report import Report, measure
from effedu.report_page import page as report_page


@pytest.fixture(scope="module")
def report() -> Report:
    return measure(load_lm(), heldout_text()[:2000], length=256, rounds=3, windows=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_readable(
    width: int,
    scheme: str,
    report: Report,
    open_page: Callable[..., Page],
    axe: Callable[[Page], list[str]],
) -> None:
    """``open_page`` fails the test for a request, a warning or an error."""
    view = open_page(report_page(report), width=width, color_scheme=scheme)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert axe(view) == []
    rows = view.locator("tbody tr")
    expect(rows).to_have_count(len(report.results))
    expect(rows.first).to_contain_text("1.00")
    svgs = view.locator("svg[role=img]")
    expect(svgs).to_have_count(2)
    # Labels of the plots shrink with them: not below what one can read.
    size = view.evaluate(
        """() => Math.min(...[...document.querySelectorAll("svg text")].map(
               (t) => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"""
    )
    assert size >= 9
    colours = view.evaluate(
        "() => [document.body, document.querySelector('svg text')].map((e, i) =>"
        " getComputedStyle(e)[i ? 'fill' : 'color'])"
    )
    assert colours[0] == colours[1]  # text of the plots has the page's colour


def test_page_works_without_scripts(report: Report, open_page: Callable[..., Page]) -> None:
    view = open_page(report_page(report), java_script_enabled=False)
    expect(view.get_by_role("heading", level=1)).to_have_text("What makes embedded cheaper")
    expect(view.get_by_role("table").get_by_role("rowheader")).to_have_count(len(report.results))


@pytest.mark.parametrize("width", [360, 1280])
def test_table_stays_a_table(width: int, report: Report, open_page: Callable[..., Page]) -> None:
    view = open_page(report_page(report), width=width)
    expect(view.get_by_role("columnheader")).to_have_count(8)
    expect(view.get_by_role("row").nth(1).get_by_role("cell")).to_have_count(7)
