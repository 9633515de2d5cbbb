"""effedu.kv_cache: generation with rounded keys and values, against rounding by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import FAMILIES, some_tokens
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import effedu
from effedu.kv_cache import QuantizedLayer, quantized
from effedu.patch import block, patched
from effedu.quantization import quantize_cache

FULL = ["gpt_neox", "gpt2", "llama", "qwen3", "gemma"]  # no window of their own


@pytest.fixture(params=FULL)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


@pytest.fixture
def neox() -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES["gpt_neox"]().eval()


def states(length: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(length)
    return torch.randn(batch, 3, length, 8), torch.randn(batch, 3, length, 8)


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [7, 20, 1, 1, 11], [3, 37]], ids=str)
@pytest.mark.parametrize("recent", [0, 5])
def test_what_is_kept_is_the_text_rounded_at_once(chunks: list[int], recent: int) -> None:
    """Each group is rounded once, alone, so how a text was cut does not matter."""
    policy = quantized(3, group_size=4, recent=recent)
    layer, (key, value) = QuantizedLayer(policy), states(40)
    start = 0
    for size in chunks:
        layer.update(key[:, :, start : start + size], value[:, :, start : start + size])
        start += size
    expected = quantize_cache(key, value, bits=3, group_size=4, recent=recent)
    none = key[:, :, :0]
    found_key, found_value = layer.update(none, none)
    torch.testing.assert_close(found_key, expected.dequantize()[0])
    # A value is rounded token by token, so it is the same too.
    torch.testing.assert_close(found_value, expected.dequantize()[1])
    assert layer.get_seq_length() == 40
    assert layer.keys.shape[2] == expected.recent_key.shape[2]


def test_a_pass_sees_its_own_tokens_as_they_are() -> None:
    layer, (key, value) = QuantizedLayer(quantized(2, group_size=4, recent=0)), states(20)
    found = layer.update(key[:, :, :16], value[:, :, :16])
    assert torch.equal(found[0], key[:, :, :16])
    found = layer.update(key[:, :, 16:], value[:, :, 16:])
    assert torch.equal(found[0][:, :, 16:], key[:, :, 16:])
    assert not torch.equal(found[0][:, :, :16], key[:, :, :16])


def test_bytes() -> None:
    layer = QuantizedLayer(quantized(4, group_size=32, recent=32))
    key, value = torch.randn(2, 1, 4, 1056, 64).unbind()
    layer.update(key, value)
    old, recent = 1024 * 4 * 64, 32 * 4 * 64  # numbers of the keys, and as many of the values
    grids = 2 * (old // 32) * 4  # scale and offset, two bytes each
    assert layer.nbytes == 2 * old // 2 + grids + 2 * recent * 4
    assert layer.nbytes < 0.2 * (key.nbytes + value.nbytes)
    assert QuantizedLayer(quantized()).nbytes == 0


def test_generation_with_8_bits_is_close_to_generation_without(model: PreTrainedModel) -> None:
    tokens = some_tokens(2, 50)
    with torch.no_grad():
        plain = model(tokens).logits[:, -1]
        with patched(model, cache=quantized(8, group_size=8, recent=0)):
            cache = model(tokens[:, :-1], use_cache=True).past_key_values
            found = model(tokens[:, -1:], past_key_values=cache).logits[:, -1]
        with patched(model, cache=quantized(2, group_size=8, recent=0)):
            cache = model(tokens[:, :-1], use_cache=True).past_key_values
            worse = model(tokens[:, -1:], past_key_values=cache).logits[:, -1]
    assert type(cache.layers[0]) is QuantizedLayer
    error = (found - plain).norm() / plain.norm()
    assert error < 0.05
    assert error < 0.3 * (worse - plain).norm() / plain.norm()


def test_everything_recent_changes_nothing(model: PreTrainedModel) -> None:
    tokens = some_tokens(1, 12)
    expected = model.generate(tokens, max_new_tokens=20, do_sample=False)
    with patched(model, cache=quantized(2, recent=100)):
        found = model.generate(tokens, max_new_tokens=20, do_sample=False)
    assert torch.equal(found, expected)


def test_padded_batches_and_blocks(neox: PreTrainedModel) -> None:
    """The cache hands out all keys in their places, so masks and patterns work as before."""
    tokens = some_tokens(2, 30)
    mask = torch.ones_like(tokens)
    mask[1, :11] = 0
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": False}
    with patched(neox, block(4)):
        expected = neox.generate(tokens, **arguments)
    with patched(neox, block(4), cache=quantized(2, recent=100)):
        assert torch.equal(neox.generate(tokens, **arguments), expected)
    with patched(neox, block(4), cache=quantized(8, group_size=4, recent=0)):
        assert neox.generate(tokens, **arguments).shape == expected.shape


def test_an_empty_cache_is_taken_over_and_can_be_reset(neox: PreTrainedModel) -> None:
    cache, tokens = DynamicCache(config=neox.config), some_tokens(1, 70)
    with torch.no_grad(), patched(neox, cache=quantized(4, recent=0)):
        first = neox(tokens, past_key_values=cache).logits
        assert (cache.get_seq_length(), len(cache.layers[0].old)) == (70, 1)
        cache.reset()
        assert cache.get_seq_length() == 0
        torch.testing.assert_close(neox(tokens, past_key_values=cache).logits, first)


def test_facts_survive_4_bits() -> None:
    lm = effedu.load_lm()
    text = effedu.lm.heldout_text()[:1500]
    with patched(lm.model, cache=quantized(4)):
        rounded = lm.generate(text, 40, temperature=0)
    assert rounded[:20] == lm.generate(text, 40, temperature=0)[:20]


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantized(5), "bits must be one of 2, 3, 4, 8; got 5"),
        (lambda: quantized(4, group_size=0), "group_size must be an integer of at least 1, got 0"),
        (lambda: quantized(4, recent=-1), "recent must be an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_packed_codes_do_not_allow(neox: PreTrainedModel) -> None:
    layer = QuantizedLayer(quantized(4))
    layer.update(*states(40))
    layer.crop(0)
    for call, what in (
        (lambda: layer.crop(-1), "cropped"),
        (lambda: layer.reorder_cache(torch.tensor([1, 0])), "beam search"),
        (lambda: layer.batch_repeat_interleave(2), "repeated"),
        (lambda: layer.batch_select_indices(torch.tensor([0])), "cut down"),
    ):
        with pytest.raises(ValueError, match=f"a quantized cache can't be .*{what}"):
            call()
    with patched(neox, cache=quantized(4)), pytest.raises(ValueError, match="beam search"):
        neox.generate(some_tokens(1, 9), max_new_tokens=3, num_beams=2, do_sample=False)


def test_caches_of_another_kind_are_refused(neox: PreTrainedModel) -> None:
    tokens = some_tokens(1, 9)
    cache = hf.StaticCache(config=neox.config, max_cache_len=20)
    message = r"past_key_values must be a DynamicCache, or None, with Quantized\(bits=4"
    with patched(neox, cache=quantized()), pytest.raises(ValueError, match=message):
        neox(tokens, past_key_values=cache)
    filled = neox(tokens, use_cache=True).past_key_values
    message = r"already holds 9 tokens, kept by another rule than Quantized"
    with patched(neox, cache=quantized()), pytest.raises(ValueError, match=message):
        neox(tokens, past_key_values=filled)
