import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import effedu.quantized_linear as module
from effedu.calibration import gptq
from effedu.quantization import quantize
from effedu.quantized_linear import Int4Linear, Int8Linear

fbgemm = pytest.mark.skipif(not module._HAS_FBGEMM, reason="no FBGEMM here")
int4_kernel = pytest.mark.skipif(not module._BLOCK, reason="no measured 4-bit kernel here")


@pytest.fixture
def quantized_dtypes():
    """PyTorch says that its quantized dtypes will go; as a reference they still serve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def linear_and_inputs(inputs=64, outputs=64, tokens=7, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    return linear, torch.randn(tokens, inputs, dtype=dtype)


def int8_by_hand(linear, x):
    """The definition, in double precision; the weight's rounding is tested above."""
    rounded = quantize(linear.weight).dequantize(torch.float64)
    step = x.double().abs().amax(-1, keepdim=True) / 63
    y = (x.double() / step).round() @ rounded.T * step
    return y + (0 if linear.bias is None else linear.bias.detach().double())


@given(
    tokens=st.integers(1, 9),
    inputs=st.sampled_from([1, 5, 64, 100]),
    outputs=st.sampled_from([1, 3, 48]),
    bias=st.booleans(),
    seed=st.integers(0, 50),
)
def test_int8_is_what_its_definition_says(tokens, inputs, outputs, bias, seed):
    linear, x = linear_and_inputs(inputs, outputs, tokens, bias, seed=seed)
    layer = Int8Linear.from_linear(linear)
    # A tie may go to either side: one code of the inputs.
    step = x.abs().amax() / 63 * linear.weight.abs().max()
    expected = int8_by_hand(linear, x)
    error = (layer(x).double() - expected).abs()
    assert (error < 1e-5).float().mean() > 0.9
    assert error.max() < 1.1 * step + 1e-5


def test_int8_sums_do_not_overflow():
    """Full codes everywhere: what a processor without VNNI would cut off with 8-bit inputs."""
    linear = nn.Linear(4096, 16, bias=False)
    linear.weight.data.fill_(-1.0)
    x = torch.ones(3, 4096)
    assert_close(Int8Linear.from_linear(linear)(x), linear(x).detach(), rtol=0.005, atol=0)
    assert_close(Int8Linear.from_linear(linear)(x[:1]), linear(x[:1]).detach(), rtol=0.005, atol=0)


@fbgemm
@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_int8_is_the_same_with_and_without_its_kernel(tokens, monkeypatch):
    linear, x = linear_and_inputs(tokens=tokens)
    fast = Int8Linear.from_linear(linear)(x)
    monkeypatch.setattr(module, "_HAS_FBGEMM", False)
    plain = Int8Linear.from_linear(linear)(x)
    assert_close(fast, plain, atol=0.003, rtol=0)  # less than one step of the inputs
    assert (fast - plain).abs().median() < 1e-6


@fbgemm
def test_int8_errs_no_more_than_pytorch_s_dynamic_layer(quantized_dtypes):
    linear, x = linear_and_inputs(256, 256, 200)
    x[0] *= 20  # one large token spoils the grid of all others where they share one
    theirs = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8
    )
    exact = linear(x)
    ours = (Int8Linear.from_linear(linear)(x) - exact)[1:].norm()
    assert ours < 0.2 * (theirs(x) - exact)[1:].norm()
    plain = torch.randn(200, 256)
    ours = (Int8Linear.from_linear(linear)(plain) - linear(plain)).norm()
    assert ours <= (theirs(plain) - linear(plain)).norm()


