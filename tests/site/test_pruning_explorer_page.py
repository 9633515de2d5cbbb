"""PruningExplorer in a browser: its numbers are Python's, and every way of moving it works."""

from __future__ import annotations

import base64
import dataclasses
import random
from xml.etree import ElementTree

import pytest
import torch
from widget_page import slider, wait_for_views, widget_page

from effedu.widgets import PruningExplorer


def explorer(length=14, width=4, **options):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, length, width) * 1.5
    words = ["to", " be", "\n", " or", " not", "<b>"]
    tokens = [words[i % len(words)] for i in range(length)]
    return PruningExplorer(tokens, query, key, value, **options)


def ready(page, views=1):
    wait_for_views(page, ".fx-pruning", views)
    page.wait_for_timeout(150)  # the picture is drawn in the next frame


def sentence(view):
    return view.locator(".fxr-side .fx-readout").inner_text()


def expected_words(widget):
    numbers = widget.numbers
    return f"keeps {len(numbers.kept)} of {widget.token + 1} keys."


@pytest.fixture
def library(load_module):
    return load_module(PruningExplorer)


def test_numbers_equal_python_on_many_rows(library):
    draw = random.Random(0)
    widget = explorer()
    script = """([traits, states]) => {
        const bytes = (b64) => new DataView(Uint8Array.from(atob(b64), (c) => c.charCodeAt(0)).buffer);
        const state = { shape: traits.shape, score_bytes: bytes(traits.scores), value_bytes: bytes(traits.values) };
        const model = { get: (name) => state[name] };
        return states.map((s) => {
          const row = widget.readRow(model, s.layer, s.head, s.token);
          return widget.prune(row, widget.limitOf(row.weights, s.method, s.k, s.threshold));
        });
      }"""  # noqa: E501
    traits = {
        "shape": widget.shape,
        "scores": base64.b64encode(widget.score_bytes).decode(),
        "values": base64.b64encode(widget.value_bytes).decode(),
    }
    states = [
        {
            "layer": draw.randrange(2),
            "head": draw.randrange(3),
            "token": draw.randrange(14),
            "method": draw.choice(["topk", "threshold"]),
            "k": draw.randint(1, 14),
            "threshold": draw.choice([0.0, 0.01, 0.1, 0.3, 1.0]),
        }
        for _ in range(200)
    ]
    found = library.evaluate(script, [traits, states])
    for state, numbers in zip(states, found, strict=True):
        for name, value in state.items():
            setattr(widget, name, value)
        expected = dataclasses.asdict(widget.numbers)
        assert tuple(numbers.pop("kept")) == expected.pop("kept"), state
        assert numbers == pytest.approx(expected, abs=1e-5), state


def test_shows_what_python_computes(open_page):
    widget = explorer(layer=1, head=2, k=3)
    page = open_page(widget_page(widget))
    ready(page)
    assert expected_words(widget) in sentence(page)
    kept = page.locator(".fxr-token.is-kept")
    assert kept.count() == 3
    assert page.locator(".fx-big").inner_text().startswith(f"{widget.numbers.kept_mass:.1%}"[:-1])
    cells = page.locator(".fxr-costs tbody tr").last.locator("td").all_inner_texts()
    numbers = widget.numbers
    assert [int(c.replace(",", "")) for c in cells] == [
        numbers.dense_multiply_adds,
        numbers.pruned_multiply_adds,
        numbers.chosen_multiply_adds,
    ]
    assert "<b>" in page.locator(".fxr-strip").inner_text()  # text, never markup


def test_every_control_answers_the_keyboard(open_page):
    page = open_page(widget_page(explorer(k=3)))
    ready(page)
    for label in ("Layer", "Head"):
        before = sentence(page)
        page.get_by_label(label, exact=True).focus()
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(80)
        assert sentence(page) != before, label
    widget = explorer(layer=1, head=1, k=3)
    slider(page, "Keys kept").focus()
    page.keyboard.press("ArrowRight")
    widget.k = 4
    page.wait_for_timeout(80)
    assert expected_words(widget) in sentence(page)
    page.locator(".fxr-strip").focus()
    page.keyboard.press("ArrowLeft")
    widget.token = 12
    page.wait_for_timeout(80)
    assert expected_words(widget) in sentence(page)
    page.get_by_label("above a threshold").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(80)
    slider(page, "Least weight").fill("11")  # 0.2
    widget.method, widget.threshold = "threshold", 0.2
    page.wait_for_timeout(80)
    assert expected_words(widget) in sentence(page)


def test_a_finger_chooses_a_token_and_a_number_of_keys(open_page):
    page = open_page(widget_page(explorer(k=3)), width=360, has_touch=True)
    ready(page)
    page.locator(".fxr-token").nth(9).tap()
    page.wait_for_timeout(700)  # said when the hand rests
    assert "Token 9" in page.locator("[aria-live=polite]").inner_text()
    box = page.locator(".fxr-axis").bounding_box()
    page.locator(".fxr-figure").scroll_into_view_if_needed()
    box = page.locator(".fxr-axis").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 1, box["y"] + 60)
    page.wait_for_timeout(100)
    assert "keeps 10 of 10 keys" in sentence(page)
    assert page.locator(".fx-big").inner_text().startswith("100.0")


def test_two_views_stay_in_step(open_page):
    widget = explorer(k=3)
    page = open_page(widget_page(widget, widget))
    ready(page, views=2)
    one, two = (page.locator(".fx-pruning").nth(i) for i in range(2))
    slider(two, "Keys kept").fill("6")
    page.wait_for_timeout(80)
    assert sentence(one) == sentence(two)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids))


def test_the_table_has_the_row(open_page):
    widget = explorer(k=3, token=9)
    page = open_page(widget_page(widget))
    ready(page)
    page.get_by_text("The row as a table").click()
    rows = page.locator("details tbody tr")
    rows.first.wait_for()
    assert rows.count() == 10
    after = page.locator("details tbody td:last-child").all_inner_texts()
    assert after.count("dropped") == 7
    assert sum(float(text) for text in after if text != "dropped") == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    page = open_page(widget_page(explorer(length=40), theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(explorer()))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "pruning.svg"
    root = ElementTree.fromstring(download.value.path().read_text("utf-8"))
    drawn = page.locator(".fxr-error").get_attribute("d")
    assert drawn in {element.get("d") for element in root.iter()}
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_words_remain(open_page):
    widget = explorer(k=3)
    page = open_page(widget_page(widget), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "pruning keeps 3 of 14 keys" in page.locator("figcaption").inner_text()
