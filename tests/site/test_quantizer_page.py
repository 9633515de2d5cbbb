"""Quantizer in a browser: codes, errors and bytes are Python's, and every control answers."""

from __future__ import annotations

import json
import math
import random
import re
from decimal import ROUND_HALF_UP, Context, Decimal
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import slider, wait_for_views, widget_page, words_outside

from effedu.widgets import Quantizer


def make(weights=256, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Quantizer(torch.randn(weights, generator=generator) / 16, **options)


def ready(page, views=1):
    wait_for_views(page, ".fxq-svg[width]", views)
    page.wait_for_timeout(80)


def three(x):
    """Three digits, as the page writes a number: halves go up there."""
    digits = Context(prec=3, rounding=ROUND_HALF_UP).create_decimal(Decimal(x))
    return f"{digits.normalize():f}".replace("-", "−")


def says(page, quantizer):
    """Wait until the page shows what Python computes of the same state."""
    numbers, row = quantizer.numbers, quantizer.row()
    power = float(row.double().square().mean().sqrt())
    each = three(8 * numbers.nbytes / len(row))
    text = f"{three(100 * numbers.rms_error / power)}\u00a0% off at {each} bits a weight"
    expect(page.locator(".fx-big").first).to_have_text(text)
    at = quantizer.index
    expect(page.locator(".fxq-say .fx-readout").nth(1)).to_contain_text(
        f"Weight {at}, {three(float(row[at]))}, gets code {numbers.codes[at]}".replace("-", "−")
    )


@pytest.fixture
def library(load_module):
    return load_module(Quantizer)


def computed(library, states):
    return library.evaluate(
        """states => states.map(({ row, bits, size, symmetric, dtype, index, factor }) => {
             const weights = widget.stretched(Float32Array.from(row), index, factor);
             const { codes, restored, groups } =
               widget.quantizeRow(weights, bits, size, symmetric, dtype);
             const found = widget.errors(weights, restored);
             found.signal_to_noise = String(found.signal_to_noise);
             return { ...found, codes: Array.from(codes), restored: Array.from(restored),
                      nbytes: widget.bytesOf(row.length, groups.length, bits, symmetric, dtype).all,
                    };
           })""",
        states,
    )


def test_numbers_equal_python_on_many_rows(library):
    draw = random.Random(0)
    quantizers, states = [], []
    for case in range(240):
        size = draw.choice([None, 8, 16, 32, 64])
        weights = 64 * draw.randint(1, 4)
        row = torch.randn(weights, generator=torch.Generator().manual_seed(case))
        if case % 5 == 1:
            row = row.abs() + 0.5  # zero lies outside of the weights
        if case % 5 == 2:
            row = (row * 8).round() / 4  # many ties
        if case % 5 == 3:
            row[: weights // 2] = 0  # groups of nothing
        if case % 5 == 4:
            row = row * 10.0 ** draw.randint(-6, 6)
        options = {
            "bits": draw.choice([2, 3, 4, 8]),
            "symmetric": draw.random() < 0.5,
            "index": draw.randrange(weights),
            "factor": draw.choice([1.0, 1.7, 5.0, 33.3, 100.0]),
        }
        dtype = draw.choice(["float32", "bfloat16"])
        quantizers.append(
            Quantizer(row, group_size=size, scale_dtype=getattr(torch, dtype), **options)
        )
        states.append({"row": row.tolist(), "size": size, "dtype": dtype, **options})
    for quantizer, state, found in zip(quantizers, states, computed(library, states), strict=True):
        numbers = quantizer.numbers
        assert tuple(found["codes"]) == numbers.codes, state
        assert tuple(found["restored"]) == numbers.restored, state  # to the last digit
        assert found["nbytes"] == numbers.nbytes
        assert found["largest_error"] == numbers.largest_error
        assert found["rms_error"] == pytest.approx(numbers.rms_error, rel=1e-9)
        assert float(found["signal_to_noise"]) == pytest.approx(numbers.signal_to_noise, abs=1e-9)


def test_ties_go_to_the_even_number(library):
    values = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994, -0.2, 3.0]
    found = library.evaluate("values => values.map(widget.roundEven)", values)
    assert found == torch.tensor(values, dtype=torch.float64).round().tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 2, "group_size": None},
        {"bits": 8, "group_size": 16, "symmetric": False},
        {"bits": 3, "group_size": 64, "index": 100, "factor": 20.0},
        {"group_size": 16, "scale_dtype": torch.bfloat16},
        {"group_size": 2},  # not among the choices of the page
    ],
)
def test_shows_what_python_computes(open_page, options):
    quantizer = make(**options)
    page = open_page(widget_page(quantizer))
    ready(page)
    says(page, quantizer)
    stored = page.locator(".fxq-table").nth(1).locator("tbody tr", has_text="together")
    assert stored.locator("td").first.inner_text() == f"{quantizer.numbers.nbytes:,}"
    total = page.locator(".fxq-table").first.locator("tbody tr", has_text="whole row")
    assert total.locator("td").first.inner_text() == three(quantizer.numbers.largest_error)