@pytest.mark.parametrize("tokens", [2, 33])
def test_a_token_depends_on_no_other(tokens):
    linear, x = linear_and_inputs(tokens=tokens)
    layer = Int8Linear.from_linear(linear)
    other = x.clone()
    other[1:] *= 100
    assert torch.equal(layer(x)[0], layer(other)[0])
    assert_close(layer(x)[0], layer(x[:1])[0], atol=0.003, rtol=0)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 3, 64), (0, 64), (2, 0, 64), (3, 70, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_and_dtypes_are_those_of_a_linear_layer(kind, shape, dtype):
    linear, _ = linear_and_inputs(dtype=dtype)
    x = torch.randn(shape, dtype=dtype)
    result, expected = kind.from_linear(linear)(x), linear(x)
    assert result.shape == expected.shape
    assert result.dtype == dtype
    assert not result.requires_grad
    assert_close(result, expected.detach(), atol=0.4, rtol=0)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_zeros_give_the_bias(kind):
    linear, x = linear_and_inputs()
    assert_close(kind.from_linear(linear)(x * 0), linear(x * 0).detach())
    linear.weight.data.zero_()
    assert_close(kind.from_linear(linear)(x), linear(x).detach())


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_what_is_not_a_number_stays_so(kind):
    linear, x = linear_and_inputs()
    x[2, 5] = float("nan")
    layer = kind.from_linear(linear)
    wrong = layer(x).isnan().any(1)
    assert wrong.tolist() == [row == 2 for row in range(7)]
    assert layer(x[2:3]).isnan().all()
    x[2, 5] = float("inf")
    wrong = ~layer(x).isfinite().all(1)
    assert wrong.tolist() == [row == 2 for row in range(7)]
    assert not layer(x[2:3]).isfinite().any()


@pytest.mark.parametrize("group_size", [2, 32, 64, 128])
@pytest.mark.parametrize("tokens", [1, 5, 65])
def test_int4_is_a_linear_layer_with_the_rounded_weights(group_size, tokens):
    linear, x = linear_and_inputs(128, 64, tokens)
    layer = Int4Linear.from_linear(linear, group_size=group_size)
    rounded = quantize(
        linear.weight, bits=4, group_size=group_size, scale_dtype=torch.bfloat16
    ).dequantize()
    assert torch.equal(layer.dequantize(), rounded)
    expected = nn.functional.linear(x, rounded, linear.bias.detach())
    # The kernel for few tokens has inputs and outputs of 8 bits' precision.
    assert_close(layer(x), expected, atol=0.02, rtol=0.01)


@int4_kernel
def test_int4_takes_its_kernel_where_that_fits():
    linear, x = linear_and_inputs(128, 64, 65)
    layer = Int4Linear.from_linear(linear)
    plain = layer.dequantize()
    before = layer.nbytes
    many = layer(x)
    assert layer.weight is not None
    layer(x[:64])
    assert layer.weight is None
    assert layer.nbytes == before + 64 * 2 * 4  # the kernel's own scales and offsets
    assert torch.equal(layer.dequantize(), plain)
    assert_close(layer(x), many)
    for other in (nn.Linear(128, 63), nn.Linear(80, 64), nn.Linear(96, 64)):
        for size in (2, 16, 80, 96):
            if other.in_features % size == 0:
                few = Int4Linear.from_linear(other, group_size=size)
                few(torch.randn(3, other.in_features))
                assert few.weight is not None


@int4_kernel
def test_int4_stays_plain_where_the_kernel_has_another_order(monkeypatch):
    linear, x = linear_and_inputs(128, 64)
    layer = Int4Linear.from_linear(linear)
    monkeypatch.setattr(module, "_from_blocks", lambda blocks: torch.zeros(64, 128))
    assert_close(layer(x), nn.functional.linear(x, layer.dequantize(), linear.bias.detach()))
    assert layer.weight is not None


def test_int4_takes_weights_that_are_quantized_already():
    linear, x = linear_and_inputs(128, 64, 70)
    moments = x.T @ x
    better = gptq(linear.weight, moments, bits=4, group_size=32, scale_dtype=torch.bfloat16)
    layer = Int4Linear.from_quantized(better, linear.bias)
    expected = nn.functional.linear(x, better.dequantize(), linear.bias)
    assert_close(layer(x), expected.detach())
    whole = quantize(linear.weight, bits=4, per_tensor=True, scale_dtype=torch.bfloat16)
    assert torch.equal(Int4Linear.from_quantized(whole).dequantize(), whole.dequantize())
    assert Int4Linear.from_quantized(whole).bias is None


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_saved_and_loaded_before_and_after_use(kind, tmp_path):
    linear, x = linear_and_inputs(128)
    layer = kind.from_linear(linear)
    fresh = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    y = layer(x)
    used = layer.state_dict()
    assert fresh.keys() == used.keys() == {"weight", "scale", "bias"}
    assert all(torch.equal(fresh[name], used[name]) for name in fresh)
    save_file(used, tmp_path / "layer.safetensors")
    again = kind(128, 64)
    again(x)  # it has packed other codes already
    again.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(again(x), y)
    assert torch.equal(layer(x), y)  # saving took nothing away
    assert list(dict(layer.named_parameters())) == []


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_copied_and_moved_after_use(kind):
    linear, x = linear_and_inputs(128)
    layer = kind.from_linear(linear)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(layer.to("cpu")(x), y)
    layer.double()(x)
    layer.to("meta")
    assert all(tensor.is_meta for tensor in layer.state_dict().values())


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_a_layer_without_numbers_is_filled_by_its_state(kind):
    linear, x = linear_and_inputs(128)
    layer = kind.from_linear(linear)
    with torch.device("meta"):
        empty = kind(128, 64)
    assert empty.weight.is_meta
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty(x), layer(x))


