"""ParetoExplorer: what each measured way of running a model costs, and what its predictions lose.

The page finds the frontier among what the reader has not filtered away; every point on it is a
measurement, and no value between two is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import traitlets

from effedu._checks import check_int
from effedu.widgets._base import Widget, compose

_PHASES = {"read": "reading", "write": "writing"}
_QUALITIES = {"bits": "bits per byte", "agreement": "agreement"}
_COSTS = ("time", "memory")
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "time": ("above 0", lambda x: x > 0),
    "memory": ("above 0", lambda x: x > 0),
    "bits": ("above -1", lambda x: x > -1),  # a model that needs no bits at all
    "agreement": ("from 0 to 1", lambda x: 0 <= x <= 1),
}
_KEYS = ("method", "label", "call", "phase", "length", *_NUMBERS)
DENSE = "dense"
TOGETHER = "combinations"


class ParetoExplorer(Widget):
    """Every measured configuration of a model, its quality against its time or memory.

    Args:
        rows: one mapping for each measurement, such as those of :func:`effedu.tradeoffs.sweep`;
            further keys are left out. It has

            - ``method``: the methods that the configuration uses, such as ``["blocking"]``; none
              is the dense model;
            - ``label``: its name, one for each ``length`` and ``phase``;
            - ``call``: the line of Python that makes it, or ``""``;
            - ``phase``: ``"read"`` a text, or ``"write"`` tokens after it, one by one;
            - ``length``: tokens of that text, at least 1;
            - ``time``, ``memory``: as shares of the dense fp32 model's at the same length and
              phase, above 0;
            - ``bits``: relative extra bits per byte, 0.01 for 1 % more than the dense model;
            - ``agreement``: share of positions with the dense model's most likely token, 0 to 1;
            - ``bits_length`` (optional): tokens of the texts that the last two were measured on,
              if that is not ``length``.

            Memory, bits and agreement may be None where they were not measured.
        length, phase: where to start; rows must have them.
        quality: what stands upwards, ``"bits"`` or ``"agreement"``.
        cost: what stands sideways, ``"time"`` or ``"memory"``.
        selected: the ``label`` to start with. Without one the page takes the fastest (or smallest)
            configuration with at most 1 % more bits per byte.
        hidden: methods that are not drawn at first; ``"combinations"`` stands for all
            configurations of several methods.
        machine: what the times were measured on, in words.
        trained_length: the longest text that the model was trained on; the page says where the
            measurements go beyond it.

    Raises:
        ValueError: no rows, a row that lacks something or holds an impossible value, two rows of
            one name at one point, or a start that was not measured.

    >>> row = {"method": ["blocking"], "label": "block(128)", "phase": "read", "length": 8192,
    ...        "call": "effedu.patched(lm.model, attention=block(128))",
    ...        "time": 0.35, "memory": 0.6, "bits": 0.004, "agreement": 0.97}
    >>> ParetoExplorer([row])
    ParetoExplorer(1 measurement, reading 8,192 tokens, bits per byte against time)
    """

    _esm, _css = compose("pareto_explorer")

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    length = traitlets.Int().tag(sync=True)
    phase = traitlets.Unicode().tag(sync=True)
    quality = traitlets.Unicode().tag(sync=True)
    cost = traitlets.Unicode().tag(sync=True)
    selected = traitlets.Unicode().tag(sync=True)
    hidden = traitlets.List(traitlets.Unicode()).tag(sync=True)
    machine = traitlets.Unicode().tag(sync=True)
    trained_length = traitlets.Int().tag(sync=True)  # 0: unknown

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        length: int = 8192,
        phase: str = "read",
        quality: str = "bits",
        cost: str = "time",
        selected: str | None = None,
        hidden: Sequence[str] = (),
        machine: str = "",
        trained_length: int | None = None,
    ) -> None:
        checked = _checked_rows(rows)
        _one_of("phase", phase, [p for p in _PHASES if any(row["phase"] == p for row in checked)])
        lengths = sorted({row["length"] for row in checked if row["phase"] == phase})
        _one_of("length", length, lengths)
        if selected is not None:
            here = [r["label"] for r in checked if (r["phase"], r["length"]) == (phase, length)]
            _one_of("selected", selected, here)
        super().__init__(
            rows=checked,
            length=length,
            phase=phase,
            quality=quality,
            cost=cost,
            selected=selected or "",
            hidden=list(hidden),
            machine=machine,
            trained_length=0
            if trained_length is None
            else check_int("trained_length", trained_length, minimum=1),
        )

    @property
    def methods(self) -> list[str]:
        """What can be hidden: each method, in the order of the rows, and the combinations.

        >>> point = {"call": "", "phase": "read", "length": 64, "time": 1, "memory": 1,
        ...          "bits": 0, "agreement": 1}
        >>> ParetoExplorer([
        ...     {"method": [], "label": "dense", **point},
        ...     {"method": ["blocking", "int8"], "label": "both", **point},
        ... ], length=64).methods
        ['dense', 'blocking', 'int8', 'combinations']
        """
        found = list(dict.fromkeys(name for row in self.rows for name in row["method"]))
        return [*found, TOGETHER] if any(len(row["method"]) > 1 for row in self.rows) else found

    @traitlets.validate(  # type: ignore[untyped-decorator]
        "length", "phase", "quality", "cost", "selected"
    )
    def _valid(self, proposal: dict[str, Any]) -> Any:
        """Length and phase change one after the other, so each is checked alone."""
        name, value = proposal["trait"].name, proposal["value"]
        if name == "quality":
            return _one_of(name, value, _QUALITIES)
        if name == "cost":
            return _one_of(name, value, _COSTS)
        if name == "selected":
            return value and _one_of(name, value, dict.fromkeys(r["label"] for r in self.rows))
        return _one_of(name, value, sorted({row[name] for row in self.rows}))

    @traitlets.validate("hidden")  # type: ignore[untyped-decorator]
    def _valid_hidden(self, proposal: dict[str, Any]) -> list[str]:
        return [_one_of("hidden", name, self.methods) for name in proposal["value"]]

    def _here(self) -> list[dict[str, Any]]:
        """The rows of the present length and phase that are not hidden, the cheapest first."""
        rows = [
            row
            for row in self.rows
            if (row["length"], row["phase"]) == (self.length, self.phase)
            and not set(row["method"]) & set(self.hidden)
            and not (len(row["method"]) > 1 and TOGETHER in self.hidden)
        ]
        return sorted(rows, key=lambda row: _or_most(row[self.cost]))

    def _summary(self) -> str:
        many = _many(len(self.rows), "measurement")
        axes = f"{_QUALITIES[self.quality]} against {self.cost}"
        return f"{many}, {_PHASES[self.phase]} {self.length:,} tokens, {axes}"

    def fallback(self) -> str:
        """Return what was measured at this length and phase as a picture and a table."""
        rows = self._here()
        others = ", ".join(
            f"{n:,}" for n in sorted({r["bits_length"] for r in rows} - {self.length})
        )
        caption = (
            f"{_many(len(rows), 'configuration')}, {_PHASES[self.phase]} {self.length:,} tokens: "
            "time and memory as shares of the dense fp32 model's, more bits per byte than it, and "
            "how often its most likely token is theirs."
            + (f" The last two were measured on texts of {others} tokens." if others else "")
            + (f" Measured on {self.machine}." if self.machine else "")
        )
        heads = ("configuration", "time", "memory", "more bits", "agreement", "call")
        forms = (("time", ".2f"), ("memory", ".2f"), ("bits", "+.2%"), ("agreement", ".1%"))
        body = "".join(
            f'<tr><th scope="row">{escape(row["label"])}</th>'
            + "".join(
                f"<td>{'–' if row[key] is None else format(row[key], form)}</td>"
                for key, form in forms
            )
            + f"<td><code>{escape(row['call'])}</code></td></tr>"
            for row in rows
        )
        return (
            f"<figure>{self._picture(rows)}<table><caption>{escape(caption)}</caption><thead><tr>"
            + "".join(f'<th scope="col">{head}</th>' for head in heads)
            + f"</tr></thead><tbody>{body}</tbody></table></figure>"
        )

    def _picture(self, rows: list[dict[str, Any]], width: int = 480, height: int = 240) -> str:
        """The points alone; the table under it has the numbers."""
        points = [
            (math.log(row[self.cost]), self._upwards(row))
            for row in rows
            if row[self.cost] is not None and row[self.quality] is not None
        ]

        def place(values: Sequence[float], size: int) -> list[float]:
            low, span = min(values), max(values) - min(values) or 1.0
            return [10 + (size - 20) * (value - low) / span for value in values]

        dots = ""
        if points:
            sideways, upwards = zip(*points, strict=True)
            dots = "".join(
                f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="4"/>'
                for x, y in zip(place(sideways, width), place(upwards, height), strict=True)
            )
        return (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'aria-hidden="true" fill="currentColor" style="max-width:100%;height:auto">'
            f"{dots}</svg>"
        )

    def _upwards(self, row: dict[str, Any]) -> float:
        """Where it stands: logarithmic in what is lost, but even near nothing, as on the page."""
        if self.quality == "bits":
            return math.asinh(row["bits"] / 0.002)
        return -math.asinh((1 - row["agreement"]) / 0.01)


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _or_most(value: float | None) -> float:
    return math.inf if value is None else value


def _one_of(argument: str, value: Any, allowed: Iterable[Any]) -> Any:
    choices = list(allowed)
    if isinstance(value, bool) or value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"{argument} must be one of {listed}; got {value!r}")
    return value


def _checked_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with these keys alone, or raise ``ValueError`` that names row and key."""
    checked: list[dict[str, Any]] = []
    seen = set()
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"rows[{i}] must be a mapping, got {type(row).__name__}")
        missing = [key for key in _KEYS if key not in row]
        if missing:
            raise ValueError(f"rows[{i}] must have {', '.join(missing)}, got {sorted(row)}")
        clean = _checked_row(f"rows[{i}]", row)
        point = (clean["label"], clean["length"], clean["phase"])
        if point in seen:
            raise ValueError(
                f"rows[{i}] must be a new point, got {point[0]!r} at length {point[1]} in phase "
                f"{point[2]!r} a second time"
            )
        seen.add(point)
        checked.append(clean)
    if not checked:
        raise ValueError("rows must hold at least one measurement, got none")
    return checked


