"""Training the small models of chapter 09: which runs, resuming, interpolation, what is stored."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from effedu.positional import SCHEMES, TASKS, VOCABULARY, accuracy, fit, order_task
from tools import train_positions
from tools.train_positions import (
    OUT,
    Run,
    Settings,
    all_runs,
    bits_per_byte,
    build,
    interpolated,
    load,
    main,
    save,
    tenths,
    train_all,
    train_task,
    train_text,
)

QUICK = Settings(
    task_steps=4, task_length=4, task_width=8, task_rows=20, text_steps=4, text_length=8,
    text_width=8, tuning_steps=2, factors=(1, 2), batch=4,
)  # fmt: skip
FEW = [Run("copy", "none", None, True, 0), Run("nearest", "rotary", None, False, 1)]


def model_of(positions, length=8):
    return build(Run("copy", positions, None, True, 3), VOCABULARY, 16, length)


def test_every_scheme_meets_every_task_and_the_text():
    runs = all_runs()
    assert len(set(runs)) == len(runs)
    for scheme in SCHEMES:
        for task in TASKS:
            for causal in (False, True):
                assert Run(task, scheme, None, causal, 0) in runs
        assert Run("text", scheme, None, True, 0) in runs
    for keep in ("start", 2, 4):
        seeds = {r.seed for r in runs if r.keep == keep and r.task == "first" and not r.causal}
        assert seeds == {0, 1}
    assert not [r for r in runs if r.task == "text" and not r.causal]  # it would see the answer


def test_a_task_is_trained_and_tested_as_its_run_says():
    run, settings = Run("first", "sinusoidal", "start", False, 1), replace(QUICK, task_steps=30)
    torch.manual_seed(1)
    model = train_positions.SmallTransformer(
        VOCABULARY, positions="sinusoidal", keep="start", causal=False, width=8
    )
    losses = fit(
        model,
        lambda g: order_task("first", length=4, batch=4, generator=g),
        steps=30,
        rate=settings.task_rate,
        seed=1,
    )
    rows = order_task(
        "first", length=4, batch=20, generator=torch.Generator().manual_seed(10_000)
    )  # fmt: skip
    result = train_task(run, settings)
    assert result["accuracy"] == pytest.approx(accuracy(model, rows), abs=1e-4)
    assert result["losses"] == tenths(losses)
    assert "plain" not in result


@pytest.mark.parametrize(
    ("positions", "names"),
    [
        ("alibi", {"plain"}),
        ("none", {"plain"}),
        ("rotary", {"plain", "interpolated"}),
        ("learned", {"plain", "interpolated"}),
    ],
)
def test_longer_texts_are_read_as_they_are_and_interpolated(positions, names):
    nearest = train_task(Run("nearest", positions, None, True, 0), QUICK)
    assert set(nearest) == {"losses", "accuracy"} | names
    assert all(len(nearest[name]) == 2 for name in names)
    assert all(nearest[name][0] == nearest["accuracy"] for name in names)  # a factor of 1

    text = train_text(Run("text", positions, None, True, 0), QUICK)
    assert set(text) == {"losses", "bits"} | names | {f"tuned_{name}" for name in names}
    assert text["plain"][0] == text["bits"] > 1


def test_a_sparse_scheme_is_not_read_beyond_its_length():
    text = train_text(Run("text", "sinusoidal", 4, True, 0), QUICK)
    assert set(text) == {"losses", "bits"}


def test_bits_of_a_model_that_knows_nothing_are_those_of_a_guess():
    def guess(tokens):
        return torch.zeros(*tokens.shape, 8)

    assert bits_per_byte(guess, torch.randint(8, (100,)), 9) == pytest.approx(3)


def test_bits_count_what_comes_next():
    def next_is_one_more(tokens):
        return 100.0 * F.one_hot((tokens + 1) % 5, 5)

    ids = torch.arange(51) % 5
    assert bits_per_byte(next_is_one_more, ids, 10) == pytest.approx(0, abs=1e-6)
    assert bits_per_byte(next_is_one_more, ids.flip(0), 10) > 10


def test_a_stretched_table_passes_through_the_trained_rows():
    model = model_of("learned")
    rows = model.table.weight[:4].detach()
    wide = interpolated(model, 4, 2).table.weight.detach()
    assert_close(wide[0:8:2], rows)
    assert_close(wide[1], (rows[0] + rows[1]) / 2)
    assert_close(wide[7], rows[3])  # nothing new beyond the last one
    assert not torch.equal(model.table.weight, wide)  # the model itself stays


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "learned"])
def test_interpolation_by_one_changes_nothing(positions):
    model = model_of(positions)
    tokens = torch.randint(VOCABULARY, (2, 8))
    with torch.no_grad():
        assert_close(interpolated(model, 8, 1)(tokens), model(tokens))
        assert (interpolated(model, 8, 2)(tokens) - model(tokens)).abs().max() > 1e-4


def test_tenths_of_losses():
    assert tenths([float(i) for i in range(20)]) == [0.5 + 2 * i for i in range(10)]
    assert tenths([3.0, 1.0]) == [3.0, 1.0]


# --- The file -------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_ends_alike(tmp_path):
    whole, pieces = tmp_path / "whole.json", tmp_path / "pieces.json"
    assert train_all(whole, FEW, QUICK, progress=False) == 0
    assert train_all(pieces, FEW[:1], QUICK, progress=False) == 0
    first = json.loads(pieces.read_text())["runs"]
    assert train_all(pieces, FEW, QUICK, progress=False) == 0
    assert json.loads(pieces.read_text())["runs"][:1] == first
    assert pieces.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    path = tmp_path / "runs.json"
    train_all(path, FEW, QUICK, progress=False)
    monkeypatch.setattr(train_positions, "train_task", None)  # a call would fail
    assert train_all(path, FEW, QUICK, progress=False) == 0


def test_other_settings_start_anew(tmp_path):
    path = tmp_path / "runs.json"
    train_all(path, FEW[:1], QUICK, progress=False)
    assert set(load(path, QUICK)) == set(FEW[:1])
    assert load(path, replace(QUICK, task_steps=5)) == {}


def test_it_stops_when_the_time_is_over(tmp_path):
    assert train_all(tmp_path / "runs.json", FEW, QUICK, minutes=-1, progress=False) == 2
    assert not (tmp_path / "runs.json").exists()


def test_a_failed_write_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "runs.json"
    save(path, QUICK, {FEW[0]: {"accuracy": 0.5}})
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(train_positions.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        save(path, QUICK, {FEW[1]: {"accuracy": 0.1}})
    assert path.read_bytes() == before


def test_command_line_says_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_positions, "all_runs", lambda: FEW)
    monkeypatch.setattr(train_positions, "Settings", lambda: QUICK)
    path, threads = tmp_path / "runs.json", torch.get_num_threads()
    for minutes, words in (("-1", "2 runs left"), ("5", "all runs are in")):
        monkeypatch.setattr(
            "sys.argv", ["train_positions", "--out", str(path), "--minutes", minutes]
        )
        main()
        assert words in capsys.readouterr().out
    torch.set_num_threads(threads)
    assert set(load(path, QUICK)) == set(FEW)


# --- What the book ships --------------------------------------------------------------------------


def test_shipped_results_are_complete_and_sound():
    results = load(OUT, Settings())
    assert set(results) == set(all_runs())
    for result in results.values():
        assert all(math.isfinite(loss) for loss in result["losses"])
        assert 0 <= result.get("accuracy", 0) <= 1
        assert 1 < result.get("bits", 3) < 5
    assert OUT.stat().st_size < 50_000


def test_shipped_results_bear_out_what_positions_are_for():
    right = {run: result.get("accuracy") for run, result in load(OUT, Settings()).items()}
    for seed in (0, 1):
        assert right[Run("first", "sinusoidal", "start", False, seed)] > 0.98
        for task in ("copy", "reverse"):
            assert right[Run(task, "sinusoidal", "start", False, seed)] < 0.3
            assert right[Run(task, "none", None, False, seed)] < 0.3
    for task in TASKS:
        assert right[Run(task, "sinusoidal", None, False, 0)] > 0.98
