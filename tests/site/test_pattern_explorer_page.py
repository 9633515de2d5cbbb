"""PatternExplorer in a browser: its numbers are Python's, and every way of moving it works."""

from __future__ import annotations

import dataclasses
import random
from xml.etree import ElementTree

import pytest
from widget_page import slider, wait_for_views, widget_page

from effedu.widgets import PatternExplorer


def ready(page, views=1):
    wait_for_views(page, ".fx-pattern", views)
    page.wait_for_timeout(150)  # the picture is drawn in the next frame


def words(view):
    """What a state says: headline, numbers and sentences."""
    return [
        text
        for part in (".fxp-cost", ".fxp-words")
        for text in view.locator(part).all_inner_texts()
    ]


def pairs(view):
    return view.locator(".fxp-costs tbody tr").first.locator("td").all_inner_texts()


@pytest.fixture
def library(load_module):
    return load_module(PatternExplorer)


def random_pattern(draw):
    top = draw.choice([9, 70, 600, 5000])
    length = draw.randint(1, top)
    return {
        "length": length,
        "block_size": draw.randint(1, top),
        "blocks_back": draw.choice([0, 1, 2, 3, draw.randint(0, top)]),
        "sinks": draw.choice([0, 0, 1, 4, draw.randint(0, top)]),
        "causal": draw.random() < 0.6,
        "num_heads": draw.randint(1, 128),
        "head_dim": draw.randint(1, 256),
        "layers": draw.randint(1, 30),
        "query": draw.randint(0, length - 1),
    }


def test_numbers_equal_python_on_many_inputs(library):
    draw = random.Random(0)
    cases = [random_pattern(draw) for _ in range(400)]
    largest = dict(
        length=2**18, block_size=100, blocks_back=3, sinks=77, layers=1024, query=2**18 - 1
    )
    for causal in (True, False):  # the largest counts that are allowed: exact, too
        cases.append({**largest, "causal": causal, "num_heads": 127, "head_dim": 255})
    computed = library.evaluate(
        """cases => cases.map((p) => ({
             ...widget.patternNumbers(p),
             visible: widget.receptiveField(p, p.query, 1),
             field: widget.receptiveField(p, p.query, p.layers),
             layers: widget.layersToSeeAll(p, p.query),
           }))""",
        cases,
    )
    for case, found in zip(cases, computed, strict=True):
        explorer = PatternExplorer(**case)
        expected = {
            **dataclasses.asdict(explorer.numbers),
            "visible": [list(span) for span in explorer.visible()],
            "field": [list(span) for span in explorer.receptive_field()],
            "layers": explorer.layers_to_see_all(),
        }
        assert found == expected, case  # to the last digit: whole numbers, and one division


def test_shows_what_python_computes(open_page):
    explorer = PatternExplorer(1000, block_size=48, blocks_back=2, sinks=5, layers=3, query=700)
    page = open_page(widget_page(explorer))
    ready(page)
    numbers = explorer.numbers
    assert pairs(page)[:2] == [f"{numbers.dense_pairs:,}", f"{numbers.live_pairs:,}"]
    assert f"{numbers.speedup_limit:.2f}× fewer pairs" == page.locator(".fx-big").inner_text()
    (low, high), (start, stop) = explorer.visible()
    seen = f"Query 700 sees {high - low + stop - start} keys: 0 to 4 and {start} to {stop - 1}."
    assert seen in page.locator(".fxp-words").inner_text()
    field = sum(b - a for a, b in explorer.receptive_field())
    assert (
        f"After 3 layers it depends on {field} of the 701"
        in page.locator(".fxp-words").inner_text()
    )
    assert f"takes {explorer.layers_to_see_all()} layers" in page.locator(".fxp-words").inner_text()
    # A length that the slider doesn't have is still said as it is.
    assert slider(page, "Length N").locator("xpath=..").locator("output").inner_text() == "1,000"


def test_dense_patterns_say_so(open_page):
    page = open_page(widget_page(PatternExplorer(64, block_size=64)))
    ready(page)
    assert page.locator(".fx-big").inner_text() == "Dense attention"
    assert pairs(page) == ["2,080", "2,080", "–"]


def test_every_control_answers_the_keyboard(open_page):
    page = open_page(widget_page(PatternExplorer(512, block_size=64, sinks=8)))
    ready(page)
    for label in ("Length N", "Block size b", "Blocks back", "Sinks", "Layers L", "Query"):
        before = words(page)
        slider(page, label).focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(60)
        assert words(page) != before, label
    before = words(page)
    page.get_by_label("Causal", exact=False).focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(60)
    assert words(page) != before
    # And what came of it is what Python computes.
    state = {"length": 384, "block_size": 48, "blocks_back": 0, "sinks": 4, "causal": False}
    expected = PatternExplorer(**state)
    assert pairs(page)[:2] == [f"{expected.dense_pairs:,}", f"{expected.live_pairs:,}"]


