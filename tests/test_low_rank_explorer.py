"""LowRankExplorer's numbers against effedu.compression on the matrices it was made from."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from effedu.compression import LowRankLinear, break_even_rank, low_rank
from effedu.widgets import LowRankExplorer

SWEEP = {"plain": [(4, 3.0), (16, 2.0), (8, 2.5)], "aware": [(8, 2.2)]}


def matrices():
    decaying = torch.randn(24, 40) @ torch.diag(0.9 ** torch.arange(40))
    return {"trained": decaying, "random": torch.randn(24, 40)}


def corner(explorer, index, rank):
    """The picture's numbers, from the stored bytes alone."""
    floats = np.frombuffer(explorer.spectrum_bytes, "<f4")
    ints = np.frombuffer(explorer.factor_bytes, np.int8)
    for at, one in enumerate(explorer.matrices):
        ranks = min(one["rows"], one["columns"])
        scales, floats = floats[ranks : 2 * ranks], floats[2 * ranks :]
        left, ints = ints[: ranks * one["high"]], ints[ranks * one["high"] :]
        right, ints = ints[: ranks * one["wide"]], ints[ranks * one["wide"] :]
        if at == index:
            tall, wide = left.reshape(ranks, -1), right.reshape(ranks, -1)
            return (tall[:rank].T * scales[:rank].astype(float)) @ wide[:rank]
    raise AssertionError(index)


@pytest.mark.parametrize("name", ["trained", "random"])
@pytest.mark.parametrize("rank", [1, 5, 15, 24])
def test_error_and_cost_are_those_of_low_rank(name, rank):
    given = matrices()
    numbers = LowRankExplorer(given, matrix=name, rank=rank).numbers
    linear = nn.Linear(40, 24, bias=False)
    linear.weight.data = given[name]
    thin = low_rank(linear, rank)
    assert isinstance(thin, LowRankLinear)
    error = (thin.weight.detach() - given[name]).norm() / given[name].norm()
    assert numbers.relative_error == pytest.approx(float(error), abs=1e-5)
    assert numbers.energy == pytest.approx(1 - float(error) ** 2, abs=1e-5)
    assert numbers.parameters == sum(p.numel() for p in thin.parameters())
    assert numbers.full_parameters == 24 * 40
    assert numbers.break_even == break_even_rank(24, 40)


def test_spectrum_is_that_of_each_matrix():
    given = matrices()
    explorer = LowRankExplorer(given)
    for name, weight in given.items():
        explorer.matrix = name
        assert_close(explorer.spectrum(), torch.linalg.svdvals(weight), atol=1e-4, rtol=1e-4)


def test_the_picture_is_good_to_about_one_percent():
    given = {"first": torch.randn(8, 50), "large": torch.randn(60, 100)}
    explorer = LowRankExplorer(given)
    for index, weight in enumerate(given.values()):
        for rank in (3, 8):
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            expected = (left[:, :rank] * values[:rank]) @ right[:rank]
            expected = expected[:32, :32].numpy()
            found = corner(explorer, index, rank)
            assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_the_first_rank_halves_the_numbers():
    explorer = LowRankExplorer({"wide": torch.randn(64, 256)})
    assert explorer.rank == int(break_even_rank(64, 256) / 2) == 25
    assert LowRankExplorer({"one": torch.ones(1, 1)}).rank == 1


def test_bits_per_byte_lie_on_the_lines_between_measurements():
    explorer = LowRankExplorer(matrices(), sweep=SWEEP, rank=8)
    assert explorer.numbers.bits_per_byte == {"plain": 2.5, "aware": 2.2}
    explorer.rank = 12
    assert explorer.numbers.bits_per_byte == {"plain": pytest.approx(2.25), "aware": None}
    explorer.rank = 3
    assert explorer.numbers.bits_per_byte == {"plain": None, "aware": None}


def test_zeros_have_no_error():
    numbers = LowRankExplorer({"zeros": torch.zeros(4, 4)}).numbers
    assert (numbers.energy, numbers.relative_error) == (1.0, 0.0)


