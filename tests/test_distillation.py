"""The loss against PyTorch and by hand, and what a short training does and leaves alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES, SIZES, VOCAB
from torch import nn
from torch.testing import assert_close
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from effedu.compression import (
    keep_layers,
    low_rank,
    magnitude_prune,
    prune_neurons,
    replace_linears,
    share_layers,
)
from effedu.distillation import distill, distillation_loss

QUICK = {"steps": 12, "length": 16, "batch_size": 4, "progress": False}


def teacher():
    torch.manual_seed(0)
    return FAMILIES["gpt_neox"]().eval()


def text(length=200):
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(1))


@given(seed=st.integers(0, 100), spread=st.sampled_from([0.1, 1.0, 20.0]))
def test_the_loss_is_the_mean_divergence(seed, spread):
    torch.manual_seed(seed)
    student, target = torch.randn(2, 3, 4, 10).mul(spread).unbind()
    p, q = target.double().softmax(-1), student.double().softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean().float()
    assert_close(distillation_loss(student, target), expected, atol=1e-5, rtol=1e-4)


def test_a_certain_teacher_is_the_next_token_loss():
    student = torch.randn(6, 10)
    token = torch.randint(0, 10, (6,))
    certain = F.one_hot(token, 10) * 1e3
    assert_close(distillation_loss(student, certain), F.cross_entropy(student, token))


@pytest.mark.parametrize(
    "compress",
    [
        lambda m: prune_neurons(m, 8),
        lambda m: replace_linears(m, lambda _, layer: low_rank(layer, 4)),
        lambda m: share_layers(m, 2),
        lambda m: keep_layers(m, [0]),
    ],
)
def test_training_brings_a_compressed_model_nearer_to_its_teacher(compress):
    model = teacher()
    before = copy.deepcopy(model.state_dict())
    student = compress(model)
    losses = distill(student, model, text(), **{**QUICK, "steps": 30}, rate=3e-3)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_zeros_stay_zero():
    def zeros(_, layer):
        layer.weight.data = magnitude_prune(layer.weight, 0.7)
        return layer

    model = teacher()
    student = replace_linears(model, zeros)
    before = copy.deepcopy(student.state_dict())
    losses = distill(student, model, text(), **QUICK, rate=3e-3)
    assert losses[-1] < losses[0]
    for name, value in student.state_dict().items():
        if name.endswith("dense_h_to_4h.weight"):
            assert torch.equal(value == 0, before[name] == 0)
            assert not torch.equal(value, before[name])


def test_a_perfect_student_has_nothing_to_learn():
    model = teacher()
    student = copy.deepcopy(model)
    assert max(distill(student, model, text(), **QUICK)) < 0.02  # AdamW steps at any gradient
    for ours, theirs in zip(student.parameters(), model.parameters(), strict=True):
        assert_close(ours, theirs, atol=0.05, rtol=0)


def test_the_same_seed_trains_the_same_model():
    model, results = teacher(), []
    state = torch.get_rng_state()
    for seed in (3, 3, 4):
        student = prune_neurons(model, 8)
        results.append((distill(student, model, text(), **QUICK, seed=seed), student))
    assert torch.equal(torch.get_rng_state(), state)
    assert results[0][0] == results[1][0] != results[2][0]
    for a, b in zip(results[0][1].parameters(), results[1][1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay_and_nothing_is_dropped():
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, hidden_dropout=0.5))
    student = copy.deepcopy(model).train()
    student.get_input_embeddings().weight.requires_grad_(False)
    before = student.get_input_embeddings().weight.clone()
    losses = distill(student, model, text(), **QUICK)
    assert losses[0] < 1e-6  # with dropout the two would differ
    assert torch.equal(student.get_input_embeddings().weight, before)


def test_the_bar_goes_to_standard_output(capsys):
    model = teacher()
    distill(prune_neurons(model, 8), model, text(), **{**QUICK, "progress": True})
    shown = capsys.readouterr()
    assert "12" in shown.out
    assert shown.err == ""


@pytest.mark.unchecked_shapes
def test_bad_input():
    model = teacher()
    student = copy.deepcopy(model)
    for arguments, message in (
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an integer of at least 1, got 1.5"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"rate": 0}, "rate must be between 0 and 1, got 0"),
        ({"rate": float("nan")}, "rate must be between 0 and 1, got nan"),
        ({"length": 300}, "tokens must be at least length, 300, got 200"),
    ):
        with pytest.raises(ValueError, match=message):
            distill(student, model, text(), **{**QUICK, **arguments})
    other = GPTNeoXForCausalLM(GPTNeoXConfig(**{**SIZES, "vocab_size": 9}))
    with pytest.raises(ValueError, match=r"one vocabulary, got sizes \[9, 61\]"):
        distill(other, model, text(), **QUICK)
    with pytest.raises(ValueError, match=r"logits of one shape, got \(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.randn(2, 3), torch.randn(2, 4))


@pytest.mark.cuda
def test_cuda_trains_too():
    model = teacher().cuda()
    student = prune_neurons(model, 8)
    assert isinstance(student, nn.Module)
    losses = distill(student, model, text().cuda(), **QUICK)
    assert losses[-1] < losses[0]
