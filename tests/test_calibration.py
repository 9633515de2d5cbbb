import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import effedu
from effedu.calibration import gptq, input_statistics
from effedu.grids import BITS
from effedu.lm import heldout_text
from effedu.quantization import quantize


def layer_and_inputs(outputs=12, inputs=24, tokens=200, seed=0):
    """Inputs that depend on each other, as those of a trained model do."""
    torch.manual_seed(seed)
    mixed = torch.randn(tokens, inputs) @ torch.randn(inputs, inputs)
    return torch.randn(outputs, inputs), mixed


def output_error(quantized, weight, inputs):
    return ((quantized.dequantize() - weight) @ inputs.T).norm().item()


def plain_obq(weight, moments, grid_of, damping=0.01):
    """Optimal brain quantization in a fixed order, by its definition: no Cholesky factor.

    After each column, the inverse of what is left of H is computed anew.
    """
    values = weight.double().clone()
    hessian = moments.double() + damping * moments.double().diagonal().mean() * torch.eye(
        len(moments)
    )
    for i in range(values.shape[1]):
        inverse = torch.linalg.inv(hessian[i:, i:])
        rounded = grid_of(i, values[:, i])
        error = (values[:, i] - rounded) / inverse[0, 0]
        values[:, i:] -= error[:, None] * inverse[0]
        values[:, i] = rounded
    return values


@pytest.mark.parametrize("bits", [3, 8])
def test_gptq_is_optimal_brain_quantization_in_a_fixed_order(bits):
    weight, inputs = layer_and_inputs()
    weight[:, 0] = 4.0  # the first column sets the grid of the row, which then stays the same
    moments = inputs.T @ inputs
    result = gptq(weight, moments, bits=bits)
    scale = result.grid.scale.double()
    half = 2 ** (bits - 1)

    def nearest(_, column):
        return (column / scale).round().clamp(-half, half - 1) * scale

    assert_close(result.dequantize(torch.float64), plain_obq(weight, moments, nearest))


@given(
    bits=st.sampled_from([2, 3, 4]),
    group_size=st.sampled_from([None, 8, 12]),
    symmetric=st.booleans(),
    seed=st.integers(0, 20),
)
def test_gptq_beats_rounding_to_nearest_on_its_inputs(bits, group_size, symmetric, seed):
    weight, inputs = layer_and_inputs(seed=seed)
    arguments = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    better = gptq(weight, inputs.T @ inputs, **arguments)
    nearest = quantize(weight, **arguments)
    assert output_error(better, weight, inputs) < output_error(nearest, weight, inputs)
    assert better.nbytes == nearest.nbytes
    assert better.shape == nearest.shape


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_inputs_without_correlation_leave_rounding_to_nearest(bits, symmetric):
    weight = torch.randn(6, 16)
    arguments = {"bits": bits, "group_size": 8, "symmetric": symmetric}
    result = gptq(weight, torch.eye(16) * 3, **arguments)
    assert torch.equal(result.codes(), quantize(weight, **arguments).codes())


def test_an_input_that_never_comes_does_no_harm():
    weight, inputs = layer_and_inputs()
    inputs[:, 3] = 0
    result = gptq(weight, inputs.T @ inputs, bits=3)
    assert result.dequantize().isfinite().all()
    assert output_error(result, weight, inputs) < output_error(
        quantize(weight, bits=3), weight, inputs
    )


def test_the_factor_and_the_weight_are_left_alone():
    weight, inputs = layer_and_inputs()
    moments = inputs.T @ inputs
    before = weight.clone(), moments.clone()
    first = gptq(weight, moments, bits=3, scale_dtype=torch.bfloat16)
    assert torch.equal(weight, before[0])
    assert torch.equal(moments, before[1])
    assert first.grid.scale.dtype == torch.bfloat16
    scaled = gptq(weight, moments * 1000, bits=3, scale_dtype=torch.bfloat16)
    assert torch.equal(first.codes(), scaled.codes())


def test_statistics_are_those_of_the_inputs():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Linear(7, 7))
    x, y = torch.randn(2, 4, 3), torch.randn(1, 6, 3)

    def run():
        for part in (x, y):
            model[2](model[1](model[0](part)))

    found = input_statistics(model, run)
    assert set(found) == {"0", "2"}
    rows = torch.cat([x.flatten(0, 1), y.flatten(0, 1)])
    assert found["0"].tokens == 14
    assert_close(found["0"].moments, rows.T @ rows)
    assert_close(found["0"].largest, rows.abs().amax(0))
    hidden = model[0](rows).relu()
    assert_close(found["2"].moments, (hidden.T @ hidden).detach())
    assert not model[0]._forward_pre_hooks


def test_hooks_go_when_the_run_fails():
    model = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(RuntimeError):
        input_statistics(model, lambda: model(torch.randn(2, 4)))
    assert not model[0]._forward_pre_hooks


def test_gptq_keeps_more_of_the_embedded_model_than_rounding_to_nearest():
    lm = effedu.load_lm()
    text = heldout_text()
    watched = input_statistics(lm.model, lambda: lm.bits_per_byte(text[-20_000:], length=512))
    layers = {n: m for n, m in lm.model.named_modules() if ".layers." in n and n in watched}
    original = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    bits = {}
    for method in ("gptq", "nearest"):
        for name, layer in layers.items():
            options = {"bits": 3, "group_size": 64}
            new = (
                gptq(original[name], watched[name].moments, **options)
                if method == "gptq"
                else quantize(original[name], **options)
            )
            layer.weight.data = new.dequantize()
        bits[method] = lm.bits_per_byte(text[20_000:26_000], length=512)
    assert bits["gptq"] < bits["nearest"]


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits must be one of 2, 3, 4, 8; got 5"),
        ({"weight": torch.ones(2, 3, 4)}, r"weight must be \(outputs, inputs\), got shape \(2, 3"),
        ({"weight": torch.ones(2, 4).int()}, "weight must have a floating-point dtype"),
        ({"group_size": 3}, "group_size must divide the last axis, 4, got 3"),
        ({"moments": torch.eye(5)}, r"moments must have the shape \(4, 4\) .* got \(5, 5\)"),
        ({"moments": torch.zeros(4, 4)}, "moments must be finite, with something positive"),
        ({"moments": torch.full((4, 4), float("nan"))}, "moments must be finite, with something"),
        ({"damping": 0}, "damping must be positive and finite, got 0"),
        ({"damping": float("inf")}, "damping must be positive and finite, got inf"),
    ],
)
def test_bad_input(arguments, message):
    good = {"weight": torch.ones(2, 4), "moments": torch.eye(4)}
    with pytest.raises(ValueError, match=message):
        gptq(**{**good, **arguments})
