import json

import pytest
import torch
from torch.testing import assert_close

from effedu.applications import chunk_attention, measured, recommender
from effedu.patch import patched
from effedu.quantized_linear import Int8Linear
from effedu.speech import SpeechEncoder
from tools import sweep_applications
from tools.sweep_applications import (
    ATTENTION,
    NoAttention,
    errors,
    in_int8,
    jobs,
    joined,
    one_more,
    ratios,
    recommend_times,
)


def encoder():
    torch.manual_seed(0)
    return SpeechEncoder(width=32, heads=2, layers=2).eval()


def test_joining_keeps_sound_and_digits():
    rows = [(torch.full((320,), float(i)), [i, i]) for i in range(7)]
    assert joined(rows, 1)[4][1] == [4, 4]
    assert len(joined(rows, 3)) == 2  # the seventh is left over
    sound, digits = joined(rows, 3)[1]
    assert digits == [3, 3, 4, 4, 5, 5]
    assert_close(sound, torch.arange(3.0, 6).repeat_interleave(320))


def test_errors_count_what_is_written(monkeypatch):
    written = iter([[0, 5, 5, 0, 1], [0, 0]])  # "4 0" and nothing
    monkeypatch.setattr(sweep_applications, "best_symbols", lambda *_: next(written))
    assert errors(None, [(None, [4, 1]), (None, [3])], None) == (2, 2, 3)


def test_each_attention_is_what_its_name_says():
    query, key, value = torch.randn(3, 1, 2, 200, 8).unbind()
    wanted = chunk_attention(query, key, value, chunk=8, back=8)
    assert_close(ATTENTION["chunk 8"](query, key, value), wanted)
    far = value.clone()
    far[:, :, 64:] = 9.0  # two blocks of 32 on
    assert_close(
        ATTENTION["local"](query, key, far)[:, :, :32],
        ATTENTION["local"](query, key, value)[:, :, :32],
    )


def test_int8_copy_is_near_and_leaves_the_model_alone():
    model, features = encoder(), torch.randn(1, 40, 40)
    quick = in_int8(model)
    kinds = [type(module) for module in quick.modules()]
    assert kinds.count(Int8Linear) == 8
    assert not any(isinstance(module, Int8Linear) for module in model.modules())
    with torch.no_grad():
        error = (quick(features) - model(features)).norm() / model(features).norm()
    assert 0 < error < 0.05


def test_ratios_are_shares_of_the_baseline(monkeypatch):
    monkeypatch.setattr(sweep_applications, "SECONDS", 0.1)
    x = torch.randn(300, 300)

    def work(times):
        def call():
            for _ in range(times):
                x @ x

        return call

    found = ratios({"one": work(3), "four": work(12)}, "one")
    assert found["times"]["one"] == [1, 1, 1]
    share, low, high = found["times"]["four"]
    assert 1 < low <= share <= high
    assert found["baseline_seconds"] > 0


def test_no_attention_hands_on_the_values():
    value = torch.randn(1, 2, 9, 4)
    assert_close(NoAttention().attend(value[:, :, -3:], value, value), value[:, :, -3:])
    with patched(recommender(20, 8, width=8), NoAttention()) as model, torch.no_grad():
        actions = torch.randint(20, (1, 8))
        last = model(actions).logits[:, -1]
        actions[:, :7] = 0
        assert_close(model(actions).logits[:, -1], last)


def test_one_more_action_leaves_the_cache_as_it_was():
    model = recommender(items=30, history=6, width=8)
    call = one_more(model, torch.randint(30, (2, 6)))
    for _ in range(5):  # a cache that grew would leave the table of positions
        call()


def test_recommend_times_of_a_small_one(monkeypatch):
    monkeypatch.setattr(sweep_applications, "SECONDS", 0)
    found = recommend_times(50, 70, 2)
    assert found["users"] == 2
    assert {"dense", "block", "int8", "block int8", "no attention", "scores"} < set(found["times"])
    assert all(share > 0 for values in found["times"].values() for share in values)


def test_what_is_stored_is_whole():
    found = measured()
    assert set(found) == {*jobs(), "machine"}
    assert found["machine"]["threads"] == 1


def test_stored_results_agree_with_one_another():
    found = measured()
    times = found["speech time/100"]["times"]
    assert times["no attention"][0] < times["chunk 16"][0] < times["full"][0] == 1
    long, short = (found[f"quality/full/full/{count}"]["error_rate"] for count in (100, 1))
    local = found["quality/full/local/100"]["error_rate"]
    assert long > 2 * short
    assert local == pytest.approx(short, abs=0.03)
    for name, values in found.items():
        if name.startswith("quality"):
            rate = sum(values["wrong_by_voice"]) / values["digits_by_voice"] / 12
            assert rate == pytest.approx(values["error_rate"], abs=1e-4), name


def test_without_recordings_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_applications, "WORK", tmp_path)
    with pytest.raises(SystemExit):
        sweep_applications.main([])
    assert "run `python -m tools.train_speech` first" in capsys.readouterr().err


def test_a_stopped_run_goes_on_and_publishes_only_the_whole(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(sweep_applications, "WORK", tmp_path)
    (tmp_path / "test.pt").touch()
    work = {"a": lambda: ran.append("a") or 1, "b": lambda: ran.append("b") or 2}
    monkeypatch.setattr(sweep_applications, "jobs", lambda: work)
    out = tmp_path / "out.json"
    line = ["--work", str(tmp_path / "work.json"), "--out", str(out)]
    sweep_applications.main([*line, "--only", "b"])
    assert "1 still to measure, such as a" in capsys.readouterr().out
    assert not out.exists()
    sweep_applications.main(line)
    assert ran == ["b", "a"]
    assert list(json.loads(out.read_text("utf-8"))) == ["machine", "a", "b"]
