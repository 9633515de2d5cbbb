"""StreamingListener in a browser: it writes what Python does, plays, and each control answers."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree

import pytest
import torch
from playwright.sync_api import expect
from widget_page import covered_words, slider, wait_for_views, widget_page, words_outside

from effedu.applications import Recording, chunk_mask, collapse, edit_distance, known_at
from effedu.speech import FRAME_SECONDS, from_mu_law, to_mu_law
from effedu.widgets import StreamingListener

SETTINGS = [(1, 8), (4, 0), (4, 2), (8, 0), (8, 2), (8, None), (25, 1), (None, None)]


def tones(digits, frames_each=12, seed=0):
    """A tone for each digit, in some noise: made up, but something to see and to hear."""
    t = torch.arange(320 * frames_each) / 8000
    swell = (torch.pi * torch.arange(len(t)) / len(t)).sin()
    wave = torch.cat([0.5 * swell * (2 * torch.pi * (300 + 200 * d) * t).sin() for d in digits])
    noise = torch.randn(len(wave), generator=torch.Generator().manual_seed(seed))
    return Recording(" ".join(map(str, digits)), bytes(to_mu_law(wave + 0.003 * noise).tolist()))


def right(digits, frames_each=12):
    """The symbols of a recognizer that writes each digit in the middle of its tone."""
    best = []
    for digit in digits:
        half = [0] * (frames_each // 2)
        best += [*half, digit + 1, digit + 1, *half[2:]]
    return best


def make(*texts, changes=None, **options):
    """Listeners of some recordings; ``changes`` replaces symbols: setting to {frame: symbol}."""
    spoken = [[int(digit) for digit in text] for text in texts or ("40937",)]
    best = []
    for digits in spoken:
        symbols = {setting: right(digits) for setting in SETTINGS}
        for setting, new in (changes or {}).items():
            for frame, symbol in new.items():
                symbols[setting][frame] = symbol
        best.append(symbols)
    options = {"setting": (8, 2), "layers": 3, **options}
    return StreamingListener([tones(digits) for digits in spoken], best, **options)


def scattered(draw, count, **options):
    """A listener with symbols drawn at random, as of a recognizer that guesses."""
    digits = [draw.randint(0, 9) for _ in range(count)]
    frames = 12 * count
    best = {
        setting: [draw.choice([0, 0, draw.randint(1, 10)]) for _ in range(frames)]
        for setting in SETTINGS
    }
    return StreamingListener([tones(digits)], [best], **options)


def ready(page, views=1):
    wait_for_views(page, ".fxa-svg[width]", views)


def title(view):
    return view.locator(".fx-big")


def known(listener):
    """What the page says is known at the listener's time."""
    digits = [str(one.digit) for one in listener.written() if one.known <= listener.time + 1e-6]
    return f"Known after {listener.time:.2f}\u00a0s: {' '.join(digits) or 'nothing yet'}"


def cursor(page):
    """Seconds at which the cursor stands, read from the picture."""
    at = page.locator(".fxa-cursor").get_attribute("d")
    width = float(page.locator(".fxa-svg").get_attribute("width"))
    duration = float(slider(page, "Time").get_attribute("max"))
    return duration * (float(re.match(r"M([\d.]+)", at)[1]) - 6) / (width - 12)


def no_number_is_lost(view):
    """Whether all numbers in the widget are finite; the spectrogram's letters may say anything."""
    text = re.sub('data:image[^"]*', "", view.locator(".fx-listener").inner_html())
    return "NaN" not in text and "Infinity" not in text


@pytest.fixture
def library(load_module):
    return load_module(StreamingListener)


def test_it_writes_what_ctc_writes(library):
    draw = random.Random(0)
    cases = [[draw.choice([0, 0, 1, 2, 10]) for _ in range(draw.randint(0, 60))] for _ in range(99)]
    found = library.evaluate(
        "cases => cases.map((best) => [best, Uint8Array.from(best)].map(widget.collapse))", cases
    )
    for best, answers in zip(cases, found, strict=True):
        expected = [list(one) for one in collapse(best)]
        assert answers == [expected, expected]
    assert {len(answers[0]) for answers in found} > {0, 1, 2, 3}