def test_every_control_answers_the_keyboard(open_page):
    quantizer = make()
    page = open_page(widget_page(quantizer))
    ready(page)
    page.get_by_role("group", name="Bits a weight").get_by_label("4").focus()
    page.keyboard.press("ArrowLeft")
    quantizer.bits = 3
    says(page, quantizer)
    page.get_by_label("Group size").focus()
    page.keyboard.press("ArrowUp")
    quantizer.group_size = 64
    says(page, quantizer)
    page.get_by_role("group", name="Levels").get_by_label("symmetric").focus()
    page.keyboard.press("ArrowRight")
    quantizer.symmetric = False
    says(page, quantizer)
    page.get_by_role("group", name="Scales in").get_by_label("float32").focus()
    page.keyboard.press("ArrowRight")
    quantizer.scale_dtype = "bfloat16"
    says(page, quantizer)
    slider(page, "Weight").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    quantizer.index = 1
    says(page, quantizer)
    slider(page, "This weight made larger").focus()
    page.keyboard.press("End")
    quantizer.factor = 100.0
    says(page, quantizer)
    page.get_by_role("button", name="Largest weight").focus()
    page.keyboard.press("Enter")
    quantizer.index = int(make().row().abs().argmax())
    says(page, quantizer)
    page.wait_for_timeout(600)  # said when the hand rests
    assert "bits a weight. Weight" in page.locator("[aria-live=polite]").inner_text()


def test_an_outlier_changes_its_group_alone(open_page):
    page = open_page(widget_page(make(index=40)))
    ready(page)
    cells = page.locator(".fxq-table").first.locator("tbody tr")
    before = cells.nth(2).locator("td").all_inner_texts()
    slider(page, "This weight made larger").fill("12")
    expect(page.locator(".fxq-say .fx-readout").nth(1)).to_contain_text("Made 100 times larger")
    expect(page.locator(".fxq-say .fx-readout").nth(1)).to_contain_text("and for no other")
    assert cells.nth(2).locator("td").all_inner_texts() == before
    now, was = (float(t) for t in cells.nth(1).locator("td").all_inner_texts()[1:])
    assert now > 2 * was


def test_pointing_chooses_a_weight_and_a_choice(open_page):
    quantizer = make()
    page = open_page(widget_page(quantizer))
    ready(page)
    box = page.locator(".fxq-svg").bounding_box()
    axis = page.locator(".fxq-axis").first.bounding_box()
    page.mouse.click(axis["x"] + (100.5 / 256) * axis["width"], box["y"] + 60)
    quantizer.index = 100
    says(page, quantizer)
    # The number line: the weight of the group which is nearest to its right end.
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + 300)
    quantizer.index = 96 + int(quantizer.row()[96:128].argmax())
    says(page, quantizer)
    # The last part: the smallest choice, two bits for the whole row.
    ring = page.locator(".fxq-choice").first.bounding_box()
    page.mouse.click(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    quantizer.bits, quantizer.group_size = 2, None
    says(page, quantizer)
    assert page.get_by_label("Group size").input_value() == "whole row: 256"


def test_a_finger_chooses(open_page):
    quantizer = make()
    page = open_page(widget_page(quantizer), width=360, has_touch=True)
    ready(page)
    page.get_by_role("group", name="Bits a weight").get_by_label("8").tap()
    quantizer.bits = 8
    says(page, quantizer)
    axis = page.locator(".fxq-axis").first
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    page.touchscreen.tap(box["x"] + (7.5 / 256) * box["width"], box["y"])
    quantizer.index = 7
    says(page, quantizer)


def test_two_views_stay_in_step(open_page):
    quantizer = make()
    page = open_page(widget_page(quantizer, quantizer))
    ready(page, views=2)
    one, two = (page.locator(".fx-quantizer").nth(i) for i in range(2))
    slider(two, "This weight made larger").fill("9")
    one.get_by_label("Group size").select_option("128 weights")
    quantizer.factor, quantizer.group_size = 20.0, 128
    says(one, quantizer)
    says(two, quantizer)
    assert two.get_by_label("Group size").input_value() == "128 weights"
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids))


def test_the_table_has_the_group(open_page):
    quantizer = make(group_size=16, index=20)
    page = open_page(widget_page(quantizer))
    ready(page)
    page.get_by_text("The group as a table").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(16)
    codes = [
        int(t.replace("−", "-"))
        for t in page.locator("details tbody td:nth-child(3)").all_inner_texts()
    ]
    assert tuple(codes) == quantizer.numbers.codes[16:32]
    assert page.locator("details tr[aria-current] th").inner_text() == "20"


def test_rows_at_the_edge(open_page):
    """Nothing but zeros, and two weights: no NaN anywhere, and nothing throws."""
    zeros, two = Quantizer(torch.zeros(64)), Quantizer(torch.tensor([1.0, -2.0]), group_size=None)
    page = open_page(widget_page(zeros, two))
    ready(page, views=2)
    for view in page.locator(".fx-quantizer").all():
        for bits in ("2", "3", "8"):
            view.get_by_role("group", name="Bits a weight").get_by_label(bits).check()
            page.wait_for_timeout(60)
            assert not re.search("NaN|undefined|Infinity", view.inner_html())
        view.get_by_label("with offset").check()
        page.wait_for_timeout(60)
        assert not re.search("NaN|undefined|Infinity", view.inner_html())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    quantizer = make(
        weights=1024, symmetric=False, factor=100.0, name="a row with a long name " * 3
    )
    page = open_page(widget_page(quantizer, theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-quantizer").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    # No words of the picture lie outside of it.
    assert words_outside(page.locator(".fxq-svg")) == []


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(make()))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "quantizer.svg"
    text = download.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert page.locator(".fxq-mine").get_attribute("d") in {el.get("d") for el in root.iter()}
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    data = download.value.path().read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20]) == 2 * math.floor(float(root.get("width")))


def test_without_scripts_a_picture_and_words_remain(open_page):
    page = open_page(widget_page(make()), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "256 weights in 4 bits and groups of 32" in page.locator("figcaption").inner_text()


def test_size():
    quantizer = make(weights=1024)
    assert len((str(quantizer._esm) + str(quantizer._css)).encode()) < 40 * 1024
    assert len(quantizer.row_bytes) == 4 * 1024
    assert json.dumps(str(quantizer._esm))
