"""TilingStepper: the softmax of one query, tile by tile, as FlashAttention computes it.

The page holds the scores and the values and walks online softmax itself (Milakov and Gimelshein,
2018, Algorithm 3, https://arxiv.org/abs/1805.02867); :func:`effedu.hardware.tiling_steps` is the
same walk in Python.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from effedu._checks import check_int
from effedu.hardware import TilingStep, tiling_steps
from effedu.widgets._base import Widget, compose

_METHODS = ("online", "unscaled", "naive")
_FORMATS = ("float16", "float32")


class TilingStepper(Widget):
    """Online softmax to step through: the tile, the running maximum and sum, and the output.

    Args:
        scores: ``(queries, keys)``, or ``(keys,)`` for one query; already divided by the root of
            the head width. A query's keys that are masked come last and are ``-inf``, as under a
            causal mask. Stored as float32.
        values: ``(keys, value_dim)``. Stored as float32.
        tokens: the text's tokens, one for each key, if there is one; shown as text, never as HTML.
        query: the row shown first; negative ones count from the end, as in Python.
        tile: keys in a tile, at least 1.
        step: how many tiles are done at first; if not given, as many as it takes until a larger
            score makes the walk rescale.
        method: ``"online"`` is online softmax. ``"unscaled"`` forgets to rescale what was summed
            before the maximum rose, ``"naive"`` subtracts no maximum: both go wrong.
        format: what ``"naive"`` overflows in, ``"float16"`` or ``"float32"``.
        about: where the scores come from, in words.

    ``query``, ``tile``, ``step``, ``method`` and ``format`` follow what the reader does and can be
    set. A page carries ``4 * (queries + value_dim) * keys`` bytes (and a third more, as text).

    Raises:
        ValueError: shapes that don't fit each other, a row without a finite first score or with a
            gap in it, values that aren't finite, or a query, tile, step, method or format that
            isn't there.

    >>> stepper = TilingStepper([1.0, 3.0, 2.0, 0.0], np.eye(4), tile=2)
    >>> stepper
    TilingStepper(4 keys, query 0, tile=2, step=2)
    >>> [(step.maximum, round(step.total, 3)) for step in stepper.steps()]
    [(3.0, 1.135), (3.0, 1.553)]
    """

    _esm, _css = compose("tiling_stepper")

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    scores_bytes = traitlets.Bytes().tag(sync=True)
    values_bytes = traitlets.Bytes().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)  # queries, keys, value_dim
    about = traitlets.Unicode().tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    tile = traitlets.Int(8).tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    method = traitlets.Unicode("online").tag(sync=True)
    format = traitlets.Unicode("float16").tag(sync=True)

    def __init__(
        self,
        scores: Float[Tensor, "*queries keys"] | NDArray[Any] | Sequence[Any],
        values: Float[Tensor, "keys value_dim"] | NDArray[Any] | Sequence[Any],
        *,
        tokens: Sequence[str] | None = None,
        query: int = -1,
        tile: int = 8,
        step: int | None = None,
        method: str = "online",
        format: str = "float16",
        about: str = "",
    ) -> None:
        rows, held = _numbers("scores", scores), _numbers("values", values)
        if rows.ndim == 1:
            rows = rows[None]
        if rows.ndim != 2 or 0 in rows.shape:
            raise ValueError(
                f"scores must be (queries, keys) or (keys,) and not empty, got shape {rows.shape}"
            )
        queries, keys = rows.shape
        if held.ndim != 2 or held.shape[0] != keys or 0 in held.shape:
            raise ValueError(
                f"values must be (keys, value_dim) for {keys} keys, got shape {held.shape}"
            )
        _check_rows(rows)
        if not np.isfinite(held).all():
            raise ValueError("values must be finite, got NaN or infinity")
        named = [] if tokens is None else [str(token) for token in tokens]
        if tokens is not None and len(named) != keys:
            raise ValueError(f"tokens must be as many as the keys, {keys}, got {len(named)}")
        if isinstance(query, bool) or not isinstance(query, int) or not -queries <= query < queries:
            raise ValueError(
                f"query must be a whole number from {-queries} to {queries - 1}, got {query!r}"
            )
        check_int("tile", tile, minimum=1)
        super().__init__(
            tokens=named,
            scores_bytes=rows.tobytes(),
            values_bytes=held.tobytes(),
            shape=[queries, keys, held.shape[1]],
            about=about,
            query=query % queries,
            tile=tile,
            method=method,
            format=format,
        )
        self.step = self._first_rescaling() if step is None else step

    @classmethod
    def from_lm(
        cls,
        lm: Any,
        text: str,
        *,
        layer: int = 0,
        head: int = 0,
        query: int = -1,
        **options: Any,
    ) -> TilingStepper:
        """Return a walk over the real scores and values of one head of a language model.

        ``lm`` is what :func:`effedu.load_lm` returns, ``query`` the position of the token that
        looks. Layers and heads count from 0. Other options are those of :class:`TilingStepper`.

        Raises:
            ValueError: empty text, or a layer, head or query that isn't there.
        """
        if not text:
            raise ValueError(f"text must have at least one character, got {text!r}")
        tokens, queries, keys = lm.attention_inputs(text)
        layers, heads, length, head_dim = queries.shape
        for name, number, many in (("layer", layer, layers), ("head", head, heads)):
            if isinstance(number, bool) or number not in range(many):
                raise ValueError(f"{name} must be from 0 to {many - 1}, got {number!r}")
        scores = queries[layer, head] @ keys[layer, head].mT * head_dim**-0.5  # (length, length)
        future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
        about = f"The scores and values of layer {layer}, head {head}, on a text."
        return cls(
            scores.masked_fill(future, -torch.inf),
            lm.attention_values(text)[layer, head],
            tokens=tokens,
            query=query,
            **{"about": about, **options},
        )

    @property
    def tiles(self) -> int:
        """Tiles that the query's visible keys fill."""
        tile: int = self.tile
        return math.ceil(len(self.row()) / tile)

    def row(self, query: int | None = None) -> Float[Tensor, "visible"]:
        """Return a query's scores (by default the trait's) up to the last key that it may see."""
        query = self.query if query is None else self._check_query(query)
        queries, keys, _ = self.shape
        rows = np.frombuffer(self.scores_bytes, "<f4").reshape(queries, keys)
        return torch.from_numpy(rows[query][np.isfinite(rows[query])].copy())

    def values(self) -> Float[Tensor, "keys value_dim"]:
        """Return the values of all keys."""
        return torch.from_numpy(
            np.frombuffer(self.values_bytes, "<f4").reshape(self.shape[1:]).copy()
        )

    def steps(self) -> list[TilingStep]:
        """Return every step of online softmax, as :func:`effedu.hardware.tiling_steps` takes it."""
        row = self.row()
        one = torch.ones(1, dtype=row.dtype)  # a query of width one: its scores are the keys
        return list(tiling_steps(one, row[:, None], self.values()[: len(row)], tile=self.tile))

    def output(self) -> Float[Tensor, "value_dim"]:
        """Return the query's attention by the full softmax, all at once, in double precision.

        >>> stepper = TilingStepper([0.0, 0.0, 0.0], [[0.0], [3.0], [6.0]], tile=1)
        >>> stepper.output().tolist(), stepper.steps()[-1].output
        ([3.0], [3.0])
        """
        row = self.row().double()
        return row.softmax(-1) @ self.values()[: len(row)].double()

    @traitlets.validate("query", "tile", "step", "method", "format")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "query":
            return self._check_query(value)
        if name == "tile":
            return check_int("tile", value, minimum=1)
        if name == "step":
            if value not in range(self.tiles + 1):
                raise ValueError(
                    f"step must be from 0 to {self.tiles}, the number of tiles, got {value!r}"
                )
        else:
            allowed = _METHODS if name == "method" else _FORMATS
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        return value

    def _check_query(self, query: int) -> int:
        if query not in range(self.shape[0]):
            raise ValueError(f"query must be from 0 to {self.shape[0] - 1}, got {query!r}")
        return query

    def _first_rescaling(self) -> int:
        first, *others = [max(step.scores) for step in self.steps()]
        rises = (n for n, top in enumerate(others, start=2) if top > first)
        return next(rises, self.tiles)

    @traitlets.observe("query", "tile")  # type: ignore[untyped-decorator]
    def _keep_step_inside(self, change: dict[str, Any]) -> None:
        self.step = min(self.step, self.tiles)

    def _summary(self) -> str:
        return f"{self.shape[1]} keys, query {self.query}, tile={self.tile}, step={self.step}"

    def fallback(self) -> str:
        """Return all steps of the present query as a table, under one sentence."""
        steps, exact = self.steps(), self.output()
        off = (torch.tensor(steps[-1].output, dtype=torch.float64) - exact).abs().max().item()
        at = self.query + self.shape[1] - self.shape[0]
        token = f" “{html.escape(self.tokens[at])}”" if self.tokens else ""
        caption = (
            f"Online softmax of query {at}{token} in {len(steps)} tiles of {self.tile}: after the "
            f"last one its output equals that of the full softmax to {max(off, 1e-16):.0e}."
        )
        shown = steps if len(steps) <= 24 else [*steps[:12], *steps[-12:]]
        body = "".join(
            f'<tr><th scope="row">{_span(step)}</th><td>{step.maximum:.2f}</td>'
            f"<td>{step.shrink:.3g}</td><td>{step.total:.4g}</td></tr>"
            for step in shown
        )
        heads = ("keys", "maximum m", "factor exp(m before − m)", "sum l")
        columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
        return (
            f"<figure>{self._picture(caption)}<table><caption>{caption}</caption>"
            f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></figure>"
        )

    def _picture(self, label: str, width: int = 480, height: int = 160) -> str:
        """The scores as bars and the running maximum above them; at most 480 bars."""
        row: list[float] = self.row().tolist()
        top = height - 10
        low, high = min(0.0, *row), max(0.0, *row)
        cell = width / len(row)

        def y(score: float) -> float:
            return 5 + top * (high - score) / ((high - low) or 1.0)

        every = max(1, len(row) // width)
        bars = "".join(
            f"M{j * cell:.1f} {y(0.0):.1f}V{y(row[j]):.1f}h{cell * every * 0.8:.2f}V{y(0.0):.1f}z"
            for j in range(0, len(row), every)
        )
        line, reached = "", None
        for step in self.steps():
            if step.maximum != reached:  # it rises here
                line += f"{'H' if line else 'M'}{step.start * cell:.1f} "
                line += f"{'V' if reached is not None else ''}{y(step.maximum):.1f}"
                reached = step.maximum
        line += f"H{width}"
        return (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{label}" style="max-width:100%;height:auto">'
            f'<path d="{bars}" fill="#0072b2"/>'
            f'<path d="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        )


def _span(step: TilingStep) -> str:
    last = step.stop - 1
    return f"{step.start}" if last == step.start else f"{step.start} to {last}"


def _numbers(name: str, array: Any) -> NDArray[np.float32]:
    """Return ``array`` as little-endian float32, or raise ``ValueError``."""
    if isinstance(array, Tensor):
        array = array.detach().float().cpu().numpy()
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and is refused
        floats: NDArray[np.float32] = array.astype("<f4")
    return floats


def _check_rows(rows: NDArray[np.float32]) -> None:
    """Raise ``ValueError`` unless each row is finite up to some key and ``-inf`` after it."""
    seen = np.isfinite(rows)
    masked = rows == -np.inf
    gap = (masked[:, :-1] & seen[:, 1:]).any() if rows.shape[1] > 1 else False
    if not (seen | masked).all() or not seen[:, 0].all() or gap:
        raise ValueError(
            "scores must be finite in every row up to the last key that its query sees, and -inf "
            "after it, got a row that isn't"
        )
