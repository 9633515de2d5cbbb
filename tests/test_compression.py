"""Zeros, thin matrices, fewer neurons and layers: against PyTorch, masks and exact counts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from effedu.calibration import input_statistics
from effedu.compression import (
    LowRankLinear,
    break_even_rank,
    keep_layers,
    low_rank,
    magnitude_prune,
    neuron_importance,
    prune_neurons,
    prune_two_of_four,
    replace_linears,
    share_layers,
)
from effedu.cost import cost

shapes = st.fixed_dictionaries(
    {"outputs": st.integers(1, 12), "inputs": st.integers(1, 12), "seed": st.integers(0, 1000)}
)
TOKENS = torch.arange(30).view(2, 15)


def linear(outputs=7, inputs=9, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, dtype=dtype)


def family(name, seed=0):
    torch.manual_seed(seed)
    return FAMILIES[name]().eval()


def count(model):
    return sum(p.numel() for p in model.parameters())


def flops(model):
    model.set_attn_implementation("eager")  # the counter does not see fused attention on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(TOKENS, use_cache=False)
    return counter.get_total_flops()


@torch.no_grad()
def logits(model):
    return model(TOKENS, use_cache=False).logits


# --- Zeros ----------------------------------------------------------------------------------------


@given(shape=shapes, share=st.floats(0, 1))
def test_zeros_are_those_of_torch(shape, share):
    layer = linear(**shape)
    ours = magnitude_prune(layer.weight, share)
    prune.l1_unstructured(layer, "weight", round(share * layer.weight.numel()))
    assert torch.equal(ours, layer.weight.detach())


@given(shape=shapes, share=st.floats(0, 1))
def test_the_smallest_are_zero_and_the_others_stay(shape, share):
    weight = linear(**shape).weight.detach()
    pruned = magnitude_prune(weight, share)
    zero = pruned == 0
    assert zero.sum() == round(share * weight.numel())
    assert torch.equal(pruned[~zero], weight[~zero])
    if zero.any() and not zero.all():
        assert weight[zero].abs().max() <= weight[~zero].abs().min()


def test_pruning_leaves_the_weight_alone_and_keeps_memory():
    weight = torch.randn(6, 4, 5).transpose(0, 2)  # not contiguous
    before = weight.clone()
    pruned = magnitude_prune(weight, 0.9)
    assert torch.equal(weight, before)
    assert pruned.nbytes == weight.nbytes
    assert (pruned != 0).sum() == 12
    assert torch.equal(magnitude_prune(weight.bfloat16(), 0).float(), weight.bfloat16().float())


@given(outputs=st.integers(1, 6), fours=st.integers(1, 5), seed=st.integers(0, 100))
def test_two_of_four_keeps_the_larger_two(outputs, fours, seed):
    torch.manual_seed(seed)
    weight = torch.randn(outputs, 4 * fours)
    pruned = prune_two_of_four(weight)
    for row, new in zip(weight, pruned, strict=True):
        for i in range(0, len(row), 4):
            largest = sorted(range(4), key=lambda j: -abs(float(row[i + j])))[:2]
            expected = [float(row[i + j]) if j in largest else 0.0 for j in range(4)]
            assert new[i : i + 4].tolist() == expected


# --- Low rank -------------------------------------------------------------------------------------


@given(shape=shapes, share=st.floats(0, 1))
def test_eckart_young(shape, share):
    """No other matrix of the rank comes closer; the error is the root of what was dropped."""
    layer = linear(**shape, dtype=torch.float64)
    rank = max(1, round(share * min(layer.weight.shape)))
    thin = low_rank(layer, rank)
    values = torch.linalg.svdvals(layer.weight)
    error = (layer.weight - thin.weight).norm()
    assert_close(error, values[rank:].square().sum().sqrt(), atol=1e-9, rtol=1e-9)
    other = torch.randn(shape["outputs"], rank) @ torch.randn(rank, shape["inputs"])
    assert error <= (layer.weight - other).norm() + 1e-9
    assert torch.linalg.matrix_rank(thin.weight) <= rank


@given(
    shape=shapes,
    share=st.floats(0, 1),
    tokens=st.integers(1, 20),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    damping=st.sampled_from([1e-6, 1e-4, 1.0]),
)
def test_with_moments_the_outputs_error_is_never_larger(shape, share, tokens, scale, damping):
    layer = linear(**shape, dtype=torch.float64)
    inputs = torch.randn(tokens, shape["inputs"], dtype=torch.float64) * scale
    inputs[:, 0] *= 30
    rank = max(1, round(share * min(layer.weight.shape)))
    moments = inputs.T @ inputs
    errors = [
        (layer(inputs) - low_rank(layer, rank, moments=m, damping=damping)(inputs)).norm()
        for m in (moments, None)
    ]
    assert errors[0] <= errors[1] + 1e-6 * scale


@given(shape=shapes, share=st.floats(0, 1))
def test_with_moments_it_is_the_best_of_all_matrices_of_its_rank(shape, share):
    """Against the singular values of the outputs themselves, which no rank-r map can beat."""
    layer = linear(**shape, dtype=torch.float64)
    inputs = torch.randn(40, shape["inputs"], dtype=torch.float64) * torch.linspace(
        0.2, 3, shape["inputs"], dtype=torch.float64
    )
    rank = max(1, round(share * min(layer.weight.shape)))
    thin = low_rank(layer, rank, moments=inputs.T @ inputs, damping=1e-9)
    error = (inputs @ (layer.weight - thin.weight).T).norm()
    values = torch.linalg.svdvals(inputs @ layer.weight.T)
    assert_close(error, values[rank:].square().sum().sqrt(), atol=1e-4, rtol=1e-4)


def test_full_rank_changes_nothing():
    layer, x = linear(), torch.randn(2, 5, 9)
    inputs = torch.randn(50, 9)
    for thin in (low_rank(layer, 7), low_rank(layer, 7, moments=inputs.T @ inputs)):
        assert_close(thin(x), layer(x), atol=1e-5, rtol=1e-5)
        assert_close(F.linear(x, thin.weight, thin.widen.bias), thin(x))


def test_moments_count_up_to_a_factor():
    layer, inputs = linear(), torch.randn(50, 9)
    moments = inputs.T @ inputs
    assert_close(
        low_rank(layer, 3, moments=moments).weight, low_rank(layer, 3, moments=moments / 50).weight
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_dtype_and_bias_stay(dtype, bias):
    layer = nn.Linear(9, 7, bias=bias, dtype=dtype)
    before = copy.deepcopy(layer.state_dict())
    thin = low_rank(layer, 7)
    assert {p.dtype for p in thin.parameters()} == {dtype}
    assert (thin.widen.bias is not None) == bias
    assert_close(thin.weight.double(), layer.weight.double(), atol=2e-2, rtol=2e-2)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@given(outputs=st.integers(1, 3000), inputs=st.integers(1, 3000))
def test_break_even(outputs, inputs):
    rank = break_even_rank(outputs, inputs)
    below, above = int(rank), int(rank) + 1
    assert below * (outputs + inputs) <= outputs * inputs < above * (outputs + inputs)


@pytest.mark.parametrize("rank", [1, 5, 7])
def test_counts_of_a_thin_layer_are_exact(rank):
    layer = linear()
    thin = low_rank(layer, rank)
    assert count(thin) == rank * (9 + 7) + 7
    with FlopCounterMode(display=False) as counter:
        thin(torch.randn(4, 9))
    assert counter.get_total_flops() == 2 * 4 * rank * (9 + 7)


# --- Fewer neurons --------------------------------------------------------------------------------

KINDS = ["gpt_neox", "llama", "qwen2", "gemma"]


def masked(model, importance, keep):
    """The whole model with the other neurons' activations set to zero."""
    hooks = []
    for name, layer in model.named_modules():
        if name in importance:
            mask = torch.zeros(layer.in_features)
            mask[importance[name].argsort(descending=True)[:keep]] = 1
            hooks.append(layer.register_forward_pre_hook(lambda _, x, mask=mask: (x[0] * mask,)))
    result = logits(model)
    for hook in hooks:
        hook.remove()
    return result


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("calibrated", [True, False])
def test_pruned_neurons_equal_masked_neurons(name, calibrated):
    model = family(name)
    statistics = input_statistics(model, lambda: logits(model)) if calibrated else None
    before = logits(model)
    for keep in (1, 20, 47, 48):
        smaller = prune_neurons(model, keep, statistics=statistics)
        expected = masked(model, neuron_importance(model, statistics), keep)
        assert_close(logits(smaller), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(logits(model), before)
    assert model.config.intermediate_size == 48


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "qwen2"])
def test_cost_counts_a_pruned_model_exactly(name):
    smaller = prune_neurons(family(name), 11)
    expected = cost(smaller.config, 15, batch=2)
    assert count(smaller) == expected.parameters
    assert flops(smaller) == expected.flops.total