def test_tab_reaches_everything_in_order(open_page):
    page = open_page(widget_page(PatternExplorer()))
    ready(page)
    labels = []
    for _ in range(10):
        page.keyboard.press("Tab")
        labels.append(
            page.evaluate(
                """() => {
                     const el = document.activeElement;
                     return (el.labels?.[0]?.firstChild ?? el).textContent;
                   }"""
            )
        )
    assert labels[:5] == ["Length N", "Block size b", "Blocks back", "Sinks", "Layers L"]
    assert labels[6:] == ["Query", "The mask as a table", "Save SVG", "Save PNG"]


def test_pointing_at_a_row_reads_it(open_page):
    explorer = PatternExplorer(100, block_size=10)
    page = open_page(widget_page(explorer))
    ready(page)
    live = page.locator(".fxp-live").first.bounding_box()
    for row in (42, 7, 99):
        y = live["y"] + (row + 0.5) * live["height"] / 100
        page.mouse.move(live["x"] + 40, y)
        page.wait_for_timeout(60)
        start, stop = explorer.visible(row)[-1]
        expected = f"Query {row} sees {stop - start} keys: {start} to {stop - 1}."
        assert expected in page.locator(".fxp-words").inner_text()
    page.mouse.move(live["x"] + 40, live["y"] + live["height"] + 60)  # the strip below isn't a row
    page.wait_for_timeout(60)
    assert "Query 99 " in page.locator(".fxp-words").inner_text()


def test_a_finger_chooses_a_row_and_the_change_is_announced(open_page):
    page = open_page(widget_page(PatternExplorer(100, block_size=10)), width=360, has_touch=True)
    ready(page)
    page.locator(".fxp-figure").scroll_into_view_if_needed()
    live = page.locator(".fxp-live").first.bounding_box()
    page.touchscreen.tap(live["x"] + 30, live["y"] + 55.5 * live["height"] / 100)
    page.wait_for_timeout(700)  # said when the hand rests
    assert "Query 55 sees 16 keys: 40 to 55." in page.locator("[aria-live=polite]").inner_text()


def test_two_views_stay_in_step(open_page):
    explorer = PatternExplorer(512, block_size=64)
    page = open_page(widget_page(explorer, explorer))
    ready(page, views=2)
    one, two = (page.locator(".fx-pattern").nth(i) for i in range(2))
    slider(two, "Block size b").fill("6")
    page.wait_for_timeout(80)
    assert words(one) == words(two)
    assert slider(one, "Block size b").input_value() == "6"
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids))


def test_a_shorter_text_keeps_the_query_inside(open_page):
    page = open_page(widget_page(PatternExplorer(512, block_size=64, query=500)))
    ready(page)
    slider(page, "Length N").fill("0")
    page.wait_for_timeout(80)
    assert "Query 15 sees" in page.locator(".fxp-words").inner_text()


@pytest.mark.parametrize("causal", [True, False])
def test_table_has_the_whole_mask(open_page, causal):
    explorer = PatternExplorer(100, block_size=12, sinks=3, causal=causal)
    page = open_page(widget_page(explorer))
    ready(page)
    page.get_by_text("The mask as a table").click()
    rows = page.locator("details tbody tr")
    rows.first.wait_for()
    assert rows.count() == 9
    counts = [
        int(text.replace(",", ""))
        for text in page.locator("details tbody td:last-child").all_inner_texts()
    ]
    assert sum(counts) == explorer.live_pairs
    assert rows.nth(4).locator("td").first.inner_text().startswith("0 to 2 and 36 to ")
    slider(page, "Length N").fill("24")  # 65,536 tokens: shortened in the middle
    page.wait_for_timeout(80)
    assert rows.count() == 48


def test_long_patterns_are_drawn(open_page):
    page = open_page(widget_page(PatternExplorer(2**18, block_size=1, sinks=9, layers=24)))
    ready(page)
    live = PatternExplorer(2**18, block_size=1, sinks=9).live_pairs
    assert f"{live:,} of" in page.locator(".fxp-cost").inner_text()
    assert (
        page.evaluate("() => document.querySelector('.fxp-live').getAttribute('d').length") < 50_000
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    explorers = PatternExplorer(512, block_size=64, sinks=8), PatternExplorer(65536, causal=False)
    page = open_page(widget_page(*explorers, theme=theme), width=width)
    ready(page, views=2)
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for view in page.locator(".fx-pattern").all():
        assert view.evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(PatternExplorer(32, block_size=8)))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "attention-pattern.svg"
    root = ElementTree.fromstring(download.value.path().read_text("utf-8"))
    drawn = page.locator(".fxp-live").first.get_attribute("d")
    assert drawn in {element.get("d") for element in root.iter()}
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_words_remain(open_page):
    explorer = PatternExplorer(64, block_size=8)
    page = open_page(widget_page(explorer), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    text = page.locator("figcaption").inner_text()
    assert f"{explorer.live_pairs:,} of {explorer.dense_pairs:,} pairs" in text