def test_memory_is_that_of_the_codes():
    linear, x = linear_and_inputs(256, 512)
    eight = Int8Linear.from_linear(linear)
    plain = 256 * 512 + 4 * 512 + 4 * 512
    assert eight.nbytes == sum(buffer.nbytes for buffer in eight.buffers()) == plain
    eight(x)
    assert eight.nbytes == plain
    if module._HAS_FBGEMM:
        assert eight.weight is None  # the kernel has them, and nobody else
    four = Int4Linear.from_linear(linear)
    assert four.nbytes == 256 * 512 // 2 + 2 * 512 * 4 + 4 * 512


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_modes_and_reprs(kind):
    linear, _ = linear_and_inputs(128)
    assert kind.from_linear(linear).training
    assert not kind.from_linear(linear.eval()).training
    text = repr(kind.from_linear(linear))
    assert text.startswith(f"{kind.__name__}(in_features=128, out_features=64, bias=True")


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_on_a_gpu(kind):
    linear, x = linear_and_inputs(128)
    layer = kind.from_linear(linear)
    assert_close(layer.cuda()(x.cuda()).cpu(), layer.cpu()(x), atol=0.02, rtol=0.01)
    assert kind.from_linear(linear.cuda()).scale.is_cuda


@pytest.mark.unchecked_shapes
def test_bad_layers_and_inputs():
    for kind in (Int8Linear, Int4Linear):
        with pytest.raises(ValueError, match=r"linear must be a torch.nn.Linear, got ReLU"):
            kind.from_linear(nn.ReLU())
        bad = nn.Linear(64, 2)
        bad.weight.data[0, 0] = float("inf")
        with pytest.raises(ValueError, match="weight must be finite in float32, got 1 NaN"):
            kind.from_linear(bad)
        for shape in ((2, 32), (2, 128), ()):
            with pytest.raises(ValueError, match="inputs must have 64 numbers along the last axis"):
                kind.from_linear(nn.Linear(64, 2))(torch.ones(shape))
    with pytest.raises(ValueError, match="group_size must divide the last axis, 96, got 64"):
        Int4Linear.from_linear(nn.Linear(96, 2))
    with pytest.raises(ValueError, match="group_size must be even and divide in_features, 96, got"):
        Int4Linear(96, 2, group_size=3)
    with pytest.raises(ValueError, match="group_size must be even and divide in_features, 96, got"):
        Int4Linear(96, 2)
    with pytest.raises(ValueError, match="group_size must be an integer of at least 2, got 1"):
        Int4Linear(96, 2, group_size=1)
    good = {"bits": 4, "scale_dtype": torch.bfloat16}
    for weight, change in (
        (torch.ones(4, 8), {"bits": 8}),
        (torch.ones(4, 8), {"symmetric": False}),
        (torch.ones(4, 8), {"scale_dtype": torch.float32}),
        (torch.ones(4, 7), {}),
        (torch.ones(4, 8, 2), {}),
    ):
        with pytest.raises(ValueError, match="quantized must be a matrix of 4 bits, symmetric"):
            Int4Linear.from_quantized(quantize(weight, **{**good, **change}))
