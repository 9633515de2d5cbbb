"""TilingStepper in a browser: every step is Python's, and every way of moving it works."""

from __future__ import annotations

import json
import math
import random
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from widget_page import wait_for_views, widget_page

from effedu.hardware import tiling_steps
from effedu.widgets import TilingStepper

WORDS = ["ROMEO", ":", "\n", "But", ",", " soft", "!", " what", " light", " through", " yonder"]


def make(length=22, width=6, spread=4.0, seed=0, **options):
    draw = np.random.default_rng(seed)
    scores = torch.tensor(draw.normal(0, spread, (length, length)))
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    tokens = [WORDS[i % len(WORDS)] for i in range(length)]
    options = {"tile": 4, "tokens": tokens, **options}
    return TilingStepper(
        scores.masked_fill(future, -torch.inf), draw.normal(size=(length, width)), **options
    )


def ready(page, views=1):
    wait_for_views(page, ".fxt-svg[width]", views)


def title(view):
    return view.locator(".fx-big")


def where(stepper):
    """The headline of a step that is not the last."""
    step = stepper.steps()[stepper.step - 1]
    return f"Tile {stepper.step} of {stepper.tiles}: keys {step.start} to {step.stop - 1}"


def shown(x, digits):
    return f"{x:.{digits}f}".replace("-", "−")


@pytest.fixture
def library(load_module):
    return load_module(TilingStepper)


def walk(library, cases):
    """The page's steps for each (scores, values, tile, method, limit); values are keys x width."""
    return library.evaluate(
        """cases => cases.map(([scores, values, width, tile, method, limit]) => {
             limit ??= Infinity;
             const steps = widget.tilingSteps(scores, values, width, tile, method, limit);
             const said = (x) => (Number.isFinite(x) ? x : String(x)); // JSON has no infinity
             const numbers = (list) => Array.from(list, said);
             const full = widget.fullSoftmax(scores, values, width);
             return { full: { weights: numbers(full.weights), output: numbers(full.output) },
                      steps: steps.map((step, t) => ({
                        start: step.start, stop: step.stop, factor: step.factor,
                        parts: numbers(step.parts), maximum: step.after.maximum,
                        sum: said(step.after.sum), kept: numbers(step.after.output),
                        output: numbers(widget.normalized(step)),
                        soFar: numbers(widget.weightsSoFar(steps, t + 1)) })) };
           })""",
        [
            [scores.tolist(), values.flatten().tolist(), values.shape[1], tile, method, limit]
            for scores, values, tile, method, limit in cases
        ],
    )


def random_cases(count, methods, spreads=(0.0, 0.3, 3.0, 40.0, 1e4)):
    draw, numbers = random.Random(0), np.random.default_rng(0)
    for case in range(count):
        length, width = draw.randint(1, 60), draw.randint(1, 8)
        scores = torch.tensor(numbers.normal(0, spreads[case % len(spreads)], length))
        values = torch.tensor(numbers.normal(size=(length, width)))
        yield scores, values, draw.randint(1, 70), methods[case % len(methods)], None


