"""The sweep behind chapter 08: what is stored is complete, exact, and comes out again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effedu.compression import low_rank, replace_linears, share_layers
from tools import compression_sweep as tool
from tools.compression_sweep import Case, Subject, all_cases, flops, main, measure_case

STORED = json.loads(tool.PUBLISHED.read_text("utf-8"))
ROWS = {str(Case(row["method"], row["setting"], row["steps"])): row for row in STORED["rows"]}
DENSE = ROWS["dense"]
LAYERS, WIDTH, INNER = 4, 256, 1024
SMALL = {"measured": [0, 1500], "calibration": [-3000, None], "training": [-3000, None]}
SMALL |= {"window": 128, "training_length": 32, "training_batch": 2}


@pytest.fixture(scope="module")
def small() -> Subject:
    return Subject({**tool.SETTINGS, **SMALL})


# --- The stored file -----------------------------------------------------------------------------


def test_the_stored_file_is_complete() -> None:
    assert list(ROWS) == [str(case) for case in all_cases()]
    assert STORED["settings"] == json.loads(json.dumps(tool.SETTINGS))
    assert (STORED["schema"], STORED["student"]) == (tool.SCHEMA, tool.STUDENT)
    for row in ROWS.values():
        trained = row["method"].startswith("student") and row["steps"] > 0
        assert len(row.get("losses", ())) == (row["steps"] if trained else 0)
        assert 0 <= row["agreement"] <= 1
        assert DENSE["bits_per_byte"] - 0.01 < row["bits_per_byte"] < 30
    assert DENSE["agreement"] == 1


def test_parameters_are_those_that_the_shapes_give() -> None:
    linears = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]
    weights = sum(m * n for m, n in linears)
    sides = sum(m + n for m, n in linears)
    whole = DENSE["parameters"]
    for row in ROWS.values():
        method, setting = row["method"], row["setting"]
        if method in ("dense", "zeros", "two_of_four"):
            assert row["parameters"] == whole
        elif method.startswith("low_rank"):
            assert row["parameters"] == whole - LAYERS * (weights - setting * sides)
        elif method.startswith("neurons"):
            assert row["parameters"] == whole - LAYERS * (INNER - setting) * (2 * WIDTH + 1)
        elif method == "shared":
            assert row["flops"] == DENSE["flops"]
            assert row["parameters"] < whole
    assert ROWS["student"]["parameters"] == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.parametrize("share", tool.SWEEPS["zeros"])
def test_zeros_are_as_many_as_asked_for_and_save_nothing(share: float) -> None:
    row = ROWS[f"zeros {share}"]
    linears = LAYERS * (3 * WIDTH + WIDTH + 2 * INNER) * WIDTH
    assert row["zeros"] - DENSE["zeros"] == pytest.approx(share * linears, abs=LAYERS * 4)
    assert (row["parameters"], row["flops"]) == (DENSE["parameters"], DENSE["flops"])


def test_training_keeps_the_zeros() -> None:
    for name in ("zeros 0.8", "two_of_four"):
        assert ROWS[f"{name}, {tool.REPAIR} steps"]["zeros"] == ROWS[name]["zeros"]


@pytest.mark.parametrize("method", ["zeros", "low_rank", "low_rank_aware", "neurons"])
def test_less_is_never_better_by_more_than_chance(method: str) -> None:
    settings = sorted(tool.SWEEPS[method], reverse=method != "zeros")
    bits = [ROWS[f"{method} {setting}"]["bits_per_byte"] for setting in settings]
    assert all(after > before - 0.01 for before, after in pairwise(bits))
    assert bits[-1] > 1.1 * DENSE["bits_per_byte"]


def test_a_stored_number_comes_out_again() -> None:
    case = Case("neurons_by_weights", 512)
    row = measure_case(Subject(), case)
    stored = ROWS[str(case)]
    assert row["bits_per_byte"] == pytest.approx(stored["bits_per_byte"], abs=0.003)
    assert row["agreement"] == pytest.approx(stored["agreement"], abs=0.01)
    for exact in ("parameters", "flops", "zeros"):
        assert row[exact] == stored[exact]


# --- The tool ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(tool.METHODS))
def test_every_method_makes_a_model_that_reads(small: Subject, method: str) -> None:
    setting = tool.SWEEPS.get(method, (None,))[-1]
    row = measure_case(small, Case(method, setting))
    assert set(row) == set(DENSE)
    assert row["bits_per_byte"] > 1
    if method == "dense":
        assert row["agreement"] == 1


def test_a_student_starts_from_half_of_the_model(small: Subject) -> None:
    student = tool.METHODS["student"](small, None)
    old = small.model.gpt_neox.layers[tool.STUDENT["layers"][1]]
    new = student.gpt_neox.layers[1]
    assert torch.equal(new.attention.dense.weight, old.attention.dense.weight)
    rows = {tuple(row) for row in old.mlp.dense_h_to_4h.weight.tolist()}
    assert {tuple(row) for row in new.mlp.dense_h_to_4h.weight.tolist()} < rows
    other = tool.METHODS["student_from_nothing"](small, None)
    assert not torch.equal(other.gpt_neox.embed_in.weight, student.gpt_neox.embed_in.weight)


def test_training_is_recorded_and_helps(small: Subject) -> None:
    row = measure_case(small, Case("student", None, 6))
    assert len(row["losses"]) == 6
    assert row["losses"][-1] < row["losses"][0]
    assert "losses" not in measure_case(small, Case("neurons_by_weights", 512, 1))


@pytest.mark.parametrize("rank", [16, 256])
def test_flops_are_those_that_run(small: Subject, rank: int) -> None:
    for model in (
        replace_linears(small.model, lambda _, linear: low_rank(linear, rank)),
        share_layers(small.model, 2),
    ):
        model.set_attn_implementation("eager")  # the counter sees no fused attention on a CPU
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.arange(20)[None], use_cache=False)
        assert flops(model, 20) == counter.get_total_flops()


def test_an_unknown_method_is_named(small: Subject) -> None:
    with pytest.raises(ValueError, match=r"method must be one of dense, zeros, .*; got 'magic'"):
        measure_case(small, Case("magic"))
    with pytest.raises(SystemExit):
        main(["--methods", "magic"])


CASES = [Case("dense"), Case("shared", 2), Case("shared", 4)]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that a run measures, each by numbers made up; "stop" in the list interrupts."""
    seen: list[str] = []

    def measure(_: Subject, case: Case) -> dict[str, Any]:
        if "stop" in seen:
            raise KeyboardInterrupt
        seen.append(str(case))
        numbers = {"parameters": 1, "zeros": 0, "flops": 1, "bits_per_byte": 2.0, "agreement": 1.0}
        return {**case._asdict(), **numbers}

    monkeypatch.setattr(tool, "measure_case", measure)
    monkeypatch.setattr(tool, "all_cases", lambda: CASES)
    return seen


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, measured: list[str]) -> None:
    file = tmp_path / "sweep.json"
    main(["--output", str(file), "--seconds", "-1"])
    assert measured == []
    measured.append("stop")
    with pytest.raises(KeyboardInterrupt):
        main(["--output", str(file)])
    measured.clear()
    tool.write_json(
        file, {**heading(), "rows": [dict(CASES[0]._asdict(), parameters=7, bits_per_byte=3.0)]}
    )
    main(["--output", str(file)])
    assert measured == ["shared 2", "shared 4"]
    result = json.loads(file.read_text("utf-8"))
    assert [row["parameters"] for row in result["rows"]] == [7, 1, 1]
    assert {"date", "machine"} < set(result)