def test_frames_are_known_when_python_says_so(library):
    draw = random.Random(1)
    cases = []
    for _ in range(300):
        length = draw.randint(1, 500)
        chunk = draw.choice([None, 1, draw.randint(1, 40), 600])
        cases.append([draw.randrange(length), chunk, length])
    found = library.evaluate(
        "([cases, seconds]) => cases.map((one) => widget.knownAt(...one, seconds))",
        [cases, FRAME_SECONDS],
    )
    assert found == [known_at(*case) for case in cases]


def test_what_a_frame_sees_is_what_the_mask_allows(library):
    draw = random.Random(2)
    for _ in range(12):
        length, chunk, layers = draw.randint(1, 40), draw.randint(1, 12), draw.randint(1, 4)
        back = draw.choice([None, 0, 1, 2, 5])
        mask = chunk_mask(length, chunk, back)
        alone = chunk_mask(length, chunk, 0)
        through = torch.linalg.matrix_power(mask.double(), layers) > 0
        seen = library.evaluate(
            "(o) => Array.from({ length: o.length }, (_, i) => widget.seenBy(i, o))",
            {"length": length, "chunk": chunk, "back": back, "layers": layers},
        )
        for frame, spans in enumerate(seen):
            for name, rows in (("own", alone), ("one", mask), ("all", through)):
                start, stop = spans[name]
                assert rows[frame].nonzero().flatten().tolist() == list(range(start, stop))
    whole = library.evaluate("widget.seenBy(3, { chunk: null, back: null, length: 9, layers: 2 })")
    assert whole == {"own": [0, 9], "one": [0, 9], "all": [0, 9]}


def test_errors_are_the_edit_distance(library):
    draw = random.Random(3)
    cases = [
        [[draw.randint(0, draw.choice([1, 9])) for _ in range(draw.randint(0, 12))] for _ in "ab"]
        for _ in range(200)
    ]
    found = library.evaluate("cases => cases.map((one) => widget.align(...one))", cases)
    for (written, spoken), answer in zip(cases, found, strict=True):
        assert answer["errors"] == edit_distance(written, spoken)
        pairs = answer["pairs"]
        assert [i for i, _ in pairs if i is not None] == list(range(len(written)))
        assert [j for _, j in pairs if j is not None] == list(range(len(spoken)))
        wrong = [i is None or j is None or written[i] != spoken[j] for i, j in pairs]
        assert sum(wrong) == answer["errors"]


def test_the_sound_is_mu_law(library):
    codes = list(range(256))
    sound = library.evaluate("codes => Array.from(widget.decode(Uint8Array.from(codes)))", codes)
    expected = from_mu_law(torch.tensor(codes, dtype=torch.uint8))
    torch.testing.assert_close(torch.tensor(sound), expected, rtol=1e-5, atol=1e-7)


def test_starts_with_something_to_see(open_page):
    listener = make(about="Made-up tones.")
    page = open_page(widget_page(listener))
    ready(page)
    assert listener.time == pytest.approx(1.2)
    expect(title(page)).to_have_text(known(listener))
    assert known(listener).endswith(": 4 0")
    view = page.locator(".fx-listener")
    expect(view).to_contain_text(
        "Frame 30 is computed at 1.28\u00a0s, when its chunk ends: 0.08\u00a0s after the frame "
        "began. One layer sees frames 8 to 31; all 3 layers together reach back to frame 0."
    )
    delays = [one.delay for one in listener.written()]
    expect(view).to_contain_text(
        f"In the end 5 digits, each known {sum(delays) / 5:.2f}\u00a0s after its frame began on "
        f"average, {max(delays):.2f}\u00a0s at most. 0 errors in 5 spoken digits."
    )
    expect(view).to_contain_text("Made-up tones.")
    assert page.locator(".fxa-digit").count() == 5
    assert page.locator(".fxa-digit.fxa-known").all_text_contents() == ["4", "0"]
    assert cursor(page) == pytest.approx(1.2, abs=0.01)
    assert page.locator(".fxa-svg image").get_attribute("href").startswith("data:image/png")


