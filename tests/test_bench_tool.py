"""``make bench``: it runs what it says, and goes on after an interruption. Nothing is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from effedu.bench import Comparison
from effedu.blocking import block_mask
from effedu.cost import live_pairs
from tools import bench
from tools.bench import (
    METHODS,
    Part,
    begin,
    flex_mask,
    left_out,
    main,
    measure_part,
    naive_attention,
    parts_of,
    reference,
    rows_of,
    same_pattern,
    sliding_pairs,
    window,
    write_json,
)

EAGER = [name for name in METHODS if name != "flex"]  # which compiles for seconds
SMALL = "--lengths 128 --shapes 2x8 --blocks 16 32 --rounds 3 --seconds 0 --skip flex start"
KEYS = {
    "name", "heads", "head_dim", "direction", "length", "block_size", "seconds", "ratio", "low",
    "high", "noisy", "limit", "share", "rounds", "block_over_this", "peak_bytes",
}  # fmt: skip


@pytest.fixture
def tensors() -> list[torch.Tensor]:
    return list(torch.randn(3, 1, 2, 128, 8).unbind())


@pytest.mark.parametrize("name", EAGER)
def test_every_method_equals_attention_under_its_mask(
    name: str, tensors: list[torch.Tensor]
) -> None:
    made = METHODS[name](*tensors, 32)
    torch.testing.assert_close(made.call(), reference(name, tensors, 32))
    assert made.holds == (128 * 128 if name == "sliding" else 0)


def test_the_window_keeps_about_as_many_pairs_as_the_blocks() -> None:
    for size in bench.BLOCK_SIZES:
        for length in bench.LENGTHS:
            share = sliding_pairs(length, window(size)) / live_pairs(length, block_size=size)
            assert 0.97 < share < 1.01
    at = torch.arange(50)
    for w in (1, 7, 50, 60):
        distance = at[:, None] - at[None, :]
        assert sliding_pairs(50, w) == ((distance >= 0) & (distance < w)).sum()


@pytest.mark.parametrize(("length", "size"), [(64, 16), (96, 32), (80, 16)])
def test_flex_mask_is_the_pattern(length: int, size: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    made = flex_mask(length, size)
    expected = create_block_mask(
        made.mask_mod, None, None, length, length, device="cpu", BLOCK_SIZE=size
    )
    assert torch.equal(made.to_dense(), expected.to_dense())
    assert torch.equal(made.kv_num_blocks, expected.kv_num_blocks)  # half-masked blocks
    at = torch.arange(length)
    nothing = torch.tensor(0)
    seen = made.mask_mod(nothing, nothing, at[:, None], at[None, :])
    assert torch.equal(seen, block_mask(length, block_size=size))


def test_another_pattern_stops_the_bench() -> None:
    with pytest.raises(RuntimeError, match="flex differs from block_attention by 1: other pattern"):
        same_pattern("flex", torch.ones(3), torch.zeros(3))
    with pytest.raises(RuntimeError, match="by nan"):
        same_pattern("flex", torch.full((3,), torch.nan), torch.zeros(3))


def test_naive_needs_too_much_memory_for_long_texts() -> None:
    assert left_out("naive", Part(8, 64, "forward", 4096)) is None
    reason = left_out("naive", Part(8, 64, "forward", 8192))
    assert reason == "left out: each copy of the scores of all heads takes 2.1 GB"
    assert left_out("sliding", Part(8, 64, "forward", 16384)) is None
    assert "4.3 GB a call" in str(left_out("sliding", Part(8, 64, "forward", 32768)))
    assert left_out("block", Part(8, 64, "forward", 65536)) is None


def test_rows_hold_ratios_limits_and_shares() -> None:
    part = Part(8, 64, "forward", 1024)
    times = {
        "dense": (4.0, 8.0, 8.0),
        "block 128": (2.0, 4.0, 4.0),
        "sliding 128": (8.0, 16.0, 16.0),
        "naive": (40.0, 80.0, 80.0),
    }
    rows = rows_of(Comparison(times, "dense"), part, (128,), {"block 128": {"peak_bytes": 5}})
    dense, ours, sliding, naive = rows
    assert [r["name"] for r in rows] == ["dense", "block", "sliding", "naive"]
    limit = 1024 * 1025 / 2 / live_pairs(1024, block_size=128)
    assert ours["limit"] == dense["limit"] == naive["limit"] == limit
    assert (ours["ratio"], ours["seconds"], ours["rounds"]) == (2, 4, 3)
    assert ours["share"] == pytest.approx(2 / limit, abs=1e-4)
    assert ours["peak_bytes"] == 5
    assert (dense["ratio"], dense["block_over_this"]["ratio"]) == (1, 2)
    assert naive["block_over_this"]["ratio"] == 20
    assert sliding["window"] == 192
    assert sliding["limit"] == 1024 * 1025 / 2 / sliding_pairs(1024, 192)
    assert not any("window" in r for r in (dense, ours, naive))


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
def test_a_part_measures_everything(direction: str) -> None:
    rows, missing = measure_part(Part(2, 8, direction, 128), (16, 32), 3, 0, ["flex"])
    assert not missing
    assert [(r["name"], r["block_size"]) for r in rows] == [
        (name, size) for size in (16, 32) for name in EAGER
    ]
    for found in rows:
        assert set(found) >= KEYS
        assert found["low"] <= found["ratio"] <= found["high"]
        assert found["peak_bytes"] >= 2 * 128 * 8 * 4  # the result at least
    naive = next(r for r in rows if r["name"] == "naive")
    assert naive["peak_bytes"] > 2 * 128 * 128 * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside of torch.compile
def test_flex_says_why_it_has_no_backward() -> None:
    rows, missing = measure_part(
        Part(2, 8, "forward+backward", 64), (16,), 3, 0, ["local", "sliding", "naive"]
    )
    assert [r["name"] for r in rows] == ["dense", "block"]
    (gap,) = missing
    assert (gap["name"], gap["block_size"]) == ("flex", 16)
    assert "does not support backward on CPU" in gap["reason"]


def test_a_peer_that_fails_is_named_and_ours_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no such thing\nand more")

    part = Part(2, 8, "forward", 64)
    monkeypatch.setitem(sys.modules, "local_attention", None)  # as if it were not installed
    monkeypatch.setitem(METHODS, "naive", broken)
    rows, missing = measure_part(part, (16,), 3, 0, ["flex"])
    assert [r["name"] for r in rows] == ["dense", "block", "sliding"]
    local, naive = missing
    assert local["reason"].startswith("ModuleNotFoundError: import of local_attention halted")
    assert naive == {
        "name": "naive",
        **part._asdict(),
        "block_size": None,
        "reason": "OSError: no such thing",
    }
    monkeypatch.setitem(METHODS, "block", broken)
    with pytest.raises(OSError, match="no such thing"):
        measure_part(part, (16,), 3, 0, ["flex"])


def test_a_peer_with_another_pattern_stops_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "local", METHODS["naive"])
    with pytest.raises(RuntimeError, match="local differs from block_attention"):
        measure_part(Part(2, 8, "forward", 128), (16,), 3, 0, ["flex"])


def test_all_parts() -> None:
    parts = parts_of(bench.SHAPES, bench.LENGTHS)
    assert len(parts) == len(set(parts)) == 2 * (7 + 4)
    assert max(part.length for part in parts if part.direction != "forward") == 8192


# Writing, and going on ----------------------------------------------------------------------------


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_each_measurement_is_one_line(tmp_path: Path) -> None:
    data = {"date": "heute", "empty": [], "rows": [{"a": [1, 2]}, {"b": "é"}], "start": {"x": 1}}
    write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == data
    assert '  {"a": [1, 2]},\n  {"b": "é"}\n' in text


def test_a_run_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    command = [*SMALL.split(), "--output", str(path)]
    measured: list[Part] = []
    real = bench.measure_part

    def until_stopped(part: Part, *rest: Any) -> Any:
        if measured:
            raise KeyboardInterrupt
        measured.append(part)
        return real(part, *rest)

    monkeypatch.setattr(bench, "measure_part", until_stopped)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    part = json.loads(path.read_text())
    assert part["complete"] is False
    assert [p["direction"] for p in part["parts"]] == ["forward"]
    assert {r["direction"] for r in part["attention"]} == {"forward"}

    def second(part: Part, *rest: Any) -> Any:
        measured.append(part)
        return real(part, *rest)

    monkeypatch.setattr(bench, "measure_part", second)
    main(command)
    assert "Going on behind the 1 parts" in capsys.readouterr().out
    assert [p.direction for p in measured] == ["forward", "forward+backward"]
    whole = json.loads(path.read_text())
    assert whole["complete"] is True
    assert whole["attention"][: len(part["attention"])] == part["attention"]
    assert {r["direction"] for r in whole["attention"]} == set(bench.DIRECTIONS)

    main(command)  # a complete run is no start for another one
    assert len(measured) == 4


HEADING = {"schema": 2, "date": "today", "load_before": 0.1, "source": "abc", "machine": {"t": 2}}
LEFT = {
    **HEADING,
    "date": "yesterday",
    "complete": False,
    "parts": [1],
    "attention": [2],
    "missing": [],
    "start": {},
}


def test_only_the_same_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    fresh = {
        **HEADING,
        "complete": False,
        "parts": [],
        "attention": [],
        "missing": [],
        "start": {},
    }
    assert begin(path, HEADING, restart=False) == fresh  # there is none
    write_json(path, LEFT)
    assert begin(path, HEADING, restart=False) == LEFT
    assert begin(path, HEADING, restart=True) == fresh
    assert begin(path, {**HEADING, "source": "new"}, restart=False) == {**fresh, "source": "new"}
    assert "An interrupted run is dropped: source changed since." in capsys.readouterr().out
    for text in ("[]", "{", '{"schema": 1}', json.dumps({**LEFT, "complete": True})):
        path.write_text(text)
        assert begin(path, HEADING, restart=False) == fresh


def test_only_a_whole_programme_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "PUBLISHED", tmp_path / "published.json")
    monkeypatch.setattr(bench, "WORKING", tmp_path / "working.json")
    monkeypatch.setattr(bench, "QUICK", tmp_path / "quick.json")
    monkeypatch.setattr(bench, "parts_of", lambda *_: [Part(2, 8, "forward", 512)])
    monkeypatch.setattr(bench, "measure_start", lambda rounds: {"rounds": rounds})
    monkeypatch.setattr(bench, "PEERS", ("naive",))
    monkeypatch.delitem(METHODS, "flex")
    main(["--quick", "--rounds", "3"])
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]
    assert json.loads((tmp_path / "quick.json").read_text())["start"] == {}
    main(["--rounds", "3"])
    assert (tmp_path / "published.json").read_text() == (tmp_path / "working.json").read_text()
    assert json.loads((tmp_path / "published.json").read_text())["start"] == {"rounds": 7}
    assert "written to " in capsys.readouterr().out


def test_blocks_must_be_shorter_than_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--lengths", "64", "--blocks", "64"])
    assert "--blocks must be below all --lengths" in capsys.readouterr().err


# What the package ships ---------------------------------------------------------------------------


def test_the_shipped_results_are_whole_and_agree_with_themselves() -> None:
    results = json.loads(bench.PUBLISHED.read_text(encoding="utf-8"))
    assert results["schema"] == bench.SCHEMA
    assert results["complete"] is True
    assert set(results["machine"]) >= {"processor", "threads", "cpu_capability", "torch"}
    assert results["setting"] == {
        "batch": 1, "dtype": "float32", "causal": True, "blocks_back": 1,
    }  # fmt: skip
    parts = [Part(*(part[name] for name in Part._fields)) for part in results["parts"]]
    assert parts == parts_of(results["asked"]["shapes"], results["asked"]["lengths"])[: len(parts)]
    places = set()
    for found in results["attention"]:
        assert set(found) >= KEYS
        place = (found["name"], *(found[name] for name in Part._fields), found["block_size"])
        assert place not in places
        places.add(place)
        assert Part(*place[1:5]) in parts
        assert found["low"] <= found["ratio"] <= found["high"]
        assert found["share"] == pytest.approx(found["ratio"] / found["limit"], rel=2e-3)
        assert found["rounds"] >= 3
    for part in parts:
        for size in results["asked"]["blocks"]:
            for name in ("dense", "block"):
                assert (name, *part, size) in places
    for gap in results["missing"]:
        assert gap["reason"]
        part = tuple(gap[name] for name in Part._fields)
        sizes = results["asked"]["blocks"] if gap["block_size"] is None else [gap["block_size"]]
        assert not any((gap["name"], *part, size) in places for size in sizes)


def test_naive_attention_is_the_formula(tensors: list[torch.Tensor]) -> None:
    torch.testing.assert_close(naive_attention(*tensors), reference("naive", tensors, 16))
