"""Measure block attention against its peers on this machine: ``make bench``.

Every length is one interleaved run (:func:`effedu.bench.compare`) of dense SDPA, block attention,
and everything else that computes the same pattern. Results go to ``bench/results.json`` with the
machine they were made on; the book reads its ratios from there.

    python -m tools.bench              1,024 to 8,192 tokens, about five minutes on two cores
    python -m tools.bench --full       up to 65,536 tokens, much longer
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effedu.attention import attention
from effedu.bench import Comparison, compare, machine, peak_memory, seed_everything
from effedu.blocking import block_attention, block_mask
from effedu.cost import live_pairs

ROOT = Path(__file__).parents[1]
BATCH, HEADS, HEAD_DIM = 1, 8, 64
LENGTHS = (1024, 2048, 4096, 8192)
FULL_LENGTHS = (*LENGTHS, 16384, 32768, 65536)
BLOCK_SIZES = (64, 128, 256)
MEMORY_LENGTHS = (1024, 4096, 16384, 65536)
# Beyond these lengths a peer needs gigabytes, or minutes a call.
NAIVE_LONGEST, DENSE_MEMORY_LONGEST, LOCAL_LONGEST = 2048, 8192, 16384

Function = Callable[[], Tensor]


def naive_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal softmax attention as the formula says it, with all ``length²`` scores in memory."""
    length = query.shape[2]
    scores = query @ key.mT / math.sqrt(query.shape[3])  # (batch, heads, length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1) @ value


def flex(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Function:
    """Compiled FlexAttention with the same pattern; it skips the blocks outside it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def pattern(batch: Tensor, head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        near = query_at // block_size - key_at // block_size <= 1
        return (query_at >= key_at) & near

    length, device = query.shape[2], query.device
    mask = create_block_mask(
        pattern, None, None, length, length, device=str(device), BLOCK_SIZE=block_size
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(query, key, value, block_mask=mask)


def local(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Function:
    """The ``local-attention`` package; by default its windows are the blocks of this pattern."""
    from local_attention import LocalAttention

    module = LocalAttention(
        window_size=block_size,
        look_backward=1,
        causal=True,
        use_rotary_pos_emb=False,
        exact_windowsize=False,
    )
    return lambda: module(query, key, value)


PEERS = {"flex": flex, "local": local}


def same_pattern(name: str, output: Tensor, expected: Tensor) -> None:
    """Stop if a peer computes something else: its time would mean nothing."""
    error = (output - expected).abs().max().item()
    if not error < 1e-4:
        raise RuntimeError(f"{name} differs from block_attention by {error:.2g}: other pattern?")


def measure_length(
    length: int, block_sizes: tuple[int, ...], rounds: int, seconds: float, skip: set[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One interleaved run of everything at one length; rows by block size, and what is missing."""
    query, key, value = (torch.randn(BATCH, HEADS, length, HEAD_DIM) for _ in range(3))
    functions: dict[str, Callable[[], object]] = {
        "dense": lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True)
    }
    if length <= NAIVE_LONGEST:
        functions["naive"] = lambda: naive_attention(query, key, value)
    missing: dict[str, str] = {}
    compile_seconds = {}
    torch._dynamo.reset()  # else the limit on recompilations leaves later shapes uncompiled
    for block_size in block_sizes:
        ours = _block(query, key, value, block_size)
        functions[f"block {block_size}"] = ours
        expected = ours()
        if length <= NAIVE_LONGEST:
            mask = block_mask(length, block_size=block_size)
            same_pattern("attention", attention(query, key, value, mask=mask), expected)
        for peer, make in PEERS.items():
            if peer in skip or (peer == "local" and length > LOCAL_LONGEST):
                continue
            start = time.perf_counter()
            try:
                function = make(query, key, value, block_size)
                output = function()
            except Exception as error:  # optional, so say why and go on
                first = (str(error).splitlines() or [""])[0]
                missing[peer] = f"{type(error).__name__} at {length} tokens: {first}"
                continue
            if peer == "flex":
                compile_seconds[block_size] = round(time.perf_counter() - start, 1)
            same_pattern(peer, output, expected)
            functions[f"{peer} {block_size}"] = function

    start = time.perf_counter()
    for function in functions.values():
        function()
    once = time.perf_counter() - start
    turns = max(5 if once < 10 else 3, min(rounds, int(seconds / once)))
    result = compare(functions, repeats=turns, warmup=1, min_time=0.005)
    rows = [row for block_size in block_sizes for row in rows_of(result, length, block_size)]
    for row in rows:
        if row["name"] == "flex":
            row["compile_seconds"] = compile_seconds[row["block_size"]]
    return rows, missing


