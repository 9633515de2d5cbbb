"""Quantization: each weight becomes one of a few evenly spaced numbers, stored in 2 to 8 bits.

A group of weights shares a scale, and each weight is rounded to the nearest multiple of it (Jacob
et al., 2018, https://arxiv.org/abs/1712.05877). :func:`quantize` stores the codes really packed,
and :func:`quantize_cache` does the same for keys and values. Layers that compute with such weights
are in :mod:`effedu.quantized_linear`; rounding that looks at a layer's inputs is in
:mod:`effedu.calibration`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from effedu._checks import check_int
from effedu.grids import (
    Grid,
    check_bits,
    check_weight,
    from_grid,
    group_length,
    make_grid,
    pack,
    round_to_grid,
    unpack,
)


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Codes, packed to ``bits`` bits each, and the grid of each group; :func:`quantize` makes one.

    Groups are runs of the tensor's numbers in their order in memory. ``group_size`` is how many
    share a scale, whether that is a part of a row, a row or the whole tensor.
    """

    packed: UInt8[Tensor, "bytes"]
    grid: Grid
    bits: int
    shape: tuple[int, ...]

    @property
    def group_size(self) -> int:
        """Numbers that share a scale."""
        return math.prod(self.shape) // len(self.grid.scale)

    @property
    def symmetric(self) -> bool:
        """Whether the grids have no offset."""
        return self.grid.offset is None

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored: codes, scales and offsets."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each number, its share of the scales and offsets included."""
        return 8 * self.nbytes / math.prod(self.shape)

    def codes(self) -> Integer[Tensor, "..."]:
        """The codes, one byte each, in the tensor's shape.

        Symmetric ones count from the middle (int8, such as -2 to 1 for 2 bits), others from 0.
        """
        codes = unpack(self.packed, self.bits, math.prod(self.shape)).view(self.shape)
        if self.symmetric:
            codes = codes.int().sub_(2 ** (self.bits - 1)).to(torch.int8)
        return codes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """The numbers that the codes stand for."""
        codes = unpack(self.packed, self.bits, math.prod(self.shape))
        groups = from_grid(codes.view(-1, self.group_size), self.grid, bits=self.bits)
        return groups.view(self.shape).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, to be saved with :meth:`metadata`, for example in safetensors."""
        tensors = {"packed": self.packed, "scale": self.grid.scale}
        if self.grid.offset is not None:
            tensors["offset"] = self.grid.offset
        return tensors

    def metadata(self) -> dict[str, str]:
        """What :meth:`from_tensors` needs besides the tensors, as text."""
        return {"bits": str(self.bits), "shape": json.dumps(self.shape)}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> QuantizedTensor:
        """Put together again what :meth:`tensors` and :meth:`metadata` gave.

        Raises:
            ValueError: something is missing, or the parts do not fit together.

        >>> a = quantize(torch.eye(8), bits=3)
        >>> b = QuantizedTensor.from_tensors(a.tensors(), a.metadata())
        >>> torch.equal(a.dequantize(), b.dequantize())
        True
        """
        missing = {"packed", "scale"} - tensors.keys() | {"bits", "shape"} - metadata.keys()
        if missing:
            raise ValueError(
                f"tensors must hold packed and scale, and metadata bits and shape; "
                f"missing: {', '.join(sorted(missing))}"
            )
        bits, shape = json.loads(metadata["bits"]), tuple(json.loads(metadata["shape"]))
        check_bits(bits)
        packed, scale, offset = tensors["packed"], tensors["scale"], tensors.get("offset")
        count = math.prod(shape)
        size = count if bits == 8 else bits * -(-count // 8)
        if len(packed) != size or not len(scale) or count % len(scale):
            raise ValueError(
                f"packed and scale must fit shape {shape} at {bits} bits ({size} bytes, and groups "
                f"of one size), got {len(packed)} bytes and {len(scale)} scales"
            )
        if offset is not None and offset.shape != scale.shape:
            raise ValueError(
                f"offset must have the shape of scale, {tuple(scale.shape)}, "
                f"got {tuple(offset.shape)}"
            )
        return cls(packed, Grid(scale, offset), bits, shape)

    def __repr__(self) -> str:
        kind = "symmetric" if self.symmetric else "with offset"
        return (
            f"QuantizedTensor(shape {self.shape}, {self.bits} bits, groups of {self.group_size}, "
            f"{kind}, {self.bits_per_weight:.3g} bits per weight)"
        )


def quantize(
    weight: Float[Tensor, "..."],
    *,
    bits: int = 8,
    group_size: int | None = None,
    per_tensor: bool = False,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> QuantizedTensor:
    r"""Round each number to the nearest point of its group's grid, and store the codes packed.

    With scale :math:`s` and offset :math:`z` of its group, a weight becomes
    :math:`\hat w = z + s\,q` with :math:`q = \operatorname{round}((w - z) / s)`, so that
    :math:`|\hat w - w| \le s / 2` (up to float32 rounding). The last axis is the one that groups
    lie along: the inputs of a linear layer's weight.

    Args:
        weight: floating-point, any shape, finite. Computed in float32.
        bits: of a code; 2, 3, 4 or 8.
        group_size: numbers along the last axis that share a scale; a whole row if None.
        per_tensor: one scale for all.
        symmetric: no offset, and zero stays zero. Otherwise each grid begins at its group's lowest
            number, which wastes no codes where the numbers lie to one side.
        scale_dtype: of scales and offsets: ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        ValueError: ``bits`` or ``scale_dtype`` not among these; a weight that is empty, not
            floating-point or not finite; ``group_size`` that does not divide the last axis, or
            that comes with ``per_tensor``.

    >>> weight = torch.tensor([[-1.0, 0.5, 3.0, 0.0]])
    >>> quantize(weight, bits=2, symmetric=False).dequantize()
    tensor([[-1.0000,  0.3333,  3.0000,  0.3333]])
    >>> quantize(torch.randn(64, 256), bits=4, group_size=32, scale_dtype=torch.bfloat16)
    QuantizedTensor(shape (64, 256), 4 bits, groups of 32, symmetric, 4.5 bits per weight)
    """
    check_bits(bits)
    values = check_weight(weight)
    size = group_length(weight, group_size, per_tensor)
    groups = values.reshape(-1, size)
    grid = make_grid(groups, bits=bits, symmetric=symmetric, scale_dtype=scale_dtype)
    codes = round_to_grid(groups, grid, bits=bits)
    return QuantizedTensor(pack(codes.flatten(), bits), grid, bits, tuple(weight.shape))


class QuantizedCache(NamedTuple):
    """Keys and values of a text: old tokens quantized, the newest as they were.

    ``key`` and ``value`` are None while no token is old enough.
    """

    key: QuantizedTensor | None  # (batch, heads, head_dim, old): a row is one channel
    value: QuantizedTensor | None  # (batch, heads, old, value_dim): a row is one token
    recent_key: Float[Tensor, "batch heads recent head_dim"]
    recent_value: Float[Tensor, "batch heads recent value_dim"]

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return sum(part.nbytes for part in self if part is not None)

    def dequantize(
        self,
    ) -> tuple[
        Float[Tensor, "batch heads length head_dim"], Float[Tensor, "batch heads length value_dim"]
    ]:
        """Keys and values of all tokens, in the dtype of the recent ones."""
        if self.key is None or self.value is None:
            return self.recent_key, self.recent_value
        dtype = self.recent_key.dtype
        key = self.key.dequantize(dtype).transpose(-1, -2)  # (batch, heads, old, head_dim)
        value = self.value.dequantize(dtype)
        return torch.cat([key, self.recent_key], 2), torch.cat([value, self.recent_value], 2)


def quantize_cache(
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    *,
    bits: int = 4,
    group_size: int = 32,
    recent: int = 0,
) -> QuantizedCache:
    """Quantize a KV cache: keys channel by channel, values token by token.

    Some channels of the keys are larger than others for every token, so each channel has grids of
    its own, shared by ``group_size`` neighbouring tokens. A token's values share theirs: all of a
    head, or ``group_size`` at a time where that divides their width. Groups are counted from the
    first token. The newest ``recent`` tokens, and those that do not fill a group yet, stay as they
    are.

    Args:
        key: ``(batch, heads, length, head_dim)``, any length.
        value: ``(batch, heads, length, value_dim)``.
        bits: of a code; 2, 3, 4 or 8.
        group_size: numbers that share a grid, at least 1.
        recent: tokens that are always kept as they are.

    Raises:
        ValueError: shapes or dtypes that do not fit, or an argument out of range.

    Source: Liu et al. (2024), "KIVI", https://arxiv.org/abs/2402.02750.

    >>> cache = quantize_cache(torch.randn(1, 4, 100, 64), torch.randn(1, 4, 100, 64))
    >>> cache.key.shape, cache.recent_key.shape
    ((1, 4, 64, 96), torch.Size([1, 4, 4, 64]))
    """
    check_bits(bits)
    check_int("group_size", group_size, minimum=1)
    check_int("recent", recent, minimum=0)
    if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
        raise ValueError(
            f"key and value must be (batch, heads, length, width) and differ in width only, "
            f"got shapes {tuple(key.shape)} and {tuple(value.shape)}"
        )
    old = max(key.shape[2] - recent, 0) // group_size * group_size
    newest = QuantizedCache(None, None, key[:, :, old:].clone(), value[:, :, old:].clone())
    if not old:
        return newest
    channels = key[:, :, :old].transpose(-1, -2)  # (batch, heads, head_dim, old)
    tokens = value[:, :, :old]
    size = None if value.shape[3] % group_size else group_size
    options: dict[str, Any] = {
        "bits": bits,
        "symmetric": False,
        "scale_dtype": torch.bfloat16,
    }
    return newest._replace(
        key=quantize(channels, group_size=group_size, **options),
        value=quantize(tokens, group_size=size, **options),
    )
