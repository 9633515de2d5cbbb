"""Amdahl's law and the frontier, against running the definition by hand."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effedu.tradeoffs import amdahl, frontier, sweep

shares = st.floats(0, 1)
speedups = st.floats(0.01, 1e6)
costs = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    max_size=12,
)


@given(shares, speedups)
def test_amdahl_is_the_sum_of_the_two_parts_times(share, speedup):
    before = 1.0
    after = (before - share * before) + share * before / speedup
    assert amdahl(share, speedup) == pytest.approx(before / after)


@given(shares, speedups)
def test_the_whole_never_gains_more_than_the_part_or_the_bound(share, speedup):
    whole = amdahl(share, speedup)
    assert whole <= max(1, speedup) * (1 + 1e-12)
    assert whole <= amdahl(share, math.inf) * (1 + 1e-12)


def test_a_part_that_is_everything_or_nothing():
    assert amdahl(1, 8) == 8
    assert amdahl(0, 8) == 1
    assert amdahl(1, math.inf) == math.inf
    assert amdahl(0.75, math.inf) == 4  # the article's quarter takes a share of three quarters


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-0.1, 2), "share must be from 0 to 1, got -0.1"),
        ((1.5, 2), "share must be from 0 to 1, got 1.5"),
        ((math.nan, 2), "share must be from 0 to 1, got nan"),
        ((0.5, 0), "speedup must be above 0, got 0"),
        ((0.5, math.nan), "speedup must be above 0, got nan"),
    ],
)
def test_amdahl_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        amdahl(*arguments)


def beats(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@given(costs)
def test_the_frontier_is_what_nothing_beats_and_beats_all_else(points):
    kept = frontier(points)
    for name, other in itertools.product(kept, points):
        assert not beats(points[other], points[name])
    for name in points.keys() - set(kept):
        assert any(beats(points[other], points[name]) for other in kept)
    assert bool(kept) == bool(points)


@given(costs)
def test_along_the_frontier_one_pays_for_what_one_gets(points):
    numbers = [points[name] for name in frontier(points)]
    assert numbers == sorted(numbers)
    for (cost, loss), (more, less) in itertools.pairwise(numbers):
        assert (more > cost and less < loss) or (cost, loss) == (more, less)


def test_equal_points_both_stay():
    assert frontier({"a": (1, 1), "b": (1, 1), "c": (1, 2)}) == ["a", "b"]


def test_three_numbers():
    points = {"time": (1, 9, 9), "memory": (9, 1, 9), "bits": (9, 9, 1), "bad": (9, 9, 9)}
    assert frontier(points) == ["time", "memory", "bits"]


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ({"a": (1, 2), "b": (1,)}, r"points must have equally many numbers.*\[1, 2\]"),
        ({"a": ()}, r"points must have equally many numbers, at least one, got \[0\]"),
        ({"a": (1.0, math.nan)}, r"points\['a'\] must hold numbers, got \(1.0, nan\)"),
    ],
)
def test_frontier_refuses(points, match):
    with pytest.raises(ValueError, match=match):
        frontier(points)


def test_the_stored_sweep_opens():
    assert sweep()["version"] == 1


def test_sweep_refuses_what_is_no_sweep(tmp_path):
    with pytest.raises(ValueError, match=r"path must be a file of tools/sweep.py, got .*nothing"):
        sweep(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("not JSON")
    with pytest.raises(ValueError, match="path must be a file of tools"):
        sweep(tmp_path / "text.json")
    (tmp_path / "new.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(ValueError, match="path must hold version 1, got 2"):
        sweep(tmp_path / "new.json")
