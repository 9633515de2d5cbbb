"""HardwareCalculator in a browser: its numbers are Python's, and every control answers."""

from __future__ import annotations

import json
import random
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import random_config, wait_for_views, widget_page, words_outside

from effedu.cost import cost
from effedu.hardware import Device, devices
from effedu.sizing import BITS, fits, models
from effedu.widgets import HardwareCalculator

SAME = ("weights", "kv_cache", "activations", "total", "flops_per_token")
LIMITS = ("prefill_tokens_per_second", "decode_tokens_per_second")


def ready(page, views=1):
    wait_for_views(page, ".fxh-svg[width]", views)


def words(view):
    return view.locator(".fxh-say")


def three(x):
    """Three digits, as the page writes them: 0.604, 17.7, 10,300."""
    return f"{float(f'{x:.3g}'):,.6g}"


def says(view, calculator):
    """Wait until a view says what Python computes."""
    found = calculator.fit()
    total, memory = found.total / 1e9, found.device.memory / 1e9
    expect(words(view)).to_contain_text(f"take {three(total)} GB of {three(memory)} GB")
    expect(words(view)).to_contain_text(
        f"at most {three(found.decode_tokens_per_second)} tokens a second"
    )
    expect(view.locator(".fx-big")).to_have_text("It fits" if found.fits else "It doesn't fit")


@pytest.fixture
def library(load_module):
    return load_module(HardwareCalculator)


def random_question(draw):
    """A published model or sizes drawn at random, on a device that may lack some figures."""
    config = random_config(draw, HardwareCalculator().models)
    device = draw.choice(
        [
            *devices().values(),
            Device("own", draw.uniform(1e8, 1e12), 10 ** draw.uniform(9, 13), {"float32": 1e12}),
            Device("own", None, 1e11, {"float32": 1e12, "bfloat16": 1e13}),
            Device("half", 1e11, 1e11, {"bfloat16": 10 ** draw.uniform(11, 16)}),
        ]
    )
    return {
        "config": config,
        "device": device,
        "length": draw.choice([1, 2, 77, draw.randint(1, 200_000)]),
        "batch": draw.choice([1, 1, draw.randint(1, 600)]),
        "bits": draw.choice(BITS),
        "cache_bits": draw.choice(BITS),
    }


def test_numbers_and_advice_equal_python_on_many_inputs(library):
    draw = random.Random(0)
    cases = [random_question(draw) for _ in range(400)]
    computed = library.evaluate(
        "cases => cases.map((question) => widget.fit(question))",
        [
            {
                **case,
                "device": {
                    "memory": case["device"].memory,
                    "bandwidth": case["device"].bandwidth,
                    "peak": dict(case["device"].peak),
                },
            }
            for case in cases
        ],
    )
    kinds = set()
    for case, found in zip(cases, computed, strict=True):
        python = fits(**{**case, "config": SimpleNamespace(**case["config"])})
        for name in SAME:
            assert found[name] == pytest.approx(getattr(python, name), rel=1e-12, abs=1), case
        for name in LIMITS:
            expected = getattr(python, name)
            assert found[name] == (None if expected is None else pytest.approx(expected, rel=1e-9))
        assert (found["fits"], found["decode_bound"]) == (python.fits, python.decode_bound), case
        assert tuple(found["advice"]) == python.advice, case
        kinds |= {re.sub(r"[\d.,]+", "#", line) for line in python.advice}
    assert len(kinds) == 6  # every kind of advice was given


def test_passes_cost_what_python_says(library):
    draw = random.Random(1)
    cases = []
    for _ in range(100):
        question = random_question(draw)
        cases.append((question["config"], question["length"], question["batch"],
                      draw.choice([0, 1, 5000]), draw.choice([2, 4])))  # fmt: skip
    computed = library.evaluate("cases => cases.map((one) => widget.passCost(...one))", cases)
    for (config, length, batch, cached, item), found in zip(cases, computed, strict=True):
        dtype = {2: torch.bfloat16, 4: torch.float32}[item]
        python = cost(SimpleNamespace(**config), length, batch=batch, cached=cached,
                      logits_to_keep=1, dtype=dtype)  # fmt: skip
        moved = python.bytes_moved
        assert found == pytest.approx(
            {
                "parameters": python.parameters,
                "attention": python.flops.attention,
                "other": python.flops.total - python.flops.attention,
                "weights": moved.weights,
                "cache": moved.kv_cache_read + moved.kv_cache_written,
                "activations": moved.activations,
            },
            rel=1e-12,
        )
        assert found["cache"] == pytest.approx(python.kv_cache_bytes, rel=1e-12)


