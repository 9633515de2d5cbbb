"""Key-value caches with a fixed budget: what a model may forget while it generates.

Keys and values of evicted tokens are gone; the others keep the positions they had in the text.
A policy is used through ``patched(model, cache=...)`` in :mod:`effedu.patch`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from effedu._checks import check_int
from effedu.attention import attention_weights


@runtime_checkable
class Eviction(Protocol):
    """A policy: which of a layer's cached keys stay.

    ``keep`` gets, after each pass, the attention that every cached key has had so far, summed
    over all queries that have read it, and returns the indices of the keys that stay, ascending
    and at most ``budget`` of them.
    """

    @property
    def budget(self) -> int: ...

    @property
    def needs_scores(self) -> bool: ...

    def keep(
        self, scores: Float[Tensor, "batch key_heads keys"]
    ) -> Int[Tensor, "batch key_heads kept"]: ...


@dataclass(frozen=True)
class Streaming:
    """The first ``sinks`` tokens and the newest ones. Made by :func:`streaming`."""

    budget: int = 256
    sinks: int = field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        check_int("budget", self.budget, minimum=1)
        check_int("sinks", self.sinks, minimum=0)
        if self.sinks >= self.budget:
            raise ValueError(
                f"sinks must be less than budget, so that new tokens have a place, "
                f"got {self.sinks} and {self.budget}"
            )

    @property
    def needs_scores(self) -> bool:
        return False

    def keep(self, scores: Tensor) -> Tensor:
        keys = scores.shape[-1]
        column = torch.arange(keys, device=scores.device)
        stays = (column < self.sinks) | (column >= keys - (self.budget - self.sinks))
        return column[stays].expand(*scores.shape[:2], -1)


@dataclass(frozen=True)
class HeavyHitters:
    """The ``recent`` newest tokens and those with the most attention. See :func:`heavy_hitters`."""

    budget: int = 256
    recent: int = field(default=128, kw_only=True)

    def __post_init__(self) -> None:
        check_int("budget", self.budget, minimum=1)
        check_int("recent", self.recent, minimum=1)
        if self.recent > self.budget:
            raise ValueError(f"recent must be at most budget, got {self.recent} and {self.budget}")

    @property
    def needs_scores(self) -> bool:
        return True

    def keep(self, scores: Tensor) -> Tensor:
        keys = scores.shape[-1]
        old = scores[..., : keys - self.recent]
        heavy = old.topk(self.budget - self.recent, dim=-1).indices.sort(-1).values
        newest = torch.arange(keys - self.recent, keys, device=scores.device)
        return torch.cat([heavy, newest.expand(*scores.shape[:2], -1)], dim=-1)


def streaming(budget: int = 256, *, sinks: int = 4) -> Streaming:
    """Keep the first ``sinks`` tokens and the newest ``budget - sinks``, for :func:`patched`.

    Args:
        budget: most tokens that a layer's cache holds between two passes.
        sinks: first tokens of the text that always stay, less than ``budget``.

    Raises:
        ValueError: an argument that is not an integer or out of range.

    Source: Xiao et al. (2023), "Efficient Streaming Language Models with Attention Sinks",
    section 3.2, https://arxiv.org/abs/2309.17453. There the kept tokens are numbered anew, from
    their places in the cache, so that a text can outgrow the model's positions; here they keep
    their own, so that the cache can be compared with a model that reads everything.

    >>> streaming(6, sinks=2).keep(torch.zeros(1, 1, 9))[0, 0].tolist()
    [0, 1, 5, 6, 7, 8]
    """
    return Streaming(budget, sinks=sinks)


def heavy_hitters(budget: int = 256, *, recent: int = 128) -> HeavyHitters:
    """Keep the ``recent`` newest tokens and those that attention has used most.

    A token's score is the sum of the attention weights that all queries so far gave it. Each
    layer and each key head keeps its own tokens (grouped queries: the sum over the group).

    Args:
        budget: most tokens that a layer's cache holds between two passes.
        recent: newest tokens that always stay, from 1 to ``budget``.

    Raises:
        ValueError: an argument that is not an integer or out of range.

    Source: Zhang et al. (2023), "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of
    Large Language Models", https://arxiv.org/abs/2306.14048.

    >>> heavy_hitters(4, recent=2).keep(torch.tensor([[[0.1, 3.0, 0.2, 1.0, 0.4, 0.0]]]))
    tensor([[[1, 3, 4, 5]]])
    """
    return HeavyHitters(budget, recent=recent)


class EvictingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values, cut down to the budget after each pass.

    ``positions`` are the numbers that the kept tokens have in the text, ``(batch, key_heads,
    kept)``. A pass first lets its own tokens in, then attends, then evicts: its queries see at
    most ``budget`` old keys, and of its own tokens all that the causal mask allows.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, policy: Eviction) -> None:
        super().__init__()
        self.policy = policy
        self.cumulative_length = 0  # tokens seen; transformers sets it to 0 in reset()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        shape = (*key_states.shape[:2], 0)
        self.positions = torch.zeros(shape, dtype=torch.long, device=key_states.device)
        self.scores = torch.zeros(shape, device=key_states.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        seen = self.cumulative_length + key_states.shape[2]
        new = torch.arange(self.cumulative_length, seen, device=keys.device)
        new = new.expand(*keys.shape[:2], -1)
        self.positions = torch.cat([self.positions, new], dim=-1)
        self.scores = torch.cat([self.scores, self.scores.new_zeros(new.shape)], dim=-1)
        self.cumulative_length = seen
        return keys, values

    def evict(self, query: Float[Tensor, "batch heads queries head_dim"]) -> None:
        """After attention with these queries, scaled as attention used them: forget the rest."""
        if self.policy.needs_scores:
            self.scores = self.scores + _attention_received(query, self.keys)
        if self.keys.shape[2] <= self.policy.budget:
            return
        kept = self.policy.keep(self.scores)
        self.keys = _take(self.keys, kept)
        self.values = _take(self.values, kept)
        self.positions = self.positions.gather(2, kept)
        self.scores = self.scores.gather(2, kept)

    # What transformers asks of a layer: the text goes on where it stopped, whatever was evicted.

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        kept = self.keys.shape[2] if self.is_initialized else 0
        return kept + query_length, self.cumulative_length - kept

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError("an evicting cache can't be cropped: what it forgot is gone")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rows(lambda x: x[indices])

    def _rows(self, change: Any) -> None:
        if self.is_initialized:
            for name in ("keys", "values", "positions", "scores"):
                setattr(self, name, change(getattr(self, name)))


@torch.no_grad()
def _attention_received(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
) -> Float[Tensor, "batch key_heads keys"]:
    """The weights that each key gets, summed over queries, a few hundred queries at a time."""
    queries, keys = query.shape[2], key.shape[2]
    received = torch.zeros(key.shape[:3], device=key.device)
    for start in range(0, queries, 256):
        stop = min(start + 256, queries)
        seen = keys - queries + stop
        weights = attention_weights(query[:, :, start:stop], key[:, :, :seen])
        weights = weights.float().sum(2)  # (batch, heads, seen)
        by_group = weights.reshape(*key.shape[:2], -1, seen)
        received[..., :seen] += by_group.sum(2)
    return received


def _take(x: Tensor, index: Tensor) -> Tensor:
    """``(batch, heads, keys, dim)`` at ``(batch, heads, kept)`` of its keys."""
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[3]))