def test_the_picture_is_the_spectrogram(open_page):
    listener = make("07")
    page = open_page(widget_page(listener))
    ready(page)
    pixels = page.locator(".fxa-svg image").evaluate(
        """async (image) => {
             const bitmap = new Image();
             bitmap.src = image.getAttribute("href");
             await bitmap.decode();
             const canvas = document.createElement("canvas");
             [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
             const pen = canvas.getContext("2d");
             pen.drawImage(bitmap, 0, 0);
             const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
             return [canvas.width, canvas.height, Array.from(data).filter((_, i) => i % 4 === 1)];
           }"""
    )
    spectrogram = tones([0, 7]).spectrogram()  # (steps, bands), low tones first
    assert pixels[:2] == list(spectrogram.shape)
    green = torch.tensor(pixels[2]).reshape(40, -1).flip(0).T
    # On white paper what is louder is never lighter.
    order = spectrogram.flatten().long().argsort(stable=True)
    assert (green.flatten()[order].diff() <= 0).all()
    assert len(green.unique()) > 50


def test_every_control_answers_the_keyboard(open_page):
    listener = make("40937", "12" * 20)
    page = open_page(widget_page(listener))
    ready(page)
    slider(page, "Time").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    listener.time = 1.3
    expect(title(page)).to_have_text(known(listener))
    expect(page.locator("[aria-live=polite]")).to_contain_text(known(listener))

    slider(page, "Chunk").focus()
    page.keyboard.press("ArrowLeft")
    listener.setting = (4, 2)
    expect(title(page)).to_have_text(known(listener))
    expect(page.locator(".fx-listener")).to_contain_text("One layer sees frames 24 to 35")
    slider(page, "Seen before it").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".fx-listener")).to_contain_text("One layer sees frames 32 to 35")

    page.get_by_role("combobox", name="Recording").focus()
    page.keyboard.press("ArrowDown")
    listener.recording, listener.setting, listener.time = 1, (4, 0), 9.6
    expect(title(page)).to_have_text(known(listener))
    expect(page.locator(".fxa-digit")).to_have_count(40)

    page.get_by_role("checkbox", name="Sound").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="Sound")).not_to_be_checked()
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play")).to_be_focused()


def test_every_setting_says_what_python_says(open_page):
    draw = random.Random(4)
    listener = scattered(draw, 5, setting=(None, None))
    page = open_page(widget_page(listener))
    ready(page)
    page.locator("summary").click()
    rows = page.locator(".fxa-list tbody tr")
    expect(rows).to_have_count(len(SETTINGS))
    for row, setting in zip(rows.all(), SETTINGS, strict=True):
        written = listener.written(setting)
        delays = [one.delay for one in written]
        assert [cell.inner_text() for cell in row.locator("td").all()[1:]] == [
            " ".join(str(one.digit) for one in written),
            f"{sum(delays) / len(delays):.2f}\u00a0s",
            f"{max(delays):.2f}\u00a0s",
            str(listener.errors(setting)),
        ]
    expect(page.locator("tr[aria-current]")).to_contain_text("whole")

    slider(page, "Time").fill(str(listener.duration))
    for i, chunk in enumerate([1, 4, 8, 25, None]):
        slider(page, "Chunk").fill(str(i))
        backs = [back for one, back in SETTINGS if one == chunk]
        for j, back in enumerate(backs):
            if len(backs) > 1:
                slider(page, "Seen before it").fill(str(j))
            listener.setting, listener.time = (chunk, back), listener.duration
            expect(title(page)).to_have_text(known(listener))
            errors, said = listener.errors(), len(listener.recordings[0]["text"].split())
            expect(page.locator(".fx-listener")).to_contain_text(
                f"{errors} error{'s' * (errors != 1)} in {said} spoken digits"
            )
            delays = [one.delay for one in listener.written()]
            shown = [float(t) for t in page.locator(".fxa-delay").all_inner_texts() if t.strip()]
            assert shown == pytest.approx(delays, abs=0.006)


