"""walk: its steps add up to what the model itself computes, and each is what hooks hear."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from tiny_models import FAMILIES, SIZES
from torch.testing import assert_close

import effedu
from effedu.lm import LanguageModel
from effedu.walk import Walk, walk

TEXT = "O Romeo, Romeo, wherefore art thou"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return effedu.load_lm()


@pytest.fixture(scope="module")
def steps(lm: LanguageModel) -> Walk:
    return walk(lm, TEXT)


def tiny(lm: LanguageModel, **options: object) -> LanguageModel:
    """A random NeoX that reads the embedded model's tokens."""
    config = hf.GPTNeoXConfig(**{**SIZES, "vocab_size": len(lm.tokenizer), **options})
    model = hf.GPTNeoXForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name:  # zeros and ones would hide mistakes
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return LanguageModel("tiny", model, lm.tokenizer)


def logits_of(lm: LanguageModel, text: str) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([lm.tokenizer.encode(text)])).logits[0]


def test_it_ends_at_the_model_s_own_logits(lm, steps):
    assert_close(steps.lens()[-1], logits_of(lm, TEXT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_parallel_residual": False},
        {"attention_bias": False},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            }
        },
    ],
)
def test_other_neox_models(lm, options):
    other = tiny(lm, **options)
    found = walk(other, TEXT)
    assert_close(found.lens()[-1], logits_of(other, TEXT), atol=1e-4, rtol=1e-4)
    logits = found.lens()[-1, 3]
    assert_close(
        found.votes(3, [5, 7]).sum(0), logits[[5, 7]] - logits.mean(), atol=1e-3, rtol=1e-3
    )


def test_every_step_is_what_the_model_computes(lm, steps):
    heard = {}

    def keep(name):
        return lambda module, inputs, output: heard.__setitem__(name, (inputs[0][0], output[0]))

    hooks = []
    for n, layer in enumerate(lm.model.gpt_neox.layers):
        hooks.append(layer.register_forward_hook(keep(f"layer {n}")))
        hooks.append(layer.attention.dense.register_forward_hook(keep(f"attention {n}")))
        hooks.append(layer.mlp.dense_4h_to_h.register_forward_hook(keep(f"mlp {n}")))
    logits_of(lm, TEXT)
    for hook in hooks:
        hook.remove()
    for n in range(4):
        close = {"atol": 1e-3, "rtol": 1e-4}
        assert_close(steps.stream[n], heard[f"layer {n}"][0], **close)
        assert_close(steps.stream[n + 1], heard[f"layer {n}"][1].view_as(steps.stream[n]), **close)
        assert_close(steps.heads[n].sum(0) + steps.bias[n], heard[f"attention {n}"][1], **close)
        assert_close(steps.neurons[n], heard[f"mlp {n}"][0], **close)
        assert_close(steps.feed_forward[n], heard[f"mlp {n}"][1], **close)
    assert_close(steps.weights, lm.attention_maps(TEXT), atol=1e-4, rtol=1e-3)
    assert "".join(steps.tokens) == TEXT
    assert steps.ids == lm.tokenizer.encode(TEXT)


def test_a_head_alone_is_attention_with_the_others_silent(lm, steps):
    """Silence all heads but one in the model itself: what is left is that head, and the bias."""
    dense = lm.model.gpt_neox.layers[0].attention.dense
    heard = []

    def silence(module, inputs):
        alone = torch.zeros_like(inputs[0])
        alone[..., 64:128] = inputs[0][..., 64:128]
        return (alone,)

    hooks = [
        dense.register_forward_pre_hook(silence),
        dense.register_forward_hook(lambda module, inputs, output: heard.append(output[0])),
    ]
    logits_of(lm, TEXT)
    for hook in hooks:
        hook.remove()
    assert_close(steps.heads[0, 1] + steps.bias[0], heard[0], atol=1e-4, rtol=1e-4)


def test_votes_add_up_to_the_logits(steps):
    logits = steps.lens()[-1]
    for position in (0, 4, -1):
        ids = logits[position].topk(5).indices.tolist()
        votes = steps.votes(position, ids)
        assert votes.shape == (1 + 4 * 6 + 1, 5)
        above = logits[position, ids] - logits[position].mean()
        assert_close(votes.sum(0), above, atol=1e-3, rtol=1e-3)


def test_a_vote_is_what_the_logit_loses_without_the_part(lm, steps):
    """With the final norm's divisor held, taking a part away takes its vote away."""
    final = steps.stream[-1, 4]
    norm = lm.model.gpt_neox.final_layer_norm
    spread = (final.var(correction=0) + norm.eps).sqrt()
    table = lm.model.get_output_embeddings().weight

    def logits(x):
        return ((x - x.mean()) / spread * norm.weight + norm.bias) @ table.mT

    lost = logits(final) - logits(final - steps.heads[3, 2, 4])
    vote = steps.votes(4, [80])[1 + 3 * 6 + 2]
    assert_close(vote[0], lost[80] - lost.mean(), atol=1e-3, rtol=1e-3)


def test_a_neuron_promotes_what_its_column_points_to(lm, steps):
    column = lm.model.gpt_neox.layers[3].mlp.dense_4h_to_h.weight[:, 80]
    norm, table = lm.model.gpt_neox.final_layer_norm, lm.model.get_output_embeddings().weight
    # Far along the column nothing else matters, so the norm reads the column alone.
    far = torch.nn.functional.layer_norm(1e6 * column, column.shape) * norm.weight
    assert steps.promotes(3, 80, count=5) == (table @ far).topk(5).indices.tolist()


@pytest.mark.unchecked_shapes
def test_errors(lm, steps):
    with pytest.raises(ValueError, match="text must hold at least one token, got ''"):
        walk(lm, "")
    short = tiny(lm, max_position_embeddings=4)
    with pytest.raises(ValueError, match="at most the model's 4 positions, got 10 tokens"):
        walk(short, TEXT)
    llama = LanguageModel("llama", FAMILIES["llama"](), lm.tokenizer)
    with pytest.raises(ValueError, match=r"lm must hold a GPT-NeoX.*got LlamaForCausalLM"):
        walk(llama, TEXT)
    scaled = tiny(
        lm, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    )
    with pytest.raises(ValueError, match="'default' rotary scheme, got 'linear'"):
        walk(scaled, TEXT)
    with pytest.raises(ValueError, match="position must be one of 10 tokens, got 10"):
        steps.votes(10, [0])
    with pytest.raises(ValueError, match="ids must be from 0 to 3071, got 3072"):
        steps.votes(0, [3072])


def test_numbers_without_a_token_are_shown(lm):
    assert lm.readable(lm.tokenizer.encode(" be")[0]) == " be"
    assert lm.readable(50_300) == "[50300]"
