"""Attentions by name, for :func:`effedu.patch.patched`: what each computes, and what it lets see.

A pattern is a small frozen object: it computes attention for a prefill, for a chunk of one and for
a cached step, and it gives the same pattern as a rule on positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from effedu._checks import check_int
from effedu.attention import attention as dense_attention
from effedu.blocking import block_attention
from effedu.pruning import (
    block_topk_attention,
    check_threshold,
    threshold_attention,
    topk_attention,
)


@runtime_checkable
class CausalAttention(Protocol):
    """What :func:`patched` needs to know about an attention.

    ``attend(query, key, value)`` computes it for queries that are the last of the keys: all of
    them in a prefill, a few in a chunk of one, a single one when a model generates.
    ``visible(query_position, key_position)`` is the same pattern as a mask, for any two
    broadcastable tensors of positions (a token's number in its own text, from 0). A query sees at
    most the ``reach`` latest positions, itself included (``None``: all of them), and the first
    ``sinks`` ones.
    """

    @property
    def reach(self) -> int | None: ...

    @property
    def sinks(self) -> int: ...

    def attend(
        self,
        query: Float[Tensor, "batch heads queries head_dim"],
        key: Float[Tensor, "batch key_heads keys head_dim"],
        value: Float[Tensor, "batch key_heads keys value_dim"],
    ) -> Float[Tensor, "batch heads queries value_dim"]: ...

    def visible(
        self, query_position: Int[Tensor, "..."], key_position: Int[Tensor, "..."]
    ) -> Bool[Tensor, "..."]: ...


@runtime_checkable
class ChoosingAttention(CausalAttention, Protocol):
    """An attention that chooses its keys by their content, so that no rule on positions tells them.

    ``attend_where`` computes it where ``mask`` lets a query look. ``visible`` gives what it
    chooses from.
    """

    def attend_where(
        self,
        query: Float[Tensor, "batch heads queries head_dim"],
        key: Float[Tensor, "batch key_heads keys head_dim"],
        value: Float[Tensor, "batch key_heads keys value_dim"],
        mask: Bool[Tensor, "..."],
    ) -> Float[Tensor, "batch heads queries value_dim"]: ...


class _SeesAll:
    """What attentions have in common in which any earlier token may count."""

    @property
    def reach(self) -> None:
        return None

    @property
    def sinks(self) -> int:
        return 0

    def visible(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        return key_position <= query_position


@dataclass(frozen=True)
class DenseAttention(_SeesAll):
    """Every token sees every token before it. Made by :func:`dense`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # A single new token sees every key: without a mask the kernel need not read one.
        return dense_attention(query, key, value, causal=query.shape[2] > 1)


@dataclass(frozen=True)
class BlockAttention:
    """Every token sees its own block, the ``blocks_back`` before it and the sinks.

    Made by :func:`block`.
    """

    block_size: int = 128
    blocks_back: int = field(default=1, kw_only=True)
    sinks: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_int("block_size", self.block_size, minimum=1)
        check_int("blocks_back", self.blocks_back, minimum=0)
        check_int("sinks", self.sinks, minimum=0)

    @property
    def reach(self) -> int:
        return (self.blocks_back + 1) * self.block_size

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        queries, keys = query.shape[2], key.shape[2]
        if queries == keys:
            return self._prefill(query, key, value)
        # Of the cache, only the sinks and the window of the first query onwards are ever read.
        first = keys - queries
        start = max(0, first // self.block_size - self.blocks_back) * self.block_size
        if queries >= self.block_size:
            return self._long_chunk(query, key, value, start)
        sinks = min(self.sinks, start)
        mask = None
        if queries > 1:
            position = torch.arange(keys, device=query.device)
            live = _without(position, sinks, start, dim=0)
            mask = self.visible(position[first:, None], live)
        key, value = _without(key, sinks, start), _without(value, sinks, start)
        return dense_attention(query, key, value, causal=False, mask=mask)

    def visible(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        distance = query_position // self.block_size - key_position // self.block_size
        near = (distance <= self.blocks_back) | (key_position < self.sinks)
        return near & (key_position <= query_position)

    def _prefill(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return block_attention(
            query,
            key,
            value,
            block_size=self.block_size,
            blocks_back=self.blocks_back,
            sinks=self.sinks,
        )

    def _long_chunk(self, query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
        """A chunk as the end of a prefill of what it sees: whole blocks, so none changes its place.

        The few keys before the chunk get queries of zeros, whose output is dropped.
        """
        sinks = -(-self.sinks // self.block_size) * self.block_size
        if sinks >= start:
            sinks = start = 0
        key, value = _without(key, sinks, start), _without(value, sinks, start)
        queries = query.shape[2]
        query = F.pad(query, (0, 0, key.shape[2] - queries, 0))
        return self._prefill(query, key, value)[:, :, -queries:]


@dataclass(frozen=True)
class TopKAttention(_SeesAll):
    """Every token sees the ``k`` keys that it gives the largest weights. Made by :func:`topk`."""

    k: int

    def __post_init__(self) -> None:
        check_int("k", self.k, minimum=1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return topk_attention(query, key, value, k=self.k).output

    def attend_where(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return topk_attention(query, key, value, k=self.k, causal=False, mask=mask).output


@dataclass(frozen=True)
class ThresholdAttention(_SeesAll):
    """Every token drops the weights below ``threshold``. Made by :func:`threshold`."""

    threshold: float

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return threshold_attention(query, key, value, threshold=self.threshold).output

    def attend_where(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        pruned = threshold_attention(
            query, key, value, threshold=self.threshold, causal=False, mask=mask
        )
        return pruned.output


@dataclass(frozen=True)
class BlockTopKAttention(_SeesAll):
    """Every block of tokens chooses ``k`` blocks of keys. Made by :func:`block_topk`."""

    block_size: int = 64
    k: int = 8

    def __post_init__(self) -> None:
        check_int("block_size", self.block_size, minimum=1)
        check_int("k", self.k, minimum=2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return block_topk_attention(query, key, value, block_size=self.block_size, k=self.k)

    def attend_where(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One new token in each row, whose keys are those that the mask shows."""
        if query.shape[2] > 1:
            raise ValueError(
                "block_topk cuts a text into blocks from its first token, which a mask of queries "
                "x keys does not allow (packed sequences, a static cache, output_attentions=True, "
                "a padded batch read in chunks); use topk or block there"
            )
        rows = mask.expand(len(query), 1, 1, -1)[:, 0, 0]  # (batch, keys)
        outputs = [
            self.attend(query[i : i + 1], key[i : i + 1, :, row], value[i : i + 1, :, row])
            for i, row in enumerate(rows)
        ]
        return torch.cat(outputs)


def dense() -> DenseAttention:
    """Ordinary causal attention, as a baseline for the others.

    >>> dense().visible(torch.tensor([[0], [1]]), torch.tensor([0, 1])).int()
    tensor([[1, 0],
            [1, 1]], dtype=torch.int32)
    """
    return DenseAttention()


def block(block_size: int = 128, *, blocks_back: int = 1, sinks: int = 0) -> BlockAttention:
    """Block attention for :func:`patched`; see :func:`effedu.blocking.block_attention`.

    Args:
        block_size: tokens in a block, at least 1.
        blocks_back: blocks before its own that a token sees, at least 0.
        sinks: first tokens of the text that every later token sees, at least 0.

    Raises:
        ValueError: an argument that is not an integer or too small.

    >>> block(2, blocks_back=0, sinks=1)
    BlockAttention(block_size=2, blocks_back=0, sinks=1)
    """
    return BlockAttention(block_size, blocks_back=blocks_back, sinks=sinks)


def topk(k: int) -> TopKAttention:
    """Exact top-k attention for :func:`patched`; see :func:`effedu.pruning.topk_attention`.

    It scores all keys, in a prefill as in a cached step, so it is slower than dense attention.

    Raises:
        ValueError: ``k`` is not an integer of at least 1.

    >>> topk(32)
    TopKAttention(k=32)
    """
    return TopKAttention(k)


def threshold(threshold: float) -> ThresholdAttention:
    """Attention without small weights for :func:`patched`, slower than dense attention.

    See :func:`effedu.pruning.threshold_attention`.

    Raises:
        ValueError: ``threshold`` is not from 0 to 1.

    >>> threshold(0.01)
    ThresholdAttention(threshold=0.01)
    """
    return ThresholdAttention(threshold)


def block_topk(block_size: int = 64, k: int = 8) -> BlockTopKAttention:
    """Chosen blocks for :func:`patched`; see :func:`effedu.pruning.block_topk_attention`.

    In a prefill the first token of a block chooses for the block; in a cached step the new token
    chooses for itself. So a text that was generated with a cache and the same text read at once
    can differ.

    Raises:
        ValueError: ``block_size`` below 1, or ``k`` below 2.

    >>> block_topk(32, k=4)
    BlockTopKAttention(block_size=32, k=4)
    """
    return BlockTopKAttention(block_size, k)


def _without(x: Tensor, start: int, stop: int, dim: int = 2) -> Tensor:
    """``x`` less the columns from ``start`` to ``stop - 1``; a view where nothing comes before."""
    rest = x.narrow(dim, stop, x.shape[dim] - stop)
    return torch.cat([x.narrow(dim, 0, start), rest], dim=dim) if start else rest