def test_importance_is_the_root_mean_square_of_what_a_neuron_adds():
    model = family("gpt_neox")
    seen = {}
    layer = model.gpt_neox.layers[1].mlp.dense_4h_to_h
    hook = layer.register_forward_pre_hook(lambda _, x: seen.update(x=x[0]))
    statistics = input_statistics(model, lambda: logits(model))
    hook.remove()
    added = seen["x"].flatten(0, 1)[:, None, :] * layer.weight  # (tokens, width, neurons)
    expected = added.square().sum(1).mean(0).sqrt()
    found = neuron_importance(model, statistics)["gpt_neox.layers.1.mlp.dense_4h_to_h"]
    assert_close(found, expected)


def test_importance_without_statistics_is_the_product_of_norms():
    model = family("llama")
    mlp = model.model.layers[0].mlp
    expected = mlp.up_proj.weight.norm(dim=1) * mlp.gate_proj.weight.norm(dim=1)
    expected = expected * mlp.down_proj.weight.norm(dim=0)
    assert_close(neuron_importance(model)["model.layers.0.mlp.down_proj"], expected)


def test_a_pruned_model_is_saved_and_loaded(tmp_path):
    smaller = prune_neurons(family("llama"), 12)
    smaller.save_pretrained(tmp_path)
    loaded = type(smaller).from_pretrained(tmp_path).eval()
    assert_close(logits(loaded), logits(smaller))