def test_another_chunk_keeps_what_is_nearest_of_the_chunks_before(open_page):
    page = open_page(widget_page(make(setting=(8, None))))
    ready(page)
    said = [page.locator(".fx-range output").nth(i) for i in (0, 1)]
    for index, chunk, back in [
        (1, "4 frames, 0.16\u00a0s", "2 chunks"),
        (3, "25 frames, 1.00\u00a0s", "1 chunk"),
        (0, "1 frame, 0.04\u00a0s", "8 chunks"),
        (4, "whole recording", "–"),
        (2, "8 frames, 0.32\u00a0s", "all chunks"),
    ]:
        slider(page, "Chunk").fill(str(index))
        expect(said[0]).to_have_text(chunk)
        expect(said[1]).to_have_text(back)
        if index in (0, 3, 4):
            expect(slider(page, "Seen before it")).to_be_disabled()


def test_errors_are_marked_when_they_can_be_seen(open_page):
    # Written is 4 9 3 5 7 2: one is missing, one too many, one wrong.
    changes = {(4, 0): {18: 0, 19: 0, 48: 6, 66: 3, 67: 3}}
    listener = make("409371", setting=(4, 0), changes=changes)
    assert listener.errors() == 3
    page = open_page(widget_page(listener))
    ready(page)
    marks = page.locator(".fxa-pairs li.fxa-bad")
    slider(page, "Time").fill("1.26")
    expect(title(page)).to_have_text("Known after 1.26\u00a0s: 4")
    expect(marks).to_have_count(0)  # the 0 may still come
    slider(page, "Time").fill("1.28")
    expect(marks).to_have_count(1)
    slider(page, "Time").fill(str(listener.duration))
    expect(marks).to_have_count(3)
    assert page.locator(".fxa-pairs .fx-sr").all_inner_texts() == [
        "4 spoken, 4 written after 0.08\u00a0s",
        "0 spoken, nothing written, missing",
        "9 spoken, 9 written after 0.08\u00a0s",
        "3 spoken, 3 written after 0.08\u00a0s",
        "nothing spoken, 5 written after 0.16\u00a0s, too many",
        "7 spoken, 7 written after 0.08\u00a0s",
        "1 spoken, 2 written after 0.08\u00a0s, wrong",
    ]
    expect(page.locator(".fx-listener")).to_contain_text(
        "3 errors in 6 spoken digits (1\u00a0wrong, 1\u00a0too many, 1\u00a0missing)"
    )
    assert page.locator(".fxa-digit text:nth-of-type(2)").all_text_contents() == ["+", "≠"]


def test_nothing_written_is_said(open_page):
    listener = StreamingListener([tones([1])], [{(None, None): [0] * 12}])
    page = open_page(widget_page(listener))
    ready(page)
    slider(page, "Time").fill(str(listener.duration))
    expect(title(page)).to_have_text("Known after 0.48\u00a0s: nothing yet")
    expect(page.locator(".fx-listener")).to_contain_text(
        "In the end no digit is written. 1 error in 1 spoken digit (1\u00a0missing)."
    )
    page.locator("summary").click()
    expect(page.locator(".fxa-list tbody tr")).to_contain_text("nothing")
    assert no_number_is_lost(page)


WATCH_AUDIO = """() => {
  window.heard = { contexts: 0, played: [] };
  const { AudioContext: Context, AudioBufferSourceNode: Source } = window;
  window.AudioContext = class extends Context {
    constructor() { super(); heard.contexts += 1; }
    createGain() { return (heard.gain = super.createGain()); }
  };
  window.AudioBufferSourceNode = class extends Source {
    start(when, offset) {
      const { sampleRate } = this.buffer;
      heard.played.push({ offset, rate: sampleRate, samples: [...this.buffer.getChannelData(0)] });
      super.start(when, offset);
    }
    stop() { heard.stopped = true; super.stop(); }
  };
}"""