def _block(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Function:
    return lambda: block_attention(query, key, value, block_size=block_size)


def ratio(result: Comparison, name: str, over: str) -> dict[str, Any]:
    """How many times faster ``name`` is than ``over``: median, quartiles, and if noise decides."""
    low, high = result.spread(name, over)
    return {
        "ratio": _digits(result.speedup(name, over)),
        "low": _digits(low),
        "high": _digits(high),
        "noisy": result.noisy(name, over),
    }


def rows_of(result: Comparison, length: int, block_size: int) -> list[dict[str, Any]]:
    """One row for each method: its speedup over dense SDPA, and block attention's over it."""
    dense_pairs = live_pairs(length, block_size=length)
    pairs = live_pairs(length, block_size=block_size)
    methods = ["block", *PEERS]
    names = {method: f"{method} {block_size}" for method in methods} | {"naive": "naive"}
    rows = []
    for method, name in names.items():
        if name in result.times:
            over_dense = ratio(result, name, "dense")
            rows.append(
                {
                    "name": method,
                    "length": length,
                    "block_size": block_size,
                    "seconds": _digits(result.seconds(name)),
                    "dense_seconds": _digits(result.seconds("dense")),
                    **over_dense,
                    "limit": dense_pairs / pairs,
                    "share": _digits(over_dense["ratio"] * pairs / dense_pairs),
                    "rounds": result.rounds,
                    "block_over_this": ratio(result, f"block {block_size}", name),
                }
            )
    return rows


def _digits(number: float) -> float:
    return float(f"{number:.4g}")


def measure_memory(lengths: tuple[int, ...], block_size: int = 128) -> list[dict[str, int]]:
    """Peak bytes beyond query, key and value, by length; the result is counted."""
    rows = []
    for length in lengths:
        query, key, value = (torch.randn(BATCH, HEADS, length, HEAD_DIM) for _ in range(3))
        row = {
            "length": length,
            "block_size": block_size,
            "inputs": 3 * query.nbytes,
            "block": peak_memory(_block(query, key, value, block_size)),
        }
        if length <= DENSE_MEMORY_LONGEST:
            row["dense"] = peak_memory(
                lambda q=query, k=key, v=value: F.scaled_dot_product_attention(
                    q, k, v, is_causal=True
                )
            )
        if length <= NAIVE_LONGEST:
            row["naive"] = peak_memory(lambda q=query, k=key, v=value: naive_attention(q, k, v))
        rows.append(row)
    return rows


def measure_start(rounds: int) -> dict[str, Any]:
    """Time of ``import effedu`` against ``import torch``, and of loading the language model."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return done.stdout

    result = compare(
        {"torch": lambda: run("import torch"), "effedu": lambda: run("import effedu")},
        repeats=rounds,
        warmup=1,
        min_time=0,
    )
    times: dict[str, Any] = {
        "import_torch_seconds": _digits(result.seconds("torch")),
        "import_effedu_seconds": _digits(result.seconds("effedu")),
        "effedu_over_torch": ratio(result, "torch", "effedu"),  # effedu's time / torch's time
    }
    clock = (
        "import time, effedu\n"
        "times = [time.perf_counter()]\n"
        "for _ in range(2):\n"
        "    effedu.load_lm(); times.append(time.perf_counter())\n"
        "print(times[1] - times[0], times[2] - times[1])"
    )
    try:
        loads = [[float(number) for number in run(clock).split()] for _ in range(3)]
    except (RuntimeError, ValueError) as error:
        return {**times, "load_lm": f"not measured: {error}"}
    return {
        **times,
        # The first load of a process also imports Transformers.
        "load_lm_first_seconds": _digits(sorted(first for first, _ in loads)[1]),
        "load_lm_again_seconds": _digits(sorted(again for _, again in loads)[1]),
    }


def versions() -> dict[str, str]:
    """Versions of everything measured; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "local-attention"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, data: object) -> None:
    """Write as a whole or not at all: an interrupted run leaves the former file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's default is for the owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: block attention's speedup over each peer, with its quartiles."""
    peers = ("flex", "local", "naive")
    lines = [
        f"{'length':>7} {'block':>5} {'time':>9}  {'limit':>6} {'share':>6}"
        + "".join(f"  {'over ' + peer:>22}" for peer in ("dense", *peers))
    ]
    for ours in (row for row in rows if row["name"] == "block"):
        place = (ours["length"], ours["block_size"])
        others = {r["name"]: r for r in rows if (r["length"], r["block_size"]) == place}
        found = [ours, *(others.get(peer, {}).get("block_over_this") for peer in peers)]
        lines.append(
            f"{ours['length']:>7} {ours['block_size']:>5} {1000 * ours['seconds']:>6.1f} ms"
            f"  {ours['limit']:>5.1f}x {ours['share']:>6.0%}" + "".join(map(_cell, found))
        )
    return "\n".join([*lines, "~ the noise is larger than the difference"])


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return f"  {'-':>21} "
    text = f"{found['ratio']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"
    return f"  {text:>21}{'~' if found['noisy'] else ' '}"


