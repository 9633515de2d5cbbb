"""TransformerWalk in a browser: its sums are Python's, and every way of walking works."""

from __future__ import annotations

import base64
import json
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import wait_for_views, widget_page

import effedu
from effedu.walk import walk
from effedu.widgets import TransformerWalk

TEXT = "O Romeo, Romeo, wherefore art thou"


@pytest.fixture(scope="module")
def steps():
    return walk(effedu.load_lm(), TEXT)


@pytest.fixture
def walked(steps):
    return TransformerWalk(steps, token=4, head=3)


def ready(page, views=1):
    wait_for_views(page, ".fxw-way", views)


def title(view):
    return view.locator(".fx-big")


def shown(text):
    return text.replace(" ", "·").replace("\n", "⏎")


def percent(share):
    small, large = share < 0.005, share > 0.995
    return f"{'<1' if small else '>99' if large else round(100 * share)}\u00a0%"


def headline(widget):
    """What the page says of a layer."""
    word, share = widget.guesses()[0]
    return f"Layer {widget.stage - 1}: “{shown(word)}”, {percent(share)}"


def test_the_page_adds_up_what_python_adds_up(load_module, walked):
    page = load_module(TransformerWalk)
    layers, heads, length, width = walked.shape[:4]
    state = [base64.b64encode(data).decode() for data in (walked.parts_bytes, walked.scales_bytes)]
    found = page.evaluate(
        """([state, length, parts, width, each]) => {
             const view = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
             const [integers, scales] = state.map(view);
             return Array.from({ length }, (_, token) => {
               const stream = widget.streamOf(widget.partsOf(integers, scales, token, parts, width), each);
               return { stream: stream.map((v) => Array.from(v)), lengths: stream.map(widget.lengthOf) };
             });
           }""",  # noqa: E501
        [state, length, 1 + layers * (heads + 1), width, heads + 1],
    )
    for token in range(length):
        stream = torch.tensor(found[token]["stream"], dtype=torch.float64)
        torch.testing.assert_close(stream, walked.stream(token), rtol=1e-6, atol=1e-9)
        lengths = torch.tensor(found[token]["lengths"], dtype=torch.float64)
        torch.testing.assert_close(lengths, walked.stream(token).norm(dim=-1))


def test_the_page_s_probabilities_and_votes_are_python_s(load_module, walked, steps):
    page = load_module(TransformerWalk)
    shares = page.evaluate(
        """(readings) => readings.map((stages) => stages.map(({ top, total }) =>
             top.map(([, logit]) => widget.probability(logit, total))))""",
        walked.readings,
    )
    tallies = page.evaluate(
        "(votes) => votes.map((list) => list.map(([, , vote]) => widget.tally(vote, 5)))",
        walked.votes,
    )
    logits = steps.lens()
    for token in range(len(steps.tokens)):
        for stage in range(5):
            exact = logits[stage, token].softmax(-1).topk(6).values.tolist()
            assert shares[token][stage] == pytest.approx(exact, rel=1e-3)
        for found, (_, above, votes) in zip(tallies[token], walked.votes[token], strict=True):
            assert found["sum"] == pytest.approx(above, abs=0.02)
            assert found["sum"] == pytest.approx(sum(votes))
            assert [len(row) for row in found["layers"]] == [5] * 4
            inside = sum(map(sum, found["layers"]))
            assert inside + found["embedding"] + found["norm"] == pytest.approx(found["sum"])


def test_it_says_what_python_computes(open_page, walked, steps):
    page = open_page(widget_page(walked))
    ready(page)
    expect(title(page)).to_have_text(headline(walked))
    best = int(steps.weights[3, 3, 4].argmax())
    expect(page.locator(".fxw-say .fx-readout")).to_contain_text(
        f"Head 3 looks most at “{shown(steps.tokens[best])}” ({steps.weights[3, 3, 4, best]:.2f})."
    )
    rows = page.locator(".fxw-guesses > div").all_inner_texts()
    expected = [f"{shown(word)}\n{percent(share)}" for word, share in walked.guesses()]
    assert [row.strip() for row in rows] == expected
    neurons = page.locator(".fxw-inside .fxw-bars b").all_inner_texts()
    assert neurons == [f"{a:.1f}" for _, a, _ in walked.neurons[4][3]]
    expect(page.locator(".fxw-say")).to_contain_text("The text goes on with “o”")


