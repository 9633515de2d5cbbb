"""LowRankExplorer in a browser: its numbers are Python's, and every control answers."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from widget_page import slider, wait_for_views, widget_page, words_outside

from effedu.widgets import LowRankExplorer

SWEEP = {"plain": [(4, 3.0), (8, 2.5), (16, 2.0)], "activation-aware": [(8, 2.2), (24, 1.9)]}


def make(**options):
    generator = torch.Generator().manual_seed(0)
    trained, random = torch.randn(2, 24, 40, generator=generator)
    trained = trained @ torch.diag(0.9 ** torch.arange(40))
    small = torch.randn(6, 5, generator=generator)
    return LowRankExplorer(
        {"trained": trained, "random": random, "<b>": small}, **{"sweep": SWEEP, **options}
    )


def ready(page, views=1):
    wait_for_views(page, ".fxl-svg[width]", views)
    page.wait_for_timeout(80)


def percent(x):
    return f"{100 * x:.1f}\u00a0%"


def says(view, explorer):
    """Wait until the page shows what Python computes of the same state."""
    numbers = explorer.numbers
    share = numbers.parameters / numbers.full_parameters
    big = f"{percent(numbers.relative_error)} off with {percent(share)} of the numbers"
    expect(view.locator(".fx-big").first).to_have_text(big)
    words = view.locator(".fxl-say .fx-readout").first
    expect(words).to_contain_text(f"keeps {percent(numbers.energy)} of the energy")
    cost = view.locator(".fxl-table").first.locator("tbody tr").first.locator("td")
    assert cost.nth(1).inner_text() == f"{numbers.parameters:,}"
    measured = view.locator(".fxl-measured").first.inner_text()
    for name, bits in numbers.bits_per_byte.items():
        found = re.search(rf"{name}: (?:about )?([\d.]+) bits|{name}: not measured", measured)
        assert found, measured
        if bits is None:
            assert found[1] is None
        else:
            assert float(found[1]) == pytest.approx(bits, abs=0.0051)


@pytest.fixture
def library(load_module):
    return load_module(LowRankExplorer)


def test_numbers_equal_python_at_every_rank(library):
    explorer = make()
    state = {
        "matrices": explorer.matrices,
        "spectrum": base64.b64encode(explorer.spectrum_bytes).decode(),
        "factors": base64.b64encode(explorer.factor_bytes).decode(),
        "sweep": explorer.sweep,
    }
    found = library.evaluate(
        """({ matrices, spectrum, factors, sweep }) => {
             const bytes = (text) =>
               new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
             const state = { matrices, spectrum_bytes: bytes(spectrum),
                             factor_bytes: bytes(factors) };
             const read = widget.readMatrices({ get: (name) => state[name] });
             return read.map((m) => Array.from(m.spectrum, (_, k) => ({
               ...widget.lowRank(m.spectrum, k + 1, m.rows, m.columns),
               needed: widget.rankFor(m.spectrum, 0.9),
               corner: Array.from(widget.corner(m, k + 1)),
               readings: sweep.map(({ points }) => widget.readingAt(points, k + 1)),
             })));
           }""",
        state,
    )
    for one, ranks in zip(explorer.matrices, found, strict=True):
        explorer.matrix = one["name"]
        left, values, right = _corner(explorer, one["name"])
        squares = explorer.spectrum().double().square()
        needed = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + 1
        assert len(ranks) == len(explorer.spectrum())
        for rank, page in enumerate(ranks, start=1):
            explorer.rank = rank
            numbers = explorer.numbers
            for name in ("energy", "relative_error", "break_even"):
                assert page[name] == pytest.approx(getattr(numbers, name), abs=1e-9)
            assert page["parameters"] == numbers.parameters
            assert page["full_parameters"] == numbers.full_parameters
            assert page["needed"] == needed
            expected = (left[:rank].T * values[:rank]) @ right[:rank]
            assert np.allclose(page["corner"], expected.flatten(), atol=1e-6)
            readings = [r and r["value"] for r in page["readings"]]
            expected_bits = list(numbers.bits_per_byte.values())
            assert readings == [b if b is None else pytest.approx(b) for b in expected_bits]


def _corner(explorer, name):
    """The corner's factors of one matrix, read from the state by NumPy."""
    floats = np.frombuffer(explorer.spectrum_bytes, "<f4").astype(float)
    ints = np.frombuffer(explorer.factor_bytes, np.int8).astype(float)
    for one in explorer.matrices:
        ranks = min(one["rows"], one["columns"])
        tall, wide = ranks * one["high"], ranks * one["wide"]
        if one["name"] == name:
            left = ints[:tall].reshape(ranks, -1)
            return left, floats[ranks : 2 * ranks], ints[tall : tall + wide].reshape(ranks, -1)
        floats, ints = floats[2 * ranks :], ints[tall + wide :]
    raise AssertionError(name)