def test_play_sounds_from_where_the_cursor_stands(open_page):
    page = open_page(widget_page(make("409")))
    ready(page)
    page.evaluate(WATCH_AUDIO)
    slider(page, "Time").fill("0.2")
    expect(title(page)).to_have_text("Known after 0.20\u00a0s: nothing yet")
    assert page.evaluate("heard.contexts") == 0  # no sound without a click
    page.get_by_role("button", name="Play").click()
    expect(title(page)).to_have_text("Known after 1.44\u00a0s: 4 0 9")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    [played] = page.evaluate("heard.played")
    assert (played["offset"], played["rate"]) == (0.2, 8000)
    sound = tones([4, 0, 9]).sound
    torch.testing.assert_close(torch.tensor(played["samples"]), sound, rtol=1e-5, atol=1e-6)

    page.get_by_role("button", name="Play").click()  # from the end anew
    page.wait_for_function("() => heard.played.length === 2")
    assert page.evaluate("heard.played[1].offset") == 0
    assert page.evaluate("heard.contexts") == 1
    expect(page.get_by_text("plays no sound here")).to_be_hidden()


def test_play_can_be_paused(open_page):
    page = open_page(widget_page(make("40937182645093" * 5)))  # long: slow machines run this, too
    ready(page)
    page.evaluate(WATCH_AUDIO)
    slider(page, "Time").fill("0.1")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => heard.played.length === 1")
    expect(title(page)).not_to_contain_text("nothing yet")
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate("heard.stopped")
    page.wait_for_timeout(200)
    paused = cursor(page)
    assert paused > 0.3
    page.wait_for_timeout(300)
    assert cursor(page) == paused
    page.get_by_role("button", name="Play").click()  # on from there
    page.wait_for_function("() => heard.played.length === 2")
    assert page.evaluate("heard.played[1].offset") == pytest.approx(paused, abs=0.02)


def test_settings_can_change_while_it_plays(open_page):
    page = open_page(widget_page(make("40937182645093" * 5)))
    ready(page)
    page.evaluate(WATCH_AUDIO)
    slider(page, "Time").fill("0")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => heard.gain?.gain.value === 1")
    page.get_by_role("checkbox", name="Sound").uncheck()
    assert page.evaluate("heard.gain.gain.value") == 0
    slider(page, "Chunk").fill("0")
    expect(page.locator(".fx-range output").first).to_have_text("1 frame, 0.04\u00a0s")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    slider(page, "Time").fill("1")  # moving the time by hand stops it
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.wait_for_timeout(200)
    assert cursor(page) == pytest.approx(1, abs=0.05)


def test_a_browser_without_sound_moves_all_the_same(open_page):
    page = open_page(widget_page(make("40")))
    ready(page)
    page.evaluate("delete window.AudioContext")
    slider(page, "Time").fill("0")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_text("plays no sound here")).to_be_visible()
    expect(title(page)).to_have_text("Known after 0.96\u00a0s: 4 0")


def test_where_motion_is_unwelcome_it_goes_from_digit_to_digit(open_page):
    listener = make("409")
    page = open_page(widget_page(listener), reduced_motion="reduce")
    ready(page)
    slider(page, "Time").fill("0")
    page.wait_for_timeout(100)
    page.evaluate(
        """() => {
             window.places = new Set();
             const look = () => {
               places.add(document.querySelector(".fxa-cursor").getAttribute("d"));
               requestAnimationFrame(look);
             };
             look();
           }"""
    )
    page.get_by_role("button", name="Play").click()
    expect(title(page)).to_have_text("Known after 1.44\u00a0s: 4 0 9")
    assert 2 <= page.evaluate("places.size") <= 5  # the start, three digits and the end


