"""``tools/bench_linear.py``: it runs what it says. Nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from effedu.quantized_linear import Int4Linear, Int8Linear
from tools import bench_linear
from tools.bench_linear import METHODS, PUBLISHED, SHAPES, Shape, held_bytes, main, measure, parse

KEYS = {
    "name", "tokens", "inputs", "outputs", "error", "bytes", "seconds", "ratio", "low", "high",
    "noisy", "rounds", "over_torch_int8",
}  # fmt: skip
# How far each may be from float32, as a share of the output's size.
ERRORS = {"float32": 0, "bfloat16": 0.005, "torch.ao int8": 0.03, "Int8Linear": 0.03}
ERRORS |= {"torchao int8": 0.03, "Int4Linear": 0.12, "LowRankLinear": 0.8}


def test_every_method_computes_the_same_layer() -> None:
    rows, missing = measure(Shape(3, 64, 32), rounds=3, seconds=0)
    names = [row["name"] for row in rows]
    assert {*names, *(gap["name"] for gap in missing)} == set(METHODS)
    assert {"float32", "bfloat16", "Int8Linear", "Int4Linear", "LowRankLinear"} <= set(names)
    for row in rows:
        assert row.keys() - {"over_torch_int8"} == KEYS - {"over_torch_int8"}
        assert row["error"] <= ERRORS[row["name"]]
        assert row["rounds"] == 5
    size = {row["name"]: row["bytes"] for row in rows}
    assert size["float32"] == 4 * (64 * 32 + 32) == 2 * size["bfloat16"]
    assert size["Int8Linear"] == 64 * 32 + 8 * 32


def test_a_peer_that_fails_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(linear: nn.Linear) -> nn.Module:
        raise ImportError("no such package\nmore")

    monkeypatch.setitem(METHODS, "torchao int8", broken)
    rows, missing = measure(Shape(2, 64, 32), rounds=3, seconds=0)
    assert "torchao int8" not in [row["name"] for row in rows]
    assert {"name": "torchao int8", "reason": "ImportError: no such package"} in missing


def test_what_is_ours_may_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(linear: nn.Linear) -> nn.Module:
        raise RuntimeError("broken")

    monkeypatch.setitem(METHODS, "Int8Linear", broken)
    with pytest.raises(RuntimeError, match="broken"):
        measure(Shape(2, 64, 32), rounds=3, seconds=0)


def test_bytes_are_those_after_use() -> None:
    linear = nn.Linear(64, 32)
    assert held_bytes(linear) == 4 * (64 * 32 + 32)
    for kind in (Int8Linear, Int4Linear):
        layer = kind.from_linear(linear)
        layer(torch.randn(2, 64))
        assert held_bytes(layer) == layer.nbytes < held_bytes(linear) / 2


def test_a_run_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "linear.json"
    main(
        ["--shapes", "1x64x32", "2x64x32", "--rounds", "3", "--seconds", "0", "--output", str(path)]
    )
    found = json.loads(path.read_text())
    assert {"schema", "date", "machine", "load_before", "linear", "missing"} == found.keys()
    assert {row["tokens"] for row in found["linear"]} == {1, 2}
    names = [gap["name"] for gap in found["missing"]]
    assert len(names) == len(set(names))
    text = capsys.readouterr().out
    assert "1 token, 64 inputs, 32 outputs" in text
    assert "Int8Linear" in text
    assert all(f"without {name}" in text for name in names)


def test_only_a_complete_run_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([]).output == PUBLISHED
    assert [f"{s.tokens}x{s.inputs}x{s.outputs}" for s in parse([]).shapes] == list(SHAPES)
    with pytest.raises(SystemExit):
        parse(["--shapes", "1x64x32"])
    assert "--shapes needs --output" in capsys.readouterr().err


def test_the_published_results_are_whole() -> None:
    found = json.loads(PUBLISHED.read_text())
    assert found["schema"] == bench_linear.SCHEMA
    rows = {(row["name"], row["tokens"], row["inputs"], row["outputs"]) for row in found["linear"]}
    for shape in parse([]).shapes:
        for name in METHODS.keys() - {"torchao int8"}:  # which is optional
            assert (name, *shape) in rows
    for row in found["linear"]:
        assert row.keys() == KEYS
        assert row["error"] <= ERRORS[row["name"]]
