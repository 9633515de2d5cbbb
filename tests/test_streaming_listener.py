"""StreamingListener: what it accepts, where it starts, and what it says without scripts."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pytest
import torch

from effedu.applications import Recording, collapse, edit_distance, known_at
from effedu.widgets import StreamingListener

SETTINGS = [(1, 4), (8, 0), (8, 2), (8, None), (None, None)]


def recording(frames=30, text="4 0 9", seed=0):
    """Noise: what is shown of it doesn't depend on what is heard in it."""
    wave = torch.randint(256, (320 * frames,), generator=torch.Generator().manual_seed(seed))
    return Recording(text, bytes(wave.tolist()))


def symbols(frames=30, seed=0):
    draw = random.Random(seed)
    return {
        setting: [draw.choice([0, 0, 0, draw.randint(1, 10)]) for _ in range(frames)]
        for setting in SETTINGS
    }


def make(frames=30, **options):
    return StreamingListener([recording(frames)], [symbols(frames)], **options)


def test_starts_as_asked_and_keeps_what_it_draws():
    listener = make(setting=(8, 2), time=0.4, layers=3, names=["<b>"], about="noise")
    assert repr(listener) == (
        "StreamingListener(recording 1 of 1, 1.20 s, chunks of 8 frames, 2 chunks back)"
    )
    assert (listener.time, listener.layers, listener.about) == (0.4, 3, "noise")
    [packed] = listener.recordings
    assert (packed["text"], packed["name"], packed["frames"]) == ("4 0 9", "<b>", 30)
    assert packed["wave"] == recording().wave
    assert packed["shape"] == [120, 40]
    spectrogram = recording().spectrogram()
    assert packed["spectrogram"] == bytes(spectrogram.flatten().tolist())
    assert packed["best"] == b"".join(bytes(symbols()[setting]) for setting in SETTINGS)
    assert listener.settings == [list(setting) for setting in SETTINGS]

    second = StreamingListener(
        [recording(), recording(41, "7")], [symbols(), symbols(41)], recording=1
    )
    assert (second.frames, second.layers, second.setting) == (41, 0, [1, 4])
    assert second.duration == pytest.approx(1.64)
    assert second.time == pytest.approx(0.82)  # the middle
    assert repr(second).startswith("StreamingListener(recording 2 of 2, 1.64 s, chunks of 1 frame,")


def test_sound_a_little_longer_or_shorter_than_its_frames():
    sound = recording()
    longer = Recording(sound.text, sound.wave + bytes([128] * 400))
    listener = StreamingListener([longer], [symbols()])
    assert listener.recordings[0]["shape"] == [120, 40]  # what no frame hears isn't drawn
    shorter = Recording(sound.text, sound.wave[:-400])
    assert StreamingListener([shorter], [symbols()]).recordings[0]["shape"] == [115, 40]


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_written_is_what_ctc_writes(setting):
    listener = make(setting=setting)
    expected = collapse(symbols()[setting])
    assert [(one.frame, one.digit + 1) for one in listener.written()] == expected
    assert listener.written() == make().written(setting)
    for one in listener.written():
        assert one.known == known_at(one.frame, setting[0], 30)
        assert one.delay == pytest.approx(one.known - 0.04 * one.frame)
    errors = edit_distance([symbol - 1 for _, symbol in expected], [4, 0, 9])
    assert listener.errors() == make().errors(setting) == errors


