import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from effedu.grids import BITS
from effedu.quantization import QuantizedTensor, quantize, quantize_cache

widths = st.sampled_from(BITS)


@pytest.fixture
def quantized_dtypes():
    """PyTorch says that its quantized dtypes will go; as a reference they still serve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- Rounding and storing -------------------------------------------------------------------------


@given(
    bits=widths,
    rows=st.integers(1, 6),
    groups=st.integers(1, 4),
    size=st.sampled_from([1, 3, 8, 32]),
    how=st.sampled_from(["tensor", "row", "group"]),
    symmetric=st.booleans(),
    spread=st.sampled_from([0.0, 1e-4, 1.0, 1e4]),
    seed=st.integers(0, 100),
)
def test_each_weight_is_within_half_a_step(bits, rows, groups, size, how, symmetric, spread, seed):
    torch.manual_seed(seed)
    weight = torch.randn(rows, groups * size) * spread + seed % 2
    result = quantize(
        weight,
        bits=bits,
        group_size=size if how == "group" else None,
        per_tensor=how == "tensor",
        symmetric=symmetric,
    )
    assert result.group_size == {"tensor": weight.numel(), "row": groups * size, "group": size}[how]
    half = (result.grid.scale / 2).repeat_interleave(result.group_size).view(weight.shape)
    error = (result.dequantize() - weight).abs()
    assert (error <= half * (1 + 1e-5) + 1e-6 * weight.abs().max()).all()


@given(bits=widths, rows=st.integers(1, 9), columns=st.sampled_from([8, 32, 64]))
def test_bytes_are_those_of_the_codes_and_the_scales(bits, rows, columns):
    weight = torch.randn(rows, columns)
    assert quantize(weight, bits=bits).nbytes == rows * columns * bits // 8 + 4 * rows
    halves = quantize(weight, bits=bits, group_size=8, symmetric=False, scale_dtype=torch.bfloat16)
    assert halves.nbytes == rows * columns * bits // 8 + 4 * rows * columns // 8
    assert halves.bits_per_weight == bits + 4
    assert quantize(weight, bits=bits, per_tensor=True).nbytes == rows * columns * bits // 8 + 4


@pytest.mark.parametrize("size", [(64, 32), (7, 33), (1, 1), (3, 4, 16)])
def test_int8_rows_are_exactly_those_of_pytorch(size, quantized_dtypes):
    """The grid of PyTorch's observers, and the arithmetic of its reference functions."""
    from torch.ao.quantization.observer import PerChannelMinMaxObserver

    weight = torch.randn(*size) * torch.rand(*size[:-1], 1) * 10
    rows = weight.reshape(-1, size[-1])
    observer = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    observer(rows)
    scale, zero = observer.calculate_qparams()
    result = quantize(weight)
    assert torch.equal(result.grid.scale, scale)
    reference = torch.quantize_per_channel(rows, scale, zero, 0, torch.qint8)
    assert torch.equal(result.codes().view(rows.shape), reference.int_repr())
    assert torch.equal(result.dequantize().view(rows.shape), reference.dequantize())
    fake = torch.fake_quantize_per_channel_affine(rows, scale, zero.int(), 0, -128, 127)
    assert torch.equal(result.dequantize().view(rows.shape), fake)


@pytest.mark.parametrize("bits", BITS)
def test_other_widths_are_exactly_those_of_fake_quantization(bits):
    weight = torch.randn(16, 64)
    result = quantize(weight, bits=bits, group_size=16)
    half = 2 ** (bits - 1)
    fake = torch.fake_quantize_per_channel_affine(
        weight.view(-1, 16), result.grid.scale, torch.zeros(64).int(), 0, -half, half - 1
    )
    assert torch.equal(result.dequantize(), fake.view(16, 64))


def test_with_offset_as_pytorch_does_it_with_float_zero_points(quantized_dtypes):
    weight = torch.randn(8, 40) + 3
    result = quantize(weight, bits=8, symmetric=False)
    scale, offset = result.grid
    reference = torch.quantize_per_channel(weight, scale, -offset / scale, 0, torch.quint8)
    distance = result.codes().int() - reference.int_repr().int()
    assert distance.abs().max() <= 1  # it adds the zero point before it rounds
    assert (distance != 0).float().mean() < 0.02


