"""effedu.patterns: attentions by name check their arguments and say what they let see."""

from __future__ import annotations

from typing import Any

import pytest

from effedu.patterns import (
    BlockAttention,
    CausalAttention,
    ChoosingAttention,
    block,
    block_topk,
    dense,
    threshold,
    topk,
)

CHOOSING = [topk(4), threshold(0.1), block_topk(4, k=2)]


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, r"block_size must be an integer of at least 1, got 0"),
        ({"blocks_back": -1}, r"blocks_back must be an integer of at least 0, got -1"),
        ({"sinks": 1.5}, r"sinks must be an integer of at least 0, got 1\.5"),
    ],
)
def test_block_checks_its_arguments_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: topk(0), "k must be an integer of at least 1, got 0"),
        (lambda: threshold(1.5), r"threshold must be from 0 to 1, got 1\.5"),
        (lambda: block_topk(0), "block_size must be an integer of at least 1, got 0"),
        (lambda: block_topk(4, k=1), "k must be an integer of at least 2, got 1"),
    ],
)
def test_choosing_attentions_check_their_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_choosing_attentions_are_both_protocols() -> None:
    for attention in CHOOSING:
        assert isinstance(attention, CausalAttention)
        assert isinstance(attention, ChoosingAttention)
    assert not isinstance(block(), ChoosingAttention)


def test_block_is_frozen_and_plain() -> None:
    assert block() == BlockAttention(128, blocks_back=1, sinks=0)
    assert (block(4, blocks_back=2).reach, block(4).reach) == (12, 8)
    assert isinstance(block(), CausalAttention)
    assert isinstance(dense(), CausalAttention)
    with pytest.raises(AttributeError):
        block().sinks = 3  # type: ignore[misc]
