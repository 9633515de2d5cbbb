"""LowRankExplorer: a matrix as the product of two thin ones, for every rank.

The widget carries all singular values, and of the singular vectors only what a corner of the matrix
needs, in 8 bits: the numbers on the page are exact, its picture is good to about one percent.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from effedu._checks import check_int
from effedu.compression import break_even_rank
from effedu.widgets._base import Widget, compose

_CORNER = 32  # rows and columns of the picture
_MOST = 1024  # ranks, so that states stay small


@dataclass(frozen=True)
class LowRankNumbers:
    """What a rank keeps of a matrix, and what it costs."""

    energy: float  # share of the sum of squared singular values
    relative_error: float  # Frobenius norms: that of the difference over that of the matrix
    parameters: int  # of the two thin matrices; a token takes twice as many FLOPs
    full_parameters: int
    break_even: float  # the rank at which the two thin matrices are as large as the one
    bits_per_byte: dict[str, float | None]  # of the sweep, on the line between two measurements


class LowRankExplorer(Widget):
    """Spectrum, error, cost and picture of a matrix at every rank, beside measured bits per byte.

    Args:
        matrices: name → ``(rows, columns)``, floating point and finite, with at most 1,024 ranks.
        sweep: name → ``(rank, bits per byte)`` pairs that were measured, for at most four methods.
        rank: the one shown first; half of the break-even rank, so half of the numbers, if not
            given.
        matrix: the name of the one shown first; the first one if not given.
        about: what the sweep measured, in words.

    ``matrix`` and ``rank`` follow what the reader does and can be set; :attr:`numbers` gives what
    is shown. A page carries about 72 bytes for each rank of each matrix of 32 rows and columns or
    more, and a third more as text.

    Raises:
        ValueError: no matrix, or one of another kind; a sweep that isn't one; a rank or matrix that
            isn't there.

    >>> explorer = LowRankExplorer({"identity": torch.eye(8)}, rank=2)
    >>> explorer
    LowRankExplorer(identity, rank 2 of 8)
    >>> explorer.numbers.energy, explorer.numbers.break_even
    (0.25, 4.0)
    """

    _esm, _css = compose("diverging", "low_rank_explorer")

    matrices = traitlets.List(traitlets.Dict()).tag(sync=True)
    spectrum_bytes = traitlets.Bytes().tag(sync=True)
    factor_bytes = traitlets.Bytes().tag(sync=True)
    sweep = traitlets.List(traitlets.Dict()).tag(sync=True)
    about = traitlets.Unicode().tag(sync=True)
    matrix = traitlets.Unicode().tag(sync=True)
    rank = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        matrices: Mapping[str, Float[Tensor, "rows columns"]],
        *,
        sweep: Mapping[str, Sequence[tuple[int, float | int]]] | None = None,
        rank: int | None = None,
        matrix: str | None = None,
        about: str = "",
    ) -> None:
        if not isinstance(matrices, Mapping) or not matrices:
            raise ValueError(f"matrices must map names to tensors, at least one, got {matrices!r}")
        for name, weight in matrices.items():
            _check_matrix(name, weight)
        measured = [_checked_sweep(name, points) for name, points in (sweep or {}).items()]
        if len(measured) > 4:
            raise ValueError(f"sweep must hold at most 4 methods, got {len(measured)}")
        first = next(iter(matrices)) if matrix is None else matrix
        if first not in matrices:
            raise ValueError(f"matrix must be one of {', '.join(matrices)}; got {first!r}")
        rows, columns = matrices[first].shape
        half = max(1, int(break_even_rank(rows, columns) / 2))
        parts = [_Part.of(weight) for weight in matrices.values()]
        super().__init__(
            matrices=[
                {"name": name, "rows": len(w), "columns": w.shape[1], **part.sides}
                for (name, w), part in zip(matrices.items(), parts, strict=True)
            ],
            spectrum_bytes=b"".join(part.floats for part in parts),
            factor_bytes=b"".join(part.factors for part in parts),
            sweep=measured,
            about=about,
            matrix=first,
            rank=half if rank is None else rank,
        )

    def _size(self, name: str | None = None) -> tuple[int, int, int]:
        """Where the matrix's floats begin, its rows and its columns."""
        at = 0
        for one in self.matrices:
            if one["name"] == (self.matrix if name is None else name):
                return at, one["rows"], one["columns"]
            at += 2 * min(one["rows"], one["columns"])
        raise ValueError(
            f"matrix must be one of {', '.join(m['name'] for m in self.matrices)}; got {name!r}"
        )

    def spectrum(self) -> Float[Tensor, "ranks"]:
        """Return the singular values of the present matrix, largest first."""
        at, rows, columns = self._size()
        floats = np.frombuffer(self.spectrum_bytes, "<f4", min(rows, columns), 4 * at)
        return torch.from_numpy(floats.astype(np.float32))

    @property
    def numbers(self) -> LowRankNumbers:
        """What the page shows of the present matrix at the present rank."""
        _, rows, columns = self._size()
        squares = self.spectrum().double().square()
        share = float(squares[self.rank :].sum() / squares.sum()) if squares.any() else 0.0
        return LowRankNumbers(
            energy=1 - share,
            relative_error=math.sqrt(share),
            parameters=self.rank * (rows + columns),
            full_parameters=rows * columns,
            break_even=break_even_rank(rows, columns),
            bits_per_byte={m["name"]: _between(m["points"], self.rank) for m in self.sweep},
        )

    @traitlets.validate("matrix", "rank")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "matrix":
            self._size(value)
            return value
        _, rows, columns = self._size()
        if value not in range(1, min(rows, columns) + 1):
            raise ValueError(f"rank must be from 1 to {min(rows, columns)}, got {value}")
        return value

    @traitlets.observe("matrix")  # type: ignore[untyped-decorator]
    def _keep_rank_inside(self, change: dict[str, Any]) -> None:
        self.rank = min(self.rank, *self._size()[1:])

    def _summary(self) -> str:
        return f"{self.matrix}, rank {self.rank} of {min(self._size()[1:])}"

    def fallback(self) -> str:
        """Return the spectrum as a still picture, with the numbers in words."""
        numbers, spectrum = self.numbers, self.spectrum()
        words = (
            f"{self.matrix}: rank {self.rank} of {len(spectrum)} keeps {numbers.energy:.1%} of "
            f"the energy, is off by {numbers.relative_error:.1%}, and takes "
            f"{numbers.parameters:,} numbers in place of {numbers.full_parameters:,}."
        )
        words += "".join(
            f" {name}: {bits:.3f} bits per byte."
            for name, bits in numbers.bits_per_byte.items()
            if bits is not None
        )
        top = float(spectrum[0]) or 1.0
        bars = "".join(
            f'<path d="M{k} 0V{-60 * value / top:.1f}h1V0z" '
            f'fill="{"#0072b2" if k < self.rank else "currentColor"}" '
            f'fill-opacity="{1 if k < self.rank else 0.35}"/>'
            for k, value in enumerate(spectrum.tolist())
        )
        return (
            f'<figure class="fx-fallback"><svg role="img" aria-label="{html.escape(words)}" '
            f'viewBox="0 -61 {len(spectrum)} 62" width="480" height="160" '
            f'preserveAspectRatio="none" style="max-width:100%">{bars}</svg>'
            f"<figcaption>{html.escape(words)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class _Part:
    """What the state holds of one matrix."""

    sides: dict[str, int]
    floats: bytes  # singular values, then the scale of each component of the corner
    factors: bytes  # int8: left corners (rank, rows), then right corners (rank, columns)

    @classmethod
    def of(cls, weight: Float[Tensor, "rows columns"]) -> _Part:
        left, values, right = torch.linalg.svd(weight.detach().double().cpu(), full_matrices=False)
        tall, tall_scale = _eight_bits(left[:_CORNER].T)  # (ranks, rows of the corner)
        wide, wide_scale = _eight_bits(right[:, :_CORNER])
        scale = values * tall_scale * wide_scale
        return cls(
            {"high": tall.shape[1], "wide": wide.shape[1]},
            torch.cat([values, scale]).numpy().astype("<f4").tobytes(),
            tall.tobytes() + wide.tobytes(),
        )


def _eight_bits(
    rows: Float[Tensor, "ranks width"],
) -> tuple[NDArray[np.int8], Float[Tensor, "ranks"]]:
    """Each row as int8, and the scale that gives it back."""
    scale = rows.abs().amax(1).clamp_min(1e-30) / 127
    return (rows / scale[:, None]).round().to(torch.int8).numpy(), scale


def _check_matrix(name: str, weight: Tensor) -> None:
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        got = (
            f"{weight.dtype}, {tuple(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
        )
        raise ValueError(f"matrices[{name!r}] must be a floating-point matrix, got {got}")
    if not 1 <= min(weight.shape) <= _MOST:
        raise ValueError(
            f"matrices[{name!r}] must have from 1 to {_MOST:,} ranks, got {min(weight.shape):,}"
        )
    if not weight.isfinite().all():
        raise ValueError(f"matrices[{name!r}] must be finite, got NaN or infinity")


def _checked_sweep(name: str, points: Sequence[tuple[int, float | int]]) -> dict[str, Any]:
    """Return a method's measurements in order of rank, or raise ``ValueError``."""
    given = sorted((check_int(f"sweep[{name!r}] rank", r, minimum=1), float(v)) for r, v in points)
    if not given or len({rank for rank, _ in given}) < len(given):
        raise ValueError(f"sweep[{name!r}] must have one value for each rank, got {given}")
    if not all(0 < bits < math.inf for _, bits in given):
        raise ValueError(f"sweep[{name!r}] must hold positive bits per byte, got {given}")
    return {"name": name, "points": [list(point) for point in given]}


def _between(points: Sequence[Sequence[float | int]], rank: int) -> float | None:
    """The value at ``rank``, or on the line between its neighbours; None outside of them."""
    ranks, values = zip(*points, strict=True)
    if not ranks[0] <= rank <= ranks[-1]:
        return None
    return float(np.interp(rank, ranks, values))