@pytest.mark.parametrize(
    ("recordings", "best", "message"),
    [
        ([], [], "recordings must hold at least one recording, got none"),
        ([recording()], [], "best must be as many as the recordings, 1, got 0"),
        ([recording()], [{}], r"best\[0\] must have at least one setting, got none"),
        ([recording()], [{(1,): [0] * 30}], r"best must have settings \(chunk, back\), got \(1,\)"),
        ([recording()], [{8: [0] * 30}], r"best must have settings \(chunk, back\), got 8"),
        ([recording()], [{(None, 1): [0] * 30}], r"back None where chunk is None, got \(None, 1\)"),
        ([recording()], [{(0, 1): [0] * 30}], "chunk of a setting of best must be .* 1, got 0"),
        ([recording()], [{(1, -1): [0] * 30}], "back of a setting of best must be .* 0, got -1"),
        (
            [recording()] * 2,
            [{(1, 1): [0] * 30}, {(2, 1): [0] * 30}],
            r"best\[1\] must have the settings \[\(1, 1\)\], got \[\(2, 1\)\]",
        ),
        (
            [recording()],
            [{(1, 1): [0] * 30, (2, 1): [0] * 29}],
            r"best\[0\] must have as many frames under each setting, got 30 and 29",
        ),
        ([recording()], [{(1, 1): [0] * 29 + [11]}], r"best\[0\] .* from 0 to 10, got 0 to 11"),
        ([recording()], [{(1, 1): [-1] + [0] * 29}], r"best\[0\] .* from 0 to 10, got -1 to 0"),
        ([recording()], [{(1, 1): [0] * 27}], r"best\[0\] .* lasts 1.20 s, got 27 symbols"),
        ([recording()], [{(1, 1): [0] * 33}], r"best\[0\] .* lasts 1.20 s, got 33 symbols"),
        ([recording(2)], [{(1, 1): []}], r"best\[0\] .* lasts 0.08 s, got 0 symbols"),
    ],
)
def test_bad_recordings_and_symbols(recordings, best, message):
    # Behind iterators that say nothing of their items: the shape checker would stop some before.
    with pytest.raises(ValueError, match=message):
        StreamingListener(iter(recordings), iter(best))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": []}, "names must be as many as the recordings, 1, got 0"),
        ({"layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"recording": 1}, "recording must be from 0 to 0, got 1"),
        ({"setting": (8, 1)}, r"setting must be one of \(1, 4\), .*, \(None, None\); got \(8, 1\)"),
        ({"time": -0.1}, "time must be a number of seconds, at least 0, got -0.1"),
        ({"time": math.nan}, "time must be a number of seconds, at least 0, got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_bad_change_is_refused():
    listener = make(setting=(8, 0), time=0.5)
    for name, value in [("recording", -1), ("setting", (8, 1)), ("setting", (8,)), ("time", -1)]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            setattr(listener, name, value)
    assert (listener.recording, listener.setting, listener.time) == (0, [8, 0], 0.5)
    listener.setting = (8, None)
    assert repr(listener).endswith("chunks of 8 frames, all chunks back)")
    listener.time = 99
    assert listener.time == listener.duration


def test_fallback_has_every_setting_as_text():
    listener = make(about="<img src=x>", setting=(None, None))
    text = listener.fallback()
    assert "<img" not in text
    figure = ElementTree.fromstring(text)
    caption = figure.find("table/caption").text
    assert "Spoken in 1.20 s: 4 0 9." in caption
    assert "(the whole recording)" in caption
    rows = [[cell.text for cell in row] for row in figure.find("table/tbody")]
    assert [row[0] for row in rows] == [
        "chunks of 1 frame, 4 chunks back",
        "chunks of 8 frames, 0 chunks back",
        "chunks of 8 frames, 2 chunks back",
        "chunks of 8 frames, all chunks back",
        "the whole recording",
    ]
    for row, setting in zip(rows, SETTINGS, strict=True):
        written = listener.written(setting)
        delays = [one.delay for one in written]
        assert row[1:] == [
            " ".join(str(one.digit) for one in written),
            f"{sum(delays) / len(delays):.2f} s",
            f"{max(delays):.2f} s",
            str(listener.errors(setting)),
        ]
    drawn = [node.text for node in figure.findall("svg/text")]
    assert drawn == [str(one.digit) for one in listener.written()]


def test_where_nothing_is_written_the_fallback_says_so():
    listener = StreamingListener([recording(text="")], [{(4, 1): [0] * 30}])
    assert (listener.written(), listener.errors()) == ([], 0)
    assert "<td>nothing</td><td>–</td><td>–</td><td>0</td>" in listener.fallback()
