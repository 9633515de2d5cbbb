"""PruningExplorer's numbers against effedu.pruning on the queries and keys it was made from."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import effedu
from effedu.attention import attention, attention_weights
from effedu.pruning import error_bound, threshold_attention, topk_attention
from effedu.widgets import PruningExplorer
from effedu.widgets.pruning_explorer import _half


def qkv(length=12, layers=2, heads=3, width=4):
    query, key, value = torch.randn(3, layers, heads, length, width)
    return [str(i) for i in range(length)], query, key, value


@pytest.mark.parametrize("token", [0, 5, 11])
@pytest.mark.parametrize("method", ["topk", "threshold"])
def test_numbers_are_those_of_the_functions(token, method):
    tokens, query, key, value = qkv()
    explorer = PruningExplorer(
        tokens, query, key, value, layer=1, head=2, token=token, method=method, k=3, threshold=0.1
    )
    inputs = [x[1:2] for x in (query, key, value)]
    function, amount = (
        (topk_attention, {"k": 3})
        if method == "topk"
        else (threshold_attention, {"threshold": 0.1})
    )
    output, mass = function(*inputs, **amount)
    numbers = explorer.numbers
    # Stored in half precision: three digits.
    assert numbers.kept_mass == pytest.approx(float(mass[0, 2, token]), rel=5e-3)
    error = (output - attention(*inputs)).abs()[0, 2, token].max()
    assert numbers.error == pytest.approx(float(error), abs=2e-2)
    bound = error_bound(mass, inputs[2])[0, 2, token].max()
    assert numbers.bound == pytest.approx(float(bound), abs=2e-2)
    assert numbers.error <= numbers.bound + 1e-6
    weights = attention_weights(*inputs[:2])[0, 2, token]
    if method == "topk":
        assert set(numbers.kept) == set(
            weights[: token + 1].topk(min(3, token + 1)).indices.tolist()
        )
    else:
        assert set(numbers.kept) == set((weights >= 0.1).nonzero().flatten().tolist())
    assert numbers.dense_multiply_adds == 2 * (token + 1) * 4
    assert numbers.pruned_multiply_adds == (token + 1 + len(numbers.kept)) * 4
    assert numbers.chosen_multiply_adds == 2 * len(numbers.kept) * 4


def test_keeping_all_is_dense():
    tokens, query, key, value = qkv()
    numbers = PruningExplorer(tokens, query, key, value, k=12).numbers
    assert numbers.kept == tuple(range(12))
    assert (numbers.kept_mass, numbers.error, numbers.bound) == (1, pytest.approx(0, abs=1e-6), 0)


def test_from_lm_carries_the_model_s_own_attention():
    lm = effedu.load_lm()
    text = "To be, or not to be: that is the question."
    explorer = PruningExplorer.from_lm(lm, text, layer=1, head=2, k=3)
    maps = lm.attention_maps(text)
    assert explorer.shape[:3] == list(maps.shape[:3])
    scores = explorer._stored("score_bytes", explorer.shape[2])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    assert_close(weights, maps[1, 2], atol=1e-2, rtol=0)
    assert 0 < explorer.numbers.kept_mass < 1
    assert 0 < explorer.numbers.error <= explorer.numbers.bound


def test_repr_and_fallback():
    tokens, query, key, value = qkv()
    explorer = PruningExplorer(tokens, query, key, value, k=2)
    assert repr(explorer) == "PruningExplorer(12 tokens, layer 0, head 0, topk)"
    page = explorer.fallback()
    assert "pruning keeps 2 of 12 keys" in page
    assert page.count("<path") == 12
    assert page.count("#0072b2") == 2


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("layer", 2, "layer must be one of 0 to 1, got 2"),
        ("head", 3, "head must be one of 0 to 2, got 3"),
        ("token", -1, "token must be one of 0 to 11, got -1"),
        ("method", "best", "method must be one of topk, threshold, got 'best'"),
        ("k", 0, "k must be one of 1 to 12, got 0"),
        ("threshold", 1.5, r"threshold must be from 0 to 1, got 1\.5"),
    ],
)
def test_choices_that_are_not_there(trait, value, message):
    tokens, query, key, value_ = qkv()
    with pytest.raises(ValueError, match=message):
        PruningExplorer(tokens, query, key, value_, **{trait: value})
    explorer = PruningExplorer(tokens, query, key, value_)
    with pytest.raises(ValueError, match=message):
        setattr(explorer, trait, value)


@pytest.mark.unchecked_shapes
def test_bad_input():
    tokens, query, key, value = qkv()
    with pytest.raises(ValueError, match=r"key must be \(layers, heads, length, head_dim\)"):
        PruningExplorer(tokens, query, key[:, :, :5], value)
    with pytest.raises(ValueError, match="tokens must be as many as the length 12, got 11"):
        PruningExplorer(tokens[1:], query, key, value)
    with pytest.raises(ValueError, match="value must be numbers of at most ±65504"):
        PruningExplorer(tokens, query, key, value * 1e6)
    with pytest.raises(ValueError, match="x must be numbers"):
        _half("x", torch.tensor([float("nan")]))
