"""The stored sweep is whole, its lines of Python run, and a stopped run goes on where it was."""

import itertools
import json
import re
from contextlib import ExitStack

import pytest
import torch

from effedu.linears import nbytes
from effedu.patch import patched
from effedu.tradeoffs import SWEEP, sweep
from tools import sweep as tool


@pytest.fixture(scope="module")
def stored():
    return sweep()


@pytest.fixture(scope="module")
def bench():
    return tool.Bench(calibration=512)


# --- What is stored ----------------------------------------------------------------------------


def test_every_configuration_was_measured_at_every_length(stored):
    found = [(row["phase"], row["length"], row["label"]) for row in stored["rows"]]
    expected = [
        (phase, length, each.label)
        for phase, lengths in tool.LENGTHS.items()
        for length in lengths
        for each in tool.measured(phase, length)
    ]
    assert found == expected
    assert len(set(found)) == len(found)


def test_rows_say_what_the_tool_would_run(stored):
    for row in stored["rows"]:
        (each,) = [c for c in tool.CONFIGURATIONS[row["phase"]] if c.label == row["label"]]
        assert (row["call"], row["method"]) == (each.shown, list(each.method))
        assert row.get("chunk") == each.chunk


def test_the_dense_model_is_the_unit_of_everything(stored):
    dense = [row for row in stored["rows"] if row["label"] == "dense"]
    assert len(dense) == len(tool.READ_LENGTHS) + len(tool.WRITE_LENGTHS)
    for row in dense:
        assert (row["time"], row["memory"], row["bits"], row["agreement"]) == (1, 1, 0, 1)


def test_numbers_are_possible(stored):
    for row in stored["rows"]:
        low, high = row["time_spread"]
        assert 0 < low <= row["time"] <= high
        assert 0 < row["memory"] < 3
        assert -0.01 < row["bits"] < 1
        assert 0 < row["agreement"] <= 1
        longest = {"read": stored["trained_context"], "write": tool.LONGEST_CONTEXT}
        written = {"read": 0, "write": tool.WRITTEN}[row["phase"]]
        assert row["bits_length"] == min(row["length"], longest[row["phase"]]) + written


def test_reading_in_chunks_loses_what_reading_at_once_does(stored):
    read = [row for row in stored["rows"] if row["phase"] == "read"]
    whole = {(row["label"], row["length"]): row for row in read}
    chunked = [row for row in read if "chunk" in row]
    assert len(chunked) > 10
    for row in chunked:
        at_once = whole.get((row["label"].partition(", chunks")[0], row["length"]))
        if at_once is not None:
            assert (row["bits"], row["agreement"]) == (at_once["bits"], at_once["agreement"])


def test_what_lies_beyond_the_training_is_kept_apart(stored):
    assert {found["length"] for found in stored["beyond"]} == {4096, 8192}
    labels = {found["label"] for found in stored["beyond"]}
    assert "dense" in labels
    assert labels <= set(stored["recall"])


def test_shares_of_the_time(stored):
    shares = [stored["attention_share"][str(length)] for length in tool.READ_LENGTHS]
    assert all(a < b for a, b in itertools.pairwise(shares))  # the part that grows with N²
    assert all(0 < share < 1 for share in shares)
    assert set(stored["time_by_part"]) == {each.label for each in tool.PROFILED}
    for parts in stored["time_by_part"].values():
        assert sum(parts.values()) == pytest.approx(1, abs=0.001)


def test_recall_is_a_share_at_each_distance(stored):
    for found in stored["recall"].values():
        assert set(found) == {"32", "64", "128", "256", "512", "896"}
        assert all(0 <= share <= 1 for share in found.values())


# --- The lines of Python -----------------------------------------------------------------------


def test_every_stored_call_runs_and_leaves_the_model_as_it_was(stored, bench):
    row = bench.ids[None, :200]
    with torch.no_grad():
        before = bench.lm.model(row).logits
        for call in dict.fromkeys(each["call"] for each in stored["rows"]):
            with ExitStack() as stack:
                model = bench.opened(call, stack)
                cache = tool.read(model, row, chunk=128 if "chunk" in call else None)
                tool.write(model, row[:, -1:], cache)
            assert cache.get_seq_length() == 201
        assert torch.equal(bench.lm.model(row).logits, before)


def test_chunks_change_nothing_but_rounding(bench):
    row = bench.ids[None, :640]
    for call in dict.fromkeys(each.call for each in tool.READ if each.chunk and each.method):
        with torch.no_grad(), ExitStack() as stack:
            model = bench.opened(call, stack)
            whole = model(row, use_cache=True)
            cache = tool.read(model, row[:, :512], chunk=256)
            rest = model(row[:, 512:], past_key_values=cache, use_cache=True)
            choices = (rest.logits.argmax(-1) == whole.logits[:, 512:].argmax(-1)).float()
        assert choices.mean() > 0.97, call  # int8 may round a number to the other side


def test_bits_of_a_short_row_again(stored, bench):
    (row,) = [
        row
        for row in stored["rows"]
        if (row["label"], row["phase"], row["length"]) == ("block(64)", "read", 512)
    ]
    (dense, choices), (nats, own) = (
        tool.read_quality(bench, 512, call) for call in ("lm.model", row["call"])
    )
    assert nats / dense - 1 == pytest.approx(row["bits"], abs=2e-4)
    assert (own == choices).float().mean().item() == pytest.approx(row["agreement"], abs=2e-3)


# --- The measuring -----------------------------------------------------------------------------


def test_windows_are_the_text_side_by_side(bench):
    pieces = list(tool.windows(bench.ids, 512))
    rows, targets = (torch.cat(x).flatten() for x in zip(*pieces, strict=True))
    assert len(rows) == tool.scored(512) == 8192
    start = tool.CALIBRATION
    assert torch.equal(rows, bench.ids[start : start + 8192])
    assert torch.equal(targets, bench.ids[start + 1 : start + 8193])


