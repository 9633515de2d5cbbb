"""SpeedupExplorer: what it accepts, what it reads off, and what it says of values in between."""

from __future__ import annotations

import json
import math

import pytest

from effedu.blocking import block_mask
from effedu.widgets import SpeedupExplorer


def row(**changes):
    return {"name": "block", "length": 512, "block_size": 64, "ratio": 2.0, **changes}


ROWS = [
    row(length=512, ratio=2.0, low=1.9, high=2.2),
    row(length=2048, ratio=8.0, low=7.0, high=9.0),
    row(length=512, block_size=128, ratio=1.5),
    row(length=1024, block_size=128, ratio=3.0),
    row(name="other", length=512, ratio=0.5),
    row(name="other", length=2048, ratio=0.25),
]


def test_measured_points_are_read_as_they_are():
    reading = SpeedupExplorer(ROWS, block_size=64).reading("block", length=2048)
    assert (reading.ratio, reading.low, reading.high, reading.measured) == (8.0, 7.0, 9.0, True)
    assert reading.share == 8.0 / reading.limit


def test_between_measurements_lies_on_the_line_of_logarithmic_axes():
    explorer = SpeedupExplorer(ROWS, block_size=64)
    middle = explorer.reading("block", length=1024)
    assert middle.ratio == pytest.approx(4.0)  # halfway in both logarithms
    assert (middle.low, middle.high, middle.measured) == (None, None, False)
    assert explorer.reading("other", length=1024).ratio == pytest.approx(math.sqrt(0.5 * 0.25))


@pytest.mark.parametrize(("blocks_back", "sinks"), [(0, 0), (1, 0), (2, 3)])
def test_limit_is_that_of_the_mask(blocks_back, sinks):
    rows = [row(length=300, block_size=32)]
    explorer = SpeedupExplorer(rows, blocks_back=blocks_back, sinks=sinks)
    mask = block_mask(300, block_size=32, blocks_back=blocks_back, sinks=sinks)
    assert explorer.limit() == 300 * 301 / 2 / mask.sum().item()


