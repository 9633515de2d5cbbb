"""Measure cheaper linear layers against plain ones and their peers on this machine.

Each shape (tokens × inputs × outputs) is one interleaved run (:func:`effedu.bench.compare`) of
``nn.Linear`` in float32 and bfloat16, PyTorch's dynamic int8 layer, torchao's where it is
installed, and the book's own. Beside its time each row holds the layer's error and its bytes.

    python -m tools.bench_linear       all shapes, in about a minute on two cores
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effedu.bench import compare, machine
from effedu.compression import break_even_rank, low_rank
from effedu.quantized_linear import Int4Linear, Int8Linear
from tools.bench import ratio, write_json

PUBLISHED = Path(__file__).parents[1] / "effedu" / "data" / "bench_linear.json"
SCHEMA = 1
SHAPES = (
    "512x256x1024",
    "2048x1024x4096",
    "1x1024x4096",
    "1x256x1024",
)  # tokens x inputs x outputs


class Shape(NamedTuple):
    """What one interleaved run measures."""

    tokens: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        tokens = f"{self.tokens:,} token{'s' * (self.tokens != 1)}"
        return f"{tokens}, {self.inputs:,} inputs, {self.outputs:,} outputs"


def make_float32(linear: nn.Linear) -> nn.Module:
    """The layer itself."""
    return linear


def make_bfloat16(linear: nn.Linear) -> nn.Module:
    """The layer in bfloat16, inputs and outputs too: they are turned around outside the timing."""
    return copy.deepcopy(linear).bfloat16()


def make_torch_int8(linear: nn.Linear) -> nn.Module:
    """PyTorch's dynamic int8 layer: one grid for the inputs of all tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that torchao takes its place
        module: nn.Module = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(copy.deepcopy(linear)), {nn.Linear}, dtype=torch.qint8
        )[0]
    return module


def make_torchao_int8(linear: nn.Linear) -> nn.Module:
    """torchao's dynamic int8 layer."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = nn.Sequential(copy.deepcopy(linear))
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def make_low_rank(linear: nn.Linear) -> nn.Module:
    """Two thin layers with half of the numbers. Random weights are the worst case for its error."""
    return low_rank(linear, int(break_even_rank(linear.out_features, linear.in_features) / 2))


METHODS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "float32": make_float32,
    "bfloat16": make_bfloat16,
    "torch.ao int8": make_torch_int8,
    "torchao int8": make_torchao_int8,
    "Int8Linear": Int8Linear.from_linear,
    "Int4Linear": Int4Linear.from_linear,
    "LowRankLinear": make_low_rank,
}
PEERS = ("torch.ao int8", "torchao int8")


@torch.no_grad()
def measure(
    shape: Shape, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One interleaved run; returns a row for each method, and what is missing."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(shape.inputs, shape.outputs).eval()
    for part in linear.parameters():
        part.copy_(torch.randn(part.shape, generator=generator) * shape.inputs**-0.5)
    x = torch.randn(shape.tokens, shape.inputs, generator=generator)
    exact = linear(x)

    calls: dict[str, Callable[[], Tensor]] = {}
    rows, missing, once = [], [], 0.0
    for name, make in METHODS.items():
        try:
            layer = make(linear)
            given = x.bfloat16() if name == "bfloat16" else x
            call = functools.partial(layer, given)
            call()
            start = time.perf_counter()
            error = (call().float() - exact).norm() / exact.norm()
            once += time.perf_counter() - start
        except Exception as reason:
            if name not in PEERS:
                raise
            text = (str(reason).splitlines() or [""])[0]  # optional, so say why and go on
            missing.append({"name": name, "reason": f"{type(reason).__name__}: {text}"})
            continue
        calls[name] = call
        held = None if name in PEERS else held_bytes(layer)
        rows.append({"name": name, **shape._asdict(), "error": digits(error), "bytes": held})
    turns = max(5, min(rounds, int(seconds / once)))
    result = compare(calls, baseline="float32", repeats=turns, warmup=2)
    for row in rows:
        row["seconds"] = digits(result.seconds(row["name"]))
        row |= ratio(result, row["name"], "float32")
        row["rounds"] = result.rounds
        if "torch.ao int8" in calls:
            row["over_torch_int8"] = ratio(result, row["name"], "torch.ao int8")
    return rows, missing


def held_bytes(layer: nn.Module) -> int:
    """Bytes of a layer's numbers after it was used."""
    if isinstance(layer, Int8Linear | Int4Linear):
        return layer.nbytes
    return sum(part.nbytes for part in layer.parameters())


def digits(number: float | Tensor) -> float:
    """Four digits: more would be noise."""
    return float(f"{float(number):.4g}")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one shape as text."""
    lines = [f"{'':15}{'time':>11}{'speedup':>9}{'quartiles':>15}{'error':>8}{'bytes':>12}"]
    for row in rows:
        held = "" if row["bytes"] is None else f"{row['bytes']:,}"
        quartiles = f"{row['low']:.2f}-{row['high']:.2f}"
        lines.append(
            f"{row['name']:15}{1000 * row['seconds']:>8.3f} ms{row['ratio']:>8.2f}x"
            f"{quartiles:>15}{100 * row['error']:>7.1f}%{held:>12}"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_linear", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", nargs="+", metavar="MxKxN", help="these shapes only")
    parser.add_argument("--rounds", type=int, default=25, help="at most so many for one shape")
    parser.add_argument("--seconds", type=float, default=12, help="time for a shape, about")
    parser.add_argument("--output", type=Path, help="where to write; needed with --shapes")
    options = parser.parse_args(arguments)
    if options.shapes and not options.output:
        parser.error("--shapes needs --output: only a complete run is published")
    options.output = options.output or PUBLISHED
    options.shapes = [
        Shape(*(int(size) for size in shape.split("x"))) for shape in options.shapes or SHAPES
    ]
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure shape after shape, print each, and write all of them."""
    options = parse(arguments)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for shape in options.shapes:
        found, lacking = measure(shape, options.rounds, options.seconds)
        rows += found
        missing += [gap for gap in lacking if gap not in missing]
        print(f"\n{shape}\n{table(found)}", flush=True)
    for gap in missing:
        print(f"without {gap['name']}: {gap['reason']}")
    results = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "load_before": round(load, 1),
        "linear": rows,
        "missing": missing,
    }
    write_json(options.output, results)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