def test_the_sum_is_spelled_out(open_page, walked):
    page = open_page(widget_page(walked))
    ready(page)
    page.get_by_label("Spell out number").fill("17")
    cells = page.locator(".fxw-sum tbody td:last-child").all_inner_texts()
    numbers = [float(cell.replace("−", "-").replace("+", "")) for cell in cells]
    before, after = (float(walked.stream()[stage][17]) for stage in (3, 4))
    assert numbers[0] == pytest.approx(before, abs=0.006)
    assert numbers[-1] == pytest.approx(after, abs=0.006)
    assert sum(numbers[:-1]) == pytest.approx(after, abs=0.04)
    box = page.locator(".fxw-sum canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 100.5 / 256, box["y"] + 4)
    expect(page.locator(".fxw-sum thead")).to_contain_text("no. 100")
    expect(page.get_by_label("Spell out number")).to_have_value("100")


def test_buttons_walk_and_stop_at_the_ends(open_page, walked):
    page = open_page(widget_page(walked))
    ready(page)
    back, forth = (page.get_by_role("button", name=name) for name in ("Previous", "Next"))
    for stage in (3, 2, 1):
        back.click()
        walked.stage = stage
        expect(title(page)).to_have_text(headline(walked))
    back.click()
    expect(title(page)).to_have_text("“·Rome” becomes 256 numbers")
    expect(back).to_be_disabled()
    expect(page.locator(".fxw-sum")).to_be_hidden()
    for _ in range(5):
        forth.click()
    expect(title(page)).to_contain_text("Next: “o”")
    expect(forth).to_be_disabled()
    expect(page.locator(".fxw-votes")).to_be_visible()


def test_the_votes_of_the_next_token(open_page, walked):
    walked.stage = 5
    page = open_page(widget_page(walked))
    ready(page)
    for n, (word, above, votes) in enumerate(walked.votes[4]):
        page.get_by_label("Who lifts").select_option(index=n)
        expect(page.locator(".fxw-inside")).to_contain_text(
            f"“{shown(walked.words[word])}” stands {sum(votes):.1f} above"
        )
        cells = page.locator(".fxw-votes td").all_inner_texts()[1:]
        numbers = [float(cell.replace("−", "-").replace("+", "")) for cell in cells]
        assert numbers == pytest.approx(votes[1:-1], abs=0.051)
        assert sum(votes) == pytest.approx(above, abs=0.02)


def test_play_runs_to_the_end_and_can_be_paused(open_page, walked):
    page = open_page(widget_page(walked))
    page.clock.install(time=0)
    page.reload()
    ready(page)
    page.clock.pause_at(3600)
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(1700)
    expect(title(page)).to_contain_text("Next: “o”")
    page.get_by_role("button", name="Play").click()  # from the end it begins anew
    page.clock.run_for(100)
    expect(title(page)).to_contain_text("becomes 256 numbers")
    page.clock.run_for(1700)
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(9000)
    walked.stage = 1
    expect(title(page)).to_have_text(headline(walked))


def test_where_motion_is_unwelcome_nothing_plays(open_page, walked):
    page = open_page(widget_page(walked), reduced_motion="reduce")
    ready(page)
    expect(page.get_by_role("button", name="Next")).to_be_visible()
    assert page.get_by_role("button", name="Play").count() == 0


def test_every_control_answers_the_keyboard(open_page, walked):
    page = open_page(widget_page(walked))
    ready(page)
    page.get_by_role("listbox").focus()
    page.keyboard.press("ArrowLeft")
    walked.token = 3
    expect(title(page)).to_have_text(headline(walked))
    page.keyboard.press("End")
    expect(page.locator(".fxw-say")).to_contain_text("Here the text ends")
    page.keyboard.press("Home")
    walked.token = 0
    expect(title(page)).to_have_text(headline(walked))
    page.locator(".fxw-stage input:checked").focus()
    page.keyboard.press("ArrowUp")
    walked.stage = 3
    expect(title(page)).to_have_text(headline(walked))
    page.locator(".fxw-look input:checked").focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".fxw-say .fx-readout")).to_contain_text("Head 2 looks most at")
    expect(page.locator("[aria-live=polite]")).to_contain_text(title(page).inner_text())