def test_starts_at_the_longest_length_of_the_middle_block_size():
    explorer = SpeedupExplorer(ROWS)
    assert (explorer.block_size, explorer.length) == (128, 1024)
    assert explorer.names == ["block", "other"]
    assert repr(explorer) == "SpeedupExplorer(6 measurements, block_size=128, length=1024)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows must hold at least one measurement, got none"),
        ([{"name": "block"}], r"rows\[0\] must have length, block_size, ratio, got \['name'\]"),
        ([row(name="")], r"rows\[0\]\['name'\] must be a word, got ''"),
        ([row(length=0)], r"rows\[0\]\['length'\] must be an integer of at least 1, got 0"),
        ([row(block_size=1.5)], r"rows\[0\]\['block_size'\] must be an integer of at least 1"),
        ([row(), row(length=9, ratio=0)], r"rows\[1\]\['ratio'\] must be above 0 and finite"),
        ([row(ratio=math.nan)], r"rows\[0\]\['ratio'\] must be above 0 and finite, got nan"),
        ([row(ratio="2")], r"rows\[0\]\['ratio'\] must be a number, got '2'"),
        ([row(low=2.5)], r"rows\[0\] must have low <= ratio <= high, got 2.5, 2.0 and 2.0"),
        ([row(limit=99)], r"rows\[0\]\['limit'\] must be 2.898 for 512 tokens in blocks of 64"),
        ([row(), row(ratio=3)], r"rows\[1\] must be a new point, got 'block' at length 512"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        SpeedupExplorer(rows)


def test_rows_are_mappings():
    # Behind an object that says nothing of its items: the shape checker would stop a list before.
    with pytest.raises(ValueError, match=r"rows\[0\] must be a mapping, got list"):
        SpeedupExplorer(iter([[1, 2]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 32}, "block_size must be one of those measured, 64, 128; got 32"),
        ({"length": 4096}, "length must be among those measured, 512 to 1024, got 4096"),
        (
            {"hidden": ["nobody"]},
            "hidden must be one of those measured, block, other; got 'nobody'",
        ),
        ({"blocks_back": -1}, "blocks_back must be an integer of at least 0, got -1"),
        ({"sinks": -1}, "sinks must be an integer of at least 0, got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SpeedupExplorer(ROWS, **options)


def test_readings_beyond_the_measurements_are_refused():
    explorer = SpeedupExplorer(ROWS, block_size=64)
    with pytest.raises(ValueError, match=r"length must lie between .* 512 to 2048, got 4096"):
        explorer.reading("block", length=4096)
    with pytest.raises(ValueError, match="name must be one of those measured, block, other"):
        explorer.reading("flex")
    with pytest.raises(ValueError, match="block_size must be one of those measured, 64; got 128"):
        explorer.reading("other", length=512, block_size=128)
    with pytest.raises(ValueError, match="block_size must be one of those measured, 64, 128"):
        explorer.block_size = 7
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        explorer.length = 0
    assert (explorer.block_size, explorer.length) == (64, 2048)


SHAPE = {"heads": 8, "head_dim": 64, "direction": "forward"}
RESULTS = {
    "complete": True,
    "machine": {
        "processor": "A <b>processor",
        "threads": 2,
        "cpu_capability": "AVX2",
        "torch": "2",
    },
    "setting": {"blocks_back": 1},
    "attention": [
        {**row(name="dense", ratio=1.0), **SHAPE},
        {**row(), **SHAPE, "low": 1.9, "high": 2.1, "noisy": False, "rounds": 25},
        {**row(name="sliding", ratio=0.4, limit=3.0), **SHAPE, "window": 96},  # a limit of its own
        {**row(name="naive", ratio=0.1), **SHAPE, "low": 0.1, "high": 0.2, "noisy": False},
        {**row(ratio=1.5), **SHAPE, "heads": 4, "head_dim": 32},
        {**row(ratio=1.2), **SHAPE, "direction": "forward+backward"},
    ],
}


def test_from_results_as_mapping_and_as_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULTS), "utf-8")
    for source in (RESULTS, path, str(path)):
        explorer = SpeedupExplorer.from_results(source)
        assert explorer.names == ["block attention", "HF sliding mask", "naive softmax"]
        assert explorer.hidden == ["HF sliding mask", "naive softmax"]
        assert explorer.machine == (
            "A <b>processor, 2 threads, AVX2, PyTorch 2, with 8 heads of width 64, forward"
        )
        assert explorer.reading("block attention").high == 2.1
    shown = SpeedupExplorer.from_results(RESULTS, hidden=[], machine="here")
    assert (shown.hidden, shown.machine) == ([], "here")
    unfinished = SpeedupExplorer.from_results({**RESULTS, "complete": False})
    assert unfinished.machine.endswith("forward, in a run that is not finished")


def test_from_results_takes_one_shape_and_direction():
    small = SpeedupExplorer.from_results(RESULTS, heads=4, head_dim=32)
    assert [r["ratio"] for r in small.rows] == [1.5]
    assert small.machine.endswith("with 4 heads of width 32, forward")
    both = SpeedupExplorer.from_results(RESULTS, direction="forward+backward")
    assert [r["ratio"] for r in both.rows] == [1.2]
    with pytest.raises(
        ValueError,
        match=r"heads, head_dim and direction must be among those measured, 8, 64, 'forward'; "
        r"4, 32, 'forward'; 8, 64, 'forward\+backward'; got 4, 64, 'backward'",
    ):
        SpeedupExplorer.from_results(RESULTS, heads=4, direction="backward")


def test_without_a_path_it_shows_the_results_that_come_with_the_package():
    explorer = SpeedupExplorer.from_results(length=8192)
    assert explorer.names[0] == "block attention"
    assert explorer.reading("block attention").measured
    assert "8 heads of width 64, forward" in explorer.machine


def test_from_results_reads_what_the_bench_writes():
    from tools.bench import Part, measure_part

    rows, _ = measure_part(Part(8, 64, "forward", 256), (64,), 3, 0.0, ["flex", "local"])
    explorer = SpeedupExplorer.from_results({**RESULTS, "attention": rows})
    reading = explorer.reading("block attention")
    assert (reading.length, reading.block_size, reading.measured) == (256, 64, True)
    assert "HF sliding mask" in explorer.names


def test_from_results_says_what_is_wrong(tmp_path):
    with pytest.raises(
        ValueError, match=r"results must be a JSON file that can be read: .*nowhere"
    ):
        SpeedupExplorer.from_results(tmp_path / "nowhere.json")
    path = tmp_path / "list.json"
    path.write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="results must hold a JSON object, got list"):
        SpeedupExplorer.from_results(path)
    with pytest.raises(
        ValueError, match=r"results must be what `make bench` writes, but: .*machine"
    ):
        SpeedupExplorer.from_results({})


def test_fallback_has_every_measurement_as_text():
    text = SpeedupExplorer(ROWS, block_size=64, machine="<img src=x>").fallback()
    assert "&lt;img src=x&gt;" in text
    assert "<img" not in text
    assert "<td>8.0×</td>" in text
    assert text.count('<th scope="row">') == 4
