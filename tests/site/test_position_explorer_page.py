"""PositionExplorer in a browser: its curves are Python's, and positions can be turned by hand."""

from __future__ import annotations

import math
import random
import re
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import slider, wait_for_views, widget_page, words_outside

from effedu.positional import alibi_slopes, frequencies
from effedu.widgets import PositionExplorer

NAMES = ("scheme", "head_dim", "base", "scale", "length", "num_heads", "head")


def ready(page, views=1):
    wait_for_views(page, ".fxo-svg[width]", views)
    page.wait_for_timeout(80)


def says(view, explorer):
    """Wait until the page shows what Python computes of the same state."""
    distance = abs(explorer.query - explorer.key)
    value = f"{float(explorer.similarity()[distance]) + 0:.3f}".replace("-", "−")
    kind = "Bias" if explorer.scheme == "alibi" else "Similarity"
    expect(view.locator(".fx-big").first).to_have_text(f"{kind} {value} at distance {distance:,}")
    assert slider(view, "Query").input_value() == str(explorer.query)
    assert slider(view, "Key").input_value() == str(explorer.key)


@pytest.fixture
def library(load_module):
    return load_module(PositionExplorer)


def test_curves_equal_python(library):
    draw = random.Random(0)
    explorers = [
        PositionExplorer(
            scheme=["sinusoidal", "rotary", "alibi", "none"][case % 4],
            head_dim=2 * draw.randint(1, 64),
            base=draw.choice([2.0, 100.0, 10_000.0, 5e5]),
            scale=draw.choice([0.5, 1.0, 3.0, 8.0]),
            length=draw.randint(2, 400),
            num_heads=(heads := draw.randint(1, 20)),
            head=draw.randrange(heads),
            pair=0,
        )
        for case in range(80)
    ]
    states = [{name: getattr(e, name) for name in NAMES} for e in explorers]
    found = library.evaluate(
        "states => states.map((s) => Array.from(widget.similarities(s)))", states
    )
    for explorer, curve in zip(explorers, found, strict=True):
        expected = explorer.similarity()  # in float32: angles are good to about length × 1e-7
        torch.testing.assert_close(torch.tensor(curve).float(), expected, atol=1e-4, rtol=1e-5)


def test_frequencies_and_slopes_equal_python(library):
    found = library.evaluate(
        """() => ({
             theta: Array.from(widget.frequencies(64, 10000, 2)),
             slopes: Array.from({ length: 40 }, (_, n) => Array.from(widget.slopes(n + 1))),
           })"""
    )
    torch.testing.assert_close(torch.tensor(found["theta"]), frequencies(64, scale=2))
    for heads, slopes in enumerate(found["slopes"], start=1):
        torch.testing.assert_close(torch.tensor(slopes), alibi_slopes(heads))


@pytest.mark.parametrize("scheme", ["sinusoidal", "rotary", "alibi"])
@pytest.mark.parametrize("options", [{}, {"length": 500, "base": 777.0, "scale": 3.0}])
def test_shows_what_python_computes(open_page, scheme, options):
    explorer = PositionExplorer(scheme=scheme, **options)
    page = open_page(widget_page(explorer))
    ready(page)
    says(page, explorer)


def test_every_control_answers_the_keyboard(open_page):
    explorer = PositionExplorer()
    page = open_page(widget_page(explorer))
    ready(page)
    for label, name in (("Query", "query"), ("Key", "key")):
        slider(page, label).focus()
        page.keyboard.press("ArrowLeft")
        setattr(explorer, name, getattr(explorer, name) - 1)
        says(page, explorer)
    slider(page, "Pair").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".fxo-say .fx-readout").nth(1)).to_contain_text("Pair 5 turns")
    page.get_by_label("Base").focus()
    page.keyboard.press("ArrowUp")
    explorer.base = 1000.0
    page.get_by_label("Positions divided by").focus()
    page.keyboard.press("ArrowDown")
    explorer.scale = 2.0
    says(page, explorer)
    page.get_by_label("Length", exact=True).focus()
    page.keyboard.press("ArrowUp")
    explorer.length = 64  # both positions come along
    says(page, explorer)
    page.get_by_role("group", name="Positions", exact=True).get_by_label("rotary").focus()
    page.keyboard.press("ArrowRight")
    explorer.scheme = "alibi"
    slider(page, "Key").fill("3")
    explorer.key = 3
    says(page, explorer)
    slider(page, "Head").focus()
    page.keyboard.press("ArrowRight")
    explorer.head = 1
    says(page, explorer)
    page.wait_for_timeout(600)  # said when the hand rests
    assert "Head 1 loses" in page.locator("[aria-live=polite]").inner_text()


