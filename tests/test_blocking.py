from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import effedu.blocking
from effedu.attention import attention
from effedu.bench import peak_memory
from effedu.blocking import block_attention, block_mask

patterns = st.fixed_dictionaries(
    {
        "block_size": st.integers(1, 20),
        "blocks_back": st.integers(0, 4),
        "causal": st.booleans(),
        "sinks": st.one_of(st.just(0), st.integers(0, 30)),
    }
)


def qkv(batch=1, heads=4, length=33, head_dim=8, key_heads=None, **kwargs):
    key_heads = key_heads or heads
    return (
        torch.randn(batch, heads, length, head_dim, **kwargs),
        torch.randn(batch, key_heads, length, head_dim, **kwargs),
        torch.randn(batch, key_heads, length, head_dim, **kwargs),
    )


def dense(query, key, value, *, causal=True, **pattern):
    mask = block_mask(query.shape[2], causal=causal, **pattern)
    return attention(query, key, value, causal=causal, mask=mask)


@settings(max_examples=50)
@given(length=st.integers(1, 70), pattern=patterns)
def test_mask_is_what_the_words_say(length, pattern):
    mask = block_mask(length, **pattern)
    b, back = pattern["block_size"], pattern["blocks_back"]
    for i in range(length):
        for j in range(length):
            near = abs(i // b - j // b) <= back
            seen = near or j < pattern["sinks"]
            if pattern["causal"]:
                seen = seen and j <= i
            assert mask[i, j] == seen


@given(
    length=st.integers(1, 90),
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    pattern=patterns,
    seed=st.integers(0, 1000),
)
def test_equals_dense_attention_under_the_mask(length, batch, groups, pattern, seed):
    torch.manual_seed(seed)
    query, key, value = qkv(batch, length=length, key_heads=4 // groups)
    output = block_attention(query, key, value, **pattern)
    assert_close(output, dense(query, key, value, **pattern), atol=2e-6, rtol=1e-5)


@settings(max_examples=50)
@given(length=st.integers(1, 60), pattern=patterns, seed=st.integers(0, 1000))
def test_gradients_equal_dense_attention(length, pattern, seed):
    torch.manual_seed(seed)
    inputs = [x.requires_grad_() for x in qkv(2, length=length, key_heads=2)]
    weight = torch.randn(2, 4, length, 8)
    results = []
    for function in (block_attention, dense):
        (function(*inputs, **pattern) * weight).sum().backward()
        results.append([x.grad.clone() for x in inputs])
        for x in inputs:
            x.grad = None
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@given(
    length=st.integers(1, 90),
    rows=st.sampled_from([1, 2, 3, 5]),
    tokens=st.sampled_from([1, 100, 300]),
    tiles=st.integers(1, 4),
    blocks_back=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_tiles_without_gradients_equal_the_plain_form(
    length, rows, tokens, tiles, blocks_back, seed
):
    """Small tiles and few heads at a time, so that every cut falls somewhere inside."""
    torch.manual_seed(seed)
    query, key, value = qkv(2, length=length, key_heads=2)
    pattern = {"block_size": rows * tiles, "blocks_back": blocks_back}
    plain = block_attention(query.clone().requires_grad_(), key, value, **pattern)
    with (
        patch.object(effedu.blocking, "TILE_ROWS", rows),
        patch.object(effedu.blocking, "TOKENS_AT_ONCE", tokens),
    ):
        output = block_attention(query, key, value, **pattern)
    assert plain.requires_grad
    assert not output.requires_grad
    assert_close(output, dense(query, key, value, sinks=0, **pattern), atol=2e-6, rtol=1e-5)
    assert_close(output, plain.detach(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("length", [640, 1000])
@pytest.mark.parametrize("blocks_back", [0, 1, 2])
@pytest.mark.parametrize("block_size", [64, 96, 128, 256])
def test_real_sizes_forward_and_backward(length, blocks_back, block_size):
    inputs = qkv(2, length=length, head_dim=16, key_heads=2)
    pattern = {"block_size": block_size, "blocks_back": blocks_back}
    expected = dense(*inputs, sinks=0, **pattern)
    assert_close(block_attention(*inputs, **pattern), expected, atol=2e-6, rtol=1e-5)
    with torch.inference_mode():
        assert_close(block_attention(*inputs, **pattern), expected, atol=2e-6, rtol=1e-5)
    weight, grads = torch.randn_like(expected), []
    for function, more in ((block_attention, {}), (dense, {"sinks": 0})):
        leaves = [x.clone().requires_grad_() for x in inputs]
        output = function(*leaves, **pattern, **more)
        assert_close(output, expected, atol=2e-6, rtol=1e-5)
        grads.append(torch.autograd.grad((output * weight).sum(), leaves))
    for ours, theirs in zip(*grads, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_stay_finite(trains, dtype):
    query, key, value = (100 * x for x in qkv(length=300, dtype=dtype))
    query.requires_grad_(trains)
    output = block_attention(query, key, value, block_size=64)
    expected = dense(query, key, value, block_size=64, blocks_back=1, sinks=0)
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert_close(output, expected, atol=1e-1, rtol=1e-3)


def test_non_contiguous_inputs_and_a_value_width_of_its_own():
    query, key, _ = (x.transpose(1, 2) for x in qkv(2, heads=50, length=4))
    value = torch.randn(2, 4, 50, 3)
    assert not query.is_contiguous()
    output = block_attention(query, key, value, block_size=8)
    assert_close(output, dense(query, key, value, block_size=8, blocks_back=1, sinks=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sinks", [0, 3])
def test_half_precision(dtype, sinks):
    query, key, value = qkv(length=100)
    pattern = {"block_size": 16, "blocks_back": 1, "sinks": sinks}
    output = block_attention(query.to(dtype), key.to(dtype), value.to(dtype), **pattern)
    assert output.dtype == dtype
    assert_close(output.float(), dense(query, key, value, **pattern), atol=3e-2, rtol=3e-2)


def test_windows_are_views_not_copies():
    """Peak memory of a long call stays within a few copies of the output, whatever the window."""
    length, block_size, back = 8192, 64, 7
    query, key, value = qkv(1, 1, length, 16)
    with torch.profiler.profile(profile_memory=True) as profile:
        block_attention(query, key, value, block_size=block_size, blocks_back=back)
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    windows = length * (back + 1) * 16 * 4  # what copies of the key windows would take
    assert 0 < largest < windows / 2


@pytest.mark.parametrize("block_size", [64, 128])
def test_memory_grows_with_the_length_and_hardly_exceeds_the_output(block_size):
    def peak(length):
        """As a share of the output."""
        query, key, value = qkv(1, 4, length, 16)
        run = partial(block_attention, query, key, value, block_size=block_size)
        return peak_memory(run) / query.nbytes

    peaks = [peak(length) for length in (8192, 16384, 32768)]
    assert max(peaks) < 1.8
    assert peaks[0] == pytest.approx(peaks[2], rel=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, "block_size must be an integer of at least 1, got 0"),
        ({"block_size": 2.5}, "block_size must be an integer of at least 1, got 2.5"),
        ({"block_size": True}, "block_size must be an integer of at least 1, got True"),
        ({"blocks_back": -1}, "blocks_back must be an integer of at least 0, got -1"),
        ({"sinks": -2}, "sinks must be an integer of at least 0, got -2"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_pattern(arguments, message):
    with pytest.raises(ValueError, match=message):
        block_attention(*qkv(), **arguments)
    with pytest.raises(ValueError, match=message):
        block_mask(10, **arguments)


@pytest.mark.unchecked_shapes
def test_bad_input():
    query, key, value = qkv()
    with pytest.raises(ValueError, match="same length for block attention, got 33 and 20"):
        block_attention(query, key[:, :, :20], value[:, :, :20])
    with pytest.raises(ValueError, match="key must have 4 dimensions"):
        block_attention(query, key[0], value)
    with pytest.raises(ValueError, match="query must not be empty"):
        block_attention(query[:, :, :0], key[:, :, :0], value[:, :, :0])
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        block_mask(0)


@pytest.mark.cuda
@pytest.mark.parametrize("sinks", [0, 3])
def test_cuda_equals_cpu(sinks):
    query, key, value = qkv(length=100)
    pattern = {"block_size": 16, "sinks": sinks}
    output = block_attention(query.cuda(), key.cuda(), value.cuda(), **pattern)
    expected = block_attention(query, key, value, **pattern)
    assert_close(output.cpu(), expected, atol=1e-4, rtol=1e-4)
