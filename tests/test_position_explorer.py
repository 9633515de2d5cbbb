"""PositionExplorer's curves against effedu.positional, and its errors."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
import torch
from torch.testing import assert_close

from effedu.positional import alibi_slopes, frequencies, rotary, sinusoidal
from effedu.widgets import PositionExplorer

SIZES = {"head_dim": 16, "base": 500.0, "length": 40, "scale": 2.0}


def test_sinusoids_and_rotations_have_one_curve():
    one, two = (PositionExplorer(scheme=s, **SIZES).similarity() for s in ("sinusoidal", "rotary"))
    assert_close(one, two, atol=1e-5, rtol=0)
    theta = frequencies(16, base=500.0, scale=2.0)
    mean = (torch.arange(40)[:, None] * theta).cos().mean(1)
    assert_close(one, mean, atol=1e-5, rtol=0)


def test_the_curve_holds_for_every_two_positions():
    """The map on the page is drawn from distances alone."""
    curve = PositionExplorer(**SIZES).similarity()
    place = torch.arange(40)
    distance = (place[:, None] - place).abs()
    table = sinusoidal(40, 16, base=500.0, scale=2.0)
    assert_close(table @ table.T / 8, curve[distance], atol=1e-5, rtol=0)
    turned = rotary(torch.full((40, 16), 0.25), base=500.0, scale=2.0)
    assert_close(turned @ turned.T, curve[distance], atol=1e-5, rtol=0)


def test_alibi_and_none():
    explorer = PositionExplorer(scheme="alibi", num_heads=6, head=5, length=20)
    expected = -alibi_slopes(6)[5] * torch.arange(20)
    assert_close(explorer.similarity(), expected)
    assert PositionExplorer(scheme="none", length=20).similarity().tolist() == [0.0] * 20


def test_the_angle_is_that_of_rotary():
    explorer = PositionExplorer(pair=3, **SIZES)
    x = torch.zeros(40, 16)
    x[:, 3] = 1.0
    turned = rotary(x, base=500.0, scale=2.0)
    for position in (0, 1, 17, 39):
        angle = torch.tensor(explorer.angle(position))
        pair = turned[position, [3, 3 + 8]]
        assert_close(pair, torch.stack([angle.cos(), angle.sin()]), atol=1e-5, rtol=0)


def test_starts_where_there_is_something_to_see():
    explorer = PositionExplorer()
    assert (explorer.query, explorer.key, explorer.pair) == (96, 84, 4)
    tiny = PositionExplorer(length=2, head_dim=2)
    assert (tiny.query, tiny.key, tiny.pair) == (1, 0, 0)


def test_a_smaller_size_takes_its_choices_along():
    explorer = PositionExplorer(length=100, pair=31, head=7, query=99, key=90)
    explorer.length, explorer.head_dim, explorer.num_heads = 50, 8, 2
    assert (explorer.query, explorer.key, explorer.pair, explorer.head) == (49, 49, 3, 1)


def test_repr_and_fallback():
    explorer = PositionExplorer(scheme="sinusoidal", length=64, base=500.5)
    assert (
        repr(explorer)
        == "PositionExplorer(sinusoidal, head_dim=64, base=500.5, length=64, scale=1)"
    )
    root = ElementTree.fromstring(explorer.fallback())
    words = "".join(root.itertext())
    assert f"At distance 12 it is {float(explorer.similarity()[12]):.3f}." in words
    assert root.find("svg").get("aria-label") == words
    for scheme, kind in (("alibi", "bias"), ("none", "similarity")):
        assert f"{scheme}: the {kind} of two" in PositionExplorer(scheme=scheme).fallback()


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scheme", "learned", "scheme must be one of sinusoidal, rotary, alibi, none; got 'learn"),
        ("head_dim", 7, "head_dim must be at most 512, and even, got 7"),
        ("head_dim", 514, "head_dim must be at most 512, and even, got 514"),
        ("head_dim", 0, "head_dim must be an integer of at least 2, got 0"),
        ("length", 1, "length must be an integer of at least 2, got 1"),
        ("length", 4097, "length must be at most 4,096, got 4,097"),
        ("num_heads", 0, "num_heads must be an integer of at least 1, got 0"),
        ("num_heads", 129, "num_heads must be at most 128, got 129"),
        ("base", 0.0, r"base must be positive and finite, got 0\.0"),
        ("scale", math.nan, "scale must be positive and finite, got nan"),
        ("pair", 32, "pair must be from 0 to 31, got 32"),
        ("head", -1, "head must be from 0 to 7, got -1"),
        ("query", 128, "query must be from 0 to 127, got 128"),
        ("key", 200, "key must be from 0 to 127, got 200"),
    ],
)
def test_bad_values(name, value, message):
    with pytest.raises(ValueError, match=message):
        PositionExplorer(**{name: value})
    explorer = PositionExplorer()
    before = getattr(explorer, name)
    with pytest.raises(ValueError, match=message):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == before
