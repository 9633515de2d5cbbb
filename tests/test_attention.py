import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from effedu.attention import attention, attention_weights, causal_mask
from effedu.bench import peak_memory


def qkv(batch=2, heads=4, length=9, head_dim=8, key_heads=None, keys=None, **kwargs):
    key_heads, keys = key_heads or heads, keys or length
    return (
        torch.randn(batch, heads, length, head_dim, **kwargs),
        torch.randn(batch, key_heads, keys, head_dim, **kwargs),
        torch.randn(batch, key_heads, keys, head_dim, **kwargs),
    )


def by_hand(query, key, value, causal, mask=None, scale=None):
    """One query at a time, in double precision, as the formula says."""
    batch, heads, queries, head_dim = query.shape
    keys, groups = key.shape[2], heads // key.shape[1]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    output = torch.zeros(batch, heads, queries, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = [
                    j
                    for j in range(keys)
                    if (not causal or j <= i + keys - queries)
                    and (mask is None or mask[b, h, i, j])
                ]
                if not seen:
                    continue
                k, v = key[b, h // groups, seen].double(), value[b, h // groups, seen].double()
                scores = torch.exp(k @ query[b, h, i].double() * scale)
                output[b, h, i] = (scores / scores.sum()) @ v
    return output


@settings(max_examples=40)
@given(
    length=st.integers(1, 12),
    extra=st.integers(0, 5),
    causal=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_formula(length, extra, causal, groups, masked, seed):
    torch.manual_seed(seed)
    query, key, value = qkv(length=length, keys=length + extra, key_heads=4 // groups)
    mask = torch.rand(2, 4, length, length + extra) < 0.6 if masked else None
    expected = by_hand(query, key, value, causal, mask).float()
    output, weights = attention(query, key, value, causal=causal, mask=mask, return_weights=True)
    assert_close(output, expected)
    assert_close(attention(query, key, value, causal=causal, mask=mask), expected)
    sums = weights.sum(-1)
    assert torch.all(((sums - 1).abs() < 1e-5) | (sums == 0))


def test_equals_pytorch():
    query, key, value = qkv()
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert_close(attention(query, key, value, return_weights=True)[0], expected)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3)
    output, _ = attention(query, key, value, causal=False, scale=0.3, return_weights=True)
    assert_close(output, expected)


def test_new_queries_against_a_longer_cache():
    query, key, value = qkv(length=9)
    whole = attention(query, key, value)
    assert_close(attention(query[:, :, -3:], key, value), whole[:, :, -3:])


@pytest.mark.parametrize("return_weights", [False, True])
def test_fully_masked_rows_are_zero_with_finite_gradients(return_weights):
    query, key, value = (x.requires_grad_() for x in qkv())
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[4] = False
    result = attention(query, key, value, mask=mask, return_weights=return_weights)
    output = result[0] if return_weights else result
    assert torch.all(output[:, :, 4] == 0)
    assert torch.isfinite(output).all()
    output.square().sum().backward()
    for x in (query, key, value):
        assert torch.isfinite(x.grad).all()
    assert torch.all(query.grad[:, :, 4] == 0)


def test_large_scores_stay_finite():
    query, key, value = qkv()
    assert torch.isfinite(attention(query * 1e4, key, value, return_weights=True)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    query, key, value = qkv()
    expected = attention(query, key, value)
    output = attention(query.to(dtype), key.to(dtype), value.to(dtype))
    assert output.dtype == dtype
    assert_close(output.float(), expected, atol=3e-2, rtol=3e-2)


def test_the_root_keeps_the_variance_of_scores_at_one():
    for head_dim in (16, 64, 256):
        query, key = torch.randn(1, 1, 400, head_dim), torch.randn(1, 1, 400, head_dim)
        raw = query @ key.transpose(-1, -2)
        assert raw.var().item() == pytest.approx(head_dim, rel=0.1)
        assert (raw / head_dim**0.5).var().item() == pytest.approx(1, rel=0.1)


def test_equal_norm_keys_make_distance_and_dot_product_the_same():
    query, key, _ = qkv()
    key = F.normalize(key, dim=-1)
    log_gaussian = -0.5 * (query[..., :, None, :] - key[..., None, :, :]).square().sum(-1)
    assert_close(log_gaussian.softmax(-1), attention_weights(query, key, causal=False, scale=1.0))


def test_causal_mask_stands_at_the_end():
    assert causal_mask(3, 3).tolist() == torch.ones(3, 3).tril().bool().tolist()
    assert causal_mask(1, 4).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[0], k, v), r"query must have 4 dimensions .*got 3"),
        (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), r"key must not be empty"),
        (lambda q, k, v: (q, k[..., :4], v), r"same head_dim, got 8 and 4"),
        (lambda q, k, v: (q, k[:, :, :5], v), r"key and value must have the same heads and length"),
        (lambda q, k, v: (q[:1], k, v), r"one batch size, got 1, 2 and 2"),
        (lambda q, k, v: (q, k[:, :3], v[:, :3]), r"multiple of the key's heads, got 4 and 3"),
        (lambda q, k, v: (q, k.half(), v), r"key must have the query's dtype"),
        (lambda q, k, v: (q.int(), k, v), r"query must have a floating-point dtype"),
        (lambda q, k, v: (q, k, v.to("meta")), r"value must be on the query's device"),
        (lambda q, k, v: (q.tolist(), k, v), r"query must be a torch.Tensor, got list"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        attention(*change(*qkv()))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(9, 9), "mask must be a boolean tensor .*got torch.float32"),
        ([[True]], "mask must be a boolean tensor .*got list"),
        (torch.ones(9, 8, dtype=torch.bool), r"mask must broadcast to .*got shape \(9, 8\)"),
        (torch.ones(9, 9, dtype=torch.bool, device="meta"), "mask must be on the query's device"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        attention(*qkv(), mask=mask)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite, got"):
        attention(*qkv(), scale=scale)
    with pytest.raises(ValueError, match="scale must be positive and finite, got"):
        attention_weights(*qkv()[:2], scale=scale)


def test_memory_of_the_fused_form_grows_with_the_length():
    """Neither weights nor a mask of queries × keys is stored."""
    short, long = (
        peak_memory(lambda x=x: attention(x, x, x)) for x in (qkv(1, 1, n)[0] for n in (512, 2048))
    )
    assert long < 5 * short


@pytest.mark.cuda
def test_cuda_equals_cpu():
    query, key, value = qkv()
    output = attention(query.cuda(), key.cuda(), value.cuda())
    assert_close(output.cpu(), attention(query, key, value), atol=1e-4, rtol=1e-4)