def _checked_row(at: str, row: Mapping[str, Any]) -> dict[str, Any]:
    method, label, call = row["method"], row["label"], row["call"]
    words = isinstance(method, (list, tuple)) and all(isinstance(m, str) and m for m in method)
    if not words or TOGETHER in method or len(set(method)) < len(method):
        raise ValueError(
            f"{at}['method'] must be a list of different words other than {TOGETHER!r}, "
            f"got {method!r}"
        )
    if not isinstance(label, str) or not label:
        raise ValueError(f"{at}['label'] must be a word, got {label!r}")
    if not isinstance(call, str):
        raise ValueError(f"{at}['call'] must be a line of Python as text, got {call!r}")
    length = check_int(f"{at}['length']", row["length"], minimum=1)
    return {
        "method": list(method) or [DENSE],
        "label": label,
        "call": call,
        "phase": _one_of(f"{at}['phase']", row["phase"], _PHASES),
        "length": length,
        "bits_length": check_int(f"{at}['bits_length']", row.get("bits_length", length), minimum=1),
        **{key: _number(f"{at}[{key!r}]", row[key], key) for key in _NUMBERS},
    }


def _number(name: str, value: Any, key: str) -> float | None:
    allowed, holds = _NUMBERS[key]
    if value is None and key != "time":
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and holds(value)):
        raise ValueError(f"{name} must be a number {allowed}, got {value!r}")
    return float(value)