def test_finer_grids_err_less():
    weight = torch.randn(64, 256)
    error = {
        (bits, size): (quantize(weight, bits=bits, group_size=size).dequantize() - weight).norm()
        for bits in BITS
        for size in (None, 32)
    }
    for bits in BITS:
        assert error[bits, 32] < error[bits, None]
    assert error[2, 32] > error[3, 32] > error[4, 32] > error[8, 32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_rounded_in_float32(dtype):
    weight = torch.randn(8, 32).to(dtype)
    result, expected = quantize(weight, bits=4), quantize(weight.float(), bits=4)
    assert torch.equal(result.codes(), expected.codes())
    assert result.dequantize(dtype).dtype == dtype


def test_a_weight_that_learns_and_is_not_contiguous():
    weight = nn.Parameter(torch.randn(32, 8)).t()
    result = quantize(weight, bits=4)
    assert not result.dequantize().requires_grad
    assert torch.equal(result.codes(), quantize(weight.contiguous(), bits=4).codes())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_through_a_file_and_back(tmp_path, bits, symmetric):
    weight = torch.randn(6, 40)
    first = quantize(
        weight, bits=bits, group_size=8, symmetric=symmetric, scale_dtype=torch.bfloat16
    )
    path = tmp_path / "weight.safetensors"
    save_file(first.tensors(), path, metadata=first.metadata())
    with safe_open(path, "pt") as file:
        again = QuantizedTensor.from_tensors(load_file(path), file.metadata())
    assert torch.equal(first.dequantize(), again.dequantize())
    assert repr(first) == repr(again)
    assert path.stat().st_size < first.nbytes + 600  # the header


def test_repr():
    assert repr(quantize(torch.ones(4, 8), bits=3, symmetric=False)) == (
        "QuantizedTensor(shape (4, 8), 3 bits, groups of 8, with offset, 11 bits per weight)"
    )


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits must be one of 2, 3, 4, 8; got 5"),
        ({"weight": torch.ones(4, 8).int()}, "weight must have a floating-point dtype, got torch"),
        ({"weight": torch.full((4, 8), float("nan"))}, "weight must be finite in float32, got 32"),
        ({"weight": torch.empty(0, 8)}, "weight must have an axis and not be empty"),
        ({"group_size": 3}, "group_size must divide the last axis, 8, got 3"),
        ({"group_size": 4, "per_tensor": True}, "group_size must be None with per_tensor, got 4"),
        ({"scale_dtype": torch.int8}, "scale_dtype must be torch.float32 or torch.bfloat16"),
    ],
)
def test_bad_weights_and_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantize(**{"weight": torch.ones(4, 8), **arguments})


@pytest.mark.unchecked_shapes
def test_parts_that_do_not_fit():
    good = quantize(torch.randn(4, 8), bits=4, symmetric=False)
    tensors, metadata = good.tensors(), good.metadata()
    build = QuantizedTensor.from_tensors
    with pytest.raises(ValueError, match="missing: scale, shape"):
        build({"packed": tensors["packed"]}, {"bits": "4"})
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 8; got 6"):
        build(tensors, {**metadata, "bits": "6"})
    with pytest.raises(
        ValueError, match=r"packed and scale must fit shape \(4, 9\) at 4 bits \(20"
    ):
        build(tensors, {**metadata, "shape": "[4, 9]"})
    with pytest.raises(ValueError, match="got 16 bytes and 3 scales"):
        build({**tensors, "scale": torch.ones(3)}, metadata)
    with pytest.raises(ValueError, match="got 16 bytes and 0 scales"):
        build({**tensors, "scale": torch.ones(0)}, metadata)
    with pytest.raises(
        ValueError, match=r"offset must have the shape of scale, \(4,\), got \(2,\)"
    ):
        build({**tensors, "offset": torch.ones(2)}, metadata)


# --- Keys and values ------------------------------------------------------------------------------


