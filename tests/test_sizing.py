"""The calculator against sums worked out by hand, published sizes, and a model that really runs."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from effedu.bench import peak_memory
from effedu.cost import cost
from effedu.hardware import Device, devices
from effedu.sizing import BITS, fits, models

CARD = Device("card", memory=24e9, bandwidth=1e12, peak={"bfloat16": 160e12, "float32": 80e12})
LLAMA = models()["Llama-3.1-8B"]  # 32 layers, width 4,096, 8 key heads of 128, inner 14,336


def test_the_file_of_models():
    text = (resources.files("effedu") / "data" / "models.json").read_text(encoding="utf-8")
    data = json.loads(text)
    assert set(data) == {"about", "models"}
    for entry in data["models"]:
        assert set(entry) == {"name", "parameters", "source", "config"}
        assert entry["source"] == (
            f"https://huggingface.co/{entry['source'].split('/')[3]}/{entry['name']}"
            "/blob/main/config.json"
        )
        assert cost(models()[entry["name"]], 1).parameters == entry["parameters"]
    assert list(models()) == [entry["name"] for entry in data["models"]]


def test_memory_by_hand():
    found = fits(LLAMA, CARD, length=1000, batch=3)
    assert found.weights == 8_030_261_248 * 2
    per_token = 32 * 8 * 128 * 2 * 2  # layers, key heads, head_dim, keys and values, bytes
    assert found.kv_cache == 3 * 1000 * per_token
    numbers = 2 * 4096 + 2 * 14336  # the layer's input, normalised too; into the activation, out
    assert found.activations == 2 * 3 * (1000 * numbers + 128256)
    assert found.total == found.weights + found.kv_cache + found.activations
    assert found.fits
    for bits, share in ((4, 4), (8, 2), (16, 1)):
        assert fits(LLAMA, CARD, length=1000, bits=bits).weights == 8_030_261_248 * 2 // share
    wide = fits(LLAMA, CARD, length=1000, batch=3, bits=32)
    assert wide.kv_cache == 2 * found.kv_cache
    assert wide.activations == 2 * found.activations
    assert wide.fits is False


def test_speed_by_hand():
    length = 1000
    found = fits(LLAMA, CARD, length=length)
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336  # weights of its matrices
    head = 4096 * 128256
    attention = 4 * 32 * 4096  # per pair: score and value, layers, heads · head_dim

    # Writing the last token: every matrix once, and as many pairs as there are tokens.
    flops = 2 * (32 * layer + head) + attention * length
    assert found.flops_per_token == flops
    norms = 65 * 4096
    weights = 2 * (32 * layer + norms + head + 4096)  # and one row of the embedding
    cache = (length - 1 + 1) * 32 * 2 * 1024 * 2  # read, and one more written
    linears = 4096 + 4096 + 2 * (4096 + 1024) + 4096 + 4096 + 3 * (4096 + 14336)
    activations = 2 * (32 * (linears + 2 * 4096 + 2 * 1024) + 4096 + 128256)
    seconds = (weights + cache + activations) / 1e12
    assert found.decode_tokens_per_second == pytest.approx(1 / seconds)
    assert found.decode_bound == "memory"

    # Reading the prompt: a triangle of pairs, and logits for the last token only.
    flops = 2 * (32 * layer * length + head) + attention * length * (length + 1) // 2
    assert found.prefill_tokens_per_second == pytest.approx(length / (flops / 160e12))

    # With 4 bits a quarter of the weights' bytes is read, at the same rate of arithmetic.
    small = fits(LLAMA, CARD, length=length, bits=4)
    seconds = (weights / 4 + cache + activations) / 1e12
    assert small.decode_tokens_per_second == pytest.approx(1 / seconds)
    assert small.prefill_tokens_per_second == pytest.approx(found.prefill_tokens_per_second)

    # The cache in 8 bits: half of its bytes are read, and kept.
    halved = fits(LLAMA, CARD, length=length, cache_bits=8)
    seconds = (weights + cache / 2 + activations) / 1e12
    assert halved.decode_tokens_per_second == pytest.approx(1 / seconds)
    assert halved.kv_cache == found.kv_cache // 2 == cache // 2

    # With 32 bits, the float32 rate.
    wide = fits(LLAMA, CARD, length=length, bits=32)
    assert wide.prefill_tokens_per_second == pytest.approx(length / (flops / 80e12))


def test_many_sequences_are_bound_by_arithmetic():
    one, many = (fits(LLAMA, CARD, length=16, batch=n) for n in (1, 512))
    assert (one.decode_bound, many.decode_bound) == ("memory", "compute")
    limit = 512 / (many.flops_per_token * 512 / 160e12)
    assert many.decode_tokens_per_second == pytest.approx(limit)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(list(models())),
    length=st.integers(1, 100_000),
    batch=st.integers(1, 64),
    bits=st.sampled_from(BITS),
)
def test_more_is_never_smaller(name, length, batch, bits):
    found = fits(models()[name], CARD, length=length, batch=batch, bits=bits)
    assert found.total < fits(models()[name], CARD, length=length + 1, batch=batch, bits=bits).total
    more = fits(models()[name], CARD, length=length, batch=batch + 1, bits=bits)
    assert found.total < more.total
    assert found.decode_tokens_per_second <= more.decode_tokens_per_second
    assert found.advice


def test_activations_are_about_what_a_model_holds():
    """A model that runs step by step, unfused, holds more than the estimate, but not twice it."""
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=200,
    )
    model, length = LlamaForCausalLM(config).eval(), 512
    with torch.inference_mode():
        ids = torch.zeros(2, length, dtype=torch.long)
        peak = peak_memory(lambda: model(ids, logits_to_keep=1, use_cache=False))
    found = fits(config, CARD, length=length, batch=2, bits=32)
    assert found.activations < peak < 2 * found.activations


def test_a_device_without_a_rate_of_arithmetic():
    found = fits(LLAMA, devices()["Apple M4, 32 GB"], length=100)
    assert found.prefill_tokens_per_second is None
    assert found.decode_bound == "memory"
    assert 7 < found.decode_tokens_per_second < 8  # 120 GB/s for 15 GB
    assert "reading         not known" in repr(found)


def test_a_device_without_known_memory():
    found = fits(LLAMA, Device("box", None, 50e9, {"float32": 1e12}), length=100)
    assert found.fits is None
    assert found.advice == ()
    assert "of unknown: may fit" in repr(found)


def test_other_families_and_their_inner_width():
    found = fits(GPT2Config(), CARD, length=10)
    assert found.weights == 124_439_808 * 2
    assert found.activations == 2 * (10 * (2 * 768 + 2 * 4 * 768) + 50257)


def test_advice_for_what_does_not_fit_is_right():
    card = devices()["NVIDIA T4"]
    found = fits(models()["Qwen2.5-7B"], card, length=8192)
    assert not found.fits
    assert found.advice == (
        "8-bit weights: 8.82 GB together, which fits",
        "at most 5,212 tokens a sequence",
        "2 such devices that share the model, or a larger one",
    )
    assert fits(models()["Qwen2.5-7B"], card, length=8192, bits=8).fits
    assert fits(models()["Qwen2.5-7B"], card, length=5200).fits
    assert not fits(models()["Qwen2.5-7B"], card, length=5300).fits
    crowd = fits(models()["Qwen2.5-7B"], card, length=1024, batch=40)
    assert crowd.advice[1] == "a batch of at most 5"
    assert fits(models()["Qwen2.5-7B"], card, length=1024, batch=5).fits
    assert not fits(models()["Qwen2.5-7B"], card, length=1024, batch=6).fits


def test_advice_for_what_fits_is_right():
    found = fits(LLAMA, CARD, length=1000)
    batch, bits = found.advice
    room = int(batch.split()[7].rstrip(":").replace(",", ""))
    assert fits(LLAMA, CARD, length=1000, batch=room).fits
    assert not fits(LLAMA, CARD, length=1000, batch=room + 1).fits
    assert bits == "8-bit weights: writes up to 1.98 times faster"
    more = fits(LLAMA, CARD, length=1000, bits=8).decode_tokens_per_second
    assert more / found.decode_tokens_per_second == pytest.approx(1.98, abs=0.01)


def test_text():
    text = repr(fits(LLAMA, CARD, length=1000))
    assert text.splitlines()[0] == "card, 16-bit weights, batch 1, 1,000 tokens"
    assert "together        16.3 GB of 24 GB: fits" in text
    assert "(memory)" in text
    assert "to change" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be an integer of at least 1, got 1.5"),
        ({"bits": 7}, "bits must be one of 4, 8, 16, 32; got 7"),
        ({"cache_bits": 0}, "cache_bits must be one of 4, 8, 16, 32; got 0"),
        ({"bits": True}, "bits must be one of 4, 8, 16, 32; got True"),
        ({"device": "card"}, "device must be an effedu.hardware.Device, got 'card'"),
        ({"config": None}, "config must be a Hugging Face configuration"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_input(arguments, message):
    good = {"config": LLAMA, "device": CARD, "length": 10}
    with pytest.raises(ValueError, match=message):
        fits(**{**good, **arguments})