# --- Other linear layers --------------------------------------------------------------------------


def test_replace_linears_replaces_the_kinds_it_is_told():
    model = family("gpt_neox")
    before, seen = logits(model), []

    def thin(name, layer):
        seen.append(name)
        return low_rank(layer, 4)

    changed = replace_linears(model, thin, {"dense_h_to_4h", "dense"})
    assert len(seen) == 4
    assert all(name.rpartition(".")[2] in ("dense_h_to_4h", "dense") for name in seen)
    assert sum(isinstance(m, LowRankLinear) for m in changed.modules()) == 4
    assert not any(isinstance(m, LowRankLinear) for m in model.modules())
    assert torch.equal(logits(model), before)


def test_thin_models_flops_are_exact():
    model = family("gpt_neox")
    thin = replace_linears(model, lambda _, layer: low_rank(layer, 4))
    whole = cost(model.config, 15, batch=2)
    assert flops(model) == whole.flops.total
    per_token = sum(
        4 * (i + o) - i * o for i, o in [(32, 96), (32, 32), (32, 48), (48, 32)]
    )  # numbers gained in one layer
    assert flops(thin) == whole.flops.total + 2 * 30 * 2 * per_token
    assert count(thin) == whole.parameters + 2 * per_token


def test_replace_linears_leaves_the_logits_alone():
    model = family("llama")
    changed = replace_linears(model, lambda _, layer: low_rank(layer, 2))
    assert isinstance(changed.lm_head, nn.Linear)
    assert sum(isinstance(m, LowRankLinear) for m in changed.modules()) == 2 * 7


