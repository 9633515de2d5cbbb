"""AttentionMap in a browser: its numbers, its controls, hostile and long input."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from widget_page import widget_page

from effedu.attention import attention
from effedu.widgets import AttentionMap

WORDS = ["ROMEO", ":", "\n", "But", ",", " soft", "!", " what", " light", " through", " yonder"]


def make(length=11, layers=2, heads=3, head_dim=8, seed=0, tokens=None, spread=1.5, **options):
    rng = np.random.default_rng(seed)
    query, key = rng.normal(0, spread, (2, layers, heads, length, head_dim))
    tokens = tokens or [WORDS[i % len(WORDS)] for i in range(length)]
    return AttentionMap(tokens, query, key, **options)


def ready(page, views=1):
    """Wait until that many views stand, and every map that is to be seen is drawn."""
    page.wait_for_function(
        """n => document.querySelectorAll('.widget-view[data-widget] .fx-am').length === n
             && [...document.querySelectorAll('.fx-am-board')]
               .every((el) => el.dataset.drawn || !el.offsetParent)""",
        arg=views,
    )


def said(view):
    return view.locator(".fx-readout").inner_text()


def says(view, widget):
    """Wait until a view says what it should: the sentence from the weights Python computes."""
    start = re.compile("^" + re.escape(expected(widget)))
    expect(view.locator(".fx-readout")).to_have_text(start)


def expected(widget):
    row = widget.weights()[widget.token]
    first, second = row.argsort(descending=True, stable=True)[:2].tolist()
    show = [t.replace("\n", "⏎").replace(" ", "·") for t in widget.tokens]
    text = (
        f"Token “{show[widget.token]}” at {widget.token} looks most at “{show[first]}” at {first} "
        f"({row[first]:.2f})"
    )
    return f"{text}, then at “{show[second]}” at {second} (" if row[second] > 0 else text + "."


@pytest.fixture
def library(load_module):
    return load_module(AttentionMap)


def test_rows_equal_attention_on_many_inputs(library):
    generator = torch.Generator().manual_seed(0)
    cases = []
    for case in range(120):
        length = int(torch.randint(1, 40, (), generator=generator))
        head_dim = int(torch.randint(1, 65, (), generator=generator))
        spread = [0.0, 0.1, 1.0, 5.0, 60.0][case % 5]  # up to scores of several thousands
        query, key = spread * torch.randn(
            2, 1, 1, length, head_dim, generator=generator, dtype=torch.float64
        )
        causal, scaled = bool(case % 2), bool(case // 2 % 2)
        scale = None if scaled else 1.0
        _, weights = attention(query, key, key, causal=causal, scale=scale, return_weights=True)
        cases.append((query, key, head_dim, causal, scaled, weights[0, 0]))
    computed = library.evaluate(
        """cases => cases.map(({ query, key, headDim, causal, scaled, length }) =>
             Array.from({ length }, (_, i) => {
               const row = widget.attentionRow(query, key, i, headDim, causal, scaled);
               return { row: Array.from(row), entropy: widget.entropy(row),
                        largest: widget.largest(row, 3) };
             }))""",
        [
            {
                "query": q.flatten().tolist(),
                "key": k.flatten().tolist(),
                "headDim": d,
                "causal": causal,
                "scaled": scaled,
                "length": len(weights),
            }
            for q, k, d, causal, scaled, weights in cases
        ],
    )
    for (*_, weights), rows in zip(cases, computed, strict=True):
        torch.testing.assert_close(
            torch.tensor([r["row"] for r in rows], dtype=torch.float64),
            weights,
            rtol=1e-9,
            atol=1e-12,
        )
        entropy = -torch.special.xlogy(weights, weights).sum(-1) / np.log(2)
        torch.testing.assert_close(
            torch.tensor([r["entropy"] for r in rows], dtype=torch.float64),
            entropy,
            rtol=1e-9,
            atol=1e-9,
        )
        for row, result in zip(weights, rows, strict=True):
            best = [row[j].item() for j in result["largest"]]
            assert best == pytest.approx(row.topk(min(3, len(row))).values[: len(best)].tolist())


def test_every_half_precision_number_is_read_exactly(library):
    computed = library.evaluate(
        "() => Array.from({ length: 65536 }, (_, bits) => String(widget.halfToFloat(bits)))"
    )
    numbers = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    np.testing.assert_array_equal(np.array([float(c) for c in computed]), numbers)


def test_it_says_what_python_computes(open_page):
    widget = make(layer=1, head=2, token=9)
    page = open_page(widget_page(widget))
    ready(page)
    says(page, widget)
    row = widget.weights()[9]
    shown = page.locator(".fx-am-token small").all_inner_texts()
    assert shown == [f"{w:.2f}".lstrip("0") if w >= 0.01 else "" for w in row.tolist()]
    entropy = -torch.special.xlogy(row, row).sum() / np.log(2)
    assert f"Entropy {entropy:.2f} bits" in page.locator(".fx-am-side").inner_text()


def test_controls(open_page):
    widget = make(token=5)
    page = open_page(widget_page(widget))
    ready(page)
    for name, control, value in (
        ("layer", "Layer", "1"),
        ("head", "Head", "2"),
        ("causal", "Causal mask", False),
        ("scaled", "Divide the scores by the square root of the head width", False),
    ):
        before = said(page)
        if isinstance(value, bool):
            page.get_by_label(control).set_checked(value)
            setattr(widget, name, value)
        else:
            page.get_by_label(control, exact=True).select_option(value)
            setattr(widget, name, int(value))
        says(page, widget)
        assert said(page) != before or name == "scaled"
    assert page.get_by_text("Without the mask a token also sees").is_visible()


def test_keyboard(open_page):
    widget = make(token=4)
    page = open_page(widget_page(widget), width=360)
    ready(page)
    strip = page.get_by_role("listbox")
    strip.focus()
    for key, token in (("ArrowRight", 5), ("ArrowLeft", 4), ("End", 10), ("Home", 0)):
        page.keyboard.press(key)
        widget.token = token
        says(page, widget)
        active = strip.get_attribute("aria-activedescendant")
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowDown")  # the line below, where the text is wrapped
    expect(page.locator(".fx-am-token").first).not_to_have_attribute("aria-selected", "true")
    tops = page.locator(".fx-am-token").evaluate_all("all => all.map((el) => el.offsetTop)")
    selected = page.locator(".fx-am-token").evaluate_all(
        "all => all.findIndex((el) => el.ariaSelected === 'true')"
    )
    assert tops[selected] == min(t for t in tops if t > tops[0])
    expect(page.locator("[aria-live]")).to_have_text(said(page))

    pressed = page.locator(".fx-am-small[aria-pressed=true]")
    pressed.focus()
    page.keyboard.press("ArrowDown")
    expect(pressed).to_have_attribute("aria-label", "Layer 1, head 0")
    assert page.get_by_label("Layer", exact=True).evaluate("el => el.selectedIndex") == 1


def test_pointer_on_text_and_map(open_page):
    widget = make(token=0)
    page = open_page(widget_page(widget))
    ready(page)
    page.locator(".fx-am-token").nth(7).hover()
    widget.token = 7
    says(page, widget)

    box = page.locator(".fx-am-lines").bounding_box()
    cell = (box["width"] - 36) / 11  # the map has room for its numbers: 28 px before, 8 px after
    page.mouse.move(box["x"] + 28 + 3.5 * cell, box["y"] + 28 + 9.5 * cell)
    widget.token = 9
    says(page, widget)
    weight = widget.weights()[9, 3].item()
    expect(page.locator(".fx")).to_contain_text(f"It gives “But” at 3 a weight of {weight:.3f}")
    page.mouse.move(box["x"] + 28 + 10.5 * cell, box["y"] + 28 + 9.5 * cell)
    expect(page.locator(".fx")).to_contain_text("Position 10 is in the future: masked.")


def test_touch(open_page):
    widget = make(token=0)
    page = open_page(widget_page(widget), width=360, has_touch=True)
    ready(page)
    page.locator(".fx-am-token").nth(6).tap()
    widget.token = 6
    says(page, widget)


def test_table_has_the_numbers(open_page):
    widget = make(token=10, view="table")
    page = open_page(widget_page(widget))
    ready(page)
    assert not page.locator(".fx-am-board").is_visible()
    row = widget.weights()[10]
    order = row.argsort(descending=True, stable=True)[:10].tolist()
    cells = page.locator("tbody tr").evaluate_all(
        "all => all.map((tr) => tr.innerText.split('\\t'))"
    )
    assert [int(c[0]) for c in cells] == order
    assert [float(c[3]) for c in cells] == pytest.approx(row[order].tolist(), abs=1e-4)
    page.get_by_text("The whole row: 11 weights").click()
    expect(page.locator("details tbody tr")).to_have_count(11)
    page.get_by_label("Map", exact=True).check()
    expect(page.locator(".fx-am-board")).to_be_visible()


def test_two_views_stay_in_step_and_share_no_id(open_page):
    widget, other = make(token=1), make(token=2, seed=1)
    page = open_page(widget_page(widget, widget, other))
    page.mouse.wheel(0, 3000)
    ready(page, views=3)
    first, second, third = page.locator(".fx-am").all()
    first.locator(".fx-am-token").nth(8).click()
    widget.token = 8
    says(second, widget)
    says(first, widget)
    says(third, other)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_tokens_are_text_only(open_page):
    bad = [
        "<img src=x onerror=window.hacked=1>",
        "</script><script>window.hacked=2</script>",
        "</noscript><img src=x onerror=window.hacked=3>",
        "&lt;b&gt;",
    ]
    widget = make(length=4, tokens=bad, token=3, view="table")
    page = open_page(widget_page(widget))
    ready(page)
    page.get_by_label("Map", exact=True).check()
    expect(page.locator(".fx-am-board")).to_be_visible()
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    shown = page.locator(".fx-am-token > span").all_inner_texts()
    assert shown == [t.replace(" ", "·") for t in bad]


def test_one_token(open_page):
    page = open_page(widget_page(make(length=1, tokens=["one"])))
    ready(page)
    assert said(page) == "Token “one” at 0 looks most at “one” at 0 (1.00)."


def test_five_hundred_tokens_react(open_page, record_property):
    widget = make(length=500, layers=1, heads=4, head_dim=32, token=499)
    page = open_page(widget_page(widget))
    ready(page)
    strip = page.get_by_role("listbox")
    strip.focus()
    strip.evaluate(  # a held key repeats faster than a busy page draws: no step may be lost
        """(el) => { for (let n = 0; n < 20; n += 1)
             el.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' })); }"""
    )
    widget.token = 479
    says(page, widget)
    times = page.evaluate(
        """async () => {
             const strip = document.querySelector('[role=listbox]');
             const frame = () => new Promise((done) => requestAnimationFrame(done));
             const times = [];
             for (let n = 0; n < 30; n += 1) {
               const start = performance.now();
               strip.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
               await frame(); await frame();
               times.push(performance.now() - start);
             }
             return times;
           }"""
    )
    record_property("milliseconds from key to second frame", sorted(times)[len(times) // 2])
    widget.token = 449
    says(page, widget)
    page.get_by_label("Head", exact=True).select_option("3")
    widget.head = 3
    says(page, widget)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("theme", ["page", "system"])
def test_accessible_and_narrow(open_page, axe, scheme, width, theme):
    html = widget_page(
        make(length=40, layers=5, heads=8, token=30), theme=scheme if theme == "page" else None
    )
    html = html.replace("<head>", "<head><meta name='color-scheme' content='light dark'>")
    page = open_page(html, width=width, color_scheme=scheme)
    ready(page)
    for view in ("Map", "Table"):
        page.get_by_label(view, exact=True).check()
        expect(page.locator(".fx-am-table")).to_be_visible(visible=view == "Table")
        page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")
        assert axe(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    background = page.locator(".fx").evaluate("el => getComputedStyle(el).backgroundColor")
    red = int(background.split("(")[1].split(",")[0])
    assert (red < 64) == (scheme == "dark")


def test_the_map_is_drawn_and_follows_the_theme(open_page):
    widget = make(length=20, token=19)
    page = open_page(widget_page(widget))
    ready(page)

    weights = widget.weights()
    high = divmod(int(weights.argmax()), 20)
    low = 19, int(weights[19].argmin())
    lightness = """([[i, j], [k, l], lighter]) => {
      const canvas = document.querySelector('.fx-am-board canvas[role=img]');
      const ratio = canvas.width / canvas.clientWidth;
      const cell = (canvas.clientWidth - 36) / 20;
      const at = (n) => Math.round((28 + (n + 0.5) * cell) * ratio);
      const value = (i, j) => {
        const one = new OffscreenCanvas(1, 1).getContext('2d');
        one.drawImage(canvas, at(j), at(i), 1, 1, 0, 0, 1, 1);
        const [r, g, b, a] = one.getImageData(0, 0, 1, 1).data;
        return a === 255 ? r + g + b : NaN;
      };
      return lighter ? value(i, j) > value(k, l) : value(i, j) < value(k, l);
    }"""
    page.wait_for_function(lightness, arg=[high, low, False])  # more is darker on white
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    page.wait_for_function(lightness, arg=[high, low, True])  # and lighter on black


def test_saving(open_page, tmp_path):
    page = open_page(widget_page(make(token=5, tokens=["<b>", *WORDS[1:]])))
    ready(page)
    with page.expect_download() as svg:
        page.get_by_role("button", name="Save SVG").click()
    svg.value.save_as(tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert "<b>" in "".join(root.itertext())
    with page.expect_download() as png:
        page.get_by_role("button", name="Save PNG").click()
    png.value.save_as(tmp_path / "map.png")
    data = (tmp_path / "map.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20]) == 2 * float(root.get("width"))


def test_size():
    esm, css = str(AttentionMap._esm), str(AttentionMap._css)
    assert len((esm + css).encode()) < 40 * 1024
    assert json.dumps(esm)  # plain text: it travels as JSON