@pytest.mark.parametrize("touch", [False, True])
def test_pointing(open_page, walked, touch):
    page = open_page(widget_page(walked), width=360 if touch else 1200, has_touch=touch)
    ready(page)
    press = (lambda el: el.tap()) if touch else (lambda el: el.click())
    press(page.locator(".fxw-token").nth(8))
    press(page.locator(".fxw-stage").nth(2))
    walked.token, walked.stage = 8, 2
    expect(title(page)).to_have_text(headline(walked))
    press(page.locator(".fxw-look").nth(1))
    expect(page.locator(".fxw-say .fx-readout")).to_contain_text("Head 1 looks most at")


def test_two_views_stay_in_step_and_share_no_id(open_page, walked):
    page = open_page(widget_page(walked, walked))
    page.mouse.wheel(0, 3000)
    ready(page, views=2)
    first, second = page.locator(".fx-walk").all()
    second.get_by_role("button", name="Previous").click()
    walked.stage = 3
    for view in (first, second):
        expect(title(view)).to_have_text(headline(walked))
        assert view.locator(".fxw-stage input:checked").count() == 1
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_tokens_are_text_only(open_page):
    text = "<img src=x onerror=window.hacked=1>"
    page = open_page(widget_page(TransformerWalk.from_lm(effedu.load_lm(), text)))
    ready(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img").count() == 0
    names = page.locator(".fxw-token > span").all_inner_texts()
    assert "".join(names) == text.replace(" ", "·")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_accessible_and_no_wider_than_the_page(open_page, axe, walked, theme, width):
    page = open_page(widget_page(walked, theme=theme), width=width)
    ready(page)
    for stage in (0, 4, 5):
        page.locator(".fxw-stage").nth(stage).click()
        page.evaluate("() => Promise.all(document.getAnimations().map((a) => a.finished))")
        assert axe(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.locator(".fx-walk").evaluate("(el) => el.scrollWidth <= el.clientWidth")


def test_colours_follow_the_theme(open_page, walked):
    page = open_page(widget_page(walked))
    ready(page)
    paper = "() => document.querySelector('.fxw-vector').toDataURL()"
    light = page.evaluate(paper)
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    page.wait_for_function(
        "(light) => document.querySelector('.fxw-vector').toDataURL() !== light", arg=light
    )


def test_saving(open_page, walked):
    page = open_page(widget_page(walked))
    ready(page)
    with page.expect_download() as svg:
        page.get_by_role("button", name="Save SVG").click()
    assert svg.value.suggested_filename == "transformer-walk.svg"
    text = svg.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert len(root.findall(".//{*}image")) == 5
    assert "Next token" in "".join(root.itertext())
    with page.expect_download() as png:
        page.get_by_role("button", name="Save PNG").click()
    assert png.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_table_remains(open_page, walked):
    page = open_page(widget_page(walked), java_script_enabled=False)
    assert page.locator("figure tbody tr").count() == 5


def test_size():
    esm, css = str(TransformerWalk._esm), str(TransformerWalk._css)
    assert len((esm + css).encode()) < 40 * 1024
    assert json.dumps(esm)