def close(found, expected):
    torch.testing.assert_close(
        torch.tensor([float(x) for x in found], dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-12,
    )


def test_every_step_equals_python_on_many_inputs(library):
    cases = list(random_cases(150, ["online"]))
    one = torch.ones(1, dtype=torch.float64)
    for (scores, values, tile, *_), found in zip(cases, walk(library, cases), strict=True):
        expected = list(tiling_steps(one, scores[:, None], values, tile=tile))
        assert len(found["steps"]) == len(expected)
        for step, python in zip(found["steps"], expected, strict=True):
            assert (step["start"], step["stop"]) == (python.start, python.stop)
            assert step["maximum"] == python.maximum
            close([step["factor"], step["sum"]], [python.shrink, python.total])
            close(step["parts"], python.weights)
            close(step["kept"], python.weighted)
            close(step["output"], python.output)
            close(step["soFar"], scores[: python.stop].softmax(-1))
        close(found["full"]["weights"], scores.softmax(-1))
        close(found["full"]["output"], scores.softmax(-1) @ values)
        close(found["steps"][-1]["output"], found["full"]["output"])


def test_without_rescaling_each_tile_counts_against_its_own_maximum(library):
    cases = list(random_cases(60, ["unscaled"], spreads=(0.3, 3.0)))
    for (scores, values, tile, *_), found in zip(cases, walk(library, cases), strict=True):
        highest = scores.cummax(0).values[[min(j // tile * tile + tile, len(scores)) - 1
                                           for j in range(len(scores))]]  # fmt: skip
        parts = (scores - highest).exp()
        close(found["steps"][-1]["soFar"], parts / parts.sum())
        close(found["steps"][-1]["output"], parts @ values / parts.sum())


def test_without_the_maximum_it_is_softmax_until_something_overflows(library):
    limit = 65504.0  # of float16
    safe = [(s, v, t, m, limit) for s, v, t, m, _ in random_cases(40, ["naive"], spreads=(0.3, 1))]
    for (scores, values, *_), found in zip(safe, walk(library, safe), strict=True):
        close(found["steps"][-1]["output"], scores.softmax(-1) @ values)

    over = math.log(limit)
    values = torch.ones(3, 1, dtype=torch.float64)
    results = walk(
        library,
        [
            (torch.tensor([0.0, over + 1e-3, 0.0]), values, 1, "naive", limit),
            (torch.tensor([over - 1e-3, over - 1e-3, 0.0]), values, 1, "naive", limit),  # the sum
            (torch.tensor([0.0, over + 1e-3, 0.0]), values, 1, "naive", 3.4e38),
            (torch.tensor([0.0, over + 1e-3, 0.0]), values, 1, "online", limit),
        ],
    )
    outputs = [[step["output"][0] for step in found["steps"]] for found in results]
    assert outputs[0][1:] == outputs[1][1:] == ["NaN", "NaN"]
    assert outputs[2] == outputs[3] == pytest.approx([1.0, 1.0, 1.0])


def test_it_says_what_python_computes(open_page):
    stepper = make(step=3)
    page = open_page(widget_page(stepper))
    ready(page)
    step, before = stepper.steps()[2], stepper.steps()[1]
    expect(title(page)).to_have_text(where(stepper))
    cells = [row.split("\t")[1:] for row in page.locator(".fxt-ledger tbody tr").all_inner_texts()]
    assert cells[0] == [
        shown(before.maximum, 2), "", shown(max(step.scores), 2), shown(step.maximum, 2)
    ]  # fmt: skip
    assert cells[1] == [
        shown(before.total, 3),
        "× " + (">0.999" if 0.9995 < step.shrink < 1 else shown(step.shrink, 3)),
        "+ " + shown(sum(step.weights), 3),
        shown(step.total, 3),
    ]
    assert cells[2][3] == shown(step.weighted[0], 2)
    rows = [row.split("\t") for row in page.locator(".fxt-tile tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == [str(j) for j in range(step.start, step.stop)]
    assert [row[2] for row in rows] == [shown(score, 2) for score in step.scores]


def test_it_ends_at_the_full_softmax(open_page):
    stepper = make()
    page = open_page(widget_page(stepper))
    ready(page)
    page.get_by_label("Tiles done").fill(str(stepper.tiles))
    expect(title(page)).to_have_text("Equal to the full softmax")
    expect(page.locator(".fxt-say .fx-readout")).to_contain_text("Of 6 output numbers none differs")
    page.get_by_text("All steps as a table").click()
    rows = page.locator("details tbody tr")
    expect(rows).to_have_count(stepper.tiles)
    cells = [row.split("\t") for row in rows.all_inner_texts()]
    assert [row[1] for row in cells] == [shown(step.maximum, 2) for step in stepper.steps()]
    assert float(cells[-1][4].replace("−", "-")) < 1e-9 < float(cells[0][4])
    # The bars lie where the dashes are.
    page.wait_for_timeout(500)
    tops = page.evaluate(
        """() => [[".fxt-done", 1], [".fxt-current", 1], [".fxt-ghost", 0]].map(([name, n]) => {
             const path = document.querySelectorAll(name)[n].getAttribute("d");
             return path.split("M").slice(1).map((bar) => Number(bar.split(/[ hv]/)[1]));
           })"""
    )
    assert [*tops[0], *tops[1]] == pytest.approx(tops[2], abs=1)


def test_buttons_walk_and_stop_at_the_ends(open_page):
    stepper = make(step=1)
    page = open_page(widget_page(stepper))
    ready(page)
    back, forth = (page.get_by_role("button", name=name) for name in ("Previous", "Next"))
    for step in (2, 3):
        forth.click()
        stepper.step = step
        expect(title(page)).to_have_text(where(stepper))
    for _ in range(3):
        back.click()
    expect(title(page)).to_have_text("Nothing read yet")
    expect(back).to_be_disabled()
    page.get_by_label("Tiles done").fill(str(stepper.tiles))
    expect(forth).to_be_disabled()
    expect(back).to_be_enabled()


def test_play_runs_to_the_end_and_can_be_paused(open_page):
    stepper = make(length=8, step=2)
    page = open_page(widget_page(stepper))
    page.clock.install(time=0)
    page.reload()
    ready(page)
    page.clock.pause_at(3600)  # from here on time passes only when it is told to
    page.get_by_role("button", name="Play").click()  # from the end it begins anew
    page.clock.run_for(100)
    expect(title(page)).to_have_text("Nothing read yet")
    page.clock.run_for(1300)
    expect(title(page)).to_have_text("Tile 1 of 2: keys 0 to 3")
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(5000)
    expect(title(page)).to_have_text("Tile 1 of 2: keys 0 to 3")
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(1300)
    expect(title(page)).to_have_text("Equal to the full softmax")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_where_motion_is_unwelcome_nothing_moves_by_itself(open_page):
    page = open_page(widget_page(make(step=1)), reduced_motion="reduce")
    ready(page)
    assert page.get_by_role("button", name="Play").count() == 0
    moved = page.evaluate(
        """async () => {
             const draws = new Set();
             [...document.querySelectorAll("button")].find((b) => b.textContent === "Next").click();
             for (let n = 0; n < 6; n += 1) {
               await new Promise(requestAnimationFrame);
               draws.add(document.querySelectorAll(".fxt-done")[1].getAttribute("d"));
             }
             return draws.size;
           }"""
    )
    assert moved <= 2  # before and after, and nothing between
    page.get_by_role("button", name="To the end").click()
    expect(title(page)).to_have_text("Equal to the full softmax")
    expect(page.get_by_role("button", name="To the end")).to_be_disabled()


def test_every_control_answers_the_keyboard(open_page):
    stepper = make(step=3)
    page = open_page(widget_page(stepper))
    ready(page)
    page.get_by_label("Tiles done").focus()
    page.keyboard.press("ArrowRight")
    stepper.step = 4
    expect(title(page)).to_have_text(where(stepper))
    page.get_by_label("Query").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    stepper.query = 16
    expect(title(page)).to_have_text(where(stepper))
    expect(page.locator(".fxt-svg")).to_contain_text("Scores s of query 16 “·soft”")
    page.get_by_label("Tile size").focus()
    page.keyboard.press("ArrowDown")
    stepper.tile = 8  # three tiles are left, so it is the last one now
    expect(title(page)).to_have_text("Equal to the full softmax")
    page.get_by_label("Online").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("No rescaling")).to_be_checked()
    expect(title(page)).to_have_text("Not the softmax")
    expect(page.locator("[aria-live=polite]")).to_contain_text("Not the softmax")


def test_the_wrong_ways_show_what_goes_wrong(open_page):
    stepper = TilingStepper([1.0, 2.0, 12.0, 3.0], [[0.0], [1.0], [2.0], [3.0]], tile=2, step=2)
    page = open_page(widget_page(stepper))
    ready(page)
    expect(page.get_by_label("Query")).to_be_hidden()  # there is only one
    page.get_by_label("No rescaling").check()
    expect(title(page)).to_have_text("Not the softmax")
    parts = torch.tensor([1.0, 2.0, 12.0, 3.0]) - torch.tensor([2.0, 2.0, 12.0, 12.0])
    wrong = parts.exp() @ torch.arange(4.0) / parts.exp().sum()
    off = (wrong.double() - stepper.output()[0]).abs().item()
    expect(page.locator(".fxt-say")).to_contain_text(f"off by up to {off:.3f}")

    page.get_by_label("No maximum").check()
    expect(title(page)).to_have_text("Not a number")
    expect(page.locator(".fxt-say")).to_contain_text("float16 ends at 65,504")
    page.get_by_label("Numbers held in").select_option("float32")
    expect(title(page)).to_have_text("Equal to the full softmax")
    page.get_by_label("Online").check()
    expect(page.get_by_label("Numbers held in")).to_be_hidden()
    expect(title(page)).to_have_text("Equal to the full softmax")


@pytest.mark.parametrize("touch", [False, True])
def test_pointing_at_a_tile_goes_there(open_page, touch):
    stepper = make(step=1)
    page = open_page(widget_page(stepper), width=360 if touch else 1200, has_touch=touch)
    ready(page)
    page.locator(".fxt-figure").scroll_into_view_if_needed()
    box = page.locator(".fxt-svg").bounding_box()
    for key, step in ((9, 3), (2, 1)):
        x = box["x"] + 38 + (key + 0.5) * (box["width"] - 42) / 22
        (page.touchscreen.tap if touch else page.mouse.click)(x, box["y"] + 80)
        stepper.step = step
        expect(title(page)).to_have_text(where(stepper))


def test_two_views_stay_in_step_and_share_no_id(open_page):
    stepper, other = make(step=2), make(step=3, seed=1)
    page = open_page(widget_page(stepper, stepper, other))
    page.mouse.wheel(0, 3000)
    ready(page, views=3)
    first, second, third = page.locator(".fx-tiling").all()
    second.get_by_role("button", name="Next").click()
    stepper.step = 3
    expect(title(first)).to_have_text(where(stepper))
    expect(title(second)).to_have_text(where(stepper))
    expect(title(third)).to_have_text(where(other))
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_tokens_are_text_only(open_page):
    bad = ["<img src=x onerror=window.hacked=1>", "</script><script>window.hacked=2</script>", "b"]
    stepper = TilingStepper([1.0, 2.0, 3.0], np.eye(3), tokens=bad, tile=3, about="<i>x</i>")
    page = open_page(widget_page(stepper))
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    names = page.locator(".fxt-token").all_inner_texts()
    assert names == [token.replace(" ", "·") for token in bad]
    expect(page.locator(".fx-tiling")).to_contain_text("<i>x</i>")


def test_one_key(open_page):
    page = open_page(widget_page(TilingStepper([0.0], [[2.0]])))
    ready(page)
    expect(title(page)).to_have_text("Equal to the full softmax")


def test_five_hundred_keys_in_tiles_of_one(open_page):
    draw = np.random.default_rng(0)
    stepper = TilingStepper(draw.normal(0, 3, 500), draw.normal(size=(500, 64)), tile=1, step=250)
    page = open_page(widget_page(stepper))
    ready(page)
    page.get_by_text("All steps as a table").click()
    expect(page.locator("details tbody tr")).to_have_count(48)
    page.get_by_label("Tiles done").fill("500")
    expect(title(page)).to_have_text("Equal to the full softmax")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    page = open_page(widget_page(make(length=40, width=64, step=5), theme=theme), width=width)
    ready(page)
    page.get_by_text("All steps as a table").click()
    for method in ("Online", "No rescaling", "No maximum"):
        page.get_by_label(method).check()
        page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")
        assert axe(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.locator(".fx-tiling").evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_saving(open_page):
    page = open_page(widget_page(make(step=3)))
    ready(page)
    page.wait_for_timeout(500)
    with page.expect_download() as svg:
        page.get_by_role("button", name="Save SVG").click()
    assert svg.value.suggested_filename == "online-softmax.svg"
    text = svg.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    drawn = page.locator(".fxt-current").first.get_attribute("d")
    assert drawn in {element.get("d") for element in root.iter()}
    with page.expect_download() as png:
        page.get_by_role("button", name="Save PNG").click()
    data = png.value.path().read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20]) == 2 * float(root.get("width"))


def test_without_scripts_a_picture_and_a_table_remain(open_page):
    stepper = make()
    page = open_page(widget_page(stepper), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert page.locator("figure tbody tr").count() == stepper.tiles


def test_size():
    esm, css = str(TilingStepper._esm), str(TilingStepper._css)
    assert len((esm + css).encode()) < 40 * 1024
    assert json.dumps(esm)