@pytest.mark.parametrize("options", [{}, {"rank": 24}, {"matrix": "random", "rank": 15}])
def test_shows_what_python_computes(open_page, options):
    explorer = make(**options)
    page = open_page(widget_page(explorer))
    ready(page)
    says(page, explorer)
    pays = page.locator(".fxl-say .fx-readout").nth(1)
    expect(pays).to_contain_text("save nothing" if explorer.rank > 15 else "they are")
    assert "<b>" in page.locator(".fxl-table").nth(1).inner_text()  # text, never markup


def test_every_control_answers_the_keyboard(open_page):
    explorer = make(rank=8)
    page = open_page(widget_page(explorer))
    ready(page)
    slider(page, "Rank").focus()
    page.keyboard.press("ArrowRight")
    explorer.rank = 9
    says(page, explorer)
    page.get_by_label("Matrix", exact=True).focus()
    page.keyboard.press("ArrowDown")
    explorer.matrix = "random"
    says(page, explorer)
    page.get_by_role("button", name="Break-even rank").focus()
    page.keyboard.press("Enter")
    explorer.rank = 15
    says(page, explorer)
    page.get_by_role("button", name="Half the parameters").focus()
    page.keyboard.press("Space")
    explorer.rank = 8
    says(page, explorer)
    page.get_by_label("Matrix", exact=True).focus()
    page.keyboard.press("End")  # a smaller one: the rank has to come along
    explorer.matrix = "<b>"
    assert explorer.rank == 5
    says(page, explorer)
    expect(page.locator(".fx-range output")).to_have_text("5 of 5")
    page.wait_for_timeout(600)  # said when the hand rests
    assert "of the numbers" in page.locator("[aria-live=polite]").inner_text()


def test_dragging_and_tapping_choose_a_rank(open_page):
    explorer = make(rank=8)
    page = open_page(widget_page(explorer), width=360, has_touch=True)
    ready(page)
    axis = page.locator(".fxl-axis").first
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 19.5 / 24, box["y"] + 30)
    explorer.rank = 20
    says(page, explorer)
    box = axis.bounding_box()  # the words above may have grown
    page.mouse.move(box["x"] + box["width"] * 19.5 / 24, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2.5 / 24, box["y"] + 40, steps=4)
    page.mouse.up()
    explorer.rank = 3
    says(page, explorer)


def test_two_views_stay_in_step(open_page):
    explorer = make()
    page = open_page(widget_page(explorer, explorer))
    ready(page, views=2)
    one, two = (page.locator(".fx-lowrank").nth(i) for i in range(2))
    slider(two, "Rank").fill("17")
    one.get_by_label("Matrix", exact=True).select_option(index=1)
    explorer.matrix, explorer.rank = "random", 17
    says(one, explorer)
    says(two, explorer)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids))


def test_the_table_has_every_measurement(open_page):
    page = open_page(widget_page(make()))
    ready(page)
    page.get_by_text("All measurements as a table").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(4)
    assert rows.nth(1).locator("th, td").all_inner_texts() == ["8", "2.500", "2.200"]
    assert rows.nth(3).locator("th, td").all_inner_texts() == ["24", "–", "1.900"]


def test_zeros_and_a_single_number(open_page):
    page = open_page(
        widget_page(
            LowRankExplorer({"zeros": torch.zeros(40, 40)}),
            LowRankExplorer({"one": torch.ones(1, 1)}),
        )
    )
    ready(page, views=2)
    for view in page.locator(".fx-lowrank").all():
        assert not re.search("NaN|undefined|Infinity", view.inner_html())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    page = open_page(widget_page(make(about="From the book. " * 9), theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-lowrank").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    assert words_outside(page.locator(".fxl-svg")) == []


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(make()))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "low-rank.svg"
    text = download.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    images = [el.get("href") for el in root.iter() if el.tag.endswith("image")]
    assert len(images) == 3
    assert all(image.startswith("data:image/png") for image in images)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_words_remain(open_page):
    page = open_page(widget_page(make(rank=8)), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "trained: rank 8 of 24 keeps" in page.locator("figcaption").inner_text()


def test_size():
    explorer = make()
    assert len((str(explorer._esm) + str(explorer._css)).encode()) < 40 * 1024
