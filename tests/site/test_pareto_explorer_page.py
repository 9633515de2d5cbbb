"""ParetoExplorer in a browser: its frontier is Python's, and every control answers."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect
from widget_page import covered_words, slider, wait_for_views, widget_page, words_outside

from effedu import tradeoffs
from effedu.widgets import ParetoExplorer

LENGTHS = (512, 2048, 8192, 16384)
# method, label, what patched() takes, time, memory, extra bits per byte, agreement
CONFIGURATIONS = [
    (["dense"], "dense", "", 1.0, 1.0, 0.0, 1.0),
    (["blocking"], "block(64)", "attention=block(64)", 0.3, 0.55, 0.012, 0.93),
    (["blocking"], "block(128)", "attention=block(128)", 0.34, 0.56, 0.004, 0.96),
    (["blocking"], "block(256)", "attention=block(256)", 0.4, 0.58, 0.0012, 0.98),
    (["pruning"], "block_topk(64, keep=4)", "attention=block_topk(64, 4)", 0.6, 0.6, 0.006, 0.95),
    (["int8"], "int8()", "linear=int8()", 0.8, 0.78, 0.0004, 0.985),
    (["low rank"], "low_rank(64)", "linear=low_rank(64)", 0.88, 0.9, 0.31, 0.61),
    (["low rank"], "low_rank(128)", "linear=low_rank(128)", 0.95, 0.96, 0.08, 0.8),
    (
        ["blocking", "int8"],
        "block(128) + int8()",
        "attention=block(128), linear=int8()",
        0.17,
        0.36,
        0.0046,
        0.955,
    ),
]


def measurements(seed=0):
    """Made-up measurements of a plausible size: the tests are about showing them."""
    draw = random.Random(seed)
    rows = []
    for phase, lengths in (("read", LENGTHS), ("write", LENGTHS[1:3])):
        for length in lengths:
            for method, label, call, time, memory, bits, agreement in CONFIGURATIONS:
                weight = min(1, length / 8192) * (1 if phase == "read" else 0.5)
                noise = 1 if label == "dense" else draw.uniform(0.97, 1.03)
                rows.append(
                    {
                        "method": method,
                        "label": label,
                        "call": call and f"effedu.patched(lm.model, {call})",
                        "phase": phase,
                        "length": length,
                        "time": (1 - (1 - time) * weight) * noise,
                        "memory": 1 - (1 - memory) * weight,
                        "bits": bits * weight - 0.03 * (length > 8192 and "block" in label),
                        "agreement": agreement,
                        "bits_length": length if phase == "read" else 640,
                    }
                )
    return rows


def scattered(draw, count=25):
    """Measurements at one place, with ties, gains, outliers and numbers that are missing."""
    methods = [f"method {i}" for i in range(draw.randint(1, 9))]

    def some(low, high, digits):
        return None if draw.random() < 0.1 else round(draw.uniform(low, high), digits)

    digits = draw.choice([1, 4])
    return [
        {
            "method": draw.sample(methods, draw.randint(1, min(3, len(methods)))),
            "label": f"{draw.choice(['a', 'some name', 'a_rather_long(name, of=it)'])} {i}",
            "call": "",
            "phase": "read",
            "length": 512,
            "time": round(draw.uniform(0.1, draw.choice([1, 3])), digits) or 0.1,
            "memory": some(0.1, 1.2, digits) or None,
            "bits": some(-0.02, draw.choice([0.003, 0.1, 9]), digits),
            "agreement": some(draw.choice([0, 0.9]), 1, digits),
        }
        for i in range(draw.randint(1, count))
    ]


def frontier(rows, quality, cost):
    """The names that Python finds on the frontier, of rows that have both numbers."""
    sign = -1 if quality == "agreement" else 1
    return tradeoffs.frontier(
        {
            row["label"]: (row[cost], sign * row[quality])
            for row in rows
            if row[quality] is not None and row[cost] is not None
        }
    )


def ready(page, views=1):
    wait_for_views(page, ".fxe-svg[width]", views)


def chosen(view):
    """The name of the configuration that the words are about."""
    return view.locator(".fxe-words .fx-big").inner_text().rsplit(": ", 1)[0]


def says(view, *words):
    for text in words:
        expect(view.locator(".fxe-words")).to_contain_text(text)


def points(view):
    return view.locator(".fxe-svg .fxe-point")


@pytest.fixture
def library(load_module):
    return load_module(ParetoExplorer)


def test_the_frontier_is_python_s(library):
    draw = random.Random(1)
    cases = [
        (scattered(draw), draw.choice(["bits", "agreement"]), draw.choice(["time", "memory"]))
        for _ in range(100)
    ]
    found = library.evaluate(
        "cases => cases.map(([rows, quality, cost]) => widget.frontier(rows, { quality, cost }))",
        cases,
    )
    for (rows, quality, cost), front in zip(cases, found, strict=True):
        assert [row["label"] for row in front] == frontier(rows, quality, cost)
    assert {len(front) for front in found} > {0, 1, 2, 3, 4}


def test_the_first_choice_is_the_cheapest_that_loses_little(library):
    draw = random.Random(2)
    cases = [[scattered(draw), cost] for cost in ("time", "memory") for _ in range(60)]
    found = library.evaluate(
        """cases => cases.map(([rows, cost]) =>
             ["bits", "agreement"].map((quality) =>
               widget.firstChoice(rows, { quality, cost })))""",
        cases,
    )
    fell_back = 0
    for (rows, cost), choices in zip(cases, found, strict=True):
        for quality, choice in zip(("bits", "agreement"), choices, strict=True):
            drawn = [r for r in rows if r[quality] is not None and r[cost] is not None]
            good = [row for row in drawn if row["bits"] is not None and row["bits"] <= 0.01]
            if good:
                assert choice["bits"] <= 0.01
                assert choice[cost] == min(row[cost] for row in good)
            elif drawn:
                fell_back += 1
                best = max(drawn, key=lambda r: r[quality] * (1 if quality == "agreement" else -1))
                assert choice[quality] == best[quality]
            else:
                assert choice is None
    assert fell_back


def test_what_is_hidden_is_python_s(library):
    draw = random.Random(3)
    explorers = [ParetoExplorer(scattered(draw), length=512) for _ in range(20)]
    for explorer in explorers:
        explorer.hidden = draw.sample(explorer.methods, draw.randint(0, len(explorer.methods)))
    found = library.evaluate(
        """cases => cases.map(([rows, hidden]) =>
             widget.shownRows(rows, { hidden, length: 512, phase: "read" }))""",
        [[explorer.rows, explorer.hidden] for explorer in explorers],
    )
    for explorer, rows in zip(explorers, found, strict=True):
        table = explorer.fallback()
        assert table.count('<th scope="row">') == len(rows)
        assert all(f">{row['label']}</th>" in table for row in rows)


def test_starts_with_a_choice_in_words(open_page):
    rows = measurements()
    page = open_page(widget_page(ParetoExplorer(rows, machine="a test", trained_length=4096)))
    ready(page)
    row = next(r for r in rows if r["label"] == "block(128) + int8()" and r["length"] == 8192)
    assert chosen(page) == "block(128) + int8()"
    says(
        page,
        f"To read 8,192 tokens, block(128) + int8() takes {row['time']:.2f} of the time of dense "
        f"fp32 ({1 / row['time']:.1f} times as fast) and 0.36 of its memory.",
        "It needs 0.46\u00a0% more bits per byte, and its most likely token is that of the dense "
        "model at 95.5\u00a0% of the positions.",
        "On the frontier: ",
        "9 configurations at 8,192 tokens, reading: ",
        "1 at a quarter of the time or less.",
        "beyond the 4,096 tokens that the model was trained on. Measured on a test.",
    )
    assert page.locator(".fxe-call code").inner_text() == row["call"]
    here = [r for r in rows if r["length"] == 8192 and r["phase"] == "read"]
    assert points(page).count() == len(here)
    front = frontier(here, "bits", "time")
    assert page.locator(".fxe-svg .fxe-dot").count() == len(front)
    assert page.locator("select option", has_text="(frontier)").count() == len(front)
    says(page, f"{len(front)} on the frontier")


def test_every_control_changes_the_picture_and_the_words(open_page):
    rows = measurements()
    page = open_page(widget_page(ParetoExplorer(rows)))
    ready(page)

    def shows(length, phase, quality, cost):
        here = [r for r in rows if (r["length"], r["phase"]) == (length, phase)]
        front = frontier(here, quality, cost)
        says(page, f"at {length:,} tokens, {phase[:4]}", f": {len(front)} on the frontier")
        expect(page.locator(".fxe-svg .fxe-dot")).to_have_count(len(front))
        expect(page.locator(".fxe-quarter")).to_have_count(1 if cost == "time" else 0)
        words = "bits per byte" if quality == "bits" else "agreement"
        expect(page.locator(".fx-big")).to_contain_text(f"of the {cost}, ")
        expect(page.locator(".fx-big")).to_contain_text(words)

    shows(8192, "read", "bits", "time")
    slider(page, "Length").focus()
    page.keyboard.press("ArrowRight")
    shows(16384, "read", "bits", "time")
    says(page, "fewer bits per byte")
    page.get_by_role("radio", name="Agreement").check(force=True)
    shows(16384, "read", "agreement", "time")
    page.get_by_role("radio", name="Memory").check(force=True)
    shows(16384, "read", "agreement", "memory")
    page.get_by_role("radio", name="Writing").check(force=True)  # not measured beyond 8,192
    shows(8192, "write", "agreement", "memory")
    says(page, "To write a token after 8,192, ", "(measured on texts of 640 tokens).")
    slider(page, "Length").fill("0")
    shows(2048, "write", "agreement", "memory")
    page.get_by_role("radio", name="Bits per byte").check(force=True)
    page.get_by_role("radio", name="Time").check(force=True)
    page.get_by_role("radio", name="Reading").check(force=True)
    shows(2048, "read", "bits", "time")


def test_a_configuration_is_chosen_by_keyboard_and_stays(open_page):
    page = open_page(widget_page(ParetoExplorer(measurements(), selected="block(64)")))
    ready(page)
    assert chosen(page) == "block(64)"
    page.get_by_label("Configuration", exact=True).focus()
    page.keyboard.press("ArrowDown")
    says(page, "block(128): 0.3", "attention=block(128))")
    page.wait_for_timeout(600)
    assert "block(128): 0.3" in page.locator("[aria-live=polite]").inner_text()
    slider(page, "Length").fill("0")
    says(page, "To read 512 tokens, block(128) takes 0.9")
    page.get_by_label("Configuration", exact=True).select_option("dense (frontier)")
    says(page, "dense: 1.00 of the time, as many bits per byte", "No call makes it")
    assert not page.locator(".fxe-call").is_visible()


def test_a_dominated_choice_names_what_beats_it(open_page):
    page = open_page(widget_page(ParetoExplorer(measurements(), selected="low_rank(64)")))
    ready(page)
    says(page, "Not on the frontier: int8() is at least as good in both (0.79 of the time")


@pytest.mark.parametrize("width", [360, 1200])
def test_pointing_chooses_the_nearest(open_page, width):
    explorer = ParetoExplorer(measurements(), selected="dense")
    page = open_page(widget_page(explorer), width=width, has_touch=True)
    ready(page)
    for label in ("low_rank(64)", "block(128) + int8()", "int8()"):
        place = points(page).filter(has_text=re.compile(f"^{re.escape(label)}: "))
        place.scroll_into_view_if_needed()
        box = place.locator("path").bounding_box()
        x, y = box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2 + 3
        if width < 500:
            page.touchscreen.tap(x, y)
        else:
            page.mouse.click(x, y)
        expect(page.locator(".fx-big")).to_have_text(re.compile(f"^{re.escape(label)}: "))
    corner = page.locator(".fxe-svg").bounding_box()
    page.mouse.click(corner["x"] + 2, corner["y"] + corner["height"] - 2)  # far from everything
    page.wait_for_timeout(60)
    assert chosen(page) == "int8()"


def test_filters_move_the_frontier(open_page):
    rows = measurements()
    page = open_page(widget_page(ParetoExplorer(rows, hidden=["low rank"])))
    ready(page)
    assert points(page).count() == 7
    page.get_by_role("checkbox", name="combinations").uncheck()
    says(page, "block(128): 0.3")
    page.get_by_role("checkbox", name="blocking").focus()
    page.keyboard.press("Space")
    says(page, "block_topk(64, keep=4): ", "3 configurations")
    page.get_by_role("checkbox", name="low rank").check()
    page.get_by_role("checkbox", name="combinations").check()  # blocking is still hidden
    says(page, "5 configurations")
    here = [
        r
        for r in rows
        if (r["length"], r["phase"]) == (8192, "read") and "blocking" not in r["method"]
    ]
    expect(page.locator(".fxe-svg .fxe-dot")).to_have_count(len(frontier(here, "bits", "time")))
    for name in ("dense", "pruning", "int8", "low rank"):
        page.get_by_role("checkbox", name=name).uncheck()
    says(page, "Nothing to show", "all methods are hidden", "0 configurations")
    assert not page.locator(".fxe-call").is_visible()
    assert "NaN" not in page.locator(".fxe-svg").evaluate("(el) => el.outerHTML")
    page.get_by_role("checkbox", name="dense").check()
    says(page, "dense: 1.00 of the time")


def test_what_was_not_measured_is_left_out_and_said(open_page):
    rows = [row for row in measurements() if (row["length"], row["phase"]) == (8192, "read")]
    for row, missing in zip(rows[1:], ("bits", "bits", "memory", "agreement"), strict=False):
        row[missing] = None
    page = open_page(widget_page(ParetoExplorer(rows)))
    ready(page)
    assert points(page).count() == 7
    says(page, "2 configurations left out: bits per byte not measured.")
    page.get_by_role("radio", name="Memory").check(force=True)
    says(page, "3 configurations left out: bits per byte or memory not measured.")
    page.get_by_role("radio", name="Agreement").check(force=True)
    says(page, "2 configurations left out: agreement or memory not measured.")
    page.get_by_label("Configuration", exact=True).select_option(label="block(64)")
    says(page, "Its bits per byte were not measured, and its most likely token")
    page.get_by_role("radio", name="Time").check(force=True)
    page.get_by_label("Configuration", exact=True).select_option(label="block(256) (frontier)")
    says(page, "; its memory was not measured. It needs")
    page.get_by_text("All of them as a table").click()
    cells = page.locator(".fxe-list tbody tr", has_text="block_topk").locator("td")
    expect(cells.nth(3)).to_have_text("–")


def test_copies_the_call(open_page):
    page = open_page(widget_page(ParetoExplorer(measurements(), selected="block(64)")))
    ready(page)
    page.evaluate(
        """() => {
             window.copied = [];
             const clipboard = { writeText: async (text) => { window.copied.push(text); } };
             Object.defineProperty(navigator, "clipboard", { value: clipboard, writable: true });
           }"""
    )
    copy = page.locator(".fxe-call button")
    copy.click()
    expect(copy).to_have_text("Copied")
    call = "effedu.patched(lm.model, attention=block(64))"
    assert page.evaluate("window.copied") == [call]
    expect(copy).to_have_text("Copy")
    # No clipboard, and the old way works.
    page.evaluate(
        """() => {
             navigator.clipboard = undefined;
             document.execCommand = (what) => {
               window.copied.push(what + " " + getSelection());
               return true;
             };
           }"""
    )
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("window.copied[1].trim()") == f"copy {call}"
    # Neither: the text is selected, and the reader is told.
    page.evaluate("() => { document.execCommand = () => { throw new Error('no'); }; }")
    copy.click()
    expect(copy).to_have_text("Press Ctrl+C to copy")
    assert page.evaluate("String(getSelection()).trim()") == call


def test_the_real_clipboard_gets_the_call_from_a_file(open_page):
    page = open_page(widget_page(ParetoExplorer(measurements(), selected="block(64)")))
    ready(page)
    page.locator(".fxe-call button").click()
    expect(page.locator(".fxe-call button")).to_have_text("Copied")


def test_two_views_stay_in_step(open_page):
    explorer = ParetoExplorer(measurements())
    page = open_page(widget_page(explorer, explorer))
    ready(page, views=2)
    one, two = (page.locator(".fx-pareto").nth(i) for i in range(2))
    slider(two, "Length").fill("1")
    one.get_by_role("radio", name="Memory").check(force=True)
    two.get_by_label("Configuration", exact=True).select_option(label="block(64)")
    one.get_by_role("checkbox", name="low rank").uncheck()
    says(two, "7 configurations at 2,048 tokens")
    expect(two.get_by_role("radio", name="Memory")).to_be_checked()
    assert chosen(one) == chosen(two) == "block(64)"
    assert points(one).count() == points(two).count() == 7


def test_table_has_every_number(open_page):
    rows = [row for row in measurements() if (row["length"], row["phase"]) == (8192, "read")]
    page = open_page(widget_page(ParetoExplorer(rows)))
    ready(page)
    page.get_by_text("All of them as a table").click()
    expect(page.locator(".fxe-list tbody tr")).to_have_count(len(rows))
    lines = page.locator(".fxe-list tbody tr").all()
    for line, row in zip(lines, sorted(rows, key=lambda row: row["time"]), strict=True):
        assert line.locator("th").inner_text() == row["label"]
        digits = 2 if row["bits"] < 0.0999 else 1
        bits = f"{100 * row['bits']:+.{digits}f}\u00a0%" if row["bits"] else "0"
        assert line.locator("td").all_inner_texts() == [
            f"{row['time']:.2f}",
            f"{row['memory']:.2f}",
            bits.replace("-", "\u2212"),
            f"{row['agreement']:.1%}".replace("%", "\u00a0%"),
            "yes" if row["label"] in frontier(rows, "bits", "time") else "no",
        ]


def test_markup_stays_text(open_page):
    evil = "<img src=x onerror=document.title='owned'>"
    row = {**measurements()[1], "method": [evil], "label": evil, "call": evil}
    page = open_page(widget_page(ParetoExplorer([row], length=512, machine=evil)))
    ready(page)
    page.get_by_text("All of them as a table").click()
    page.wait_for_timeout(100)
    assert page.locator("img").count() == 0
    assert page.title() == "Widgets"
    assert page.locator(".fxe-call code").inner_text() == evil


@pytest.mark.parametrize("width", [320, 700])
def test_words_cover_nothing_on_random_measurements(open_page, width):
    draw = random.Random(width)
    explorers = [ParetoExplorer(scattered(draw, 40), length=512) for _ in range(3)]
    page = open_page(widget_page(*explorers), width=width)
    assert page.locator(".widget-view").count() == len(explorers)
    for view in page.locator(".widget-view").all():
        view.scroll_into_view_if_needed()
        view.locator(".fxe-svg[width]").wait_for()
        for quality in ("Agreement", "Bits per byte"):
            for cost in ("Memory", "Time"):
                view.get_by_role("radio", name=quality).check(force=True)
                view.get_by_role("radio", name=cost).check(force=True)
                page.wait_for_timeout(60)
                assert covered_words(view.locator(".fxe-svg")) == []
                assert words_outside(view.locator(".fxe-svg")) == []
                text = view.locator(".fxe-svg").evaluate("(el) => el.outerHTML")
                assert "NaN" not in text
                assert "Infinity" not in text


@pytest.mark.parametrize(
    ("width", "theme"), [(320, "light"), (360, "dark"), (1200, "light"), (1200, "dark")]
)
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    page = open_page(widget_page(ParetoExplorer(measurements()), theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-pareto").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    assert words_outside(page.locator(".fxe-svg")) == []
    assert covered_words(page.locator(".fxe-svg")) == []
    names = page.locator(".fxe-svg .fxe-name").all_text_contents()
    assert len(names) >= (4 if width < 500 else 8)
    assert "block(128) + int8()" in names


def test_one_measurement_is_enough(open_page):
    row = {**measurements()[2], "bits": -0.00002}
    page = open_page(widget_page(ParetoExplorer([row], length=512)))
    ready(page)
    assert chosen(page) == "block(128)"
    says(page, "It needs less than 0.01\u00a0% fewer bits per byte")
    says(page, "1 configuration at 512 tokens, reading: 1 on the frontier")
    assert "NaN" not in page.locator(".fxe-svg").evaluate("(el) => el.outerHTML")


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(ParetoExplorer(measurements())))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "quality-against-cost.svg"
    root = ElementTree.fromstring(download.value.path().read_text("utf-8"))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a quarter: the article’s claim", "block(128) + int8()", "1/2", "0"} <= texts
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_a_table_remain(open_page):
    explorer = ParetoExplorer(measurements())
    page = open_page(widget_page(explorer), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert page.locator("figure tbody tr").count() == len(CONFIGURATIONS)
