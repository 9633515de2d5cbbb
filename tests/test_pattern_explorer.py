"""PatternExplorer's numbers against the mask that block attention really uses."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effedu.blocking import block_mask
from effedu.widgets import PatternExplorer
from effedu.widgets.pattern_explorer import _flag

patterns = st.fixed_dictionaries(
    {
        "length": st.integers(1, 70),
        "block_size": st.integers(1, 40),
        "blocks_back": st.integers(0, 4),
        "sinks": st.integers(0, 80),
        "causal": st.booleans(),
    }
)


def positions(spans):
    return {position for start, stop in spans for position in range(start, stop)}


def reached(mask, row, layers):
    """Positions that reach ``row`` through ``layers`` masks: a row of the mask's boolean power."""
    seen = torch.zeros(len(mask), dtype=torch.bool)
    seen[row] = True
    for _ in range(layers):
        seen = mask[seen].any(dim=0)
    return set(seen.nonzero().flatten().tolist())


@given(patterns)
@settings(max_examples=60)
def test_pairs_and_rows_are_those_of_the_mask(pattern):
    explorer, mask = PatternExplorer(**pattern), block_mask(**pattern)
    assert explorer.live_pairs == mask.sum()
    dense = torch.ones_like(mask)
    assert explorer.dense_pairs == (dense.tril() if pattern["causal"] else dense).sum()
    for row in {0, pattern["length"] // 2, pattern["length"] - 1}:
        assert positions(explorer.visible(row)) == reached(mask, row, 1)


@given(patterns, st.integers(1, 6), st.integers(0, 69))
@settings(max_examples=60)
def test_receptive_field_is_a_power_of_the_mask(pattern, layers, row):
    explorer, mask, row = PatternExplorer(**pattern), block_mask(**pattern), row % pattern["length"]
    spans = explorer.receptive_field(layers, query=row)
    assert positions(spans) == reached(mask, row, layers)
    assert sorted(spans) == spans
    assert all(stop < later for (_, stop), (later, _) in itertools.pairwise(spans))


@given(patterns, st.integers(0, 69))
@settings(max_examples=40)
def test_layers_to_see_all_is_the_first_that_does(pattern, row):
    explorer, mask, row = PatternExplorer(**pattern), block_mask(**pattern), row % pattern["length"]
    everything = set(range(row + 1 if pattern["causal"] else pattern["length"]))
    layers = explorer.layers_to_see_all(row)
    if layers is None:
        assert reached(mask, row, pattern["length"]) < everything
    else:
        assert reached(mask, row, layers) == everything
        assert layers == 1 or reached(mask, row, layers - 1) < everything


def test_numbers_of_one_layer():
    explorer = PatternExplorer(8192, block_size=128, num_heads=8, head_dim=64)
    numbers = explorer.numbers
    assert numbers.flops == 4 * 1_560_576 * 8 * 64
    assert numbers.dense_flops == 4 * (8192 * 8193 // 2) * 8 * 64
    assert numbers.weight_bytes == 4 * 8 * 8192 * 256
    assert numbers.dense_weight_bytes == 4 * 8 * 8192**2
    assert numbers.speedup_limit == explorer.speedup_limit == pytest.approx(21.504, abs=1e-3)


def test_memory_counts_both_sides_and_sinks_but_never_more_than_everything():
    both = PatternExplorer(1000, block_size=10, blocks_back=2, sinks=3, causal=False, num_heads=1)
    assert both.numbers.weight_bytes == 4 * 1000 * (50 + 3)
    whole = PatternExplorer(1000, block_size=512, blocks_back=1, num_heads=1)
    assert whole.numbers.weight_bytes == whole.numbers.dense_weight_bytes == 4 * 1000**2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"length": 2**18 + 1}, "length must be at most 262,144, got 262,145"),
        ({"block_size": 0}, "block_size must be an integer of at least 1, got 0"),
        ({"blocks_back": -1}, "blocks_back must be an integer of at least 0, got -1"),
        ({"sinks": -1}, "sinks must be an integer of at least 0, got -1"),
        ({"layers": 1025}, "layers must be at most 1,024, got 1,025"),
        ({"num_heads": 129}, "num_heads must be at most 128, got 129"),
        ({"head_dim": 0}, "head_dim must be an integer of at least 1, got 0"),
        ({"length": 8, "query": 8}, "query must be a whole number from -8 to 7 .* got 8"),
        ({"length": 8, "query": True}, "query must be a whole number from -8 to 7 .* got True"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatternExplorer(**arguments)


def test_causal_is_a_flag():
    with pytest.raises(ValueError, match="causal must be True or False, got 1"):
        _flag("causal", 1)  # by itself: in the tests the shape checker stops it before


def test_bad_values_later_leave_the_state_as_it_was():
    explorer = PatternExplorer(64, block_size=8)
    with pytest.raises(ValueError, match="block_size must be an integer of at least 1, got 0"):
        explorer.block_size = 0
    with pytest.raises(ValueError, match="query must be a whole number from -64 to 63"):
        explorer.query = 64
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        explorer.receptive_field(layers=0)
    with pytest.raises(ValueError, match=r"query must be a whole number .* got -65"):
        explorer.visible(-65)
    assert (explorer.block_size, explorer.query) == (8, -1)


def test_a_shorter_text_keeps_the_query_inside():
    explorer = PatternExplorer(64, block_size=8, query=60)
    explorer.length = 32
    assert explorer.query == -1
    assert explorer.visible() == [(16, 32)]


def test_repr_and_fallback_say_the_state():
    explorer = PatternExplorer(64, block_size=8, sinks=2, layers=3)
    expected = "length=64, block_size=8, blocks_back=1, sinks=2, causal=True, layers=3"
    assert repr(explorer) == f"PatternExplorer({expected})"
    text = explorer.fallback()
    assert f"{explorer.live_pairs:,} of {explorer.dense_pairs:,} pairs" in text
    field = positions(explorer.receptive_field())
    assert f"the last token depends on {len(field)} of 64 positions" in text
    assert "<script" not in text
    assert 'role="img" aria-label="Block attention over 64 tokens' in text