def test_both_move_together_and_the_score_stays(open_page):
    explorer = PositionExplorer()
    page = open_page(widget_page(explorer))
    ready(page)
    page.get_by_label("Keep the distance").check()
    before = page.locator(".fx-big").inner_text()
    slider(page, "Key").fill("20")
    explorer.query, explorer.key = 32, 20
    says(page, explorer)
    assert page.locator(".fx-big").inner_text() == before
    slider(page, "Key").fill("125")  # the query comes to the end first
    explorer.query, explorer.key = 127, 115
    says(page, explorer)


def dial(page):
    box = page.locator(".fxo-circle").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] / 2


def test_turning_the_query_by_hand(open_page):
    explorer = PositionExplorer(query=40, key=30, pair=4)
    page = open_page(widget_page(explorer))
    ready(page)
    x, y, radius = dial(page)
    at = explorer.angle(40)
    page.mouse.move(x + radius * math.cos(at), y - radius * math.sin(at))
    page.mouse.down()
    for step in range(1, 41):  # a whole turn and a quarter, against the clock: positions rise
        angle = at + step * (2.5 * math.pi) / 40
        page.mouse.move(x + radius * math.cos(angle), y - radius * math.sin(angle))
    page.mouse.up()
    explorer.query = 40 + round(2.5 * math.pi / explorer.angle(1))
    says(page, explorer)
    expect(page.locator(".fxo-say .fx-readout").nth(1)).to_contain_text(
        f"The query at {explorer.query} stands at"
    )
    page.mouse.move(x - radius, y)  # let go: nothing moves
    says(page, explorer)


def test_pointing_at_the_curve_the_map_and_the_bars(open_page):
    explorer = PositionExplorer()
    page = open_page(widget_page(explorer), width=360, has_touch=True)
    ready(page)
    page.locator(".fxo-svg").scroll_into_view_if_needed()
    box = page.locator(".fxo-edge").bounding_box()
    page.touchscreen.tap(
        box["x"] + box["width"] * 20.5 / 128, box["y"] + box["height"] * 100.5 / 128
    )
    explorer.query, explorer.key = 100, 20
    says(page, explorer)
    axis = page.locator(".fxo-axis").first.bounding_box()
    page.touchscreen.tap(axis["x"] + axis["width"], axis["y"] + 30)
    explorer.query, explorer.key = 127, 0
    says(page, explorer)
    bars = page.locator(".fxo-axis").last.bounding_box()
    page.touchscreen.tap(bars["x"] + bars["width"] * 10.5 / 32, bars["y"] + 4)
    expect(page.locator(".fxo-say .fx-readout").nth(1)).to_contain_text("Pair 10 turns")


def test_two_views_stay_in_step(open_page):
    explorer = PositionExplorer(scheme="sinusoidal")
    page = open_page(widget_page(explorer, explorer))
    ready(page, views=2)
    one, two = (page.locator(".fx-position").nth(i) for i in range(2))
    slider(two, "Key").fill("5")
    one.get_by_label("Base").select_option("100")
    explorer.key, explorer.base = 5, 100.0
    says(one, explorer)
    says(two, explorer)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids))


def test_the_table_has_the_curve(open_page):
    explorer = PositionExplorer(length=40, query=30, key=17)
    page = open_page(widget_page(explorer))
    ready(page)
    page.get_by_text("The curve as a table").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(15)
    curve = explorer.similarity()
    for row in rows.all():
        distance, value, _ = row.locator("th, td").all_inner_texts()
        expected = pytest.approx(float(curve[int(distance)]), abs=6e-4)
        assert float(value.replace("−", "-")) == expected
    assert page.locator("details tr[aria-current] th").inner_text() == "13"


@pytest.mark.parametrize(
    "options",
    [
        {"length": 2, "head_dim": 2, "num_heads": 1},
        {"length": 4096, "head_dim": 512, "num_heads": 128},
    ],
)
def test_the_smallest_and_the_largest(open_page, options):
    page = open_page(widget_page(PositionExplorer(**options)))
    ready(page)
    for scheme in ("sinusoidal", "ALiBi", "none", "rotary"):
        page.get_by_label(scheme, exact=True).check()
        page.wait_for_timeout(100)
        assert not re.search("NaN|undefined|Infinity", page.locator(".fx-position").inner_html())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["rotary", "alibi", "none"])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width, scheme):
    page = open_page(widget_page(PositionExplorer(scheme=scheme), theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-position").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    assert words_outside(page.locator(".fxo-svg")) == []


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(PositionExplorer()))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "positions.svg"
    text = download.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert page.locator(".fxo-own").get_attribute("d") in {el.get("d") for el in root.iter()}
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_words_remain(open_page):
    page = open_page(widget_page(PositionExplorer()), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "Positions, rotary: the similarity" in page.locator("figcaption").inner_text()


def test_size():
    assert len((str(PositionExplorer._esm) + str(PositionExplorer._css)).encode()) < 40 * 1024