def _memory_table(rows: list[dict[str, int]]) -> str:
    lines = [f"{'length':>7} {'block':>9} {'dense':>9} {'naive':>9}   peak MB beyond the inputs"]
    for row in rows:
        cells = [
            f"{row[n] / 1e6:>9.1f}" if n in row else f"{'-':>9}"
            for n in ("block", "dense", "naive")
        ]
        lines.append(f"{row['length']:>7} " + " ".join(cells))
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--full", action="store_true", help="lengths up to 65,536")
    parser.add_argument("--lengths", type=int, nargs="+", help="these lengths only")
    parser.add_argument("--blocks", type=int, nargs="+", default=list(BLOCK_SIZES))
    parser.add_argument("--memory", type=int, nargs="*", default=list(MEMORY_LENGTHS))
    parser.add_argument("--rounds", type=int, default=25, help="at most so many for one length")
    parser.add_argument("--seconds", type=float, default=20, help="time for one length, about")
    parser.add_argument("--skip", nargs="*", default=[], choices=[*PEERS, "start"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run, print, write."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    seed_everything(0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"Other programs keep {load:.1f} cores busy: expect noise, or wait until they end.")
    rows, missing = [], {}
    for length in options.lengths or (FULL_LENGTHS if options.full else LENGTHS):
        print(f"{length} tokens: checking, compiling, measuring ...", flush=True)
        blocks = tuple(b for b in options.blocks if b < length)
        new, absent = measure_length(
            length, blocks, options.rounds, options.seconds, set(options.skip)
        )
        rows += new
        missing.update(absent)
    print(table(rows), flush=True)
    for peer, reason in missing.items():
        print(f"without {peer}: {reason}")
    memory = measure_memory(tuple(options.memory))
    print(_memory_table(memory), flush=True)
    start = {} if "start" in options.skip else measure_start(rounds=7)
    for name, value in start.items():
        print(f"{name}: {value['ratio'] if isinstance(value, dict) else value}")
    write_json(
        options.output,
        {
            "schema": 1,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "load_before": round(load, 1),
            "versions": versions(),
            "setting": {
                "batch": BATCH,
                "heads": HEADS,
                "head_dim": HEAD_DIM,
                "dtype": "float32",
                "causal": True,
                "blocks_back": 1,
            },
            "attention": rows,
            "missing": missing,
            "memory": memory,
            "start": start,
        },
    )
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
