"""Measuring: the arithmetic on given times, and that real runs happen as promised. No timings."""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from effedu.bench import (
    Comparison,
    _duration,
    compare,
    machine,
    peak_memory,
    seed_everything,
)
from effedu.blocking import block_attention
from tools.bench import naive_attention

# Five rounds in which the clock slowed down fourfold: the ratios stay what they are.
TIMES = {
    "dense": (4.0, 4.0, 8.0, 16.0, 16.0),
    "block": (1.0, 1.0, 2.0, 4.0, 2.0),
    "same": (5.0, 3.0, 9.0, 15.0, 16.0),
    "slow": (8.0, 8.0, 16.0, 32.0, 32.0),
}
GIVEN = Comparison(TIMES, "dense")


def test_ratios_are_paired_within_rounds() -> None:
    assert GIVEN.rounds == 5
    assert GIVEN.seconds("block") == 2
    assert GIVEN.speedup("block") == 4  # the median of 4, 4, 4, 4, 8
    assert GIVEN.ratio("block") == 0.25
    assert GIVEN.spread("block") == (4, 4)
    assert GIVEN.speedup("slow") == 0.5
    assert GIVEN.speedup("block", over="slow") == 8
    assert GIVEN.ratio("slow", over="block") == 8
    assert GIVEN.speedup("dense") == 1


def test_quartiles_and_noise() -> None:
    ratios = [4 / 5, 4 / 3, 8 / 9, 16 / 15, 1]
    low, high = np.quantile(ratios, [0.25, 0.75])
    assert GIVEN.spread("same") == pytest.approx((low, high))
    assert GIVEN.noisy("same")
    assert not GIVEN.noisy("block")
    assert not GIVEN.noisy("slow")
    assert GIVEN.noisy("block", over="block")


def test_text_is_stable() -> None:
    assert repr(GIVEN) == "\n".join(
        [
            "         time  speedup          spread",
            "dense  8.00 s    1.00x                  baseline",
            "block  2.00 s    4.00x    4.00 to 4.00",
            "same   9.00 s    1.00x   0.889 to 1.07  within noise",
            "slow   16.0 s   0.500x  0.500 to 0.500",
            "Median of 5 interleaved rounds; half of them lie in the spread. "
            "For same the noise is larger than the difference to dense.",
        ]
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.345, "12.3 s"),
        (0.99951, "1.00 s"),
        (0.0999, "99.9 ms"),
        (2e-6, "2.00 µs"),
        (123.4, "123 s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_html_is_a_table_with_bars_in_the_page_s_colours() -> None:
    page = Comparison({"<i>a": (1.0, 1.0), "b": (2.0, 4.0)}, "<i>a")._repr_html_()
    assert "<i>" not in page
    assert page.count('<th scope="row">') == 2
    assert page.count('<th scope="col">') == 5
    assert page.count('<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden') == 2
    assert 'width="100.0"' in page  # the longest bar
    assert 'width="37.5"' in page  # median of 1/2 and 1/4
    assert "currentColor" in page
    assert "#" not in page.replace("&#x27;", "")
    assert "<caption>Median of 2 interleaved rounds" in page


def test_json_and_back() -> None:
    text = json.dumps(GIVEN.to_dict())
    assert Comparison.from_dict(json.loads(text)) == GIVEN


def test_every_round_runs_every_function_once_in_random_order() -> None:
    calls: list[str] = []

    def run(repeats: int, seed: int) -> list[str]:
        calls.clear()
        result = compare(
            {name: lambda name=name: calls.append(name) for name in "abc"},
            repeats=repeats,
            warmup=2,
            min_time=0,
            seed=seed,
        )
        assert result.rounds == repeats
        assert calls[:6] == list("aabbcc")  # warm-up
        return calls[6:].copy()

    order = run(repeats=30, seed=0)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) == 6
    assert order == run(repeats=30, seed=0)
    assert order != run(repeats=30, seed=1)


def test_quick_functions_are_called_often() -> None:
    calls = Counter()
    compare({"quick": lambda: calls.update(["x"])}, repeats=3, min_time=0.01)
    assert calls["x"] > 3 * 10


def test_the_baseline_can_be_chosen() -> None:
    functions = {"a": int, "b": float}
    assert compare(functions, repeats=3, min_time=0).baseline == "a"
    assert compare(functions, repeats=3, min_time=0, baseline="b").speedup("b") == 1


