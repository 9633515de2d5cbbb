"""SpeedupExplorer in a browser: measured stays measured, the rest says that it isn't."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pytest
from widget_page import wait_for_views, widget_page

from effedu.cost import live_pairs
from effedu.widgets import SpeedupExplorer

LENGTHS, SIZES = (1024, 2048, 4096, 8192), (64, 128, 256)


def measurements(names=("block", "flex", "local"), seed=0):
    """Made-up measurements of a plausible size: the tests are about showing them."""
    draw = random.Random(seed)
    rows = []
    for k, name in enumerate(names):
        for size in SIZES:
            for length in LENGTHS:
                limit = length * (length + 1) / 2 / live_pairs(length, block_size=size)
                ratio = limit * 0.6 / (k + 1) * draw.uniform(0.8, 1.1)
                low, high = ratio * draw.uniform(0.9, 1), ratio * draw.uniform(1, 1.1)
                rows.append(
                    dict(name=name, length=length, block_size=size, ratio=ratio, low=low, high=high)
                )
    return rows


def ready(page, views=1):
    wait_for_views(page, ".fx-speedup", views)
    page.wait_for_timeout(150)


def said(view):
    return view.locator(".fx-big").inner_text() + " " + view.locator(".fx-readout").inner_text()


def length_slider(view):
    return view.locator(".fxs-length input")


def shown(x):
    """As the page writes a ratio."""
    return f"{x:.2f}×" if x < 9.995 else f"{x:.1f}×"


@pytest.fixture
def library(load_module):
    return load_module(SpeedupExplorer)


def test_limits_equal_python_on_many_inputs(library):
    draw = random.Random(1)
    cases = []
    for _ in range(300):
        length = draw.randint(1, draw.choice([10, 300, 70_000]))
        cases.append([length, draw.randint(1, length + 9), draw.randint(0, 4), draw.randint(0, 99)])
    found = library.evaluate("cases => cases.map((c) => widget.limitAt(...c))", cases)
    for (length, size, back, sinks), limit in zip(cases, found, strict=True):
        kept = live_pairs(length, block_size=size, blocks_back=back, sinks=sinks)
        assert limit == length * (length + 1) / 2 / kept


def test_readings_equal_python_on_many_inputs(library):
    draw = random.Random(2)
    explorer = SpeedupExplorer(measurements())
    cases = [
        [draw.choice(explorer.names), draw.randint(900, 9000), draw.choice(SIZES)]
        for _ in range(300)
    ] + [["block", length, size] for length in LENGTHS for size in SIZES]
    found = library.evaluate(
        "([rows, cases]) => cases.map((c) => widget.readingAt(rows, ...c))", [explorer.rows, cases]
    )
    outside = 0
    for (name, length, size), reading in zip(cases, found, strict=True):
        if reading is None:
            outside += 1
            with pytest.raises(ValueError, match="length must lie between those measured"):
                explorer.reading(name, length, size)
            continue
        expected = explorer.reading(name, length, size)
        assert math.isclose(reading["ratio"], expected.ratio, rel_tol=1e-12)
        assert (reading["low"], reading["high"]) == (expected.low, expected.high)
        assert reading["measured"] == expected.measured
    assert 0 < outside < 100


def test_says_what_was_measured(open_page):
    explorer = SpeedupExplorer(
        measurements(), machine="a test", block_size=128, length=8192, baseline="dense attention"
    )
    page = open_page(widget_page(explorer))
    ready(page)
    reading = explorer.reading("block")
    text = said(page)
    assert text.startswith(f"{shown(reading.ratio)} as fast")
    assert f"took 1/{shown(reading.ratio)[:-1]} of the time of dense attention" in text
    assert f"{reading.share:.0%}".replace("%", "\u00a0%") + " of the limit, 21.5×." in text
    assert "Measured on a test." in page.locator(".fx-note").inner_text()
    cells = page.locator(".fxs-now tbody tr").nth(1).locator("td").all_inner_texts()
    flex = explorer.reading("flex")
    assert cells[0] == shown(flex.ratio)
    assert cells[1] == f"{shown(flex.low)[:-1]} to {shown(flex.high)[:-1]}"
    assert page.locator(".fxs-ring").count() == 3
    assert page.locator(".fxs-open").count() == 0


def test_between_measurements_it_says_so(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128, length=6000)
    page = open_page(widget_page(explorer))
    ready(page)
    assert said(page).startswith(f"About {shown(explorer.reading('block').ratio)} ")
    assert "not measured: it is a value on the line between the measurements at 4,096" in said(page)
    assert page.locator(".fxs-open").count() == 3
    assert page.locator(".fxs-ring").count() == 0
    assert page.locator(".fxs-now tbody td").first.inner_text().startswith("≈ ")
    # As many dots as measurements of this block size, wherever the line is.
    assert page.locator(".fxs-svg .fxs-dot").count() == 3 * len(LENGTHS)


def test_where_a_peer_was_not_measured_it_says_so(open_page):
    rows = [row for row in measurements() if row["name"] != "local" or row["length"] < 8192]
    page = open_page(widget_page(SpeedupExplorer(rows, block_size=128, length=8192)))
    ready(page)
    texts = page.locator(".fxs-now tbody tr").nth(2).locator("td").all_inner_texts()
    assert texts == ["–", "not measured", "–"]
    assert page.locator(".fxs-ring").count() == 2
    length_slider(page).fill("0")
    page.wait_for_timeout(60)
    assert "×" in page.locator(".fxs-now tbody tr").nth(2).locator("td").first.inner_text()


def test_slower_is_said_as_slower(open_page):
    rows = [dict(name="slow", length=512, block_size=64, ratio=0.5)]
    page = open_page(widget_page(SpeedupExplorer(rows)))
    ready(page)
    assert "slow took 2.00 times as long as it: slower than dense attention." in said(page)


def test_keyboard_moves_length_block_size_and_names(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128, length=8192)
    page = open_page(widget_page(explorer))
    ready(page)
    length_slider(page).focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(60)
    assert said(page).startswith("About ")
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(60)
    assert said(page).startswith(shown(explorer.reading("block", 4096).ratio) + " as fast")
    page.get_by_role("radio", name="128").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(60)
    assert said(page).startswith(shown(explorer.reading("block", 4096, 64).ratio) + " as fast")
    page.get_by_role("checkbox", name="block").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(60)
    assert said(page).startswith(shown(explorer.reading("flex", 4096, 64).ratio) + " as fast")
    for name in ("flex", "local"):
        page.get_by_role("checkbox", name=name).uncheck()
    page.wait_for_timeout(60)
    assert said(page).startswith("At most ")


def test_pointing_moves_the_length_and_is_announced(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128, length=8192)
    page = open_page(widget_page(explorer), width=360, has_touch=True)
    ready(page)
    page.locator(".fxs-figure").scroll_into_view_if_needed()
    tick = page.locator(".fxs-tick").nth(1).bounding_box()  # 2,048 tokens
    page.touchscreen.tap(tick["x"], tick["y"] - 60)
    page.wait_for_timeout(700)
    spoken = page.locator("[aria-live=polite]").inner_text()
    assert "At 2,048 tokens in blocks of 128" in spoken
    box = page.locator(".fxs-figure").bounding_box()
    page.mouse.move(tick["x"], box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 50, box["y"] + 90, steps=4)
    page.mouse.up()
    page.wait_for_timeout(60)
    assert "At 8,192 tokens" in said(page)


def test_two_views_stay_in_step(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128)
    page = open_page(widget_page(explorer, explorer))
    ready(page, views=2)
    one, two = (page.locator(".fx-speedup").nth(i) for i in range(2))
    length_slider(two).fill("3")
    two.get_by_role("radio", name="256").check(force=True)
    one.get_by_role("checkbox", name="flex").uncheck()
    page.wait_for_timeout(80)
    assert said(one) == said(two)
    assert one.locator(".fxs-now tbody tr").count() == two.locator(".fxs-now tbody tr").count() == 2
    assert one.get_by_role("radio", name="256").is_checked()


def test_table_has_every_measurement(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128)
    page = open_page(widget_page(explorer))
    ready(page)
    page.get_by_text("All measurements as a table").click()
    rows = page.locator(".fxs-list tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(LENGTHS)
    cells = rows.nth(2).locator("td").all_inner_texts()
    assert [cell.split(" ")[0] for cell in cells[:3]] == [
        shown(explorer.reading(name, LENGTHS[2]).ratio) for name in explorer.names
    ]
    assert cells[3] == shown(explorer.limit(LENGTHS[2]))


def test_markup_in_names_and_machine_stays_text(open_page):
    evil = "<img src=x onerror=document.title='owned'>"
    rows = [dict(name=evil, length=n, block_size=64, ratio=2.0) for n in (512, 1024)]
    page = open_page(widget_page(SpeedupExplorer(rows, machine=evil, baseline=evil)))
    ready(page)
    page.get_by_text("All measurements as a table").click()
    page.wait_for_timeout(100)
    assert page.locator("img").count() == 0
    assert page.title() == "Widgets"
    assert evil in page.locator(".fx-note").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    many = measurements(("block attention", "FlexAttention", "local-attention", "d", "e", "f"))
    page = open_page(widget_page(SpeedupExplorer(many), theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-speedup").evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_one_measurement_is_enough(open_page):
    rows = [dict(name="block", length=512, block_size=64, ratio=2.0)]
    page = open_page(widget_page(SpeedupExplorer(rows)))
    ready(page)
    assert said(page).startswith("2.00× as fast")
    assert "NaN" not in page.locator(".fxs-svg").evaluate("(el) => el.outerHTML")


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(SpeedupExplorer(measurements())))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "speedup.svg"
    root = ElementTree.fromstring(download.value.path().read_text("utf-8"))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"limit", "block", "8,192"} <= texts
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_a_table_remain(open_page):
    explorer = SpeedupExplorer(measurements(), block_size=128)
    page = open_page(widget_page(explorer), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert page.locator("figure tbody tr").count() == 3 * len(LENGTHS)
