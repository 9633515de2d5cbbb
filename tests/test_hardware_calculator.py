"""HardwareCalculator: its state is what ``effedu.sizing.fits`` takes, and its errors."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

import effedu
from effedu.cost import cost
from effedu.hardware import Device, devices
from effedu.sizing import fits, models
from effedu.widgets import HardwareCalculator

LAPTOP = Device("laptop", memory=16e9, bandwidth=50e9, peak={"float32": 200e9})


@pytest.mark.parametrize("model", models())
def test_every_model_costs_what_its_configuration_says(model):
    calculator = HardwareCalculator(model, length=1000, batch=3)
    for length, cached in ((1000, 0), (1, 999)):
        found = cost(SimpleNamespace(**calculator.config), length, cached=cached, batch=3)
        assert found == cost(models()[model], length, cached=cached, batch=3)
    assert calculator.fit().weights == 2 * cost(models()[model], 1).parameters


@pytest.mark.parametrize("device", devices())
def test_every_device_is_the_published_one(device):
    calculator = HardwareCalculator("Qwen2.5-7B", device, length=5000, batch=2, bits=8)
    assert calculator.fit() == fits(
        models()["Qwen2.5-7B"], devices()[device], length=5000, batch=2, bits=8
    )


def test_bits_of_the_cache():
    halved, whole = (HardwareCalculator(cache_bits=bits, batch=4).fit() for bits in (8, 16))
    assert 2 * halved.kv_cache == whole.kv_cache
    assert halved.weights == whole.weights
    assert halved.decode_tokens_per_second > whole.decode_tokens_per_second


def test_models_and_devices_of_ones_own():
    lm = effedu.load_lm()
    calculator = HardwareCalculator(
        "embedded", "laptop", add_models={"embedded": lm.model.config}, add_devices=[LAPTOP]
    )
    weights = {p.data_ptr(): p.numel() for p in lm.model.parameters()}  # tied ones count once
    assert calculator.fit().weights == 2 * sum(weights.values())
    assert calculator.fit().device == LAPTOP
    assert [m["name"] for m in calculator.models] == [*models(), "embedded"]
    assert [d["name"] for d in calculator.devices] == [*devices(), "laptop"]


def test_a_llama_without_key_heads_has_as_many_as_heads():
    config = LlamaConfig(num_attention_heads=8, num_key_value_heads=8, hidden_size=64)
    del config.num_key_value_heads
    calculator = HardwareCalculator("mine", add_models={"mine": config})
    assert calculator.config["num_key_value_heads"] == 8


def test_a_model_that_was_added_goes_by_its_own_name():
    calculator = HardwareCalculator("mine", add_models={"mine": models()["pythia-70m"]})
    assert repr(calculator).startswith("HardwareCalculator(mine on ")


def test_an_unknown_memory_is_said():
    calculator = HardwareCalculator(
        device="box", add_devices=[Device("box", None, 1e9, {"float32": 1e12})]
    )
    assert calculator.fit().fits is None
    text = "".join(ElementTree.fromstring(calculator.fallback()).itertext())
    assert "Whether it fits is not known: it takes 17.74 GB." in text


def own(**changes):
    sizes = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "tie_word_embeddings": False,
    }
    return {"add_models": {"own": SimpleNamespace(**{**sizes, **changes})}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "Llama-9"}, r"model must be one of pythia-70m, .*Llama-3.1-70B; got 'Llama-9'"),
        ({"device": "abacus"}, r"device must be one of .*NVIDIA T4.*; got 'abacus'"),
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"length": 2**24 + 1}, "length must be at most 16,777,216, got 16,777,217"),
        ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
        ({"batch": 2**20 + 1}, "batch must be at most 1,048,576, got 1,048,577"),
        ({"bits": 2}, "bits must be one of 4, 8, 16, 32; got 2"),
        ({"cache_bits": True}, "cache_bits must be one of 4, 8, 16, 32; got True"),
        (
            {"add_models": {"own": GPT2Config()}},
            "own must be a configuration with model_type one of gpt_neox, llama, qwen2; got 'gpt2'",
        ),
        (
            {"add_models": {"own": MistralConfig()}},
            "own must be a configuration with model_type one of .* got 'mistral'",
        ),
        (own(hidden_size=0), "own.hidden_size must be an integer of at least 1, got 0"),
        (own(vocab_size=None), "own.vocab_size must be an integer of at least 1, got None"),
        (own(num_key_value_heads=5), "own.num_key_value_heads must be at most num_attention_heads"),
        (own(num_attention_heads=65), "own.num_attention_heads must be at most hidden_size, 64"),
        (own(head_dim=32), "own must be a configuration without a sliding window, .* own, got"),
        (own(sliding_window=512), "own must be a configuration without a sliding window"),
        (own(mlp_bias=True), "own must be a configuration without .* biases in its feed-forward"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HardwareCalculator(**arguments)


def test_qwen2_without_a_window_is_taken():
    config = Qwen2Config(use_sliding_window=False)
    calculator = HardwareCalculator("own", add_models={"own": config})
    assert calculator.config["attention_bias"] is True


def test_bad_values_later_leave_the_state_as_it_was():
    calculator = HardwareCalculator()
    before = calculator.config, calculator.device
    with pytest.raises(ValueError, match="bits must be one of 4, 8, 16, 32; got 3"):
        calculator.bits = 3
    with pytest.raises(ValueError, match="batch must be an integer of at least 1, got 0"):
        calculator.batch = 0
    with pytest.raises(ValueError, match=r"config\.num_hidden_layers must be an integer"):
        calculator.config = {**calculator.config, "num_hidden_layers": 0}
    with pytest.raises(ValueError, match=r"bandwidth must be positive and finite, got 0\.0"):
        calculator.device = {**calculator.device, "bandwidth": 0.0}
    assert (calculator.bits, calculator.batch) == (16, 1)
    assert (calculator.config, calculator.device) == before


def test_repr_and_fallback_say_the_state():
    calculator = HardwareCalculator("Llama-3.1-70B", length=4096, batch=2, bits=8)
    state = "Llama-3.1-70B on NVIDIA RTX 4090, length=4096, batch=2, bits=8"
    assert repr(calculator) == f"HardwareCalculator({state})"
    calculator.config = {**calculator.config, "num_hidden_layers": 40}
    assert repr(calculator).startswith("HardwareCalculator(your own on NVIDIA RTX 4090")
    root = ElementTree.fromstring(calculator.fallback())
    text = "".join(root.itertext())
    found = calculator.fit()
    assert f"It does not fit: it takes {found.total / 1e9:.4g} GB of 24 GB." in text
    assert all(line in text for line in found.advice)
    assert f"{found.decode_tokens_per_second:,.1f} tokens/s, bound by memory" in text
    assert root.find("svg").get("aria-label").startswith("your own on")
    unknown = HardwareCalculator(device="Apple M4, 32 GB").fallback()
    assert "<td>not known</td>" in unknown
