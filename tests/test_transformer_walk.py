"""TransformerWalk: its state is the model's forward pass, to eight bits, and its errors."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import effedu
from effedu.walk import walk
from effedu.widgets import TransformerWalk, embed

TEXT = "O Romeo, Romeo, wherefore art thou"


@pytest.fixture(scope="module")
def lm():
    return effedu.load_lm()


@pytest.fixture(scope="module")
def steps(lm):
    return walk(lm, TEXT)


@pytest.fixture
def widget(steps):
    return TransformerWalk(steps, token=4, head=3)


def test_the_stream_is_the_model_s_to_eight_bits(widget, steps):
    for token in range(len(steps.tokens)):
        stream, exact = widget.stream(token), steps.stream[:, token].double()
        assert (stream - exact).norm() < 0.01 * exact.norm()
    torch.testing.assert_close(widget.stream(), widget.stream(4))


def test_guesses_are_the_lens(widget, lm, steps):
    lens = steps.lens()
    for stage in range(6):
        shares, best = lens[min(stage, 4), 4].softmax(-1).topk(6)
        found = widget.guesses(stage=stage)
        assert [word for word, _ in found] == [lm.readable(i) for i in best.tolist()]
        assert [share for _, share in found] == pytest.approx(shares.tolist(), rel=1e-3)
    assert widget.guesses(4, 4)[0][0] == "o"


def test_readings_tell_what_follows(widget, lm, steps):
    last = steps.lens()[-1]
    for token, following in enumerate(steps.ids[1:]):
        word, logit, rank = widget.readings[token][-1]["next"]
        assert widget.words[word] == lm.readable(following)
        assert logit == pytest.approx(last[token, following].item(), abs=1e-3)
        assert rank == 1 + (last[token] > last[token, following]).sum()
    assert widget.readings[-1][-1]["next"] is None


def test_neurons_are_the_most_active(widget, steps):
    for layer in range(4):
        best = steps.neurons[layer, 4].topk(5)
        found = widget.neurons[4][layer]
        assert [n for n, *_ in found] == best.indices.tolist()
        assert [a for _, a, _ in found] == pytest.approx(best.values.tolist(), abs=1e-3)
        lifted = steps.promotes(layer, found[0][0])
        assert [widget.words[i] for i in found[0][2]] == [steps.lm.readable(i) for i in lifted]


def test_votes_add_up(widget, lm, steps):
    logits = steps.lens()[-1]
    for token, following in enumerate([*steps.ids[1:], None]):
        chosen = widget.votes[token]
        named = [widget.words[word] for word, *_ in chosen]
        assert following is None or lm.readable(following) in named
        for _, above, votes in chosen:
            assert len(votes) == 1 + 4 * 5 + 1
            assert sum(votes) == pytest.approx(above, abs=0.02)
        best = logits[token].max() - logits[token].mean()
        assert chosen[0][1] == pytest.approx(best.item(), abs=1e-3)


def test_repr_state_and_defaults(widget, steps):
    assert repr(widget) == "TransformerWalk(10 tokens, token 4, stage 4, head 3)"
    assert repr(TransformerWalk(steps)) == "TransformerWalk(10 tokens, token 9, stage 4, head 0)"
    widget.stage, widget.token, widget.head = 5, 0, 0
    for name, wrong, message in (
        ("token", 10, "token must be from 0 to 9, got 10"),
        ("stage", 6, "stage must be from 0 to 5, got 6"),
        ("head", -1, "head must be from 0 to 3, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(widget, name, wrong)
        with pytest.raises(ValueError, match=message):
            TransformerWalk(steps, **{name: wrong})
    with pytest.raises(ValueError, match="token must be from 0 to 9, got 10"):
        widget.stream(10)
    with pytest.raises(ValueError, match="stage must be from 0 to 5, got 6"):
        widget.guesses(stage=6)
    assert (widget.token, widget.stage, widget.head) == (0, 5, 0)


def test_from_lm_passes_errors_on(lm):
    with pytest.raises(ValueError, match="text must hold at least one token, got ''"):
        TransformerWalk.from_lm(lm, "")
    assert TransformerWalk.from_lm(lm, "To be", stage=0).stage == 0


def test_one_token(lm):
    widget = TransformerWalk.from_lm(lm, "O")
    assert widget.stream().shape == (5, 256)


def test_fallback_escapes_and_says_every_stage(lm):
    widget = TransformerWalk.from_lm(lm, "<b>&", token=0)
    root = ElementTree.fromstring(widget.fallback())
    assert "<b>&" in "".join(root.itertext())
    rows = [row.find("th").text for row in root.iter("tr")]
    assert rows[1:] == ["Embedding", "Layer 0", "Layer 1", "Layer 2", "Layer 3"]


def test_a_page_stays_small(lm):
    text = "O Romeo, Romeo, wherefore art thou? My lord"
    widget = TransformerWalk.from_lm(lm, text)
    assert len(widget.tokens) == 13
    state = len(embed(widget)) - len(widget._esm) - len(widget._css)
    assert state < 150_000