@pytest.mark.parametrize("touch", [False, True])
def test_pointing_at_the_picture_moves_the_time(open_page, touch):
    listener = make()
    page = open_page(widget_page(listener), width=360 if touch else 1200, has_touch=touch)
    ready(page)
    page.locator(".fxa-figure").scroll_into_view_if_needed()
    box = page.locator(".fxa-svg").bounding_box()
    for time in (0.5, 2.0):
        x = box["x"] + 6 + (box["width"] - 12) * time / listener.duration
        (page.touchscreen.tap if touch else page.mouse.click)(x, box["y"] + 80)
        page.wait_for_timeout(100)
        assert cursor(page) == pytest.approx(time, abs=0.02)
    if not touch:
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] + 40, box["y"] + 80)
        page.mouse.up()
        page.mouse.move(box["x"] + 20, box["y"] + 80)
        page.wait_for_timeout(100)
        assert cursor(page) < listener.duration  # left the picture: nothing moves any more


def test_two_views_stay_in_step_and_share_no_id(open_page):
    listener, other = make(), make("12", setting=(4, 0))
    page = open_page(widget_page(listener, listener, other))
    page.mouse.wheel(0, 4000)
    ready(page, views=3)
    first, second, third = page.locator(".fx-listener").all()
    slider(second, "Time").fill("2")
    listener.time = 2
    for view, one in ((first, listener), (second, listener), (third, other)):
        expect(title(view)).to_have_text(known(one))
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((el) => el.id)")
    assert len(ids) == len(set(ids)) > 0


def test_names_are_text_only(open_page):
    evil = "<img src=x onerror=document.title='owned'>"
    page = open_page(widget_page(make(names=[evil], about=evil)))
    ready(page)
    page.wait_for_timeout(100)
    assert page.locator("img").count() == 0
    assert page.title() == "Widgets"
    assert evil in page.locator("select").inner_text()


@pytest.mark.parametrize("width", [320, 900])
def test_digits_cover_nothing_on_random_symbols(open_page, width):
    draw = random.Random(width)
    listeners = [scattered(draw, count) for count in (1, 4, 9)]
    page = open_page(widget_page(*listeners), width=width)
    for view, listener in zip(page.locator(".widget-view").all(), listeners, strict=True):
        view.scroll_into_view_if_needed()
        view.locator(".fxa-svg[width]").wait_for()
        for time in (listener.duration, listener.duration / 3):
            slider(view, "Time").fill(str(time))
            for chunk in range(5):
                slider(view, "Chunk").fill(str(chunk))
                page.wait_for_timeout(50)
                assert covered_words(view.locator(".fxa-svg")) == []
                assert words_outside(view.locator(".fxa-svg")) == []
                assert no_number_is_lost(view)
        assert len(listener.written((None, None))) == view.locator(".fxa-digit").count()


@pytest.mark.parametrize(
    ("width", "theme"), [(320, "light"), (360, "dark"), (1200, "light"), (1200, "dark")]
)
def test_accessible_and_no_wider_than_the_page(open_page, axe, theme, width):
    listener = make(changes={(8, 2): {18: 0, 19: 0, 36: 6}}, time=2.4, names=["a new voice"])
    page = open_page(widget_page(listener, theme=theme), width=width)
    ready(page)
    page.locator("summary").click()
    page.wait_for_timeout(100)
    assert axe(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.locator(".fx-listener").evaluate("(el) => el.scrollWidth <= el.clientWidth")
    assert words_outside(page.locator(".fxa-svg")) == []
    assert covered_words(page.locator(".fxa-svg")) == []


def test_the_spectrogram_follows_the_theme(open_page):
    page = open_page(widget_page(make()))
    ready(page)
    image = page.locator(".fxa-svg image")
    before = image.get_attribute("href")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    expect(image).not_to_have_attribute("href", before)


def test_saves_what_is_shown(open_page):
    page = open_page(widget_page(make()))
    ready(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "streaming-listener.svg"
    root = ElementTree.fromstring(download.value.path().read_text("utf-8"))
    svg = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in root.iter(f"{svg}text")}
    assert {"0\u00a0s", "4", "0", "2.0"} <= texts
    assert [i.get("href")[:15] for i in root.iter(f"{svg}image")] == ["data:image/png;"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_scripts_a_picture_and_a_table_remain(open_page):
    page = open_page(widget_page(make()), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert page.locator("figure tbody tr").count() == len(SETTINGS)
