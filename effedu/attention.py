"""Scaled dot-product attention: every token takes a weighted mean of the values it looks at.

Vaswani et al. (2017), "Attention Is All You Need", section 3.2.1, equation 1.
https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from effedu._checks import check_attention_inputs, repeat_key_value


def causal_mask(
    query_length: int, key_length: int, device: torch.device | str | None = None
) -> Bool[Tensor, "query_length key_length"]:
    """True where a query may look: at its own position and before.

    The last query stands at the last key, so that a few new queries against a longer cache of
    keys (generation) see all of the past.

    >>> causal_mask(2, 4).int()
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    ones = torch.ones(query_length, key_length, dtype=torch.bool, device=device)
    return ones.tril(diagonal=key_length - query_length)


def attention_weights(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    *,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries keys"]:
    r"""The weights :math:`A = \mathrm{softmax}(QK^\top/\sqrt{d_k})`, one row for each query.

    Every row sums to one, except that a row which may look at nothing is all zeros. Arguments
    and errors are those of :func:`attention`.

    >>> query = key = torch.zeros(1, 1, 3, 8)
    >>> attention_weights(query, key)[0, 0]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    """
    check_attention_inputs(query, key, key)
    _check_scale(scale)
    visible = _visible(query, key, causal, mask)
    key, _ = repeat_key_value(query, key, key)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale  # (batch, heads, queries, keys)
    if visible is None:
        return scores.softmax(-1)
    # A row of minus infinities would become NaN, so such a row is computed unmasked and set to 0.
    empty = ~visible.any(-1, keepdim=True)
    weights = scores.masked_fill(~(visible | empty), float("-inf")).softmax(-1)
    return weights.masked_fill(empty, 0.0)


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = ...,
    mask: Tensor | None = ...,
    scale: float | None = ...,
    return_weights: Literal[False] = ...,
) -> Tensor: ...
@overload
def attention(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = ..., mask: Tensor | None = ...,
    scale: float | None = ..., return_weights: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
    return_weights: bool = False,
) -> (
    Float[Tensor, "batch heads queries value_dim"]
    | tuple[
        Float[Tensor, "batch heads queries value_dim"],
        Float[Tensor, "batch heads queries keys"],
    ]
):
    r"""Dense attention, :math:`\mathrm{softmax}(QK^\top/\sqrt{d_k})\,V`.

    Without ``return_weights`` PyTorch's fused kernel does the work and the weights are never
    stored; with it they are computed openly, which takes ``queries × keys`` numbers a head.

    Args:
        query: ``(batch, heads, queries, head_dim)``.
        key: ``(batch, key_heads, keys, head_dim)``; ``heads`` is a multiple of ``key_heads``
            (grouped queries).
        value: ``(batch, key_heads, keys, value_dim)``.
        causal: if true, no query looks at a later position. The last query stands at the last key.
        mask: boolean, broadcastable to ``(batch, heads, queries, keys)``; true where a query may
            look. Combined with ``causal``. A query that may look at nothing gives zeros.
        scale: positive factor on the scores; ``1/sqrt(head_dim)`` if not given.
        return_weights: also return the weights, ``(batch, heads, queries, keys)``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an empty sequence, a mask that is
            not boolean, or a scale that is not positive and finite.

    Source: Vaswani et al. (2017), section 3.2.1, equation 1.

    >>> value = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> attention(value * 0, value * 0, value)[0, 0]
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    check_attention_inputs(query, key, value)
    _check_scale(scale)
    if return_weights:
        weights = attention_weights(query, key, causal=causal, mask=mask, scale=scale)
        _, values = repeat_key_value(query, key, value)
        return weights @ values, weights
    if mask is None and causal and query.shape[2] == key.shape[2]:  # needs no queries × keys mask
        key, value = repeat_key_value(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    visible = _visible(query, key, causal, mask)
    key, value = repeat_key_value(query, key, value)
    if visible is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    empty = ~visible.any(-1, keepdim=True)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=visible | empty, scale=scale
    )
    return output.masked_fill(empty, 0.0)


def _check_scale(scale: float | None) -> None:
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive and finite, got {scale!r}")


def _visible(query: Tensor, key: Tensor, causal: bool, mask: Tensor | None) -> Tensor | None:
    """Both masks as one, or ``None`` where everything is visible."""
    queries, keys = query.shape[2], key.shape[2]
    visible = causal_mask(queries, keys, query.device) if causal else None
    if mask is None:
        return visible
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a boolean tensor (true = may look), got {got}")
    if mask.device != query.device:
        raise ValueError(f"mask must be on the query's device {query.device}, got {mask.device}")
    full = (query.shape[0], query.shape[1], queries, keys)
    fits = mask.ndim <= 4 and all(
        m in (1, f) for m, f in zip(reversed(mask.shape), reversed(full), strict=False)
    )
    if not fits:
        raise ValueError(
            f"mask must broadcast to (batch, heads, queries, keys) = {full}, "
            f"got shape {tuple(mask.shape)}"
        )
    return mask if visible is None else mask & visible