# --- Fewer layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "qwen3"])
def test_kept_layers_are_those_of_the_model(name):
    model = family(name)
    smaller = keep_layers(model, [1])
    expected = cost(smaller.config, 15, batch=2)
    assert count(smaller) == expected.parameters
    assert flops(smaller) == expected.flops.total
    assert_close(logits(keep_layers(model, [0, 1])), logits(model))
    assert model.config.num_hidden_layers == 2
    # The first layer does nothing when what it adds is zero: the second alone is left.
    for part, weight in model.named_parameters():
        if ".layers.0." in part and ("dense" in part or "proj" in part):
            nn.init.zeros_(weight)
    assert_close(logits(smaller), logits(model), atol=1e-5, rtol=1e-4)


def test_kept_layers_generate_with_a_cache():
    smaller = keep_layers(family("llama"), [1])
    with torch.no_grad():
        whole = smaller(TOKENS).logits
        cache = smaller(TOKENS[:, :-1], use_cache=True).past_key_values
        step = smaller(TOKENS[:, -1:], past_key_values=cache).logits
    assert_close(step[:, 0], whole[:, -1], atol=1e-5, rtol=1e-4)


def test_kept_layers_keep_their_kinds():
    smaller = keep_layers(family("gemma3_windowed"), [1])
    assert smaller.config.layer_types == ["full_attention"]


def test_shared_layers_are_one():
    model = family("gpt_neox")
    shared = share_layers(model, 2)
    first, second = shared.gpt_neox.layers
    layer = count(model.gpt_neox.layers[0])
    assert count(shared) == count(model) - layer
    for (_, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert a is b
    mean = (model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight
            + model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight) / 2  # fmt: skip
    assert_close(first.mlp.dense_h_to_4h.weight, mean)
    assert flops(shared) == flops(model)
    assert_close(logits(share_layers(model, 1)), logits(model))
    assert count(share_layers(model, 1)) == count(model)


def test_a_gradient_reaches_both_uses_of_a_shared_layer():
    shared = share_layers(family("gpt_neox"), 2)
    shared(TOKENS).logits.square().mean().backward()
    with_both = shared.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.grad
    assert with_both is shared.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.grad
    assert with_both.abs().max() > 0


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), True])
def test_bad_share(share):
    with pytest.raises(ValueError, match=f"share must be from 0 to 1, got {share}"):
        magnitude_prune(torch.randn(3, 3), share)


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("shape", [(4, 6), (8,), (2, 3, 4)])
def test_bad_two_of_four(shape):
    with pytest.raises(ValueError, match=r"inputs a multiple of 4, got shape"):
        prune_two_of_four(torch.randn(shape))


@pytest.mark.unchecked_shapes
def test_bad_weights():
    bad = torch.tensor([[1.0, float("nan"), 0.0, 0.0]])
    layer = nn.Linear(4, 1)
    layer.weight.data = bad
    for call in (
        lambda: magnitude_prune(bad, 0.5),
        lambda: prune_two_of_four(bad),
        lambda: low_rank(layer, 1),
    ):
        with pytest.raises(ValueError, match="weight must be finite in float32, got 1 NaN"):
            call()
    with pytest.raises(ValueError, match="weight must have a floating-point dtype"):
        magnitude_prune(torch.ones(2, 2, dtype=torch.int64), 0.5)


