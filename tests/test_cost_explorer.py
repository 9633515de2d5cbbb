"""CostExplorer: its state is what ``effedu.cost.cost`` takes, and its errors."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch
from transformers import GPT2Config

import effedu
from effedu.cost import cost, crossover
from effedu.hardware import Device, devices
from effedu.sizing import models
from effedu.widgets import CostExplorer

LAPTOP = Device("laptop", memory=16e9, bandwidth=50e9, peak={"float32": 200e9})
SHOWN = ("flops", "bytes_moved", "seconds", "bytes_kept")


@pytest.mark.parametrize("model", models())
def test_every_model_costs_what_its_configuration_says(model):
    explorer = CostExplorer(model, length=1000)
    found = cost(models()[model], 1000, causal=True, dtype=torch.bfloat16)
    assert explorer.cost() == found
    assert sum(explorer.by_part().values()) == found.flops.total
    assert explorer.crossover() == crossover(models()[model])
    explorer.task, explorer.bits = "write", 32
    assert explorer.cost(77) == cost(models()[model], 1, cached=76, causal=True)
    explorer.shown = "bytes_kept"
    kept = explorer.cost().parameters * 4 + explorer.cost().kv_cache_bytes
    assert sum(explorer.by_part().values()) == kept


def test_logits_for_one_token_only():
    every, last = (CostExplorer(all_logits=on, length=100).by_part() for on in (True, False))
    assert every["logits"] == 100 * last["logits"]
    assert every["attention"] == last["attention"]


def test_least_time_of_each_part():
    explorer = CostExplorer("pythia-70m", "laptop", shown="seconds", bits=32, add_devices=[LAPTOP])
    parts = explorer.cost().parts
    assert explorer.by_part() == {
        name: max(parts[name].flops / 200e9, parts[name].bytes_moved / 50e9)
        for name in explorer.by_part()
    }
    unknown = CostExplorer(device="Apple M4, 32 GB", shown="seconds")
    moved = unknown.cost().parts["attention"].bytes_moved
    assert unknown.by_part()["attention"] == moved / 120e9
    fastest = CostExplorer(device="NVIDIA T4", shown="seconds").by_part()["feed-forward"]
    assert fastest == CostExplorer().cost().parts["feed-forward"].flops / 65e12  # float16


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("task", ["read", "write"])
@pytest.mark.parametrize("model", ["pythia-70m", "Llama-3.1-70B"])
def test_the_crossover_is_the_first_length(model, task, shown):
    explorer = CostExplorer(model, task=task, shown=shown)
    found = explorer.crossover()
    lengths = [2**24] if found is None else [found - 1, found]
    overtaken = [
        parts["attention"] > parts["feed-forward"] for parts in map(explorer.by_part, lengths)
    ]
    assert overtaken == [False] if found is None else [False, True]


def test_models_and_devices_of_ones_own():
    lm = effedu.load_lm()
    explorer = CostExplorer(
        "embedded", "laptop", add_models={"embedded": lm.model.config}, add_devices=[LAPTOP]
    )
    assert explorer.crossover() == 2048
    assert explorer.cost().parameters == sum(p.numel() for p in lm.model.parameters())
    assert [m["name"] for m in explorer.models] == [*models(), "embedded"]
    assert [d["name"] for d in explorer.devices] == [*devices(), "laptop"]
    assert repr(explorer).startswith("CostExplorer(embedded, read 8,192 tokens, attention 68 %")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "Llama-9"}, r"model must be one of pythia-70m, .*; got 'Llama-9'"),
        ({"device": "abacus"}, r"device must be one of .*NVIDIA T4.*; got 'abacus'"),
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"length": 2**24 + 1}, "length must be at most 16,777,216, got 16,777,217"),
        ({"task": "sing"}, "task must be one of read, write; got 'sing'"),
        ({"shown": "euros"}, "shown must be one of flops, bytes_moved, seconds, .*; got 'euros'"),
        ({"bits": 8}, "bits must be one of 16, 32; got 8"),
        ({"bits": True}, "bits must be one of 16, 32; got True"),
        ({"add_models": {"own": GPT2Config()}}, "own must be a configuration with model_type one"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CostExplorer(**arguments)


def test_bad_values_later_leave_the_state_as_it_was():
    explorer = CostExplorer()
    before = explorer.config, explorer.device
    with pytest.raises(ValueError, match="task must be one of read, write; got 'sing'"):
        explorer.task = "sing"
    with pytest.raises(ValueError, match=r"config\.num_hidden_layers must be an integer"):
        explorer.config = {**explorer.config, "num_hidden_layers": 0}
    with pytest.raises(ValueError, match=r"bandwidth must be positive and finite, got 0\.0"):
        explorer.device = {**explorer.device, "bandwidth": 0.0}
    assert (explorer.task, explorer.config, explorer.device) == ("read", *before)


def test_repr_and_fallback_say_the_state():
    explorer = CostExplorer("gpt-neox-20b", length=2048, task="write", shown="bytes_kept")
    state = "gpt-neox-20b, write one token at 2,048 tokens, attention 5 % of the memory"
    assert repr(explorer) == f"CostExplorer({state})"
    root = ElementTree.fromstring(explorer.fallback())
    text = "".join(root.itertext())
    assert f"it overtakes the feed-forward network at {explorer.crossover():,} tokens." in text
    assert f"{explorer.by_part()['attention']:.3g} B" in text
    assert root.find("svg").get("aria-label").startswith(state)
    explorer.config = {**explorer.config, "num_hidden_layers": 40}
    assert repr(explorer).startswith("CostExplorer(your own, write")
    never = CostExplorer(shown="bytes_moved", bits=32).fallback()
    assert "feed-forward network at no length." in never
