"""Measure honestly: functions take turns in one run, and results are ratios with their spread.

Processors change their clock, and other programs come and go, so two timings taken apart may
differ by more than the functions do. Here each round runs every function once, in random order,
and compares times within the round only; the median over rounds is reported with its quartiles.
"""

from __future__ import annotations

import gc
import html
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from effedu._checks import check_int
from effedu.hardware import processor_name

# What `make bench` writes and the book shows; it comes with the package.
RESULTS = Path(__file__).parent / "data" / "bench.json"
# What the results call the methods they compare, and what a reader would.
METHODS = {
    "block": "block attention",
    "dense": "dense SDPA",
    "flex": "FlexAttention",
    "local": "local-attention",
    "sliding": "HF sliding mask",
    "naive": "naive softmax",
}

_STYLE = """<style>
.effedu-compare { border-collapse: collapse; font-variant-numeric: tabular-nums }
.effedu-compare caption { text-align: left; padding: 0.3em 0.6em }
.effedu-compare th, .effedu-compare td { padding: 0.3em 0.6em; text-align: right }
.effedu-compare th:first-child { text-align: left }
.effedu-compare svg { display: block; width: 12em; height: 1.2em }
.effedu-compare rect { fill: var(--pst-color-primary, currentColor); opacity: 0.6 }
.effedu-compare line { stroke: currentColor; stroke-width: 2 }
</style>"""


def seed_everything(seed: int = 0) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers, on all devices.

    >>> seed_everything(7); a = torch.rand(2); seed_everything(7); bool((a == torch.rand(2)).all())
    True
    """
    check_int("seed", seed, minimum=0)
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that we call draw from this one
    torch.manual_seed(seed)


def machine() -> dict[str, str | int]:
    """Describe what a measurement ran on, without anything that names the computer.

    >>> sorted(machine())[:3]
    ['cores', 'cpu_capability', 'gpu']
    """
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "processor": processor_name(),
        "cores": len(usable(0)) if usable else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # such as AVX2 or AVX512
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Comparison:
    """The times that :func:`compare` measured, and the ratios they give.

    ``times[name]`` holds seconds per call, one value a round; values at one index were measured
    in the same round. Prints as a table, and shows as one with bars in a notebook.
    """

    times: dict[str, tuple[float, ...]]
    baseline: str

    def __post_init__(self) -> None:
        rounds = {len(times) for times in self.times.values()}
        if len(rounds) != 1 or min(rounds) < 1:
            raise ValueError(f"times must hold equally many rounds for all, got {sorted(rounds)}")
        if not all(t > 0 for times in self.times.values() for t in times):
            raise ValueError("times must be positive")
        self._checked(self.baseline, "baseline")

    @property
    def rounds(self) -> int:
        """How often every function had its turn."""
        return len(self.times[self.baseline])

    def _checked(self, name: str, argument: str = "name") -> str:
        if name not in self.times:
            raise ValueError(f"{argument} must be one of {', '.join(self.times)}; got {name!r}")
        return name

    def seconds(self, name: str) -> float:
        """Median time of one call, in seconds."""
        return statistics.median(self.times[self._checked(name)])

    def _speedups(self, name: str, over: str | None) -> list[float]:
        slow = self.times[self._checked(over or self.baseline, "over")]
        fast = self.times[self._checked(name)]
        return [s / f for s, f in zip(slow, fast, strict=True)]  # paired: same round

    def speedup(self, name: str, over: str | None = None) -> float:
        """How many times faster than the baseline (or ``over``): the median over rounds."""
        return statistics.median(self._speedups(name, over))

    def ratio(self, name: str, over: str | None = None) -> float:
        """Time as a share of the baseline's (or ``over``'s): one divided by the speedup."""
        return 1 / self.speedup(name, over)

    def spread(self, name: str, over: str | None = None) -> tuple[float, float]:
        """First and third quartile of the speedup over rounds: half of the rounds lie between."""
        speedups = self._speedups(name, over)
        if len(speedups) == 1:
            return speedups[0], speedups[0]
        low, _, high = statistics.quantiles(speedups, n=4, method="inclusive")
        return low, high

    def noisy(self, name: str, over: str | None = None) -> bool:
        """Whether the noise exceeds the difference: "equally fast" lies within the spread."""
        low, high = self.spread(name, over)
        return low <= 1 <= high

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; :meth:`from_dict` is the way back."""
        return {"baseline": self.baseline, "times": {n: list(t) for n, t in self.times.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """Rebuild what :meth:`to_dict` wrote."""
        if not {"baseline", "times"} <= set(data):
            raise ValueError(f"data must have baseline and times, got {sorted(data)}")
        return cls({n: tuple(t) for n, t in data["times"].items()}, data["baseline"])

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        rows = []
        for name in self.times:
            low, high = self.spread(name)
            base = name == self.baseline
            note = "baseline" if base else "within noise" if self.noisy(name) else ""
            half = "" if base else f"{low:#.3g} to {high:#.3g}"
            speedup = f"{self.speedup(name):#.3g}x"
            rows.append((name, _duration(self.seconds(name)), speedup, half, note))
        return rows

    def _caption(self) -> str:
        text = f"Median of {self.rounds} interleaved rounds; half of them lie in the spread."
        noisy = [name for name in self.times if name != self.baseline and self.noisy(name)]
        if noisy:
            text += (
                f" For {', '.join(noisy)} the noise is larger than the difference to "
                f"{self.baseline}."
            )
        return text

    def __repr__(self) -> str:
        rows = [("", "time", "speedup", "spread", ""), *self._rows()]
        wide = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([row[0].ljust(wide[0]), *(row[i].rjust(wide[i]) for i in (1, 2, 3)), row[4]])
            for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), self._caption()])

    def _repr_html_(self) -> str:
        top = max(max(self.spread(name)[1], self.speedup(name)) for name in self.times)
        body = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{time_}</td><td>{speedup}</td>'
            f"<td>{self._bar(name, top)}</td><td>{spread}</td><td>{note}</td></tr>"
            for name, time_, speedup, spread, note in self._rows()
        )
        # The bars repeat the column beside them, so screen readers skip them.
        heads = '<th scope="col">function</th><th scope="col">time</th><th scope="col">speedup</th>'
        heads += '<td aria-hidden="true"></td><th scope="col">spread</th><th scope="col">note</th>'
        return (
            f'{_STYLE}<table class="effedu-table effedu-compare">'
            f"<caption>{html.escape(self._caption())}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _bar(self, name: str, top: float) -> str:
        """A bar as long as the speedup, with a line from quartile to quartile."""
        low, high = (100 * end / top for end in self.spread(name))
        return (
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect x="0" y="1" width="{100 * self.speedup(name) / top:.1f}" height="8"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="5" y2="5"/></svg>'
        )


def _duration(seconds: float) -> str:
    """Seconds as text with three digits: ``0.0123`` as ``12.3 ms``."""
    unit, size = next(
        ((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3)) if seconds >= 0.9995 * size),
        ("µs", 1e-6),
    )
    return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"