@pytest.mark.unchecked_shapes
def test_bad_low_rank():
    layer, moments = linear(), torch.eye(9)
    for arguments, message in (
        ((torch.randn(3, 3), 1), "linear must be an nn.Linear, got Tensor"),
        ((layer, 0), "rank must be an integer of at least 1, got 0"),
        ((layer, 2.0), "rank must be an integer of at least 1, got 2.0"),
        ((layer, 8), "rank must be at most 7, the smaller side of the weight, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            low_rank(*arguments)
    for options, message in (
        ({"moments": torch.eye(7)}, r"moments must have the shape \(9, 9\) .* got \(7, 7\)"),
        ({"moments": moments * 0}, "moments must be finite, with something positive"),
        ({"moments": moments * float("inf")}, "moments must be finite, with something positive"),
        ({"moments": moments, "damping": 0}, "damping must be positive and finite, got 0"),
        ({"moments": moments, "damping": float("inf")}, "damping must be positive and finite"),
    ):
        with pytest.raises(ValueError, match=message):
            low_rank(layer, 3, **options)
    for name in ("in_features", "out_features", "rank"):
        sizes = {"in_features": 3, "out_features": 3, "rank": 1, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
            LowRankLinear(**sizes)
    with pytest.raises(ValueError, match="outputs must be an integer of at least 1, got 0"):
        break_even_rank(0, 3)
    with pytest.raises(ValueError, match="inputs must be an integer of at least 1, got -1"):
        break_even_rank(3, -1)


@pytest.mark.unchecked_shapes
def test_bad_neurons():
    model = family("gpt_neox")
    with pytest.raises(ValueError, match="keep must be an integer of at least 1, got 0"):
        prune_neurons(model, 0)
    with pytest.raises(ValueError, match="keep must be at most the model's 48 neurons a layer"):
        prune_neurons(model, 49)
    for other in (family("gpt2"), model.gpt_neox.layers[0], nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="model must be a transformers model with feed-for"):
            prune_neurons(other, 1)
    statistics = input_statistics(model, lambda: logits(model))
    name = "gpt_neox.layers.1.mlp.dense_4h_to_h"
    with pytest.raises(ValueError, match=f"statistics must hold 48 inputs of {name}, got none"):
        neuron_importance(model, {k: v for k, v in statistics.items() if k != name})
    statistics[name] = statistics["gpt_neox.layers.1.mlp.dense_h_to_4h"]
    with pytest.raises(ValueError, match=f"48 inputs of {name}, got 32 inputs"):
        neuron_importance(model, statistics)


@pytest.mark.unchecked_shapes
def test_bad_layers():
    model = family("gpt_neox")
    for kept in ([], [0, 0], [2], [-1]):
        with pytest.raises(ValueError, match="kept must hold numbers from 0 to 1, once each"):
            keep_layers(model, kept)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        share_layers(model, 0)
    for change in (
        lambda m: keep_layers(m, [0]),
        lambda m: share_layers(m, 1),
        lambda m: replace_linears(m, lambda _, layer: layer),
    ):
        with pytest.raises(ValueError, match="model must be a transformers model with a list of"):
            change(nn.Linear(2, 2))
    uneven = copy.deepcopy(model)
    uneven.gpt_neox.layers[1].mlp.dense_h_to_4h = nn.Linear(32, 7)
    with pytest.raises(ValueError, match="model must have layers of one shape to share weights"):
        share_layers(uneven, 2)
    with pytest.raises(ValueError, match=r"kinds must be among dense, dense_4h_to_h, .*'other'"):
        replace_linears(model, lambda _, layer: layer, ["other"])


@pytest.mark.cuda
@settings(max_examples=5)
@given(rank=st.integers(1, 7))
def test_cuda_equals_cpu(rank):
    layer, inputs = linear(), torch.randn(50, 9)
    moments = inputs.T @ inputs
    on_gpu = copy.deepcopy(layer).cuda()
    expected = low_rank(layer, rank, moments=moments)
    found = low_rank(on_gpu, rank, moments=moments.cuda())
    assert_close(found.weight.cpu(), expected.weight, atol=1e-4, rtol=1e-4)
    assert torch.equal(
        magnitude_prune(on_gpu.weight, 0.5).cpu(), magnitude_prune(layer.weight, 0.5)
    )


@pytest.mark.cuda
def test_cuda_prunes_neurons_like_the_cpu():
    model = family("gpt_neox")
    on_gpu = copy.deepcopy(model).cuda()
    with torch.no_grad():
        found = prune_neurons(on_gpu, 11)(TOKENS.cuda(), use_cache=False).logits.cpu()
    assert_close(found, logits(prune_neurons(model, 11)), atol=1e-3, rtol=1e-3)