def test_it_says_what_python_computes(open_page):
    calculator = HardwareCalculator(length=3000, batch=4, bits=8)
    page = open_page(widget_page(calculator))
    ready(page)
    says(page, calculator)
    found = calculator.fit()
    expect(words(page)).to_contain_text(
        f"read at most {three(found.prefill_tokens_per_second)} tokens a second"
    )
    expect(words(page)).to_contain_text(f"{three(found.decode_tokens_per_second / 4)} in each of 4")
    expect(page.locator(".fxh-svg")).to_contain_text(f"{three(found.kv_cache / 1e9)} GB")
    lines = page.locator(".fxh-advice li").all_inner_texts()
    assert [line[0].lower() + line[1:] for line in lines] == [
        line[0].lower() + line[1:] for line in found.advice
    ]
    # A length that the slider doesn't have is still said as it is.
    expect(page.locator(".fx-range").first.locator("output")).to_have_text("3,000 tokens")
    # The bar is to scale.
    shares = page.evaluate(
        """() => ["weights", "kv_cache", "activations", "room"].map((name) =>
             Number(document.querySelector(`.fxh-${name}`).getAttribute("width")))"""
    )
    expected = [found.weights, found.kv_cache, found.activations, found.device.memory]
    assert [w / shares[3] for w in shares] == pytest.approx(
        [e / expected[3] for e in expected], abs=0.002
    )


def test_controls(open_page):
    calculator = HardwareCalculator()
    page = open_page(widget_page(calculator))
    ready(page)
    page.get_by_label("Model", exact=True).select_option("Llama-3.1-70B")
    calculator.config = next(m["config"] for m in calculator.models if "70B" in m["name"])
    says(page, calculator)
    page.get_by_label("Device", exact=True).select_option("NVIDIA H100 SXM")
    calculator.device = next(d for d in calculator.devices if "H100" in d["name"])
    says(page, calculator)
    for name, label in (("bits", "Bits a weight"), ("cache_bits", "Bits in the cache")):
        page.get_by_role("group", name=label).get_by_label("4", exact=True).check()
        setattr(calculator, name, 4)
        says(page, calculator)
    page.get_by_label("Context").focus()
    page.keyboard.press("ArrowRight")
    calculator.length = 12288
    says(page, calculator)
    page.get_by_label("Batch").focus()
    page.keyboard.press("ArrowRight")
    calculator.batch = 2
    says(page, calculator)
    expect(page.locator("[aria-live=polite]")).to_contain_text(page.locator(".fx-big").inner_text())


def test_fields_of_ones_own(open_page):
    calculator = HardwareCalculator()
    page = open_page(widget_page(calculator))
    ready(page)
    for summary in page.locator("summary").all():
        summary.click()
    sizes = {"Layers": 10, "Width": 512, "Heads": 8, "Key-value heads": 2, "FFN width": 1000,
             "Vocabulary": 5000}  # fmt: skip
    page.get_by_label("Key-value heads").fill("2")  # first: the order in which it stays allowed
    page.get_by_label("Key-value heads").blur()
    for label, value in sizes.items():
        page.get_by_label(label, exact=True).fill(str(value))
        page.get_by_label(label, exact=True).blur()
    calculator.config = {
        **calculator.config,
        **dict(num_hidden_layers=10, hidden_size=512, num_attention_heads=8),
        **dict(num_key_value_heads=2, intermediate_size=1000, vocab_size=5000),
    }
    says(page, calculator)
    assert page.get_by_label("Model", exact=True).input_value() == "your own"
    for label, value in (("Memory, GB", 2), ("Bandwidth, GB/s", 50.5), ("Compute, TFLOP/s", 1.5)):
        page.get_by_label(label).fill(str(value))
        page.get_by_label(label).blur()
    peak = {"bfloat16": 1.5e12, "float32": 1.5e12}
    calculator.device = {**calculator.device, "memory": 2e9, "bandwidth": 50.5e9, "peak": peak}
    says(page, calculator)
    assert page.get_by_label("Device", exact=True).input_value() == "your own"
    page.get_by_label("Model", exact=True).select_option("pythia-70m")  # and back to what is known
    expect(page.get_by_label("Width", exact=True)).to_have_value("512")
    expect(page.get_by_label("Key-value heads")).to_be_disabled()
    expect(page.get_by_label("Vocabulary")).to_have_value("50304")