def compare(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 20,
    baseline: str | None = None,
    warmup: int = 2,
    min_time: int | float = 0.005,
    seed: int = 0,
) -> Comparison:
    """Time functions against each other: warmed up, in turns, in random order in each round.

    On a GPU, work goes on after a call returns; each timing waits until it is done.

    Args:
        functions: name and function without arguments, at least one.
        repeats: rounds; three or more, so that there is a spread.
        baseline: the name that the others are compared with; the first one if None.
        warmup: calls of each function before anything is measured, at least 1.
        min_time: a quick function is called several times a turn, to fill so many seconds.
        seed: of the random order.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: a function raised; says which, with its error as the cause.

    >>> result = compare({"sum": lambda: sum(range(9)), "big": lambda: sum(range(9999))}, repeats=5)
    >>> result.speedup("big") < 1
    True
    """
    if not functions:
        raise ValueError("functions must hold at least one function, got none")
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f"functions[{name!r}] must be callable, got {function!r}")
    check_int("repeats", repeats, minimum=3)
    check_int("warmup", warmup, minimum=1)
    if not 0 <= min_time <= 60:
        raise ValueError(f"min_time must be between 0 and 60 seconds, got {min_time!r}")
    baseline = next(iter(functions)) if baseline is None else baseline
    if baseline not in functions:
        raise ValueError(f"baseline must be one of {', '.join(functions)}; got {baseline!r}")

    calls = {}
    for name, function in functions.items():
        once = min(_timed(name, function, 1) for _ in range(warmup))
        calls[name] = max(1, min(1_000_000, round(min_time / once)))
    order, times = list(functions), {name: [0.0] * repeats for name in functions}
    shuffle = random.Random(seed).shuffle
    for turn in range(repeats):
        shuffle(order)
        for name in order:
            times[name][turn] = _timed(name, functions[name], calls[name])
    return Comparison({name: tuple(t) for name, t in times.items()}, baseline)


def _timed(name: str, function: Callable[[], object], calls: int) -> float:
    """Seconds per call, over ``calls`` calls with the garbage collector held back."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        _synchronize()
        return max(time.perf_counter() - start, 1e-9) / calls
    except Exception as error:
        raise RuntimeError(f"function {name!r} raised {type(error).__name__}: {error}") from error
    finally:
        if collecting:
            gc.enable()


def _synchronize() -> None:
    # A function that returns CUDA tensors has started CUDA by then.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def peak_memory(function: Callable[[], object], *, device: str = "cpu") -> int:
    """Most bytes of tensors that ``function`` held at once, beyond those alive before the call.

    On the CPU PyTorch's profiler records each allocation and release of PyTorch's allocator, the
    working space inside its kernels included; the result is exact, and the same in every run. It
    leaves out memory that other libraries take for themselves. On CUDA it is the caching
    allocator's own peak.

    Args:
        function: called once; its result is dropped.
        device: ``"cpu"`` or ``"cuda"``.

    >>> peak_memory(lambda: torch.zeros(1000).exp())  # zeros, and the result beside them
    8000
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device must be 'cpu' on a machine without CUDA, got 'cuda'")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    with (
        _without_profiler_notes(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0  # CPU
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak


@contextmanager
def _without_profiler_notes() -> Iterator[None]:
    """Drop the lines that the profiler's C++ code writes to standard error; pass on all others.

    A notebook would store them, with their times of day, and differ on every run.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not (line.startswith(b"USDT:") or b"CPUAllocator.cpp" in line):
                    os.write(2, line)
