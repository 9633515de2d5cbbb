"""Measured speedups of this machine over length and block size, beside what the pattern allows.

Only measured points are dots. Between two of them a value is read off the line that joins them on
logarithmic axes, and every place that shows it says so; beyond them there is no value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import traitlets

from effedu._checks import check_int
from effedu.bench import METHODS, RESULTS
from effedu.cost import live_pairs
from effedu.widgets._base import Widget, compose

# Slower than dense attention: they flatten everything else.
_HIDDEN = (METHODS["sliding"], METHODS["naive"])


@dataclass(frozen=True)
class Reading:
    """What the plot says at one length: a measurement, or a value between two."""

    name: str
    length: int
    block_size: int
    ratio: float  # dense time / this time
    low: float | None  # quartiles of the measured rounds; None between measurements
    high: float | None
    limit: float  # all causal pairs / live pairs
    measured: bool

    @property
    def share(self) -> float:
        """The part of the limit that was reached."""
        return self.ratio / self.limit


class SpeedupExplorer(Widget):
    """Measured speedups over dense attention against length, for each block size and method.

    Args:
        rows: one mapping for each measurement, with

            - ``name``: what was measured, such as ``"block"``;
            - ``length``, ``block_size``: whole numbers, at least 1;
            - ``ratio``: dense time divided by its time, the median over rounds, above 0;
            - ``low``, ``high`` (optional): the spread of that ratio over rounds;
            - ``limit`` (optional): all causal pairs divided by live pairs. It follows from the
              pattern; where it is given, it must agree.
        machine: what it was measured on, in words.
        baseline: what the ratios compare with, in words.
        blocks_back, sinks: the pattern that was measured, as in
            :func:`effedu.blocking.block_attention`.
        block_size, length: where to start; by default the middle block size, the longest length.
        hidden: names that are not drawn at first.

    Raises:
        ValueError: no rows, a row that lacks something or holds an impossible value, two rows for
            one point, or a start that was not measured.

    >>> rows = [
    ...     {"name": "block", "length": 1024, "block_size": 128, "ratio": 2.0},
    ...     {"name": "block", "length": 4096, "block_size": 128, "ratio": 8.0},
    ... ]
    >>> explorer = SpeedupExplorer(rows, machine="a laptop")
    >>> explorer
    SpeedupExplorer(2 measurements, block_size=128, length=4096)
    >>> explorer.reading("block").measured
    True
    >>> between = explorer.reading("block", length=2048)
    >>> between.measured, round(between.ratio, 3), round(between.limit, 2)
    (False, 4.0, 5.55)
    """

    _esm, _css = compose("speedup_explorer")

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    machine = traitlets.Unicode().tag(sync=True)
    baseline = traitlets.Unicode().tag(sync=True)
    blocks_back = traitlets.Int(1).tag(sync=True)
    sinks = traitlets.Int(0).tag(sync=True)
    block_size = traitlets.Int().tag(sync=True)
    length = traitlets.Int().tag(sync=True)
    hidden = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        machine: str = "",
        baseline: str = "dense attention",
        blocks_back: int = 1,
        sinks: int = 0,
        block_size: int | None = None,
        length: int | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        check_int("blocks_back", blocks_back, minimum=0)
        check_int("sinks", sinks, minimum=0)
        checked = _checked_rows(rows, blocks_back, sinks)
        sizes = sorted({row["block_size"] for row in checked})
        if block_size is None:
            block_size = sizes[len(sizes) // 2]
        _one_of("block_size", block_size, sizes)
        lengths = [row["length"] for row in checked if row["block_size"] == block_size]
        if length is None:
            length = max(lengths)
        check_int("length", length, minimum=1)
        if not min(lengths) <= length <= max(lengths):
            raise ValueError(
                f"length must be among those measured, {min(lengths)} to {max(lengths)}, "
                f"got {length}"
            )
        names = list(dict.fromkeys(row["name"] for row in checked))
        for name in hidden:
            _one_of("hidden", name, names)
        super().__init__(
            rows=checked,
            machine=machine,
            baseline=baseline,
            blocks_back=blocks_back,
            sinks=sinks,
            block_size=block_size,
            length=length,
            hidden=list(hidden),
        )

    @classmethod
    def from_results(
        cls,
        results: str | Path | Mapping[str, Any] | None = None,
        *,
        heads: int = 8,
        head_dim: int = 64,
        direction: str = "forward",
        **options: Any,
    ) -> SpeedupExplorer:
        """Make one from what ``make bench`` writes.

        Args:
            results: the path of its JSON, or the parsed mapping; by default the results that come
                with the package, the ones that the book shows.
            heads, head_dim, direction: which of the measured shapes, and ``"forward"`` or
                ``"forward+backward"``.
            options: go to the constructor and win over what the results say.

        Plain softmax attention and Hugging Face's sliding window are measured, too, but not drawn
        at first: they flatten everything else. The sliding window keeps about as many pairs as the
        blocks, not the same ones.

        Raises:
            ValueError: the file can't be read, isn't such a result, or has nothing of this shape
                and direction.

        >>> SpeedupExplorer.from_results(length=8192).limit(block_size=128) > 20
        True
        """
        if not isinstance(results, Mapping):
            results = _load(RESULTS if results is None else Path(results))
        wanted = (heads, head_dim, direction)
        try:
            machine, rows = results["machine"], [dict(row) for row in results["attention"]]
            places = [(row["heads"], row["head_dim"], row["direction"]) for row in rows]
            found: dict[str, Any] = {
                "machine": f"{machine['processor']}, {machine['threads']} threads, "
                f"{machine['cpu_capability']}, PyTorch {machine['torch']}, with {heads} heads of "
                f"width {head_dim}, {direction}"
                + ("" if results["complete"] else ", in a run that is not finished"),
                "baseline": "PyTorch's dense attention",
                "blocks_back": results["setting"]["blocks_back"],
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"results must be what `make bench` writes, but: {error!r}") from error
        if wanted not in places:
            measured = "; ".join(dict.fromkeys(f"{h}, {d}, {way!r}" for h, d, way in places))
            raise ValueError(
                f"heads, head_dim and direction must be among those measured, {measured}; "
                f"got {heads}, {head_dim}, {direction!r}"
            )
        shown = []
        for row, place in zip(rows, places, strict=True):
            name = row.get("name")
            if place == wanted and name != "dense":  # which is what the ratios compare with
                if name == "sliding":
                    row.pop("limit", None)  # of its own pattern, which is not the one drawn
                shown.append({**row, "name": METHODS.get(str(name), name)})
        found["hidden"] = [n for n in _HIDDEN if any(row["name"] == n for row in shown)]
        return cls(shown, **{**found, **options})

    @traitlets.validate("block_size")  # type: ignore[untyped-decorator]
    def _check_block_size(self, proposal: dict[str, Any]) -> int:
        _one_of("block_size", proposal["value"], sorted({row["block_size"] for row in self.rows}))
        return int(proposal["value"])

    @traitlets.validate("length")  # type: ignore[untyped-decorator]
    def _check_length(self, proposal: dict[str, Any]) -> int:
        return check_int("length", proposal["value"], minimum=1)

    @property
    def names(self) -> list[str]:
        """What was measured, in the order of the rows."""
        return list(dict.fromkeys(row["name"] for row in self.rows))

    def limit(self, length: int | None = None, block_size: int | None = None) -> float:
        """Return all causal pairs divided by those the pattern keeps: what could be saved at most.

        >>> rows = [{"name": "block", "length": 8192, "block_size": 128, "ratio": 11.2}]
        >>> round(SpeedupExplorer(rows).limit(), 1)
        21.5
        """
        return _limit(
            self.length if length is None else check_int("length", length, minimum=1),
            self.block_size if block_size is None else block_size,
            self.blocks_back,
            self.sinks,
        )

    def reading(
        self, name: str, length: int | None = None, block_size: int | None = None
    ) -> Reading:
        """Return the speedup of ``name`` at ``length``, marked as measured or not.

        Between two measured lengths it lies on the straight line that joins them when both axes
        are logarithmic.

        Raises:
            ValueError: nothing was measured under that name and block size, or ``length`` lies
                beyond what was.
        """
        length = self.length if length is None else check_int("length", length, minimum=1)
        block_size = self.block_size if block_size is None else block_size
        _one_of("name", name, self.names)
        points = sorted(
            (row for row in self.rows if row["name"] == name and row["block_size"] == block_size),
            key=lambda row: int(row["length"]),
        )
        if not points:
            sizes = sorted({row["block_size"] for row in self.rows if row["name"] == name})
            _one_of("block_size", block_size, sizes)
        if not points[0]["length"] <= length <= points[-1]["length"]:
            raise ValueError(
                f"length must lie between those measured for {name!r}, {points[0]['length']} to "
                f"{points[-1]['length']}, got {length}"
            )
        limit = self.limit(length, block_size)
        after = next(i for i, row in enumerate(points) if row["length"] >= length)
        here = points[after]
        if here["length"] == length:
            return Reading(
                name, length, block_size, here["ratio"], here["low"], here["high"], limit, True
            )
        before = points[after - 1]
        part = math.log(length / before["length"]) / math.log(here["length"] / before["length"])
        ratio = before["ratio"] * (here["ratio"] / before["ratio"]) ** part
        return Reading(name, length, block_size, ratio, None, None, limit, False)

    def _summary(self) -> str:
        many = f"{len(self.rows)} measurement{'s' * (len(self.rows) != 1)}"
        return f"{many}, block_size={self.block_size}, length={self.length}"

    def fallback(self) -> str:
        """Return the measurements of this block size as a table, under one sentence."""
        rows = sorted(
            (row for row in self.rows if row["block_size"] == self.block_size),
            key=lambda row: (int(row["length"]), self.names.index(row["name"])),
        )
        on = f" Measured on {self.machine}." if self.machine else ""
        caption = (
            f"How many times faster than {self.baseline}, in blocks of {self.block_size:,}; the "
            f"limit is all causal pairs divided by those the pattern keeps.{on}"
        )
        body = "".join(
            f'<tr><th scope="row">{row["length"]:,}</th><td>{escape(row["name"])}</td>'
            f"<td>{row['ratio']:.1f}×</td><td>{self.limit(row['length']):.1f}×</td></tr>"
            for row in rows
        )
        heads = "".join(f'<th scope="col">{h}</th>' for h in ("tokens", "", "speedup", "limit"))
        return (
            f"<figure>{self._picture(rows)}<table><caption>{escape(caption)}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></figure>"
        )

    def _picture(self, rows: list[dict[str, Any]], width: int = 480, height: int = 240) -> str:
        """The points and the limit on logarithmic axes; the table under it has the numbers."""
        lengths = sorted({int(row["length"]) for row in rows})
        limits = [self.limit(length) for length in lengths]
        top = max([*limits, *(row["ratio"] for row in rows), 1.0])
        bottom = min([1.0, *(row["ratio"] for row in rows)])

        def x(length: int) -> float:
            span = math.log(lengths[-1] / lengths[0]) or 1.0
            return 10 + (width - 20) * math.log(length / lengths[0]) / span

        def y(ratio: float) -> float:
            span = math.log(top / bottom) or 1.0
            return height - 10 - (height - 20) * math.log(ratio / bottom) / span

        line = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(lengths, limits, strict=True))
        dots = "".join(
            f'<circle cx="{x(row["length"]):.1f}" cy="{y(row["ratio"]):.1f}" r="4" '
            f'fill="{"#0072b2" if row["name"] == self.names[0] else "currentColor"}"/>'
            for row in rows
        )
        return (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'aria-hidden="true" style="max-width:100%;height:auto">'
            f'<polyline points="{line}" fill="none" stroke="currentColor" '
            f'stroke-dasharray="5 4"/>{dots}</svg>'
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results must be a JSON file that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"results must hold a JSON object, got {type(found).__name__}")
    return found


def _limit(length: int, block_size: int, blocks_back: int, sinks: int) -> float:
    kept = live_pairs(length, block_size=block_size, blocks_back=blocks_back, sinks=sinks)
    return (length * (length + 1) // 2) / kept


def _one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise ValueError(f"{argument} must be one of those measured, {choices}; got {value!r}")


def _checked_rows(
    rows: Iterable[Mapping[str, Any]], blocks_back: int, sinks: int
) -> list[dict[str, Any]]:
    """Return the rows with every key present, or raise ``ValueError`` that names row and key."""
    checked: list[dict[str, Any]] = []
    seen = set()
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"rows[{i}] must be a mapping, got {type(row).__name__}")
        missing = [key for key in ("name", "length", "block_size", "ratio") if key not in row]
        if missing:
            raise ValueError(f"rows[{i}] must have {', '.join(missing)}, got {sorted(row)}")
        name = row["name"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"rows[{i}]['name'] must be a word, got {name!r}")
        length = check_int(f"rows[{i}]['length']", row["length"], minimum=1)
        block_size = check_int(f"rows[{i}]['block_size']", row["block_size"], minimum=1)
        ratio = _positive(f"rows[{i}]['ratio']", row["ratio"])
        low = _positive(f"rows[{i}]['low']", row.get("low", ratio))
        high = _positive(f"rows[{i}]['high']", row.get("high", ratio))
        if not low <= ratio <= high:
            raise ValueError(
                f"rows[{i}] must have low <= ratio <= high, got {low}, {ratio} and {high}"
            )
        limit = _limit(length, block_size, blocks_back, sinks)
        given = _positive(f"rows[{i}]['limit']", row.get("limit", limit))
        if not math.isclose(given, limit, rel_tol=0.01):  # rounded is fine, another pattern isn't
            raise ValueError(
                f"rows[{i}]['limit'] must be {limit:.4g} for {length} tokens in blocks of "
                f"{block_size} with blocks_back={blocks_back} and sinks={sinks}, got {given}"
            )
        if (name, length, block_size) in seen:
            raise ValueError(
                f"rows[{i}] must be a new point, got {name!r} at length {length} and block_size "
                f"{block_size} a second time"
            )
        seen.add((name, length, block_size))
        checked.append(
            {
                "name": name,
                "length": length,
                "block_size": block_size,
                "ratio": ratio,
                "low": low,
                "high": high,
                "limit": limit,
            }
        )
    if not checked:
        raise ValueError("rows must hold at least one measurement, got none")
    return checked


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
    return float(value)
