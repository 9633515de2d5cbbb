"""PositionExplorer: how near two positions look to a model, and how rotating a pair makes it so.

The page computes every number anew, as :mod:`effedu.positional` does; a stored state is a handful
of numbers.
"""

from __future__ import annotations

import html
import math
from typing import Any

import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from effedu._checks import check_int
from effedu.positional import alibi, frequencies, rotary, sinusoidal
from effedu.widgets._base import Widget, compose

_SCHEMES = ("sinusoidal", "rotary", "alibi", "none")
_MOST = {"head_dim": 512, "length": 4096, "num_heads": 128}  # what a page draws at once


class PositionExplorer(Widget):
    """Similarity against distance for four schemes, and a dial with a query and a key to turn.

    Args:
        scheme: ``"sinusoidal"``, ``"rotary"``, ``"alibi"`` or ``"none"``.
        head_dim: width of a query, or of the sinusoidal table: even, up to 512.
        base: the longest wavelength is nearly ``2 π base`` tokens.
        length: positions, from 2 to 4,096.
        scale: what positions are divided by (position interpolation).
        num_heads: of ALiBi, up to 128.
        pair, head: those shown first.
        query, key: positions shown first; three quarters of the length, and 12 before it, if not
            given.

    They follow what the reader does and can be set, as can ``together``: whether query and key move
    as one. :meth:`similarity` gives the curve.

    Raises:
        ValueError: a scheme, pair, head or position that isn't there, or a number out of range.

    >>> explorer = PositionExplorer(scheme="alibi", length=4, num_heads=1)
    >>> explorer
    PositionExplorer(alibi, head_dim=64, base=10000, length=4, scale=1)
    >>> (explorer.similarity() * 256).tolist()
    [-0.0, -1.0, -2.0, -3.0]
    """

    _esm, _css = compose("diverging", "position_explorer")

    scheme = traitlets.Unicode("rotary").tag(sync=True)
    head_dim = traitlets.Int(64).tag(sync=True)
    base = traitlets.Float(10_000.0).tag(sync=True)
    length = traitlets.Int(128).tag(sync=True)
    scale = traitlets.Float(1.0).tag(sync=True)
    num_heads = traitlets.Int(8).tag(sync=True)
    pair = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    key = traitlets.Int().tag(sync=True)
    together = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        *,
        scheme: str = "rotary",
        head_dim: int = 64,
        base: float | int = 10_000.0,
        length: int = 128,
        scale: float | int = 1.0,
        num_heads: int = 8,
        pair: int | None = None,
        head: int = 0,
        query: int | None = None,
        key: int | None = None,
    ) -> None:
        for name, value in (("head_dim", head_dim), ("length", length), ("num_heads", num_heads)):
            _check_size(name, value)
        looking = min(length - 1, 3 * length // 4) if query is None else query
        super().__init__(
            scheme=scheme,
            head_dim=head_dim,
            base=base,
            length=length,
            scale=scale,
            num_heads=num_heads,
            pair=head_dim // 16 if pair is None else pair,  # neither the fastest nor a slow one
            head=head,
            query=looking,
            key=max(0, looking - 12) if key is None else key,
        )

    def similarity(self) -> Float[Tensor, "length"]:
        """Return what the page draws for the distances 0, 1, …

        Sinusoidal: the product of two rows of the table, divided by the pairs. Rotary: the score of
        two equal vectors of length 1 whose numbers are all equal. ALiBi: the bias. None: zeros.
        """
        options = {"base": self.base, "scale": self.scale}
        if self.scheme == "sinusoidal":
            table = sinusoidal(self.length, self.head_dim, **options)
            mean: Tensor = table @ table[0] / (self.head_dim / 2)
            return mean
        if self.scheme == "rotary":
            ones = torch.full((self.length, self.head_dim), self.head_dim**-0.5)
            turned = rotary(ones, **options)
            return turned @ turned[0]
        if self.scheme == "alibi":
            return alibi(self.num_heads, self.length)[self.head, 0]
        return torch.zeros(self.length)

    def angle(self, position: int) -> float:
        """Return the angle by which the present pair is turned at ``position``, in radians."""
        theta = frequencies(self.head_dim, base=self.base, scale=self.scale)[self.pair]
        return position * float(theta)

    @traitlets.validate("head_dim", "length", "num_heads")  # type: ignore[untyped-decorator]
    def _valid_size(self, proposal: Any) -> int:
        return _check_size(proposal["trait"].name, proposal["value"])

    @traitlets.validate("scheme", "base", "scale")  # type: ignore[untyped-decorator]
    def _valid_choice(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "scheme":
            if value not in _SCHEMES:
                raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}; got {value!r}")
        elif not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
        return value

    @traitlets.validate("pair", "head", "query", "key")  # type: ignore[untyped-decorator]
    def _valid_place(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        if value not in range(self._many(name)):
            raise ValueError(f"{name} must be from 0 to {self._many(name) - 1}, got {value!r}")
        number: int = value
        return number

    def _many(self, name: str) -> int:
        """How many there are to choose from."""
        many: int = {"pair": self.head_dim // 2, "head": self.num_heads}.get(name, self.length)
        return many

    @traitlets.observe("head_dim", "length", "num_heads")  # type: ignore[untyped-decorator]
    def _keep_inside(self, change: dict[str, Any]) -> None:
        for name in ("pair", "head", "query", "key"):
            setattr(self, name, min(getattr(self, name), self._many(name) - 1))

    def _summary(self) -> str:
        sizes = f"head_dim={self.head_dim}, base={self.base:.12g}, length={self.length}"
        return f"{self.scheme}, {sizes}, scale={self.scale:.12g}"

    def fallback(self) -> str:
        """Return the curve as a still picture, under one sentence."""
        curve = self.similarity()
        distance = abs(self.query - self.key)
        kind = "bias" if self.scheme == "alibi" else "similarity"
        words = (
            f"Positions, {self.scheme}: the {kind} of two positions against their distance, from 0 "
            f"to {self.length - 1} tokens. At distance {distance} it is "
            f"{float(curve[distance]) + 0:.3f}."
        )
        top, low = max(1.0, float(curve.max())), min(-1.0, float(curve.min()))
        line = "".join(
            f"{'L' if d else 'M'}{d} {100 * (top - v) / (top - low):.1f}"
            for d, v in enumerate(curve.tolist())
        )
        return (
            f'<figure class="fx-fallback"><svg role="img" aria-label="{html.escape(words)}" '
            f'viewBox="0 -1 {self.length} 102" width="480" height="160" '
            f'preserveAspectRatio="none" style="max-width:100%"><path d="{line}" fill="none" '
            'stroke="#0072b2" stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
            f"<figcaption>{html.escape(words)}</figcaption></figure>"
        )


def _check_size(name: str, value: int) -> int:
    check_int(name, value, minimum=1 if name == "num_heads" else 2)
    if value > _MOST[name] or (name == "head_dim" and value % 2):
        even = ", and even" if name == "head_dim" else ""
        raise ValueError(f"{name} must be at most {_MOST[name]:,}{even}, got {value:,}")
    return value
