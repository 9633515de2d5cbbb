"""TilingStepper: its rows, steps and output are those of attention, and its errors."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import effedu
from effedu.attention import attention
from effedu.hardware import tiling_steps
from effedu.widgets import TilingStepper

TEXT = "To be, or not to be, that is the question"


def causal(scores):
    return torch.tensor(scores).masked_fill(~torch.ones(scores.shape).tril().bool(), -torch.inf)


def random_scores(length=12, width=5, spread=4.0, seed=0):
    draw = np.random.default_rng(seed)
    scores = draw.normal(0, spread, (length, length)).astype(np.float32)
    return causal(scores), draw.normal(size=(length, width))


@given(
    length=st.integers(1, 40),
    width=st.integers(1, 6),
    tile=st.integers(1, 50),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=40)
def test_steps_end_at_the_full_softmax(length, width, tile, spread, seed, data):
    scores, values = random_scores(length, width, spread, seed)
    query = data.draw(st.integers(0, length - 1))
    stepper = TilingStepper(scores, values, query=query, tile=tile)
    steps, row = stepper.steps(), stepper.row()
    assert torch.equal(row, scores[query, : query + 1])
    assert [(s.start, s.stop) for s in steps] == [
        (start, min(start + tile, query + 1)) for start in range(0, query + 1, tile)
    ]
    assert len(steps) == stepper.tiles
    # A query of width one, whose scores are the keys: attention itself is the reference.
    key, value = row.double()[None, None, :, None], torch.tensor(np.float32(values)).double()
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    expected = attention(one, key, value[None, None, : query + 1], causal=False)[0, 0, 0]
    torch.testing.assert_close(stepper.output(), expected)
    torch.testing.assert_close(torch.tensor(steps[-1].output, dtype=torch.float64), expected)


def test_one_row_needs_no_second_dimension():
    stepper = TilingStepper([1.0, 3.0, 2.0], np.eye(3), tile=2)
    assert stepper.shape == [1, 3, 3]
    assert stepper.output().tolist() == torch.tensor([1.0, 3.0, 2.0]).double().softmax(0).tolist()
    masked = TilingStepper([1.0, 3.0, -np.inf], np.eye(3), tile=2)
    assert masked.row().tolist() == [1.0, 3.0]


def test_fewer_queries_than_keys_stand_at_the_end():
    scores, values = random_scores(6)
    stepper = TilingStepper(scores[4:], values, tile=4)
    assert (stepper.query, len(stepper.row()), len(stepper.row(0))) == (1, 6, 5)
    assert "Online softmax of query 5 in 2 tiles" in stepper.fallback()


def test_from_lm_walks_over_what_the_model_computes():
    lm, layer, head = effedu.load_lm(), 2, 3
    stepper = TilingStepper.from_lm(lm, TEXT, layer=layer, head=head, query=7, tile=4)
    maps = lm.attention_maps(TEXT)
    assert stepper.tokens == lm.tokens(TEXT)
    torch.testing.assert_close(
        stepper.row().softmax(-1), maps[layer, head, 7, :8], atol=1e-5, rtol=1e-4
    )
    # What the model itself hands to the layer's output projection: all heads side by side.
    heard = []
    dense = lm.model.gpt_neox.layers[layer].attention.dense
    hook = dense.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    lm.bits_per_byte(TEXT)
    hook.remove()
    width = stepper.shape[2]
    expected = heard[0][0, 7, head * width : (head + 1) * width]
    torch.testing.assert_close(stepper.output().float(), expected, atol=1e-4, rtol=1e-4)
    assert stepper.about == "The scores and values of layer 2, head 3, on a text."
    assert TilingStepper.from_lm(lm, TEXT, about="Hamlet").about == "Hamlet"


def grouped_lm():
    """Four query heads, two key heads, as much of a language model as ``from_lm`` needs."""
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 4, 3, 8, generator=draw)
    values = torch.randn(1, 2, 3, 8, generator=draw)
    lm = SimpleNamespace(
        attention_inputs=lambda text: (["a", "b", "c"], query, key),
        attention_values=lambda text: values.repeat_interleave(2, dim=1),
    )
    return lm, query[0], key[0], values[0]


def test_grouped_heads_share_their_values():
    lm, query, key, values = grouped_lm()
    for head in range(4):
        stepper = TilingStepper.from_lm(lm, "abc", head=head, tile=2)
        assert torch.equal(stepper.values(), values[head // 2])
        q, k, v = (x[None, None] for x in (query[head], key[head], values[head // 2]))
        torch.testing.assert_close(stepper.output().float(), attention(q, k, v)[0, 0, -1])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "text must have at least one character, got ''"),
        ("abc", {"layer": 1}, "layer must be from 0 to 0, got 1"),
        ("abc", {"head": 4}, "head must be from 0 to 3, got 4"),
        ("abc", {"head": -1}, "head must be from 0 to 3, got -1"),
        ("abc", {"head": True}, "head must be from 0 to 3, got True"),
        ("abc", {"query": 3}, "query must be a whole number from -3 to 2, got 3"),
    ],
)
def test_errors_of_from_lm(text, options, message):
    with pytest.raises(ValueError, match=message):
        TilingStepper.from_lm(grouped_lm()[0], text, **options)


INF, NAN = np.inf, np.nan
EYE = np.eye(3)


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("scores", "values", "options", "message"),
    [
        (np.zeros((2, 2, 3)), EYE, {}, r"scores must be .* and not empty, got shape \(2, 2, 3\)"),
        ([], EYE, {}, r"scores must be \(queries, keys\) or \(keys,\) and not empty, got .*\(1, 0"),
        (EYE.astype(complex), EYE, {}, "scores must hold real numbers, got dtype complex128"),
        (EYE, np.eye(4), {}, r"values must be \(keys, value_dim\) for 3 keys, got shape \(4, 4\)"),
        (EYE, np.ones(3), {}, r"values must be \(keys, value_dim\) for 3 keys, got shape \(3,\)"),
        (EYE, EYE * NAN, {}, "values must be finite, got NaN or infinity"),
        (EYE, EYE * 1e39, {}, "values must be finite, got NaN or infinity"),
        ([0, -INF, 0], EYE, {}, "scores must be finite in every row up to the last key"),
        ([-INF, 0, 0], EYE, {}, "scores must be finite in every row up to the last key"),
        ([-INF] * 3, EYE, {}, "scores must be finite in every row up to the last key"),
        ([0, 0, NAN], EYE, {}, "scores must be finite in every row up to the last key"),
        ([0, 0, INF], EYE, {}, "scores must be finite in every row up to the last key"),
        (EYE, EYE, {"tokens": ["a"]}, "tokens must be as many as the keys, 3, got 1"),
        (EYE, EYE, {"query": 3}, "query must be a whole number from -3 to 2, got 3"),
        (EYE, EYE, {"query": True}, "query must be a whole number from -3 to 2, got True"),
        (EYE, EYE, {"tile": 0}, "tile must be an integer of at least 1, got 0"),
        (EYE, EYE, {"tile": 2, "step": 3}, "step must be from 0 to 2, the number of tiles, got 3"),
        (EYE, EYE, {"method": "fast"}, "method must be one of online, unscaled, naive; got 'fast'"),
        (EYE, EYE, {"format": "int8"}, "format must be one of float16, float32; got 'int8'"),
    ],
)
def test_errors(scores, values, options, message):
    with pytest.raises(ValueError, match=message):
        TilingStepper(scores, values, **options)


def test_state_can_be_read_and_set():
    scores, values = random_scores(12)
    stepper = TilingStepper(scores, values, tile=2, step=6)
    with pytest.raises(ValueError, match="query must be from 0 to 11, got 12"):
        stepper.query = 12
    with pytest.raises(ValueError, match="query must be from 0 to 11, got -1"):
        stepper.row(-1)
    with pytest.raises(ValueError, match="tile must be an integer of at least 1, got 0"):
        stepper.tile = 0
    with pytest.raises(ValueError, match="step must be from 0 to 6"):
        stepper.step = 7
    assert (stepper.query, stepper.tile, stepper.step) == (11, 2, 6)
    stepper.tile = 4  # fewer tiles: the walk stays inside
    assert stepper.step == stepper.tiles == 3
    stepper.query = 0
    assert stepper.step == stepper.tiles == 1


def test_it_starts_where_a_larger_score_rescales():
    first_larger = TilingStepper([1.0, 0.0, 0.5, 0.0, 3.0, 9.0], np.eye(6), tile=2)
    assert first_larger.step == 3
    assert first_larger.steps()[2].shrink < 1
    assert TilingStepper([9.0, 1.0, 2.0, 3.0], np.eye(4), tile=1).step == 4  # never: at the end


def test_the_largest_scores_stay_exact():
    scores = torch.tensor([-1e4, 1e4, 0.0, 9999.0])
    stepper = TilingStepper(scores, np.eye(4), tile=1)
    one = torch.ones(1, dtype=torch.float64)
    expected = list(tiling_steps(one, scores.double()[:, None], torch.eye(4).double(), tile=1))
    assert stepper.steps() == expected
    torch.testing.assert_close(
        torch.tensor(expected[-1].output, dtype=torch.float64), scores.double().softmax(0)
    )


def test_repr_and_fallback():
    tokens = ["<img src=x onerror=alert(1)>", "</noscript>", "a", '"b" & c']
    stepper = TilingStepper([1.0, 3.0, 2.0, 0.5], np.eye(4), tokens=tokens, tile=2)
    assert repr(stepper) == "TilingStepper(4 keys, query 0, tile=2, step=2)"
    root = ElementTree.fromstring(stepper.fallback())
    text = "".join(root.itertext())
    assert 'Online softmax of query 3 “"b" & c” in 2 tiles of 2' in text
    assert "equals that of the full softmax to 1e-16" in text
    assert [row.find("th").text for row in root.iter("tr")][1:] == ["0 to 1", "2 to 3"]
    assert root.find("svg").get("aria-label").startswith("Online softmax of query 3")


def test_the_fallback_of_a_long_row_stays_small():
    draw = np.random.default_rng(0)
    stepper = TilingStepper(draw.normal(size=3000), draw.normal(size=(3000, 1)), tile=1)
    text = stepper.fallback()
    assert text.count("<tr>") == 25
    assert len(text) < 110_000