def test_errors_name_the_function() -> None:
    def broken() -> None:
        raise KeyError("no such weight")

    with pytest.raises(
        RuntimeError, match="function 'block' raised KeyError: 'no such weight'"
    ) as e:
        compare({"dense": int, "block": broken}, repeats=3)
    assert isinstance(e.value.__cause__, KeyError)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="functions must hold at least one function"):
        compare({})
    with pytest.raises(ValueError, match="repeats must be an integer of at least 3, got 2"):
        compare({"a": int}, repeats=2)
    with pytest.raises(ValueError, match="warmup must be an integer of at least 1, got 0"):
        compare({"a": int}, warmup=0)
    with pytest.raises(ValueError, match="min_time must be between 0 and 60 seconds, got -1"):
        compare({"a": int}, min_time=-1)
    with pytest.raises(ValueError, match="baseline must be one of a, b; got 'c'"):
        compare({"a": int, "b": int}, baseline="c")
    with pytest.raises(ValueError, match="name must be one of dense, block, same, slow; got 'x'"):
        GIVEN.speedup("x")
    with pytest.raises(ValueError, match="over must be one of dense, block, same, slow; got 'x'"):
        GIVEN.speedup("block", over="x")
    with pytest.raises(ValueError, match=r"equally many rounds for all, got \[1, 2\]"):
        Comparison({"a": (1.0,), "b": (1.0, 2.0)}, "a")
    with pytest.raises(ValueError, match="times must be positive"):
        Comparison({"a": (0.0,)}, "a")
    with pytest.raises(ValueError, match="baseline must be one of a; got 'b'"):
        Comparison({"a": (1.0,)}, "b")
    with pytest.raises(ValueError, match=r"data must have baseline and times, got \['times'\]"):
        Comparison.from_dict({"times": {}})
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'tpu'"):
        peak_memory(int, device="tpu")
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        seed_everything(-1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_memory_needs_cuda() -> None:
    with pytest.raises(ValueError, match="device must be 'cpu' on a machine without CUDA"):
        peak_memory(int, device="cuda")


def test_peak_memory_is_exact() -> None:
    def steps() -> torch.Tensor:
        first = torch.empty(1000)  # 4,000 bytes
        second = torch.empty(500)  # 6,000
        del first  # 2,000
        third = torch.empty(900)  # 5,600
        return torch.cat([second, third])[:1]  # 11,200

    assert peak_memory(steps) == 11_200
    kept = [torch.empty(10_000)]
    assert peak_memory(kept.clear) == 0  # releases from before do not count
    assert peak_memory(lambda: None) == 0


def test_peak_memory_sees_inside_kernels_and_grows_as_it_should() -> None:
    def block(length: int) -> int:
        q = torch.zeros(1, 2, length, 16)
        return peak_memory(lambda: block_attention(q, q, q, block_size=32))

    def naive(length: int) -> int:
        q = torch.zeros(1, 2, length, 16)
        return peak_memory(lambda: naive_attention(q, q, q))

    assert block(4096) / block(1024) < 4.1
    assert naive(2048) / naive(1024) > 3.9
    assert naive(1024) >= 2 * 2 * 1024 * 1024 * 4  # scores and their softmax


def test_peak_memory_keeps_standard_error_clean(capfd: pytest.CaptureFixture[str]) -> None:
    old = [torch.empty(10)]

    def talk() -> None:
        old.clear()  # the profiler has a remark on this
        os.write(2, b"said by the function\n")

    peak_memory(talk)
    assert capfd.readouterr().err == "said by the function\n"


def test_the_machine_is_described_but_not_named() -> None:
    found = machine()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert isinstance(found["cores"], int)
    assert found["cores"] >= 1
    assert all(found.values())
    assert socket.gethostname() not in json.dumps(found)


def test_seeding_reaches_all_three() -> None:
    def draw() -> tuple[Any, ...]:
        seed_everything(3)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw() == draw()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_waits_and_counts_memory() -> None:
    x = torch.randn(2048, 2048, device="cuda")
    assert peak_memory(lambda: x + 1, device="cuda") == x.nbytes
    result = compare({"once": lambda: x @ x, "ten": lambda: [x @ x for _ in range(10)]}, repeats=5)
    assert result.speedup("ten") < 0.5  # without waiting, both would only queue their work
