"""CostExplorer in a browser: its numbers are Python's, and every control answers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import random_config, slider, wait_for_views, widget_page, words_outside

from effedu.cost import cost
from effedu.hardware import Device, devices
from effedu.sizing import models
from effedu.widgets import CostExplorer

SHOWN = ("flops", "bytes_moved", "seconds", "bytes_kept")
LABELS = ("Operations", "Bytes moved", "Least time", "Memory")
KINDS = {
    "flops": "of the operations",
    "bytes_moved": "of the bytes moved",
    "seconds": "of the least time",
    "bytes_kept": "of the memory",
}


def ready(page, views=1):
    wait_for_views(page, ".fxc-svg[width]", views)


def says(view, explorer):
    """Wait until a view says what Python computes."""
    parts, found = explorer.by_part(), explorer.crossover()
    share = parts["attention"] / sum(parts.values())
    text = "<\u202f1" if 0 < share < 0.01 else f"{share:.0%}".rstrip("%")
    expect(view.locator(".fx-big")).to_have_text(
        f"Attention: {text}\u00a0% {KINDS[explorer.shown]}"
    )
    where = "never costs more" if found is None else f"from {found:,} tokens on"
    expect(view.locator(".fx-readout")).to_contain_text(where)


@pytest.fixture
def library(load_module):
    return load_module(CostExplorer)


def random_question(draw):
    """A published model or sizes drawn at random, on a device that may lack some rates."""
    config = random_config(draw, CostExplorer().models)
    half = Device("half", 1e11, 1e11, {"bfloat16": 10 ** draw.uniform(11, 16)})
    return {
        "config": config,
        "device": draw.choice([*devices().values(), half]),
        "length": draw.choice([1, 2, 77, draw.randint(1, 200_000)]),
        "task": draw.choice(["read", "write"]),
        "shown": draw.choice(SHOWN),
        "bits": draw.choice([16, 32]),
        "all_logits": draw.random() < 0.5,
    }


def plain(question):
    """The question as the page gets it."""
    device = {**vars(question["device"]), "peak": dict(question["device"].peak)}
    return {**question, "device": device}


def asked(question):
    """The explorer that answers this question in Python."""
    explorer = CostExplorer(
        "own",
        question["device"].name,
        add_models={"own": SimpleNamespace(**question["config"])},
        add_devices=[question["device"]],
        **{name: question[name] for name in ("length", "task", "shown", "bits", "all_logits")},
    )
    assert explorer.cost().length in (1, question["length"])
    return explorer


def test_numbers_equal_python_on_many_inputs(library):
    draw = random.Random(0)
    cases = [random_question(draw) for _ in range(80)]
    measured, crossovers = library.evaluate(
        "cases => [cases.map(widget.measure), cases.map(widget.crossover)]", [*map(plain, cases)]
    )
    for case, found, at in zip(cases, measured, crossovers, strict=True):
        reading = case["task"] == "read"
        python = cost(
            SimpleNamespace(**case["config"]),
            case["length"] if reading else 1,
            cached=0 if reading else case["length"] - 1,
            causal=True,
            logits_to_keep=0 if case["all_logits"] else 1,
            dtype=torch.bfloat16 if case["bits"] == 16 else torch.float32,
        )
        assert set(found) == set(python.parts)
        for name, part in python.parts.items():
            for what in ("flops", "bytes_moved", "bytes_kept"):
                assert found[name][what] == pytest.approx(getattr(part, what), rel=1e-12), case
        explorer = asked(case)
        assert explorer.by_part() == pytest.approx(
            {name: found[name][case["shown"]] for name in explorer.by_part()}, rel=1e-12
        )
        assert at == explorer.crossover(), case
    assert None in crossovers
    assert len(set(crossovers)) > 40


def test_it_says_what_python_computes(open_page):
    explorer = CostExplorer(length=3000)
    page = open_page(widget_page(explorer))
    ready(page)
    says(page, explorer)
    rows = page.locator(".fxc-table tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [*explorer.by_part(), "together"]
    flops = float(f"{explorer.cost().flops.attention / 1e12:.3g}")
    assert rows[0].split("\t")[2] == f"{flops}\u00a0TFLOP"
    moved = float(f"{explorer.cost().bytes_moved.total / 1e9:.3g}")
    assert rows[-1].split("\t")[3] == f"{moved}\u00a0GB"
    # A length that the slider doesn't have is still said as it is.
    expect(page.locator(".fx-range output")).to_have_text("3,000 tokens")
    expect(page.locator(".fxc-svg")).to_contain_text("43,008 tokens")
    # The line of the crossover stands where attention's band is as high as the next one.
    bands = page.evaluate(
        """() => [0, 1].map((i) => {
             const x = Number(document.querySelector(".fxc-cross").getAttribute("d").match(/M([\\d.]+)/)[1]);
             const numbers = document.querySelector(`.fxc-part${i}`).getAttribute("d").match(/[\\d.]+/g).map(Number);
             const points = numbers.flatMap((n, k) => k % 2 ? [] : [[n, numbers[k + 1]]]);
             const ys = points.sort((a, b) => Math.abs(a[0] - x) - Math.abs(b[0] - x)).slice(0, 2);
             return Math.abs(ys[0][1] - ys[1][1]);
           })"""  # noqa: E501
    )
    assert bands[0] == pytest.approx(bands[1], rel=0.1)


def test_controls(open_page):
    explorer = CostExplorer()
    page = open_page(widget_page(explorer))
    ready(page)
    page.locator("summary").click()
    page.get_by_label("Model", exact=True).select_option("Qwen2.5-7B")
    explorer.config = next(m["config"] for m in explorer.models if m["name"] == "Qwen2.5-7B")
    says(page, explorer)
    page.get_by_label("Write one token").check()
    explorer.task = "write"
    says(page, explorer)
    for shown, label in zip(SHOWN, LABELS, strict=True):
        page.get_by_label(label, exact=True).check()
        explorer.shown = shown
        says(page, explorer)
    page.get_by_label("Least time", exact=True).check()
    page.get_by_label("Device, for the least time").select_option("Apple M4, 32 GB")
    explorer.shown = "seconds"
    explorer.device = next(d for d in explorer.devices if d["name"] == "Apple M4, 32 GB")
    says(page, explorer)
    expect(page.locator(".fx-note")).to_contain_text("no rate of arithmetic is published")
    page.get_by_label("32", exact=True).check()
    explorer.bits = 32
    says(page, explorer)
    page.get_by_label("Read a text").check()
    page.get_by_label("Logits for every token read").uncheck()
    explorer.task, explorer.all_logits = "read", False
    says(page, explorer)
    slider(page, "Length").focus()
    page.keyboard.press("ArrowRight")
    explorer.length = 10240
    says(page, explorer)
    expect(page.locator("[aria-live=polite]")).to_contain_text(page.locator(".fx-big").inner_text())


def test_pointing_at_the_picture_chooses_the_length(open_page):
    explorer = CostExplorer()
    page = open_page(widget_page(explorer))
    ready(page)
    mark = page.locator(".fxc-svg text", has_text="65,536").bounding_box()
    figure = page.locator(".fxc-svg").bounding_box()
    page.mouse.click(mark["x"] + mark["width"] / 2, figure["y"] + figure["height"] / 2)
    explorer.length = 65536
    expect(page.locator(".fx-range output")).to_have_text("65,536 tokens")
    says(page, explorer)


def test_fields_of_ones_own(open_page):
    explorer = CostExplorer()
    page = open_page(widget_page(explorer))
    ready(page)
    page.locator("summary").click()
    for label, value in (("Layers", 10), ("FFN width", 9000), ("Key-value heads", 4)):
        page.get_by_label(label, exact=True).fill(str(value))
        page.get_by_label(label, exact=True).blur()
    explorer.config = {
        **explorer.config,
        **dict(num_hidden_layers=10, intermediate_size=9000, num_key_value_heads=4),
    }
    says(page, explorer)
    assert page.get_by_label("Model", exact=True).input_value() == "your own"
    for text in ("0", "2.5", ""):
        page.get_by_label("Layers", exact=True).fill(text)
        page.get_by_label("Layers", exact=True).blur()
        expect(page.get_by_role("alert").filter(has_text="whole, from 1 to")).to_be_visible()
        says(page, explorer)
    page.get_by_label("Model", exact=True).select_option("pythia-70m")
    expect(page.get_by_label("Layers", exact=True)).to_have_value("6")
    expect(page.get_by_label("Layers", exact=True)).to_have_attribute("aria-invalid", "false")
    expect(page.get_by_label("Key-value heads")).to_be_disabled()
    page.get_by_label("Heads", exact=True).fill("4")
    page.get_by_label("Heads", exact=True).blur()
    expect(page.get_by_label("Key-value heads")).to_have_value("4")


def test_two_views_stay_in_step_and_share_no_id(open_page):
    explorer, other = CostExplorer(), CostExplorer("pythia-70m", task="write")
    page = open_page(widget_page(explorer, explorer, other))
    page.mouse.wheel(0, 3000)
    ready(page, views=3)
    first, second, third = page.locator(".fx-cost").all()
    second.get_by_label("Model", exact=True).select_option("Qwen2.5-0.5B")
    explorer.config = explorer.models[1]["config"]
    says(first, explorer)
    says(second, explorer)
    says(third, other)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_names_are_text_only(open_page):
    name = "<img src=x onerror=window.hacked=1>"
    page = open_page(widget_page(CostExplorer(name, add_models={name: models()["pythia-70m"]})))
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    expect(page.locator(".fx-readout")).to_contain_text(name)


def test_a_finger_chooses(open_page):
    explorer = CostExplorer()
    page = open_page(widget_page(explorer), width=360, has_touch=True)
    ready(page)
    page.get_by_label("Write one token").tap()
    explorer.task = "write"
    says(page, explorer)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    explorer = CostExplorer("Llama-3.1-70B", length=2**20)
    page = open_page(widget_page(explorer, theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.get_by_label("Layers").fill("0")
    page.get_by_label("Layers").blur()
    page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")
    assert axe(page) == []
    for task in ("Read a text", "Write one token"):
        page.get_by_label(task).check(force=True)
        for label in LABELS:
            page.get_by_label(label, exact=True).check(force=True)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            assert page.locator(".fx-cost").evaluate("(el) => el.scrollWidth <= el.clientWidth")
            # No words of the picture lie outside of it.
            assert words_outside(page.locator(".fxc-svg")) == []


def test_saving(open_page):
    page = open_page(widget_page(CostExplorer()))
    ready(page)
    with page.expect_download() as svg:
        page.get_by_role("button", name="Save SVG").click()
    assert svg.value.suggested_filename == "cost-by-part.svg"
    text = svg.value.path().read_text("utf-8")
    assert "var(" not in text
    assert "overtakes the feed-forward" in "".join(ElementTree.fromstring(text).itertext())


def test_without_scripts_a_bar_and_a_table_remain(open_page):
    page = open_page(widget_page(CostExplorer()), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "at 43,008 tokens." in page.locator("caption").inner_text()


def test_size():
    esm, css = str(CostExplorer._esm), str(CostExplorer._css)
    assert len((esm + css).encode()) < 40 * 1024