def test_a_smaller_matrix_takes_the_rank_along():
    explorer = LowRankExplorer({"large": torch.randn(30, 30), "small": torch.randn(4, 9)}, rank=20)
    explorer.matrix = "small"
    assert explorer.rank == 4
    assert repr(explorer) == "LowRankExplorer(small, rank 4 of 4)"


def test_state_stays_small():
    explorer = LowRankExplorer({name: torch.randn(256, 1024) for name in ("trained", "random")})
    assert len(explorer.spectrum_bytes) + len(explorer.factor_bytes) < 40_000


def test_fallback():
    explorer = LowRankExplorer({"<w>": torch.eye(8)}, rank=2, sweep={"plain": [(2, 1.9)]})
    root = ElementTree.fromstring(explorer.fallback())
    words = "".join(root.itertext())
    assert words == (
        "<w>: rank 2 of 8 keeps 25.0% of the energy, is off by 86.6%, and takes 32 numbers in "
        "place of 64. plain: 1.900 bits per byte."
    )
    assert root.find("svg").get("aria-label") == words
    fills = [path.get("fill") for path in root.iter("path")]
    assert fills == ["#0072b2"] * 2 + ["currentColor"] * 6


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {}, "matrices must map names to tensors, at least one, got {}"),
        ([torch.ones(2, 2)], {}, "matrices must map names to tensors"),
        (
            {"a": torch.ones(3)},
            {},
            r"matrices\['a'\] must be a floating-point matrix, got .*\(3,\)",
        ),
        ({"a": torch.ones(2, 2).long()}, {}, r"matrices\['a'\] must be .* got torch.int64"),
        ({"a": [[1.0]]}, {}, r"matrices\['a'\] must be a floating-point matrix, got \[\[1.0\]\]"),
        ({"a": torch.ones(0, 4)}, {}, r"matrices\['a'\] must have from 1 to 1,024 ranks, got 0"),
        ({"a": torch.ones(1025, 1025)}, {}, "must have from 1 to 1,024 ranks, got 1,025"),
        ({"a": torch.tensor([[math.nan]])}, {}, r"matrices\['a'\] must be finite, got NaN"),
        ({"a": torch.eye(4)}, {"rank": 5}, "rank must be from 1 to 4, got 5"),
        ({"a": torch.eye(4)}, {"rank": 0}, "rank must be from 1 to 4, got 0"),
        ({"a": torch.eye(4)}, {"matrix": "b"}, "matrix must be one of a; got 'b'"),
        ({"a": torch.eye(4)}, {"sweep": {"s": []}}, r"sweep\['s'\] must have one value for each"),
        (
            {"a": torch.eye(4)},
            {"sweep": {"s": [(1, 2.0), (1, 3.0)]}},
            r"sweep\['s'\] must have one value for each rank, got",
        ),
        (
            {"a": torch.eye(4)},
            {"sweep": {"s": [(0, 2.0)]}},
            r"sweep\['s'\] rank must be an integer of at least 1, got 0",
        ),
        (
            {"a": torch.eye(4)},
            {"sweep": {"s": [(1, math.inf)]}},
            r"sweep\['s'\] must hold positive bits per byte",
        ),
        (
            {"a": torch.eye(4)},
            {"sweep": {str(i): [(1, 2.0)] for i in range(5)}},
            "sweep must hold at most 4 methods, got 5",
        ),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(ValueError, match=message):
        LowRankExplorer(given, **options)


def test_bad_values_later_leave_the_state_as_it_was():
    explorer = LowRankExplorer({"a": torch.eye(4)}, rank=2)
    with pytest.raises(ValueError, match="rank must be from 1 to 4, got 9"):
        explorer.rank = 9
    with pytest.raises(ValueError, match="matrix must be one of a; got 'b'"):
        explorer.matrix = "b"
    assert (explorer.matrix, explorer.rank) == ("a", 2)
