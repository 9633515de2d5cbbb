"""Quantizer: a row of weights in a few bits, and what one outlier does to it.

The widget carries the row alone. The page quantizes it anew for every choice, as
:func:`effedu.quantization.quantize` does.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from torch import Tensor

from effedu.quantization import QuantizedTensor, quantize
from effedu.widgets._base import Widget, compose

_BITS = (2, 3, 4, 8)
_DTYPES = ("float32", "bfloat16")
_MOST = 1024


@dataclass(frozen=True)
class QuantizerNumbers:
    """What quantization does to the row, as the page shows it."""

    codes: tuple[int, ...]
    restored: tuple[float, ...]
    largest_error: float
    rms_error: float  # the root of the mean squared error
    signal_to_noise: float  # decibels: mean square of the weights over that of the errors
    nbytes: int  # codes, scales and offsets


class Quantizer(Widget):
    """A row of weights on its number line: levels, codes, errors and bytes.

    Args:
        row: ``(weights,)``, 2 to 1,024 of them, floating point; stored as float32.
        name: what the row is, in words.
        bits: of each weight: 2, 3, 4 or 8.
        group_size: weights that share a scale, a divisor of their number; ``None`` is all of them.
        symmetric: levels around zero; otherwise they begin at the lowest weight, the offset.
        scale_dtype: of scales and offsets: ``torch.float32`` or ``torch.bfloat16``.
        index: the weight that is looked at; the largest one if not given.
        factor: how many times larger that weight is made, from 1 to 100.

    ``bits``, ``group_size``, ``symmetric``, ``scale_dtype`` (as a word), ``index`` and ``factor``
    follow what the reader does and can be set; :attr:`numbers` gives what is shown.

    Raises:
        ValueError: a row of another shape or kind, or a choice that isn't there.

    >>> quantizer = Quantizer(torch.tensor([0.0, 0.25, -0.5, 3.75]), bits=4, group_size=None)
    >>> quantizer
    Quantizer(4 weights, bits=4, group_size=None, symmetric)
    >>> quantizer.numbers.codes  # steps of 0.5, and ties go to the even code
    (0, 0, -1, 7)
    """

    _esm, _css = compose("quantizer")

    name = traitlets.Unicode().tag(sync=True)
    row_bytes = traitlets.Bytes().tag(sync=True)
    bits = traitlets.Int(4).tag(sync=True)
    group_size = traitlets.Int(None, allow_none=True).tag(sync=True)
    symmetric = traitlets.Bool(True).tag(sync=True)
    scale_dtype = traitlets.Unicode("float32").tag(sync=True)
    index = traitlets.Int().tag(sync=True)
    factor = traitlets.Float(1.0).tag(sync=True)

    def __init__(
        self,
        row: Float[Tensor, "weights"],
        *,
        name: str = "",
        bits: int = 4,
        group_size: int | None = 32,
        symmetric: bool = True,
        scale_dtype: torch.dtype = torch.float32,
        index: int | None = None,
        factor: float | int = 1.0,
    ) -> None:
        floats = _checked(row)
        if not isinstance(symmetric, bool):
            raise ValueError(f"symmetric must be True or False, got {symmetric!r}")
        super().__init__(
            name=name,
            row_bytes=floats.numpy().astype("<f4").tobytes(),
            bits=bits,
            group_size=group_size,
            symmetric=symmetric,
            scale_dtype=str(scale_dtype).removeprefix("torch."),
            index=int(floats.abs().argmax()) if index is None else index,
            factor=factor,
        )

    def row(self) -> Float[Tensor, "weights"]:
        """Return the row, with the chosen weight made larger."""
        row = torch.from_numpy(np.frombuffer(self.row_bytes, "<f4").astype(np.float32))
        row[self.index] *= self.factor
        return row

    def quantized(self) -> QuantizedTensor:
        """Return the row as :func:`effedu.quantization.quantize` gives it; its shape is (1, n)."""
        return quantize(
            self.row()[None],
            bits=self.bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=getattr(torch, self.scale_dtype),
        )

    @property
    def numbers(self) -> QuantizerNumbers:
        """What the page shows of the row."""
        row, stored = self.row().double(), self.quantized()
        restored = stored.dequantize()[0]
        error = restored.double() - row
        noise = error.square().sum()
        return QuantizerNumbers(
            codes=tuple(stored.codes()[0].tolist()),
            restored=tuple(restored.tolist()),
            largest_error=float(error.abs().max()),
            rms_error=float(error.square().mean().sqrt()),
            signal_to_noise=float(10 * torch.log10(row.square().sum() / noise)),
            nbytes=stored.nbytes,
        )

    @traitlets.validate("bits", "group_size", "scale_dtype", "index", "factor")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        weights = len(self.row_bytes) // 4
        if name == "bits" and value not in _BITS:
            raise ValueError(f"bits must be one of 2, 3, 4, 8; got {value!r}")
        if name == "group_size" and value is not None and (value < 1 or weights % value):
            raise ValueError(f"group_size must divide the {weights} weights, or None, got {value}")
        if name == "scale_dtype" and value not in _DTYPES:
            raise ValueError(f"scale_dtype must be one of {', '.join(_DTYPES)}; got {value!r}")
        if name == "index" and value not in range(weights):
            raise ValueError(f"index must be from 0 to {weights - 1}, got {value}")
        if name == "factor" and not 1 <= value <= 100:
            raise ValueError(f"factor must be from 1 to 100, got {value}")
        return value

    def _summary(self) -> str:
        kind = "symmetric" if self.symmetric else "with offset"
        weights = len(self.row_bytes) // 4
        return f"{weights} weights, bits={self.bits}, group_size={self.group_size}, {kind}"

    def fallback(self) -> str:
        """Return the row and its errors as a still picture, with its numbers in words."""
        numbers, row = self.numbers, self.row()
        each = 8 * numbers.nbytes / len(row)
        group = f"groups of {self.group_size}" if self.group_size else "one group"
        words = (
            f"{len(row)} weights{f', {self.name},' if self.name else ''} in {self.bits} bits and "
            f"{group}: {each:.2f} bits a weight with everything. The largest error is "
            f"{numbers.largest_error:.3g}, the root of the mean squared error "
            f"{numbers.rms_error:.3g}."
        )
        reach = float(row.abs().max()) or 1.0
        bars = "".join(f"M{j}.5 0V{-60 * w / reach:.1f}" for j, w in enumerate(row.tolist()))
        errors = "".join(
            f"M{j}.5 0V{-60 * (back - w) / reach:.1f}"
            for j, (w, back) in enumerate(zip(row.tolist(), numbers.restored, strict=True))
        )
        return (
            f'<figure class="fx-fallback"><svg role="img" aria-label="{html.escape(words)}" '
            f'viewBox="0 -60 {len(row)} 120" width="480" height="160" preserveAspectRatio="none" '
            f'style="max-width:100%"><path d="{bars}" stroke="#0072b2" stroke-width="0.7"/>'
            f'<path d="{errors}" stroke="#d55e00" stroke-width="0.7"/></svg>'
            f"<figcaption>{html.escape(words)}</figcaption></figure>"
        )


def _checked(row: Tensor) -> Float[Tensor, "weights"]:
    """Return the row as float32 on the CPU, or raise ``ValueError``."""
    if not isinstance(row, Tensor) or row.ndim != 1 or not row.is_floating_point():
        kind = f"{row.dtype}, {tuple(row.shape)}" if isinstance(row, Tensor) else type(row).__name__
        raise ValueError(f"row must be a floating-point tensor with one dimension, got {kind}")
    if not 2 <= len(row) <= _MOST:
        raise ValueError(f"row must have from 2 to {_MOST:,} weights, got {len(row):,}")
    floats = row.detach().float().cpu()
    # Made a hundred times larger, a weight still has to be a number.
    if not floats.abs().max() <= torch.finfo(torch.float32).max / 100:
        raise ValueError(
            f"row must hold finite numbers of a weight's size, got {float(floats.abs().max()):.3g}"
        )
    return floats