@pytest.mark.parametrize(
    ("label", "text", "message"),
    [
        ("Layers", "0", "whole, from 1 to 10,000,000"),
        ("Layers", "2.5", "whole, from 1 to 10,000,000"),
        ("Layers", "", "whole, from 1 to 10,000,000"),
        ("Heads", "5000", "whole, from 8 to 4,096"),
        ("Key-value heads", "33", "whole, from 1 to 32"),
        ("Bandwidth, GB/s", "-1", "from 0.001 to 10,000,000"),
    ],
)
def test_what_is_no_number_is_said_and_changes_nothing(open_page, label, text, message):
    calculator = HardwareCalculator()
    page = open_page(widget_page(calculator))
    ready(page)
    for summary in page.locator("summary").all():
        summary.click()
    field = page.get_by_label(label, exact=True)
    before = field.input_value()
    field.fill(text)
    field.blur()
    expect(page.get_by_role("alert").filter(has_text=message)).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    says(page, calculator)
    field.fill(before)
    field.blur()
    expect(field).to_have_attribute("aria-invalid", "false")
    assert page.get_by_role("alert").filter(has_text=message).count() == 0


def test_what_nobody_says_is_not_made_up(open_page):
    box = Device("box", None, 1e11, {"bfloat16": 1e12})
    page = open_page(
        widget_page(
            HardwareCalculator(device="Apple M4, 32 GB"),
            HardwareCalculator(device="box", add_devices=[box]),
        )
    )
    page.mouse.wheel(0, 3000)
    ready(page, views=2)
    laptop, unknown = page.locator(".fx-hardware").all()
    expect(words(laptop)).to_contain_text("no rate of arithmetic is published for this device")
    expect(laptop.locator(".fxh-svg")).to_contain_text("no rate published")
    expect(unknown.locator(".fx-big")).to_have_text("It needs 17.7 GB")
    expect(words(unknown)).to_contain_text("How much memory the device has isn't known.")
    expect(unknown.locator(".fxh-advice")).to_be_hidden()


def test_two_views_stay_in_step_and_share_no_id(open_page):
    calculator, other = HardwareCalculator(), HardwareCalculator("pythia-70m", bits=4)
    page = open_page(widget_page(calculator, calculator, other))
    page.mouse.wheel(0, 3000)
    ready(page, views=3)
    first, second, third = page.locator(".fx-hardware").all()
    second.get_by_label("Model", exact=True).select_option("Qwen2.5-0.5B")
    calculator.config = calculator.models[1]["config"]
    says(first, calculator)
    says(second, calculator)
    says(third, other)
    assert first.get_by_label("Model", exact=True).input_value() == "Qwen2.5-0.5B"
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_names_are_text_only(open_page):
    name = "<img src=x onerror=window.hacked=1>"
    config = models()["pythia-70m"]
    page = open_page(widget_page(HardwareCalculator(name, add_models={name: config})))
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    expect(page.locator(".fxh-svg")).to_contain_text(name)


def test_a_finger_chooses(open_page):
    calculator = HardwareCalculator()
    page = open_page(widget_page(calculator), width=360, has_touch=True)
    ready(page)
    page.get_by_role("group", name="Bits a weight").get_by_label("8").tap()
    calculator.bits = 8
    says(page, calculator)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    calculator = HardwareCalculator("Llama-3.1-70B", length=131072, batch=512)
    page = open_page(widget_page(calculator, theme=theme), width=width)
    ready(page)
    for summary in page.locator("summary").all():
        summary.click()
    page.get_by_label("Layers").fill("0")
    page.get_by_label("Layers").blur()
    page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")
    assert axe(page) == []
    page.get_by_label("Model", exact=True).select_option("pythia-70m")
    expect(page.get_by_label("Key-value heads")).to_be_disabled()
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-hardware").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    # No words of the picture lie outside of it.
    assert words_outside(page.locator(".fxh-svg")) == []


def test_saving(open_page):
    page = open_page(widget_page(HardwareCalculator()))
    ready(page)
    with page.expect_download() as svg:
        page.get_by_role("button", name="Save SVG").click()
    assert svg.value.suggested_filename == "model-on-device.svg"
    text = svg.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert "Llama-3.1-8B on NVIDIA RTX 4090" in "".join(root.itertext())
    with page.expect_download() as png:
        page.get_by_role("button", name="Save PNG").click()
    data = png.value.path().read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20]) == 2 * float(root.get("width"))


def test_without_scripts_a_bar_and_a_table_remain(open_page):
    calculator = HardwareCalculator()
    page = open_page(widget_page(calculator), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "It fits: it takes 17.74 GB of 24 GB." in page.locator("caption").inner_text()


def test_size():
    esm, css = str(HardwareCalculator._esm), str(HardwareCalculator._css)
    assert len((esm + css).encode()) < 40 * 1024
    assert json.dumps(esm)
