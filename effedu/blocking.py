"""Block attention: cut the sequence into blocks; each looks only at itself and its neighbours.

The local pattern of Child et al. (2019), https://arxiv.org/abs/1904.10509, and Beltagy et al.
(2020), https://arxiv.org/abs/2004.05150; the sinks are those of Xiao et al. (2023),
https://arxiv.org/abs/2309.17453.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from effedu._checks import check_attention_inputs, check_int, repeat_key_value
from effedu.attention import attention

# Measured on two AVX2 cores: smaller tiles skip more masked keys but use the processor less well
# (32 rows gain as much as 64), and temporary results of up to so many rows do not slow it down.
TILE_ROWS = 64
TOKENS_AT_ONCE = 16384


def block_mask(
    length: int,
    *,
    block_size: int = 128,
    blocks_back: int = 1,
    causal: bool = True,
    sinks: int = 0,
    device: torch.device | str | None = None,
) -> Bool[Tensor, "length length"]:
    """The pattern of :func:`block_attention` as a boolean mask, true where a query may look.

    Args:
        length: number of tokens, at least 1.
        block_size, blocks_back, causal, sinks: as in :func:`block_attention`.
        device: where to make the mask.

    Raises:
        ValueError: ``length`` or ``block_size`` below 1, ``blocks_back`` or ``sinks`` below 0.

    >>> block_mask(6, block_size=2, blocks_back=1).int()
    tensor([[1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """
    check_int("length", length, minimum=1)
    _check_pattern(block_size, blocks_back, sinks)
    position = torch.arange(length, device=device)
    block = position // block_size
    distance = block[:, None] - block[None, :]  # in blocks; positive = looking back
    visible = (distance <= blocks_back) & (distance >= -blocks_back)
    visible |= position[None, :] < sinks
    return visible.tril() if causal else visible


def block_attention(
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch key_heads length head_dim"],
    value: Float[Tensor, "batch key_heads length value_dim"],
    *,
    block_size: int = 128,
    blocks_back: int = 1,
    causal: bool = True,
    sinks: int = 0,
) -> Float[Tensor, "batch heads length value_dim"]:
    """Attention where a block of queries sees its own block of keys and ``blocks_back`` before it.

    Equal to ``attention(query, key, value, mask=block_mask(...))``, in time and memory
    ``O(length · block_size)`` instead of ``O(length²)``. The windows of keys and values overlap,
    so they are *views* into the one key and value tensor, not copies. (Sinks cannot be part of a
    view; with ``sinks > 0`` the windows are copied.)

    Args:
        query: ``(batch, heads, length, head_dim)``, any length.
        key: ``(batch, key_heads, length, head_dim)``; ``heads`` a multiple of ``key_heads``.
        value: ``(batch, key_heads, length, value_dim)``.
        block_size: tokens in a block, at least 1.
        blocks_back: neighbouring blocks that a query sees besides its own, at least 0; with
            ``causal=False`` that many on each side.
        causal: if true, no query looks at a later position.
        sinks: the first ``sinks`` positions stay visible to every query (causally).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, query and key of different length,
            ``block_size`` below 1, ``blocks_back`` or ``sinks`` below 0.

    Source: Beltagy et al. (2020), section 3.1 (sliding window), here in whole blocks.

    >>> x = torch.arange(4.0).reshape(1, 1, 4, 1)
    >>> block_attention(x * 0, x * 0, x, block_size=2, blocks_back=0).flatten()
    tensor([0.0000, 0.5000, 2.0000, 2.5000])
    """
    check_attention_inputs(query, key, value)
    _check_pattern(block_size, blocks_back, sinks)
    length = query.shape[2]
    if key.shape[2] != length:
        raise ValueError(
            f"query and key must have the same length for block attention, "
            f"got {length} and {key.shape[2]}"
        )
    key, value = repeat_key_value(query, key, value)
    blocks = -(-length // block_size)
    if blocks_back >= blocks - 1:  # every block sees every other one: nothing to leave out
        return attention(query, key, value, causal=causal)

    pattern = _Pattern(block_size, blocks_back, causal, sinks)
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if causal and not sinks and not trains and query.device.type == "cpu":
        return _forward_in_tiles(query, key, value, pattern)

    # Most blocks look alike: their window lies inside the sequence and clear of the sinks. One
    # call computes all of these; the few at either end are taken apart.
    done = 0
    parts = []
    if causal and blocks_back:  # the first blocks see everything before them: dense attention
        done = blocks_back
        prefix = slice(0, done * block_size)
        parts.append(attention(query[:, :, prefix], key[:, :, prefix], value[:, :, prefix]))
    first = min(blocks, max(done, blocks_back + -(-sinks // block_size)))
    last = max(first, length // block_size - (0 if causal else blocks_back))
    parts += [_edge_block(query, key, value, i, pattern) for i in range(done, first)]
    if first < last:
        parts.append(_inner_blocks(query, key, value, first, last, pattern))
    parts += [_edge_block(query, key, value, i, pattern) for i in range(last, blocks)]
    return torch.cat(parts, dim=2)


class _Pattern(NamedTuple):
    block_size: int
    blocks_back: int
    causal: bool
    sinks: int


def _inner_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    first: int,
    last: int,
    pattern: _Pattern,
) -> Tensor:
    """Blocks ``first`` to ``last - 1`` in one call, with blocks in the place of heads."""
    block_size, blocks_back, causal, sinks = pattern
    batch, heads = query.shape[:2]
    back, ahead = blocks_back, 0 if causal else blocks_back
    start, stop = (first - back) * block_size, (last + ahead) * block_size
    window = (back + 1 + ahead) * block_size

    queries = query[:, :, first * block_size : last * block_size]
    queries = queries.flatten(0, 1)  # (batch·heads, tokens, d)
    queries = queries.reshape(batch * heads, last - first, block_size, -1)

    def windows(x: Tensor) -> Tensor:
        view = x[:, :, start:stop].flatten(0, 1).unfold(1, window, block_size)
        view = view.transpose(-1, -2)  # (batch·heads, blocks, window, d)
        if not sinks:
            return view
        head = x[:, :, :sinks].flatten(0, 1)[:, None].expand(-1, view.shape[1], -1, -1)
        return torch.cat([head, view], dim=2)

    mask = _causal_bias(block_size, sinks + window, query) if causal else None
    output = F.scaled_dot_product_attention(queries, windows(key), windows(value), attn_mask=mask)
    return output.reshape(batch, heads, (last - first) * block_size, -1)


def _forward_in_tiles(query: Tensor, key: Tensor, value: Tensor, pattern: _Pattern) -> Tensor:
    """The causal pattern without sinks where no gradient is needed: less work, less memory.

    A block's window ends where the block ends, so its first rows score keys that they may not see:
    a quarter of all, with one block back. Here a block goes in tiles of rows, each with the keys
    up to its own end. The parts are written into one output instead of joined, a few heads at a
    time, because fresh memory costs time as well. (Training gains nothing from tiles: their
    overlapping windows add up more gradients.)
    """
    block_size, back, _, _ = pattern
    length = query.shape[2]
    blocks = length // block_size  # whole ones
    output = query.new_empty(*query.shape[:3], value.shape[3])
    done = back * block_size
    if done:  # the first blocks see everything before them: dense attention
        first = slice(0, done)
        output[:, :, first] = attention(query[:, :, first], key[:, :, first], value[:, :, first])
    if blocks * block_size < length:
        tail = slice(blocks * block_size, length)
        output[:, :, tail] = _edge_block(query, key, value, blocks, pattern)

    rows = TILE_ROWS if block_size % TILE_ROWS == 0 else block_size
    group = max(1, TOKENS_AT_ONCE // length)
    whole = slice(done, blocks * block_size)

    def windows(x: Tensor, size: int) -> Tensor:
        return x.unfold(1, size, block_size).mT  # (batch·heads, blocks, size, d), a view

    queries = windows(query.flatten(0, 1)[:, whole], block_size)
    outputs = windows(output.flatten(0, 1)[:, whole], block_size)
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    for stop in range(rows, block_size + 1, rows):
        tile = slice(stop - rows, stop)
        window, end = done + stop, (blocks - 1) * block_size + stop
        mask = _causal_bias(rows, window, query)
        for i in range(0, len(queries), group):
            some = slice(i, i + group)
            outputs[some, :, tile] = F.scaled_dot_product_attention(
                queries[some, :, tile],
                windows(keys[some, :end], window),
                windows(values[some, :end], window),
                attn_mask=mask,
            )
    return output


def _causal_bias(rows: int, keys: int, like: Tensor) -> Tensor:
    """Zero where a query may look and minus infinity ahead of it; the last row sees every key."""
    visible = torch.ones(rows, keys, dtype=torch.bool, device=like.device).tril(keys - rows)
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, float("-inf"))


def _edge_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: int,
    pattern: _Pattern,
) -> Tensor:
    """One block of queries whose window is cut short by an end or touches the sinks."""
    block_size, blocks_back, causal, sinks = pattern
    length = query.shape[2]
    start, stop = block * block_size, min((block + 1) * block_size, length)
    low = max(0, (block - blocks_back) * block_size)
    high = stop if causal else min(length, (block + 1 + blocks_back) * block_size)

    def window(x: Tensor) -> Tensor:
        if low <= sinks:  # sinks and window touch: one slice
            return x[:, :, : high if causal else max(high, sinks)]
        near = x[:, :, low:high]
        return torch.cat([x[:, :, :sinks], near], dim=2) if sinks else near

    return attention(query[:, :, start:stop], window(key), window(value), causal=causal)


def _check_pattern(block_size: int, blocks_back: int, sinks: int) -> None:
    check_int("block_size", block_size, minimum=1)
    check_int("blocks_back", blocks_back, minimum=0)
    check_int("sinks", sinks, minimum=0)
