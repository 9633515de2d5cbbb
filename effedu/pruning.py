"""Pruned attention: drop the small weights and share the rest out anew.

Two ways, and they differ in cost. Dropping weights *after* all scores are computed changes the
result a little and saves nothing (:func:`threshold_attention`, :func:`topk_attention`); choosing
blocks of keys *before* scoring them saves what it skips (:func:`block_topk_attention`).
The choice by mean-pooled keys is that of Lu et al. (2025), https://arxiv.org/abs/2502.13189.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from effedu._checks import check_attention_inputs, check_int, repeat_key_value
from effedu.attention import attention, attention_weights, causal_mask


class Pruned(NamedTuple):
    """What a pruned attention returns.

    ``output`` is ``(batch, heads, queries, value_dim)``. ``kept_mass`` is ``(batch, heads,
    queries)``: the sum of the dense softmax weights, before renormalising, of the keys that a
    query kept. A query that may look at nothing drops nothing: its output is 0, its mass 1.
    """

    output: Float[Tensor, "batch heads queries value_dim"]
    kept_mass: Float[Tensor, "batch heads queries"]


def check_threshold(threshold: float | int) -> float | int:
    """Return ``threshold`` if a weight could have it, else raise ``ValueError``.

    >>> check_threshold(0.25)
    0.25
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold!r}")
    return threshold


def threshold_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    threshold: float | int,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
) -> Pruned:
    r"""Dense attention without the weights below ``threshold``; the rest sums to one again.

    With :math:`A` the dense weights and :math:`S_i` the keys that query :math:`i` keeps,
    :math:`o_i = \sum_{j \in S_i} A_{ij} v_j / \sum_{j \in S_i} A_{ij}`. Every query keeps its
    largest weight, so no output is undefined. :func:`error_bound` says how far the output can be
    from the dense one. All weights are computed first: this takes more time and memory than
    :func:`effedu.attention.attention`, not less.

    Args:
        query: ``(batch, heads, queries, head_dim)``.
        key: ``(batch, key_heads, keys, head_dim)``; ``heads`` a multiple of ``key_heads``.
        value: ``(batch, key_heads, keys, value_dim)``.
        threshold: from 0 (drops nothing) to 1 (keeps the largest weight only).
        causal: if true, no query looks at a later position. The last query stands at the last key.
        mask: boolean, as in :func:`effedu.attention.attention`.

    Raises:
        ValueError: shapes, dtypes, devices or a mask that do not fit, or a threshold outside of
            0 to 1.

    >>> key = torch.tensor([[[[0.0], [0.0], [3.0]]]])
    >>> out, mass = threshold_attention(key + 1, key, key, threshold=0.1, causal=False)
    >>> out.flatten().tolist(), [round(m, 3) for m in mass.flatten().tolist()]
    ([3.0, 3.0, 3.0], [0.909, 0.909, 1.0])
    """
    check_attention_inputs(query, key, value)
    check_threshold(threshold)
    weights = _weights(query, key, causal, mask)
    limit = weights.amax(-1, keepdim=True).clamp(max=threshold)  # at most the largest
    return _keep(weights, weights >= limit, query, value)


def topk_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    k: int,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
) -> Pruned:
    r"""Dense attention with the ``k`` largest weights of each query only, which sum to one again.

    As :func:`threshold_attention`, with :math:`S_i` the ``k`` keys of the largest weights (all of
    them where a query sees fewer). Weights equal to the ``k``-th stay too, so that the result
    does not depend on the order of the keys. All weights are computed first: this takes more time
    and memory than dense attention, not less.

    Args:
        query, key, value, causal, mask: as in :func:`threshold_attention`.
        k: keys that a query keeps, at least 1.

    Raises:
        ValueError: shapes, dtypes, devices or a mask that do not fit, or ``k`` below 1.

    >>> key = torch.tensor([[[[0.0], [0.0], [3.0]]]])
    >>> topk_attention(key + 1, key, key, k=1).output.flatten()  # the first two weights are equal
    tensor([0., 0., 3.])
    """
    check_attention_inputs(query, key, value)
    check_int("k", k, minimum=1)
    weights = _weights(query, key, causal, mask)
    kth = weights.topk(min(k, weights.shape[-1]), dim=-1).values[..., -1:]
    return _keep(weights, weights >= kth, query, value)


