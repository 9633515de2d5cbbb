"""A key-value cache in few bits: it keeps every token, each in less memory.

Used through ``patched(model, cache=quantized(4))`` in :mod:`effedu.patch`. Old keys and values are
turned back into numbers for each pass, so it saves memory and not time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from effedu._checks import check_int
from effedu.grids import check_bits
from effedu.quantization import QuantizedCache, quantize_cache


@dataclass(frozen=True)
class Quantized:
    """Old keys and values in ``bits`` bits, the ``recent`` newest as they are. See `quantized`."""

    bits: int = 4
    group_size: int = field(default=32, kw_only=True)
    recent: int = field(default=32, kw_only=True)

    def __post_init__(self) -> None:
        check_bits(self.bits)
        check_int("group_size", self.group_size, minimum=1)
        check_int("recent", self.recent, minimum=0)


def quantized(bits: int = 4, *, group_size: int = 32, recent: int = 32) -> Quantized:
    """Keep old keys and values in ``bits`` bits; see :func:`effedu.quantization.quantize_cache`.

    A pass attends to its own tokens as they are; afterwards all but the newest are rounded, once.

    Args:
        bits: 2, 3, 4 or 8.
        group_size: tokens that share the grids of their keys, at least 1.
        recent: newest tokens that stay as they are, at least 0.

    Raises:
        ValueError: an argument out of range.

    >>> quantized(2)
    Quantized(bits=2, group_size=32, recent=32)
    """
    return Quantized(bits, group_size=group_size, recent=recent)


class QuantizedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values: ``old`` in few bits, ``keys`` and ``values`` as they came."""

    keys: Tensor
    values: Tensor

    def __init__(self, policy: Quantized) -> None:
        super().__init__()
        self.policy = policy
        self.old: list[QuantizedCache] = []
        self.cumulative_length = 0  # tokens seen; transformers sets it to 0 in reset()

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        recent = self.keys.nbytes + self.values.nbytes if self.is_initialized else 0
        return recent + sum(part.nbytes for part in self.old)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        before = [part.dequantize() for part in self.old]
        self.cumulative_length += key_states.shape[2]
        self._round_what_is_old(keys, values)
        return (
            torch.cat([*(key for key, _ in before), keys], dim=2),
            torch.cat([*(value for _, value in before), values], dim=2),
        )

    def _round_what_is_old(self, keys: Tensor, values: Tensor) -> None:
        policy = self.policy
        if keys.shape[2] < policy.recent + policy.group_size:
            return  # as in most steps of writing: nothing fills a group yet
        found = quantize_cache(
            keys.detach(),
            values.detach(),
            bits=policy.bits,
            group_size=policy.group_size,
            recent=policy.recent,
        )
        self.keys, self.values = found.recent_key, found.recent_value
        none = self.keys[:, :, :0], self.values[:, :, :0]
        self.old.append(QuantizedCache(found.key, found.value, *none))

    # What transformers asks of a layer.

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def reset(self) -> None:
        super().reset()
        self.old = []

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise _fixed("cropped")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise _fixed("reordered, which beam search asks for")

    def batch_repeat_interleave(self, repeats: int) -> None:
        raise _fixed("repeated for more texts")

    def batch_select_indices(self, indices: Tensor) -> None:
        raise _fixed("cut down to some of its texts")


def _fixed(what: str) -> ValueError:
    return ValueError(f"a quantized cache can't be {what}: its codes are packed")
