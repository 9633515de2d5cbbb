"""Tiled attention against dense attention and PyTorch; work, rooflines and the data sheets."""

from __future__ import annotations

import json
import math
import platform
import re
from importlib import resources

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from effedu.attention import attention, causal_mask
from effedu.bench import peak_memory
from effedu.cost import cost
from effedu.hardware import (
    Device,
    Work,
    attention_work,
    device_info,
    devices,
    elementwise_work,
    linear_work,
    processor_name,
    roofline,
    tiled_attention,
    tiling_steps,
)


def qkv(batch=1, heads=4, queries=33, keys=None, head_dim=8, key_heads=None, **kwargs):
    keys, key_heads = keys or queries, key_heads or heads
    return (
        torch.randn(batch, heads, queries, head_dim, **kwargs),
        torch.randn(batch, key_heads, keys, head_dim, **kwargs),
        torch.randn(batch, key_heads, keys, head_dim, **kwargs),
    )


# --- tiled attention -------------------------------------------------------------------------

shapes = {
    "queries": st.integers(1, 40),
    "keys": st.integers(1, 40),
    "tile": st.integers(1, 50),
    "causal": st.booleans(),
    "groups": st.sampled_from([1, 2, 4]),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=150, deadline=None)
@given(batch=st.integers(1, 3), **shapes)
def test_equals_dense_attention(batch, queries, keys, tile, causal, groups, seed):
    torch.manual_seed(seed)
    inputs = qkv(batch, queries=queries, keys=keys, key_heads=4 // groups)
    output = tiled_attention(*inputs, tile=tile, causal=causal)
    assert_close(output, attention(*inputs, causal=causal), atol=2e-6, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_gradients_equal_dense_attention(queries, keys, tile, causal, groups, seed):
    torch.manual_seed(seed)
    inputs = [x.requires_grad_() for x in qkv(2, queries=queries, keys=keys, key_heads=4 // groups)]
    weight = torch.randn(2, 4, queries, 8)
    results = []
    for function in (lambda *x, causal: tiled_attention(*x, tile=tile, causal=causal), attention):
        (function(*inputs, causal=causal) * weight).sum().backward()
        results.append([x.grad.clone() for x in inputs])
        for x in inputs:
            x.grad = None
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_equals_pytorch(causal):
    inputs = qkv(2, queries=100, dtype=torch.float64)
    output = tiled_attention(*inputs, tile=16, causal=causal)
    assert_close(output, F.scaled_dot_product_attention(*inputs, is_causal=causal))


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable_for_large_scores(size, dtype):
    """Scores about ±10,000: exp of one alone is infinite, or zero for all."""
    query = torch.full((1, 1, 40, 4), 100.0, dtype=dtype)
    key = torch.full((1, 1, 40, 4), size * 2 / 400, dtype=dtype) + torch.rand(1, 1, 40, 4) / 100
    value = torch.randn(1, 1, 40, 4, dtype=dtype)
    scores = query @ key.transpose(-1, -2) / 2
    assert (scores / size).min() > 0.99
    for x in (query, key, value):
        x.requires_grad_()
    output = tiled_attention(query, key, value, tile=7)
    output.sum().backward()
    exact = attention(query.double(), key.double(), value.double())
    tolerance = {"atol": 1e-2, "rtol": 1e-2} if dtype == torch.float32 else {}
    assert_close(output.double(), exact, **tolerance)
    assert all(x.grad.isfinite().all() for x in (query, key, value))


def test_rows_that_see_nothing_are_zero_and_do_not_hurt_gradients():
    query, key, value = (x.requires_grad_() for x in qkv(queries=20, keys=7))
    output = tiled_attention(query, key, value, tile=4)
    assert (output[:, :, :13] == 0).all()  # 20 queries end at the last of 7 keys
    assert (output[:, :, 13:] != 0).all()
    output.sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, key, value))
    assert (query.grad[:, :, :13] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    inputs = [x.to(dtype) for x in qkv(queries=200)]
    output = tiled_attention(*inputs, tile=16)
    assert output.dtype == dtype
    exact = attention(*(x.float() for x in inputs)).to(dtype)
    assert_close(output, exact, atol=1e-3, rtol=1e-2)  # one rounding, at the end


def test_non_contiguous_inputs_and_a_value_width_of_its_own():
    query, key, _ = (x.transpose(1, 2) for x in qkv(2, heads=50, queries=4))
    value = torch.randn(2, 4, 50, 3)
    assert not query.is_contiguous()
    assert_close(tiled_attention(query, key, value, tile=8), attention(query, key, value))


def test_memory_does_not_grow_with_the_square_of_the_length():
    short, long = qkv(heads=1, queries=512), qkv(heads=1, queries=1024)
    peaks = [peak_memory(lambda x=x: tiled_attention(*x, tile=32)) for x in (short, long)]
    assert peaks[1] < 2.2 * peaks[0]
    assert peaks[1] < 1024 * 1024 * 4 / 8  # far less than all scores


@pytest.mark.parametrize("tile", [0, 2.5, True])
@pytest.mark.unchecked_shapes
def test_bad_tile(tile):
    with pytest.raises(ValueError, match=f"tile must be an integer of at least 1, got {tile}"):
        tiled_attention(*qkv(), tile=tile)
    query, key, value = (x[0, 0] for x in qkv())
    with pytest.raises(ValueError, match=f"tile must be an integer of at least 1, got {tile}"):
        tiling_steps(query[0], key, value, tile=tile)


@pytest.mark.unchecked_shapes
def test_bad_input():
    query, key, value = qkv()
    with pytest.raises(ValueError, match="key must have 4 dimensions"):
        tiled_attention(query, key[0], value)
    with pytest.raises(ValueError, match="query must not be empty"):
        tiled_attention(query[:, :, :0], key, value)


# --- its steps -------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(keys=st.integers(1, 30), tile=st.integers(1, 35), seed=st.integers(0, 1000))
def test_every_step_is_attention_to_the_keys_so_far(keys, tile, seed):
    torch.manual_seed(seed)
    query, key, value = torch.randn(8), torch.randn(keys, 8), torch.randn(keys, 3)
    scores = (key.double() @ query.double()) / math.sqrt(8)
    total, maximum = 0.0, -math.inf
    for step in tiling_steps(query, key, value, tile=tile):
        seen = scores[: step.stop]
        assert step.scores == pytest.approx(seen[step.start :].tolist())
        assert step.maximum == pytest.approx(seen.max().item())
        assert step.shrink == pytest.approx(math.exp(maximum - step.maximum))
        assert step.weights == pytest.approx([math.exp(s - step.maximum) for s in step.scores])
        assert step.total == pytest.approx(step.shrink * total + sum(step.weights))
        assert step.total == pytest.approx((seen - step.maximum).exp().sum().item())
        exact = seen.softmax(0) @ value[: step.stop].double()
        assert step.output == pytest.approx(exact.tolist())
        assert step.weighted == pytest.approx([step.total * x for x in step.output])
        total, maximum = step.total, step.maximum
    assert step.stop == keys
    output = tiled_attention(query[None, None, None], key[None, None], value[None, None], tile=tile)
    assert step.output == pytest.approx(output.flatten().tolist(), abs=1e-5)


def test_steps_take_scores_as_they_are():
    scores = torch.tensor([3.0, -1e4, 1e4, 0.5])
    steps = list(tiling_steps(torch.ones(1), scores[:, None], torch.eye(4), tile=2))
    assert [step.maximum for step in steps] == [3.0, 1e4]
    assert steps[1].shrink == 0.0  # what was seen before counts no more
    assert steps[1].output == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.unchecked_shapes
def test_bad_steps():
    query, key, value = torch.ones(4), torch.ones(5, 4), torch.ones(5, 2)
    with pytest.raises(ValueError, match=r"query must have the shape \(head_dim,\), got \(1, 4\)"):
        tiling_steps(query[None], key, value)
    with pytest.raises(ValueError, match=r"shapes \(keys, head_dim\) and .* got \(5, 4\) and \(5,"):
        tiling_steps(query, key, value[:, 0])
    with pytest.raises(ValueError, match="query and key must have the same head_dim, got 4 and 3"):
        tiling_steps(query, key[:, :3], value)
    with pytest.raises(ValueError, match="key must not be empty"):
        tiling_steps(query, key[:0], value[:0])


# --- work ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_work(dtype):
    x, weight = torch.zeros(5, 24, dtype=dtype), torch.zeros(40, 24, dtype=dtype)
    with FlopCounterMode(display=False) as counter:
        output = F.linear(x, weight)
    work = linear_work(5, 24, 40, dtype=dtype)
    assert work.flops == counter.get_total_flops()
    assert work.bytes_moved == x.nbytes + weight.nbytes + output.nbytes
    assert work.intensity == work.flops / work.bytes_moved


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (1, 30), (4, 9), (9, 4)])
def test_attention_work(queries, keys, causal):
    query, key, value = qkv(2, 6, queries, keys, 8, key_heads=3)
    output = tiled_attention(query, key, value, causal=causal)
    shape = {"heads": 6, "head_dim": 8, "key_heads": 3, "batch": 2, "causal": causal}
    work = attention_work(queries, keys, **shape)
    pairs = int(causal_mask(queries, keys).sum()) if causal else queries * keys
    assert work.flops == 2 * 6 * pairs * 4 * 8
    assert work.bytes_moved == sum(x.nbytes for x in (query, key, value, output))
    half = attention_work(queries, keys, **shape, dtype=torch.float16)
    assert half == Work(work.flops, work.bytes_moved // 2)


def test_work_adds_up_to_the_cost_of_a_model():
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
    )
    n, whole = 16, cost(config, 16)
    layer = [(24, 24), (24, 12), (24, 12), (24, 24), (24, 40), (24, 40), (40, 24)]
    linear = [linear_work(n, *shape) for _ in range(3) for shape in layer]
    head = linear_work(n, 24, 61)
    dense = attention_work(n, n, heads=4, key_heads=2, head_dim=6, causal=False)
    flops = sum(w.flops for w in linear) + head.flops + 3 * dense.flops
    assert flops == whole.flops.total
    weights = 4 * (3 * sum(i * o for i, o in layer) + 24 * 61)
    moved = sum(w.bytes_moved for w in linear) + head.bytes_moved - weights + 3 * dense.bytes_moved
    assert moved == whole.bytes_moved.activations


def test_elementwise_work():
    a, b = torch.zeros(2, 1000).double()
    work = elementwise_work(1000, read=2, dtype=torch.float64)
    assert work == (1000, a.nbytes + b.nbytes + (a + b).nbytes)
    assert elementwise_work(7, read=0).bytes_moved == torch.zeros(7).nbytes


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (linear_work, (0, 1, 1), "tokens must be an integer of at least 1, got 0"),
        (linear_work, (1, 1.5, 1), "inputs must be an integer of at least 1, got 1.5"),
        (linear_work, (1, 1, -1), "outputs must be an integer of at least 1, got -1"),
        (elementwise_work, (0,), "numbers must be an integer of at least 1, got 0"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_work(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("name", ["queries", "keys", "heads", "head_dim", "key_heads", "batch"])
def test_bad_attention_work(name):
    good = {"queries": 2, "keys": 2, "heads": 2, "head_dim": 2, "key_heads": 2, "batch": 1}
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        attention_work(**{**good, name: 0})


def test_bad_elementwise_work():
    with pytest.raises(ValueError, match="read must be an integer of at least 0, got -1"):
        elementwise_work(1, read=-1)
    with pytest.raises(ValueError, match="written must be an integer of at least 1, got 0"):
        elementwise_work(1, written=0)


# --- devices ---------------------------------------------------------------------------------

LAPTOP = Device("laptop", memory=16e9, bandwidth=50e9, peak={"float32": 200e9, "float16": 1e12})


def test_the_roofline_is_the_slower_of_two_limits():
    assert LAPTOP.seconds(200e9, 0) == 1.0
    assert LAPTOP.seconds(0, 100e9) == 2.0
    assert LAPTOP.seconds(200e9, 100e9) == 2.0
    assert LAPTOP.seconds(1000e9, 100e9) == 5.0
    assert LAPTOP.seconds(1000e9, 25e9, dtype="float16") == 1.0
    assert LAPTOP.ridge() == 4.0
    assert LAPTOP.ridge("float16") == 20.0
    at_ridge = LAPTOP.ridge() * 1e9
    assert at_ridge / LAPTOP.peak["float32"] == 1e9 / LAPTOP.bandwidth


@pytest.mark.unchecked_shapes
def test_bad_devices():
    good = {"name": "x", "memory": 1.0, "bandwidth": 1.0, "peak": {"float32": 1.0}}
    for name in ("memory", "bandwidth"):
        for number in (0, -1.0, math.inf, math.nan):
            message = f"{name} must be positive and finite, got {number}"
            with pytest.raises(ValueError, match=message):
                Device(**{**good, name: number})
    with pytest.raises(ValueError, match=r"peak\['float32'\] must be positive and finite, got 0"):
        Device(**{**good, "peak": {"float32": 0}})
    with pytest.raises(ValueError, match="dtype must be one of float32, float16 for laptop; got"):
        LAPTOP.seconds(1, 1, dtype="int8")
    with pytest.raises(ValueError, match="dtype must be one of none, as its peak is not known"):
        Device(**{**good, "peak": {}}).ridge()
    with pytest.raises(ValueError, match="flops must be finite and not negative, got -1"):
        LAPTOP.seconds(-1, 1)
    with pytest.raises(ValueError, match="bytes_moved must be finite and not negative, got inf"):
        LAPTOP.seconds(1, math.inf)


def test_the_file_of_devices():
    text = (resources.files("effedu") / "data" / "devices.json").read_text(encoding="utf-8")
    data = json.loads(text)
    assert set(data) == {"about", "devices"}
    fields = {"name", "kind", "memory_gb", "bandwidth_gb_s", "peak_tflops"}
    for entry in data["devices"]:
        assert set(entry) == fields | {"source", "printed", "seen"}
        assert entry["source"].startswith("https://")
        assert entry["seen"]
        assert set(entry["peak_tflops"]) <= {"float32", "float16", "bfloat16"}
        printed = {float(n) for n in re.findall(r"\d+\.?\d*", entry["printed"].replace(",", ""))}
        assert entry["memory_gb"] in printed or f"{entry['memory_gb']} GB" in entry["name"]
        assert {entry["bandwidth_gb_s"], entry["bandwidth_gb_s"] / 1000} & printed
        for rate in entry["peak_tflops"].values():  # twice the dense rate is the one with sparsity
            assert {rate, 2 * rate} & printed
    assert len({entry["name"] for entry in data["devices"]}) == len(data["devices"]) == 8
    assert list(devices()) == [entry["name"] for entry in data["devices"]]


def test_units_of_the_file_of_devices():
    found = devices()["NVIDIA A100 SXM, 80 GB"]
    assert found.memory == 80e9
    assert found.bandwidth == 2039e9
    assert found.peak["bfloat16"] == 312e12
    assert found.kind == "server GPU"
    assert found.source.startswith("https://www.nvidia.com/")
    assert devices()["Apple M4, 32 GB"].peak == {}


def test_device_info_says_what_there_is_and_does_not_name_the_computer():
    cpu, *others = device_info()
    assert cpu.device == "cpu"
    assert cpu.threads == torch.get_num_threads()
    assert "float32" in cpu.dtypes
    assert cpu.memory is None or cpu.memory > 100e6
    assert len(others) == torch.cuda.device_count() + torch.backends.mps.is_available()
    assert all(other.threads is None for other in others)
    assert platform.node() not in repr((cpu, others))
    assert cpu.model == processor_name()


def test_device_info_where_the_system_says_nothing(monkeypatch):
    def missing(*_args, **_kwargs):
        raise OSError("no such file")

    monkeypatch.setattr("effedu.hardware.Path.read_text", missing)
    monkeypatch.setattr("effedu.hardware.os.sysconf", missing)
    monkeypatch.setattr("effedu.hardware.platform.processor", lambda: "")
    cpu = device_info()[0]
    assert cpu.memory is None
    assert cpu.model == platform.machine()


def test_dtypes_that_do_not_multiply_are_left_out(monkeypatch):
    real = torch.ones

    def ones(*args, dtype=None, **kwargs):
        if dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return real(*args, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch, "ones", ones)
    assert device_info()[0].dtypes == ("float64", "float32", "bfloat16")


def test_roofline_measures_a_device():
    here = roofline("cpu", dtypes=["float32"], copy_mb=4)
    assert set(here.peak) == {"float32"}
    assert here.kind == "measured"
    assert here.name == processor_name()
    assert here.peak["float32"] > 1e6
    assert here.bandwidth > 1e6
    assert here.seconds(*linear_work(1, 64, 64)) > 0


@pytest.mark.unchecked_shapes
def test_bad_roofline():
    with pytest.raises(ValueError, match=r"device must be one of cpu.* here, got 'abacus'"):
        roofline("abacus")
    with pytest.raises(ValueError, match="dtypes must hold at least one name, got none"):
        roofline(dtypes=[])
    with pytest.raises(ValueError, match=r"dtypes must be of float64, .*; got 'int3'"):
        roofline(dtypes=["float32", "int3"])
    with pytest.raises(ValueError, match="copy_mb must be an integer of at least 1, got 0"):
        roofline(copy_mb=0)


@pytest.mark.cuda
def test_cuda_equals_cpu():
    inputs = qkv(queries=100)
    output = tiled_attention(*(x.cuda() for x in inputs), tile=16)
    assert_close(output.cpu(), tiled_attention(*inputs, tile=16), atol=1e-4, rtol=1e-4)
    assert any(found.device == "cuda:0" for found in device_info())
    here = roofline("cuda", dtypes=["float32"], copy_mb=8)
    assert here.memory == torch.cuda.get_device_properties(0).total_memory