def error_bound(
    kept_mass: Float[Tensor, "batch heads queries"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    causal: bool = True,
) -> Float[Tensor, "batch heads queries value_dim"]:
    r"""How far pruned attention can be from dense attention, for each number of the output.

    :math:`|\tilde o_{ic} - o_{ic}| \le (1 - m_i)\,(\max_j v_{jc} - \min_j v_{jc})`, over the keys
    :math:`j` that query :math:`i` may see; :math:`m_i` is its kept mass. Proof: let :math:`k` be
    the weighted mean of the kept values and :math:`r` that of the dropped ones. Then
    :math:`o = m k + (1 - m) r`, while the pruned output is :math:`k`, so the two differ by
    :math:`(1 - m)(k - r)`; and both means lie between the smallest and the largest value.
    It holds for every choice of keys, up to rounding.

    Args:
        kept_mass: as a pruned attention returns it.
        value: the values of that attention.
        causal: whether that attention was causal; with a mask besides, the bound is only wider.

    Raises:
        ValueError: tensors that do not fit.

    >>> value = torch.tensor([[[[0.0], [1.0], [4.0]]]])
    >>> error_bound(torch.full((1, 1, 3), 0.75), value).flatten()
    tensor([0.0000, 0.2500, 1.0000])
    """
    if value.ndim != 4 or kept_mass.ndim != 3:
        raise ValueError(
            f"kept_mass must be (batch, heads, queries) and value (batch, key_heads, keys, "
            f"value_dim), got shapes {tuple(kept_mass.shape)} and {tuple(value.shape)}"
        )
    (batch, heads, queries), (values, key_heads, keys, _) = kept_mass.shape, value.shape
    if batch != values or heads % key_heads or (causal and queries > keys):
        raise ValueError(
            f"kept_mass and value must be of one attention, got shapes "
            f"{tuple(kept_mass.shape)} and {tuple(value.shape)}"
        )
    value = value.float() if value.dtype.itemsize < 4 else value
    if causal:  # the range of the values up to each query
        span = (value.cummax(2).values - value.cummin(2).values)[:, :, keys - queries :]
    else:
        span = value.amax(2, keepdim=True) - value.amin(2, keepdim=True)
    span = span.repeat_interleave(heads // key_heads, dim=1)
    return (1 - kept_mass.to(span.dtype)).clamp(min=0)[..., None] * span


def block_topk_mask(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    *,
    block_size: int = 64,
    k: int = 8,
    causal: bool = True,
) -> Bool[Tensor, "batch heads queries keys"]:
    """The keys that :func:`block_topk_attention` chooses, as a mask, true where a query looks.

    Arguments and errors are those of :func:`block_topk_attention`.

    >>> key = torch.tensor([1.0, 1.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0]).reshape(1, 1, 8, 1)
    >>> block_topk_mask(key * 0 + 1, key, block_size=2, k=3)[0, 0, 6:].int()
    tensor([[1, 1, 0, 0, 1, 1, 1, 0],
            [1, 1, 0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """
    _check_block_inputs(query, key, key, block_size, k)
    queries, keys = query.shape[2], key.shape[2]
    key, _ = repeat_key_value(query, key, key)
    chosen = _choose_blocks(query, key, block_size, k, causal)  # (batch, heads, tiles, k)
    blocks = -(-keys // block_size)
    visible = torch.zeros(*chosen.shape[:3], blocks, dtype=torch.bool, device=query.device)
    visible = visible.scatter(3, chosen, True).repeat_interleave(block_size, 3)[..., :keys]
    tile = torch.arange(keys - queries, keys, device=query.device) // block_size
    visible = visible[:, :, tile - tile[0]]  # (batch, heads, queries, keys)
    return visible & causal_mask(queries, keys, query.device) if causal else visible


@overload
def block_topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    block_size: int = ...,
    k: int = ...,
    causal: bool = ...,
    return_mass: Literal[False] = ...,
) -> Tensor: ...
@overload
def block_topk_attention(
    query: Tensor, key: Tensor, value: Tensor, *, block_size: int = ..., k: int = ...,
    causal: bool = ..., return_mass: Literal[True],
) -> Pruned: ...  # fmt: skip
def block_topk_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    block_size: int = 64,
    k: int = 8,
    causal: bool = True,
    return_mass: bool = False,
) -> Float[Tensor, "batch heads queries value_dim"] | Pruned:
    r"""Attention to ``k`` blocks of keys, chosen for each block of queries before any is scored.

    Keys and queries are cut into blocks of ``block_size``. A block of keys is worth
    :math:`q^\top \bar k`, with :math:`\bar k` the mean of its keys and :math:`q` the **first**
    query of the block that chooses: later queries would carry the future into earlier outputs.
    Each block of queries attends to the ``k`` best blocks; its own and the first of the text are
    always among them. Heads choose for themselves.

    Equal to ``attention(query, key, value, mask=block_topk_mask(...))``, with ``queries · k ·
    block_size`` scores instead of ``queries · keys``; choosing takes ``queries · keys /
    block_size²`` more. Memory grows with ``queries``, not with its square.

    A few queries against a longer cache of keys work too: blocks are counted from the first key,
    and the first query that is there chooses, so that a single query chooses for itself. Such
    a step may choose otherwise than the same query did inside a block.

    Args:
        query: ``(batch, heads, queries, head_dim)``; the last query stands at the last key.
        key: ``(batch, key_heads, keys, head_dim)``; ``heads`` a multiple of ``key_heads``.
        value: ``(batch, key_heads, keys, value_dim)``.
        block_size: tokens in a block, at least 1.
        k: blocks that a query sees, at least 2 (its own and the first).
        causal: if true, no query looks at a later position.
        return_mass: also return the kept mass (:class:`Pruned`). It is the exact share of the
            dense weights, so it takes all the scores that were saved: for study.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, more queries than keys,
            ``block_size`` below 1 or ``k`` below 2.

    Source: Lu et al. (2025), "MoBA", where every query chooses for itself, and only blocks that
    lie wholly before it. Tang et al. (2024), "Quest", https://arxiv.org/abs/2406.10774, chooses by
    the smallest and largest key of a block instead.

    >>> key = torch.tensor([1.0, 1.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0]).reshape(1, 1, 8, 1)
    >>> out, mass = block_topk_attention(key * 0 + 1, key, key, block_size=2, k=3, return_mass=True)
    >>> [round(m, 3) for m in mass.flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.993, 0.993]
    """
    _check_block_inputs(query, key, value, block_size, k)
    queries, keys = query.shape[2], key.shape[2]
    key, value = repeat_key_value(query, key, value)
    chosen = _choose_blocks(query, key, block_size, k, causal)  # (batch, heads, tiles, k)
    if k * block_size >= keys:  # nothing to leave out
        output = attention(query, key, value, causal=causal)
    else:
        # Where all earlier blocks are among the k, this is dense attention to the first keys.
        dense = min(max(k * block_size - (keys - queries), 0), queries) if causal else 0
        parts = []
        if dense:
            seen = keys - queries + dense
            parts.append(attention(query[:, :, :dense], key[:, :, :seen], value[:, :, :seen]))
        if dense < queries:
            tiles = -(-keys // block_size) - (keys - queries + dense) // block_size
            rest = query[:, :, dense:]
            parts.append(
                _attend_chosen(rest, key, value, chosen[:, :, -tiles:], causal, block_size)
            )
        output = torch.cat(parts, dim=2)
    if return_mass:
        return Pruned(output, _kept_mass(query, key, chosen, causal, block_size))
    return output


def _choose_blocks(
    query: Tensor, key: Tensor, block_size: int, k: int, causal: bool
) -> Int[Tensor, "batch heads tiles k"]:
    """For each block of queries (tile) the blocks of keys it attends to, in ascending order.

    Where a causal tile has fewer than ``k`` blocks behind it, later ones fill up the row.
    """
    keys, start = key.shape[2], key.shape[2] - query.shape[2]
    whole = keys // block_size
    mean = key[:, :, : whole * block_size]
    mean = mean.reshape(*key.shape[:2], whole, block_size, key.shape[3]).mean(3)
    if keys % block_size:
        rest = key[:, :, whole * block_size :].mean(2, keepdim=True)
        mean = torch.cat([mean, rest], dim=2)  # (batch, heads, blocks, d)
    block = torch.arange(mean.shape[2], device=query.device)
    tile = block[start // block_size :]
    first = (tile * block_size - start).clamp(min=0)  # the query that chooses
    score = query[:, :, first] @ mean.transpose(-1, -2)  # (batch, heads, tiles, blocks)
    if causal:
        score = score.masked_fill(block > tile[:, None], float("-inf"))
    score = score.masked_fill((block == tile[:, None]) | (block == 0), float("inf"))
    chosen: Tensor = score.topk(min(k, len(block)), dim=-1).indices
    return chosen.sort(-1).values


def _attend_chosen(
    query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, causal: bool, block_size: int
) -> Tensor:
    """Every tile with the keys of its chosen blocks, tiles in the place of heads."""
    batch, heads, queries, width = query.shape
    keys, tiles, k = key.shape[2], *chosen.shape[2:]
    blocks = -(-keys // block_size)
    before = (keys - queries) % block_size  # places in the first tile before its first query
    rows = slice(0, block_size)
    if tiles == 1:  # a step: no reason to fill up the tile
        rows = slice(before, before + queries)
    else:
        query = F.pad(query, (0, 0, before, blocks * block_size - keys))
    # (batch·heads, tiles, queries in a tile, d) and (batch·heads, blocks, block_size, d)
    query = query.reshape(batch * heads, tiles, -1, width)
    fill = blocks * block_size - keys
    key, value = (
        F.pad(x, (0, 0, 0, fill)).reshape(batch * heads, blocks, block_size, -1)
        for x in (key, value)
    )
    chosen = chosen.flatten(0, 1)  # (batch·heads, tiles, k)
    # In ascending order, the last chosen block is the only one that can be partly hidden: by the
    # causal mask where it is the tile's own, or because the keys end in it.
    place = torch.arange(k * block_size, device=query.device)
    if causal:
        row = torch.arange(block_size, device=query.device)[rows]
        hidden = (place > row[:, None] + (k - 1) * block_size).expand(len(chosen), 1, -1, -1)
    else:
        hidden = (chosen[:, :, -1:] == blocks - 1) & (place >= k * block_size - fill)
        hidden = hidden[:, :, None]  # (batch·heads, tiles, 1, k·block_size)
    outputs = [
        F.scaled_dot_product_attention(
            query[None, head],
            key[head][chosen[head]].flatten(1, 2)[None],  # (1, tiles, k·block_size, d)
            value[head][chosen[head]].flatten(1, 2)[None],
            attn_mask=~hidden[None, head],
        )
        for head in range(batch * heads)  # one by one: the copies of keys stay small
    ]
    output = torch.cat(outputs).flatten(1, 2)  # (batch·heads, tiles·queries in a tile, d)
    skip = 0 if tiles == 1 else before
    return output[:, skip : skip + queries].reshape(batch, heads, queries, -1)


def _kept_mass(query: Tensor, key: Tensor, chosen: Tensor, causal: bool, block_size: int) -> Tensor:
    """Dense weights a tile at a time, summed over its chosen blocks."""
    queries, keys = query.shape[2], key.shape[2]
    start = keys - queries
    masses = []
    for tile in range(chosen.shape[2]):
        number = start // block_size + tile
        low, high = max(number * block_size - start, 0), (number + 1) * block_size - start
        seen = min(start + high, keys) if causal else keys
        weights = _weights(query[:, :, low:high], key[:, :, :seen], causal, None)
        weights = F.pad(weights, (0, -seen % block_size))
        by_block = weights.reshape(*weights.shape[:3], -1, block_size).sum(-1)
        picked = chosen[:, :, tile, None].expand(-1, -1, by_block.shape[2], -1)
        real = picked < by_block.shape[3]  # the others fill up the row
        picked = picked.clamp(max=by_block.shape[3] - 1)
        masses.append(by_block.gather(-1, picked).masked_fill(~real, 0.0).sum(-1))
    return torch.cat(masses, dim=2)  # (batch, heads, queries)


def _check_block_inputs(query: Tensor, key: Tensor, value: Tensor, block_size: int, k: int) -> None:
    check_attention_inputs(query, key, value)
    check_int("block_size", block_size, minimum=1)
    check_int("k", k, minimum=2)
    if query.shape[2] > key.shape[2]:
        raise ValueError(
            f"query must not be longer than key for block attention, "
            f"got {query.shape[2]} and {key.shape[2]}"
        )


def _weights(query: Tensor, key: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Dense weights, in float32 at least: half precision has ties that are none."""
    if query.dtype.itemsize < 4:
        query, key = query.float(), key.float()
    return attention_weights(query, key, causal=causal, mask=mask)


def _keep(weights: Tensor, kept: Tensor, query: Tensor, value: Tensor) -> Pruned:
    dropped = weights.masked_fill(kept, 0.0).sum(-1)  # (batch, heads, queries)
    weights = weights.masked_fill(~kept, 0.0)
    # A query that may look at nothing has no weight to divide by, and stays 0.
    total = weights.sum(-1, keepdim=True)
    weights = weights / total.masked_fill(total == 0, 1.0)
    _, value = repeat_key_value(query, value, value)
    return Pruned((weights @ value.to(weights.dtype)).to(query.dtype), 1 - dropped)