def test_memory_of_writing_is_weights_and_cache(bench):
    dense, int8, streaming = (
        next(each for each in tool.WRITE if each.label == label)
        for label in ("dense", "int8", "streaming(256)")
    )
    token = 4 * 2 * 256 * 4  # layers, keys and values, width, bytes
    weights = nbytes(bench.lm.model)
    assert tool.memory_part(bench, "write", 512, dense) == weights + 513 * token
    assert tool.memory_part(bench, "write", 512, streaming) == weights + 256 * token
    assert tool.memory_part(bench, "write", 512, int8) < 0.5 * weights + 513 * token


def test_memory_of_reading_is_less_in_chunks(bench):
    block, chunks = (
        next(each for each in tool.READ if each.label == label)
        for label in ("block(128)", "block(128), chunks of 2,048")
    )
    whole, parts = (tool.memory_part(bench, "read", 4096, each) for each in (block, chunks))
    assert nbytes(bench.lm.model) + 4096 * 4 * 2 * 256 * 4 < parts < 0.9 * whole


def test_a_timing_holds_all_configurations(bench, monkeypatch):
    some = {"read": tool.READ[:3], "write": tool.WRITE[:2]}
    monkeypatch.setattr(tool, "CONFIGURATIONS", some)
    for phase, configurations in some.items():
        found = tool.time_part(bench, phase, 64, rounds=3)
        assert list(found) == [each.label for each in configurations]
        assert found["dense"] == {"time": 1, "time_spread": [1, 1]}


def test_shares_add_up(bench):
    found = tool.part_times(bench, 256, tool.READ[0], passes=2)
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert found["linear layers"] > found["GELU"] > 0
    assert found["rounding of inputs"] == 0


def test_the_bound_is_a_model_whose_tokens_see_nothing(bench):
    model, row = bench.lm.model, bench.ids[None, :64]
    other = row.clone()
    other[0, :32] = 5
    with torch.no_grad(), patched(model, tool.NoAttention()) as without:
        assert torch.equal(without(row).logits[:, 32:], without(other).logits[:, 32:])
    assert 0 < tool.attention_share(bench, 1024, rounds=3) < 1


# --- Going on ----------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    ran = []

    def job(name, fails=False):
        def work():
            if fails:
                raise Stopped
            ran.append(name)
            return {"dense": {"time": 1}} if name == "t" else len(ran)

        return work

    def jobs(bench, rounds, fails=True):
        yield "time", "time read 512", "*", job("t")
        yield "memory", "memory read 512", "dense", job("a")
        yield "memory", "memory read 512", "block(64)", job("b", fails)
        yield "recall", "recall", "dense", job("c")

    work = tmp_path / "work.json"
    monkeypatch.setattr(tool, "Bench", lambda: None)
    monkeypatch.setattr(tool, "jobs", jobs)
    with pytest.raises(Stopped):
        tool.run(work, tool.KINDS, 3, "", print)
    assert ran == ["t", "a"]
    assert tool.missing(None, json.loads(work.read_text())) == [
        "memory read 512: block(64)",
        "recall: dense",
    ]

    monkeypatch.setattr(tool, "jobs", lambda bench, rounds: jobs(bench, rounds, fails=False))
    tool.run(work, ["memory"], 3, "read 512", print)
    assert ran == ["t", "a", "b"]
    parts = tool.run(work, tool.KINDS, 3, "", print)
    assert ran == ["t", "a", "b", "c"]
    assert parts["time read 512"] == {"dense": {"time": 1}}
    assert json.loads(work.read_text()) == parts
    assert tool.missing(None, parts) == []


def test_a_published_file_can_be_taken_apart_and_added_to(stored, bench, tmp_path, monkeypatch):
    here = {**stored["machine"], "threads": 2}
    monkeypatch.setattr(tool, "machine", lambda: here)
    parts = tool.published(SWEEP)
    assert tool.missing(bench, parts) == []
    again = tool.assemble(bench, parts)
    assert again | {"machine": stored["machine"]} == stored

    monkeypatch.setattr(tool, "WRITE_LENGTHS", (512, 1024))
    monkeypatch.setattr(tool, "LENGTHS", {"write": (512, 1024)})
    assert {each.partition(":")[0] for each in tool.missing(bench, parts)} == {
        "time write 1024",
        "memory write 1024",
        "quality write 1024",
    }


def test_a_file_of_another_machine_is_not_added_to(monkeypatch):
    monkeypatch.setattr(tool, "machine", lambda: {"processor": "abacus"})
    with pytest.raises(ValueError, match=r"output must come from this machine .*abacus"):
        tool.published(SWEEP)


def test_nothing_is_published_before_all_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "Bench", lambda: None)
    monkeypatch.setattr(tool, "jobs", lambda bench, rounds: [("time", "time", "dense", None)])
    output = tmp_path / "out.json"
    tool.main(["--parts", "memory", "--work", str(tmp_path / "w"), "--output", str(output)])
    assert "1 still to measure, such as time: dense" in capsys.readouterr().out
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "time", "speed"], "--parts must be of time, share, .*, got speed"),
        (["--rounds", "2"], "--rounds must be at least 3, got 2"),
    ],
)
def test_bad_options(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse(arguments)
    assert re.search(message, capsys.readouterr().err)


def test_a_damaged_work_file_is_named(tmp_path):
    work = tmp_path / "work.json"
    work.write_text("{")
    with pytest.raises(ValueError, match=r"work must be a file of this tool, got .*work\.json"):
        tool.begun(work)


def test_the_published_file_is_small():
    assert SWEEP.stat().st_size < 100_000