def heading() -> dict[str, Any]:
    return {
        "schema": tool.SCHEMA,
        "source": tool.source(),
        "versions": tool.versions(),
        "settings": tool.SETTINGS,
        "student": tool.STUDENT,
    }


@pytest.mark.parametrize("change", [{"schema": 0}, {"settings": {"window": 1}}, {"rows": 3}, None])
def test_a_run_of_something_else_is_dropped(
    tmp_path: Path, measured: list[str], change: dict[str, Any] | None
) -> None:
    file = tmp_path / "sweep.json"
    if change is None:
        file.write_text("{half a fi")
    else:
        tool.write_json(file, {**heading(), "rows": [CASES[0]._asdict()], **change})
    main(["--output", str(file)])
    assert measured == [str(case) for case in CASES]


def test_restart_drops_what_was_there(tmp_path: Path, measured: list[str]) -> None:
    file = tmp_path / "sweep.json"
    for _ in range(2):
        main(["--output", str(file), "--restart"])
    assert len(measured) == 2 * len(CASES)


def test_some_methods_are_shown_and_not_stored(
    tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.json"
    main(["--output", str(file), "--methods", "shared"])
    assert measured == ["shared 2", "shared 4"]
    assert "shared 4: 1 parameters, 0.00 GFLOPs, 2.000 bits per byte" in capsys.readouterr().out
    assert not file.exists()
