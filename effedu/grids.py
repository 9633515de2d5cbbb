"""Grids of evenly spaced numbers: how a group of weights is rounded, and its codes are packed.

The parts that :mod:`effedu.quantization` and :mod:`effedu.calibration` share. A weight becomes
``offset + scale · code`` with a code of 2 to 8 bits (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from effedu._checks import check_int

BITS = (2, 3, 4, 8)


def check_bits(bits: object) -> None:
    """Raise ``ValueError`` unless ``bits`` is a width that codes can have.

    >>> check_bits(3)
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}; got {bits!r}")


def check_weight(weight: Tensor) -> Tensor:
    """The weight in float32, if it has numbers in it that can be rounded."""
    if not isinstance(weight, Tensor):
        raise ValueError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
    if not weight.is_floating_point():
        raise ValueError(f"weight must have a floating-point dtype, got {weight.dtype}")
    if weight.ndim == 0 or weight.numel() == 0:
        raise ValueError(
            f"weight must have an axis and not be empty, got shape {tuple(weight.shape)}"
        )
    values = weight.detach().float()
    if not values.isfinite().all():
        count = int((~values.isfinite()).sum())
        raise ValueError(f"weight must be finite in float32, got {count} NaN or infinite numbers")
    return values


def group_length(weight: Tensor, group_size: int | None, per_tensor: bool = False) -> int:
    """How many numbers share a scale, once ``group_size`` is known to fit."""
    columns = weight.shape[-1]
    if per_tensor and group_size is not None:
        raise ValueError(f"group_size must be None with per_tensor, got {group_size!r}")
    if per_tensor:
        return weight.numel()
    if group_size is None:
        return columns
    check_int("group_size", group_size, minimum=1)
    if columns % group_size:
        raise ValueError(
            f"group_size must divide the last axis, {columns}, got {group_size}; "
            f"pass {math.gcd(columns, group_size)}, or None for whole rows"
        )
    return group_size


class Grid(NamedTuple):
    """The numbers that the weights of a group may become: ``offset + scale · code``.

    ``code`` runs from 0 to ``2**bits - 1``. A symmetric grid has no offset of its own: half of its
    codes lie below zero, so its offset is ``-scale · 2**(bits - 1)``.
    """

    scale: Float[Tensor, "groups"]
    offset: Float[Tensor, "groups"] | None


def make_grid(
    groups: Float[Tensor, "groups size"],
    *,
    bits: int,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> Grid:
    r"""The grid of each row of ``groups``, wide enough that rounding errs by half a step at most.

    Symmetric: :math:`s = \max|w| / (2^{b-1} - \tfrac12)`, the scale of PyTorch's own observers.
    Otherwise: :math:`s = (\max w - \min w) / (2^b - 1)` with :math:`\min w` as the offset.

    Args:
        groups: ``(groups, size)``, finite float32; each row gets a grid of its own.
        bits: of a code; 2, 3, 4 or 8.
        symmetric: whether zero stays exactly zero, and the grid reaches as far down as up.
        scale_dtype: of scale and offset: ``torch.float32``, or ``torch.bfloat16`` at half the size.

    Raises:
        ValueError: ``bits`` or ``scale_dtype`` that is not one of these.

    >>> make_grid(torch.tensor([[-1.0, 0.5, 3.0]]), bits=2, symmetric=False)
    Grid(scale=tensor([1.3333]), offset=tensor([-1.]))
    """
    check_bits(bits)
    if scale_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"scale_dtype must be torch.float32 or torch.bfloat16, got {scale_dtype}")
    if symmetric:
        offset = None
        scale = groups.abs().amax(1) / ((2**bits - 1) / 2)
    else:
        offset = -_round_up(-groups.amin(1), scale_dtype)  # down: the grid must reach the lowest
        steps = 2**bits - 1
        scale = groups.amax(1) / steps - offset.float() / steps
    # A group without any spread, such as a row of zeros, is code 0 (or the middle) at any scale.
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(scale < tiny, torch.ones_like(scale), scale)
    return Grid(_round_up(scale, scale_dtype), offset)


def _round_up(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Change the dtype without making any number smaller."""
    rounded = numbers.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, math.inf))
    return torch.where(rounded.float() < numbers, above, rounded)


def round_to_grid(
    groups: Float[Tensor, "groups size"], grid: Grid, *, bits: int
) -> UInt8[Tensor, "groups size"]:
    """The code of the nearest grid point for each number; what lies outside goes to the end.

    >>> weights = torch.tensor([[-1.0, 0.5, 3.0]])
    >>> round_to_grid(weights, make_grid(weights, bits=2, symmetric=False), bits=2)
    tensor([[0, 1, 3]], dtype=torch.uint8)
    """
    # Times 1/scale, as PyTorch's quantizers do: dividing rounds some numbers to the other side.
    step = 1 / grid.scale.float()[:, None]
    code: Tensor
    if grid.offset is None:
        code = (groups * step).round() + 2 ** (bits - 1)
    else:
        code = ((groups - grid.offset.float()[:, None]) * step).round()
    return code.clamp(0, 2**bits - 1).to(torch.uint8)


def from_grid(
    codes: UInt8[Tensor, "groups size"], grid: Grid, *, bits: int
) -> Float[Tensor, "groups size"]:
    """The numbers that codes stand for, in float32: ``offset + scale · code``."""
    scale = grid.scale.float()[:, None]
    numbers: Tensor
    if grid.offset is None:
        numbers = (codes.float() - 2 ** (bits - 1)) * scale  # exactly zero at the middle code
    else:
        numbers = codes.float() * scale + grid.offset.float()[:, None]
    return numbers


def pack(codes: UInt8[Tensor, "count"], bits: int) -> UInt8[Tensor, "bytes"]:
    """Codes without the bits that are always zero: 8 codes of 3 bits take 3 bytes.

    The first code has the lowest bits of the first byte. The end is filled up with zeros to a
    multiple of 8 codes.

    >>> pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0], dtype=torch.uint8), bits=3).tolist()
    [209, 88, 31]
    """
    check_bits(bits)
    if bits == 8:
        return codes
    units = F.pad(codes, (0, -len(codes) % 8)).view(-1, 8).long()
    word = (units << bits * torch.arange(8, device=codes.device)).sum(1, keepdim=True)
    packed: Tensor = word >> 8 * torch.arange(bits, device=codes.device) & 255  # (units, bits)
    return packed.to(torch.uint8).flatten()


def unpack(packed: UInt8[Tensor, "bytes"], bits: int, count: int) -> UInt8[Tensor, "count"]:
    """The first ``count`` codes that :func:`pack` packed.

    >>> unpack(torch.tensor([209, 88, 31], dtype=torch.uint8), bits=3, count=7).tolist()
    [1, 2, 3, 4, 5, 6, 7]
    """
    check_bits(bits)
    if bits == 8:
        return packed[:count]
    units = packed.view(-1, bits).long()
    word = (units << 8 * torch.arange(bits, device=packed.device)).sum(1, keepdim=True)
    codes: Tensor = word >> bits * torch.arange(8, device=packed.device) & 2**bits - 1  # (units, 8)
    return codes.to(torch.uint8).flatten()[:count]
