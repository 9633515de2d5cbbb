"""StreamingListener: what a recognizer of spoken digits has written while the sound still runs.

The page holds the sound and the best symbol of every frame. It writes the digits, finds when each
can be known, counts the errors and plays the sound itself; :mod:`effedu.applications` does most of
that in Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import traitlets

from effedu._checks import check_int
from effedu.applications import Recording, collapse, edit_distance, known_at
from effedu.speech import FRAME_SECONDS, SAMPLE_RATE, SUBSAMPLING, SYMBOLS
from effedu.widgets._base import Widget, compose

Setting = tuple[int | None, int | None]  # chunk and how many before it

_SLACK = 2 * FRAME_SECONDS  # by which a recording may be longer or shorter than its frames


class Written(NamedTuple):
    """A digit that is written: its first frame, and the second at which that frame is computed."""

    digit: int
    frame: int
    known: float

    @property
    def delay(self) -> float:
        """Seconds from the beginning of its frame until it is known."""
        return self.known - self.frame * FRAME_SECONDS


class StreamingListener(Widget):
    """A recording to listen to: what a chunk sees of it, and which digits are known so far.

    Args:
        recordings: of spoken digits, such as those of :func:`effedu.applications.recordings`.
        best: for each recording a mapping from settings ``(chunk, back)`` to the best symbol of
            every frame: 0 for CTC's blank, 1 to 10 for the digits 0 to 9. A frame sees its own
            chunk, of ``chunk`` frames, and ``back`` chunks before it (None: all of them). Where
            ``chunk`` is None it sees the whole recording, and ``back`` is None too. All recordings
            have the same settings.
        names: who speaks, a few words for each recording.
        layers: of the encoder; with it the page shows how far back they see together.
        recording: which to start with.
        setting: the ``(chunk, back)`` to start with; without one the first.
        time: seconds at which the cursor starts; without it the middle of the recording.
        about: where sound and symbols come from, in words.

    ``recording``, ``setting`` and ``time`` follow what the reader does and can be set. A page
    carries about 13 kB for each second of sound, and a third more as text.

    Raises:
        ValueError: no recordings, symbols that don't fit them, settings that differ or can't be, or
            a start that isn't there.

    >>> sound = Recording("4 0", bytes([128] * 2560))  # eight frames of silence
    >>> listener = StreamingListener([sound], [{
    ...     (4, 0): [0, 5, 5, 0, 0, 1, 0, 0], (None, None): [0, 5, 5, 0, 0, 0, 0, 0],
    ... }])
    >>> listener
    StreamingListener(recording 1 of 1, 0.32 s, chunks of 4 frames, 0 chunks back)
    >>> listener.written()
    [Written(digit=4, frame=1, known=0.16), Written(digit=0, frame=5, known=0.32)]
    >>> listener.setting = (None, None)
    >>> listener.written(), listener.errors()
    ([Written(digit=4, frame=1, known=0.32)], 1)
    """

    _esm, _css = compose("streaming_listener")

    recordings = traitlets.List(traitlets.Dict()).tag(sync=True)
    settings = traitlets.List().tag(sync=True)  # [chunk, back], in the order of the symbols
    rate = traitlets.Int(SAMPLE_RATE).tag(sync=True)
    frame_seconds = traitlets.Float(FRAME_SECONDS).tag(sync=True)
    steps_per_frame = traitlets.Int(SUBSAMPLING).tag(sync=True)
    layers = traitlets.Int().tag(sync=True)  # 0: unknown
    about = traitlets.Unicode().tag(sync=True)
    recording = traitlets.Int().tag(sync=True)
    setting = traitlets.List().tag(sync=True)
    time = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        recordings: Iterable[Recording],
        best: Iterable[Mapping[Setting, Sequence[int]]],
        *,
        names: Iterable[str] | None = None,
        layers: int | None = None,
        recording: int = 0,
        setting: Setting | None = None,
        time: float | None = None,
        about: str = "",
    ) -> None:
        sounds, symbols = list(recordings), list(best)
        if not sounds:
            raise ValueError("recordings must hold at least one recording, got none")
        called = [""] * len(sounds) if names is None else [str(name) for name in names]
        for argument, values in (("best", symbols), ("names", called)):
            if len(values) != len(sounds):
                raise ValueError(
                    f"{argument} must be as many as the recordings, {len(sounds)}, "
                    f"got {len(values)}"
                )
        depth = 0 if layers is None else check_int("layers", layers, minimum=1)
        settings = _checked_settings(symbols)
        super().__init__(
            recordings=[
                _packed(i, sound, [symbols[i][one] for one in settings], called[i])
                for i, sound in enumerate(sounds)
            ],
            settings=[list(one) for one in settings],
            layers=depth,
            about=about,
            recording=recording,
            setting=list(settings[0] if setting is None else setting),
        )
        self.time = self.duration / 2 if time is None else time

    @traitlets.validate("recording")  # type: ignore[untyped-decorator]
    def _valid_recording(self, proposal: dict[str, Any]) -> int:
        value, last = proposal["value"], len(self.recordings) - 1
        if isinstance(value, bool) or not 0 <= value <= last:
            raise ValueError(f"recording must be from 0 to {last}, got {value!r}")
        return int(value)

    @traitlets.validate("setting")  # type: ignore[untyped-decorator]
    def _valid_setting(self, proposal: dict[str, Any]) -> list[int | None]:
        value = list(proposal["value"])
        if value not in self.settings:
            listed = ", ".join(str(tuple(one)) for one in self.settings)
            raise ValueError(f"setting must be one of {listed}; got {tuple(value)}")
        return value

    @traitlets.validate("time")  # type: ignore[untyped-decorator]
    def _valid_time(self, proposal: dict[str, Any]) -> float:
        """What lies behind the end means the end: the page may change the recording first."""
        value = proposal["value"]
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"time must be a number of seconds, at least 0, got {value!r}")
        return min(float(value), self.duration)

    @property
    def frames(self) -> int:
        """Frames of the present recording."""
        return int(self.recordings[self.recording]["frames"])

    @property
    def duration(self) -> float:
        """Seconds of the present recording."""
        return self.frames * FRAME_SECONDS

    def written(self, setting: Setting | None = None) -> list[Written]:
        """Return what is written in the end, under the present setting or another one."""
        chosen = list(self.setting if setting is None else setting)
        start = self.settings.index(chosen) * self.frames
        best = self.recordings[self.recording]["best"][start : start + self.frames]
        return [
            Written(symbol - 1, frame, known_at(frame, chosen[0], self.frames))
            for frame, symbol in collapse(list(best))
        ]

    def errors(self, setting: Setting | None = None) -> int:
        """Return how many digits are wrong, missing or too many: the edit distance."""
        spoken = [int(digit) for digit in self.recordings[self.recording]["text"].split()]
        return edit_distance([one.digit for one in self.written(setting)], spoken)

    def _summary(self) -> str:
        which = f"recording {self.recording + 1} of {len(self.recordings)}"
        return f"{which}, {self.duration:.2f} s, {_in_words(*self.setting)}"

    def fallback(self) -> str:
        """Return a picture of the present setting and a table of all, without any script."""
        text = self.recordings[self.recording]["text"]
        caption = (
            f"Spoken in {self.duration:.2f} s: {text}. What is written under each setting, how "
            "long after the beginning of its frame a digit is known, and the errors. The picture "
            f"({_in_words(*self.setting)}) leads from each digit's frame, above, to the time at "
            f"which it is known. {self.about}"
        )
        heads = ("setting", "written", "mean delay", "longest delay", "errors")
        return (
            f"<figure>{self._picture()}<table><caption>{escape(caption)}</caption><thead><tr>"
            + "".join(f'<th scope="col">{head}</th>' for head in heads)
            + "</tr></thead><tbody>"
            + "".join(self._row(tuple(setting)) for setting in self.settings)
            + "</tbody></table></figure>"
        )

    def _row(self, setting: Setting) -> str:
        written = self.written(setting)
        delays = [one.delay for one in written]
        cells = (
            " ".join(str(one.digit) for one in written) or "nothing",
            f"{sum(delays) / len(delays):.2f} s" if delays else "–",
            f"{max(delays):.2f} s" if delays else "–",
            str(self.errors(setting)),
        )
        return (
            f'<tr><th scope="row">{_in_words(*setting)}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )

    def _picture(self, width: int = 480, height: int = 80) -> str:
        """A line for each digit, from its frame to the time at which it is known."""
        parts = []
        for one in self.written():
            start, stop = (
                10 + (width - 20) * seconds / self.duration
                for seconds in (one.frame * FRAME_SECONDS, one.known)
            )
            parts.append(
                f'<path d="M{start:.1f} 4L{stop:.1f} {height - 20}" stroke="currentColor"/>'
                f'<text x="{stop:.1f}" y="{height - 4}" text-anchor="middle">{one.digit}</text>'
            )
        return (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'aria-hidden="true" fill="currentColor" style="max-width:100%;height:auto">'
            f"{''.join(parts)}</svg>"
        )


def _in_words(chunk: int | None, back: int | None) -> str:
    if chunk is None:
        return "the whole recording"
    size = f"chunks of {chunk} frame{'s' * (chunk != 1)}"
    return f"{size}, {'all' if back is None else back} chunk{'s' * (back != 1)} back"


def _checked_settings(best: Sequence[Mapping[Any, Sequence[int]]]) -> list[Setting]:
    """Return the settings, which all recordings must have."""
    settings = list(best[0])
    if not settings:
        raise ValueError("best[0] must have at least one setting, got none")
    for setting in settings:
        if not isinstance(setting, tuple) or len(setting) != 2:
            raise ValueError(f"best must have settings (chunk, back), got {setting!r}")
        chunk, back = setting
        if chunk is None and back is not None:
            raise ValueError(f"best must have back None where chunk is None, got {setting}")
        for name, value, minimum in (("chunk", chunk, 1), ("back", back, 0)):
            if value is not None:
                check_int(f"{name} of a setting of best", value, minimum)
    for i, symbols in enumerate(best):
        if set(symbols) != set(settings):
            raise ValueError(f"best[{i}] must have the settings {settings}, got {list(symbols)}")
    return settings


def _packed(
    i: int, recording: Recording, best: Sequence[Sequence[int]], name: str
) -> dict[str, Any]:
    """Return what the page is given of a recording, or raise ``ValueError`` that says which."""
    frames = len(best[0])
    for symbols in best:
        if len(symbols) != frames:
            raise ValueError(
                f"best[{i}] must have as many frames under each setting, "
                f"got {frames} and {len(symbols)}"
            )
        if not all(0 <= symbol < SYMBOLS for symbol in symbols):
            raise ValueError(
                f"best[{i}] must be symbols from 0 to {SYMBOLS - 1}, "
                f"got {min(symbols)} to {max(symbols)}"
            )
    if not frames or abs(recording.seconds - frames * FRAME_SECONDS) > _SLACK:
        raise ValueError(
            f"best[{i}] must have a symbol for each frame of {FRAME_SECONDS} s of its recording, "
            f"which lasts {recording.seconds:.2f} s, got {frames} symbols"
        )
    spectrogram = recording.spectrogram()[: frames * SUBSAMPLING]
    return {
        "text": " ".join(str(digit) for digit in recording.digits),
        "name": name,
        "frames": frames,
        "wave": recording.wave,
        "shape": list(spectrogram.shape),
        "spectrogram": spectrogram.numpy().tobytes(),
        "best": b"".join(bytes(symbols) for symbols in best),
    }