@given(
    length=st.integers(1, 80),
    group_size=st.sampled_from([1, 8, 32]),
    recent=st.sampled_from([0, 5, 100]),
    bits=widths,
)
def test_old_tokens_are_rounded_and_new_ones_are_not(length, group_size, recent, bits):
    key, value = torch.randn(2, 3, length, 16) + 2, torch.randn(2, 3, length, 24)
    cache = quantize_cache(key, value, bits=bits, group_size=group_size, recent=recent)
    new_key, new_value = cache.dequantize()
    kept = cache.recent_key.shape[2]
    assert new_key.shape == key.shape
    assert new_value.shape == value.shape
    assert min(recent, length) <= kept < max(recent, 0) + group_size + (kept == length)
    assert (length - kept) % group_size == 0
    assert torch.equal(new_key[:, :, length - kept :], key[:, :, length - kept :])
    assert torch.equal(new_value[:, :, length - kept :], value[:, :, length - kept :])
    if kept == length:
        assert cache.key is cache.value is None
        return
    for rounded, exact in ((new_key, key), (new_value, value)):
        span = exact.amax() - exact.amin()
        assert (rounded - exact).abs().max() <= span / (2**bits - 1) / 2 * 1.02 + 1e-2


def test_keys_share_a_grid_by_channel_and_values_by_token():
    """Each rounded by itself, as the definition says, comes to the same."""
    key, value = torch.randn(1, 2, 64, 16), torch.randn(1, 2, 64, 16)
    new_key, new_value = quantize_cache(key, value, bits=4, group_size=16).dequantize()
    options = {"bits": 4, "symmetric": False, "scale_dtype": torch.bfloat16}
    channel = quantize(key[0, 1, 16:32, 3], **options)
    assert torch.equal(new_key[0, 1, 16:32, 3], channel.dequantize())
    token = quantize(value[0, 1, 20], **options)
    assert torch.equal(new_value[0, 1, 20], token.dequantize())
    _, halves = quantize_cache(key, value, bits=4, group_size=8).dequantize()
    half = quantize(value[0, 1, 20, 8:], **options)
    assert torch.equal(halves[0, 1, 20, 8:], half.dequantize())


def test_a_large_channel_does_not_spoil_the_other_keys():
    key, value = torch.randn(1, 2, 64, 16), torch.randn(1, 2, 64, 16)
    key[..., 3] = 50 + key[..., 3]
    rest = [i for i in range(16) if i != 3]
    by_channel = quantize_cache(key, value, bits=4).dequantize()[0]
    by_token = quantize(key, bits=4, symmetric=False).dequantize()
    error = [(new - key)[..., rest].norm() for new in (by_channel, by_token)]
    assert error[0] < 0.1 * error[1]


def test_a_cache_of_few_bits_is_small():
    key, value = torch.randn(1, 4, 256, 64), torch.randn(1, 4, 256, 64)
    cache = quantize_cache(key, value, bits=2, group_size=32)
    numbers = 2 * 4 * 256 * 64
    assert cache.nbytes == numbers * 2 // 8 + numbers // 32 * 2 * 2
    assert cache.nbytes < (key.nbytes + value.nbytes) / 10


@pytest.mark.unchecked_shapes
def test_bad_caches():
    key = torch.randn(1, 2, 8, 4)
    with pytest.raises(ValueError, match="bits must be one of 2, 3, 4, 8; got 1"):
        quantize_cache(key, key, bits=1)
    with pytest.raises(ValueError, match="group_size must be an integer of at least 1, got 0"):
        quantize_cache(key, key, group_size=0)
    with pytest.raises(ValueError, match="recent must be an integer of at least 0, got -1"):
        quantize_cache(key, key, recent=-1)
    for other in (key[0], key[:, :1], key[:, :, :4]):
        with pytest.raises(ValueError, match=r"key and value must be \(batch, heads, length, wid"):
            quantize_cache(key, other)
    with pytest.raises(ValueError, match="weight must be finite in float32"):
        quantize_cache(key * float("inf"), key, group_size=4)
