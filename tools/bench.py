"""Measure block attention against its peers on this machine: ``make bench``.

The unit is a part: one shape (heads × head width), one direction (forward, or forward and
backward) and one length. Each part is one interleaved run (:func:`effedu.bench.compare`) of dense
SDPA, block attention and everything else that does the same work, for every block size. A part that
is finished is written down at once, and a run that was interrupted goes on behind it, provided that
machine, versions, settings and the measured code are still the same. The book shows
``effedu/data/bench.json``, which only a complete run of the whole programme replaces.

    python -m tools.bench              everything: about 20 minutes on two cores
    python -m tools.bench --quick      two lengths, one block size, about two minutes; not published
    python -m tools.bench --restart    everything, and nothing from an interrupted run
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effedu.attention import attention
from effedu.bench import RESULTS as PUBLISHED
from effedu.bench import Comparison, compare, machine, peak_memory
from effedu.blocking import block_attention, block_mask
from effedu.cost import live_pairs

ROOT = Path(__file__).parents[1]
WORKING = ROOT / "book" / "_build" / "bench.json"
QUICK = ROOT / "book" / "_build" / "bench_quick.json"
SCHEMA = 2

SHAPES = ("8x64", "4x32")  # heads x head width
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
BLOCK_SIZES = (64, 128, 256)
DIRECTIONS = ("forward", "forward+backward")
BACKWARD_LONGEST = 8192
CHECKED_LONGEST = 2048  # up to here each pattern is also compared with attention under a mask

Call = Callable[[], Tensor]


class Part(NamedTuple):
    """What one interleaved run measures."""

    heads: int
    head_dim: int
    direction: str
    length: int

    def __str__(self) -> str:
        return f"{self.heads}x{self.head_dim}, {self.direction}, {self.length:,} tokens"


class Made(NamedTuple):
    """A method that is ready to run, and what it keeps in memory between calls, such as a mask."""

    call: Call
    holds: int = 0  # bytes


def naive_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal softmax attention as the formula says it, with all ``length²`` scores in memory."""
    length = query.shape[2]
    scores = query @ key.mT / math.sqrt(query.shape[3])  # (batch, heads, length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    return torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1) @ value


def make_dense(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """PyTorch's fused attention, told that the pattern is causal; the blocks are ignored."""
    return Made(lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True))


def make_naive(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """The plain formula; the blocks are ignored."""
    return Made(lambda: naive_attention(query, key, value))


def make_block(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """The book's own."""
    return Made(lambda: block_attention(query, key, value, block_size=block_size))


def make_flex(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """Compiled FlexAttention with the same pattern; it skips the blocks outside it."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = flex_mask(query.shape[2], block_size)
    compiled = torch.compile(flex_attention, dynamic=False)
    holds = sum(x.nbytes for x in mask.as_tuple() if isinstance(x, Tensor))
    return Made(lambda: compiled(query, key, value, block_mask=mask), holds)


def flex_mask(length: int, block_size: int) -> Any:
    """FlexAttention's mask of the pattern: each block of queries sees its own and the one before.

    ``create_block_mask`` makes the same out of all ``length²`` pairs: 4 GB for 65,536 tokens.
    """
    from torch.nn.attention.flex_attention import BlockMask

    def pattern(batch: Tensor, head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        near = query_at // block_size - key_at // block_size <= 1
        return (query_at >= key_at) & near

    blocks = length // block_size
    own = torch.arange(blocks, dtype=torch.int32)

    def one_each(first: Tensor) -> Tensor:
        table = torch.zeros(1, 1, blocks, blocks, dtype=torch.int32)
        table[..., 0] = first
        return table

    return BlockMask.from_kv_blocks(
        kv_num_blocks=torch.ones(1, 1, blocks, dtype=torch.int32),
        kv_indices=one_each(own),
        full_kv_num_blocks=(own > 0).int()[None, None],  # whole blocks need no mask
        full_kv_indices=one_each((own - 1).clamp(min=0)),
        BLOCK_SIZE=block_size,
        mask_mod=pattern,
    )


def make_local(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """The ``local-attention`` package; by default its windows are the blocks of this pattern."""
    from local_attention import LocalAttention

    module = LocalAttention(
        window_size=block_size,
        look_backward=1,
        causal=True,
        use_rotary_pos_emb=False,
        exact_windowsize=False,
    )
    return Made(lambda: module(query, key, value))


def make_sliding(query: Tensor, key: Tensor, value: Tensor, block_size: int) -> Made:
    """What a Mistral layer with ``sliding_window`` runs on a CPU: dense SDPA under an (N, N) mask.

    Its pattern is not one of blocks: each token sees the same number of tokens. Mask and attention
    come from Transformers itself; a model makes the mask once for all of its layers, so the mask's
    time is left out, and its memory is counted.
    """
    from transformers import MistralConfig
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import create_sliding_window_causal_mask

    mask = create_sliding_window_causal_mask(
        config=MistralConfig(sliding_window=window(block_size), attn_implementation="sdpa"),
        inputs_embeds=query[:, 0],  # only its shape, dtype and device count
        attention_mask=None,
        past_key_values=None,
    )
    layer: Any = SimpleNamespace(is_causal=True, num_key_value_groups=1)  # all that is asked of it

    def call() -> Tensor:
        output: Tensor = sdpa_attention_forward(layer, query, key, value, mask)[0]
        return output.transpose(1, 2)  # from (batch, length, heads, head_dim)

    return Made(call, 0 if mask is None else mask.nbytes)


def window(block_size: int) -> int:
    """The sliding window that keeps about as many pairs as blocks that look one block back."""
    return block_size * 3 // 2


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Made]] = {
    "dense": make_dense,
    "block": make_block,
    "flex": make_flex,
    "local": make_local,
    "sliding": make_sliding,
    "naive": make_naive,
}
PEERS = ("flex", "local", "sliding", "naive")
WITHOUT_BLOCKS = ("dense", "naive")  # one run serves every block size


def left_out(name: str, part: Part) -> str | None:
    """Why a method is not run at all, for those that would take gigabytes a call."""
    scores = 4 * part.length**2  # bytes of one float32 for each pair
    if name == "naive" and part.length > 4096:
        size = part.heads * scores / 1e9
        return f"left out: each copy of the scores of all heads takes {size:.1f} GB"
    if name == "sliding" and part.length > 16384:
        return f"left out: PyTorch turns its mask into numbers, {scores / 1e9:.1f} GB a call"
    return None


def same_pattern(name: str, output: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Stop if a peer computes something else: its time would mean nothing."""
    error = (output - expected).abs().max().item()
    if not error < tolerance:
        raise RuntimeError(f"{name} differs from block_attention by {error:.2g}: other pattern?")


def reference(name: str, inputs: Sequence[Tensor], block_size: int) -> Tensor:
    """Attention under the mask that a method has to equal."""
    length = inputs[0].shape[2]
    if name in WITHOUT_BLOCKS:
        return attention(*inputs)
    if name == "sliding":
        at = torch.arange(length)
        distance = at[:, None] - at[None, :]  # positive = looking back
        return attention(*inputs, mask=(distance >= 0) & (distance < window(block_size)))
    return attention(*inputs, mask=block_mask(length, block_size=block_size))


def measure_part(
    part: Part,
    block_sizes: Sequence[int],
    rounds: int,
    seconds: float,
    skip: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One interleaved run; returns a row for each method and block size, and what is missing."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, part.heads, part.length, part.head_dim)
    query, key, value, slope = (torch.randn(shape, generator=generator) for _ in range(4))
    backward = part.direction == "forward+backward"
    inputs = [x.requires_grad_(backward) for x in (query, key, value)]

    calls: dict[str, Callable[[], object]] = {}
    first: dict[str, dict[str, Any]] = {}
    outputs: dict[str, Tensor] = {}
    missing: list[dict[str, Any]] = []
    once = 0.0
    torch._dynamo.reset()  # else the limit on recompilations leaves later shapes uncompiled
    wanted = [
        (name, size)
        for name in METHODS
        if name not in skip
        for size in (block_sizes[:1] if name in WITHOUT_BLOCKS else block_sizes)
    ]
    for name, block_size in wanted:
        label = _label(name, block_size)
        if reason := left_out(name, part):
            missing.append(_missing(part, name, block_size, reason))
            continue
        try:
            made = METHODS[name](query, key, value, block_size)
            call: Callable[[], Any] = made.call
            if backward:
                call = _with_backward(made.call, inputs, slope)
            found = _first_call(name, call)
        except Exception as error:
            if name not in PEERS:
                raise
            lines = str(error).splitlines() or [""]  # optional, so say why and go on
            missing.append(_missing(part, name, block_size, f"{type(error).__name__}: {lines[0]}"))
            continue
        output = found.pop("output")
        output = outputs[label] = torch.stack(output) if backward else output
        if part.length <= CHECKED_LONGEST and not backward:
            same_pattern(name, output, reference(name, inputs, block_size))
        elif name != "sliding":  # which has no other of its pattern to be compared with
            same = "dense" if name in WITHOUT_BLOCKS else _label("block", block_size)
            same_pattern(name, output, outputs[same], 1e-3 if backward else 1e-4)
        once += found.pop("once")
        found["peak_bytes"] += made.holds
        first[label], calls[label] = found, call

    outputs.clear()
    turns = max(3, min(rounds, int(seconds / once)))
    result = compare(calls, baseline="dense", repeats=turns, warmup=1, min_time=0.005)
    return rows_of(result, part, block_sizes, first), missing


def _label(name: str, block_size: int) -> str:
    return name if name in WITHOUT_BLOCKS else f"{name} {block_size}"


def _missing(part: Part, name: str, block_size: int, reason: str) -> dict[str, Any]:
    size = None if name in WITHOUT_BLOCKS else block_size
    return {"name": name, **part._asdict(), "block_size": size, "reason": reason}


def _with_backward(
    call: Call, inputs: Sequence[Tensor], slope: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The forward pass, and backwards to the gradients of all inputs."""
    return lambda: torch.autograd.grad(call(), inputs, slope)


def _first_call(name: str, call: Callable[[], object]) -> dict[str, Any]:
    """Call once or, where there is something to compile, twice: output, time, most memory held."""
    found: dict[str, Any] = {}
    if name == "flex":
        start = time.perf_counter()
        with torch._inductor.config.patch(force_disable_caches=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that the caches are off
            call()
        found["compile_seconds"] = round(time.perf_counter() - start, 1)

    def timed() -> None:
        start = time.perf_counter()
        found["output"] = call()
        found["once"] = time.perf_counter() - start

    found["peak_bytes"] = peak_memory(timed)
    return found


def ratio(result: Comparison, name: str, over: str) -> dict[str, Any]:
    """How many times faster ``name`` is than ``over``: median, quartiles, and if noise decides."""
    low, high = result.spread(name, over)
    return {
        "ratio": _digits(result.speedup(name, over)),
        "low": _digits(low),
        "high": _digits(high),
        "noisy": result.noisy(name, over),
    }


def rows_of(
    result: Comparison,
    part: Part,
    block_sizes: Sequence[int],
    first: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One row for each method and block size: its speedup over dense SDPA, ours over it.

    ``limit`` is all causal pairs divided by those that the pattern keeps; ``share`` is the part of
    it that was reached. ``first`` adds what was seen before the rounds, by the label of a function.
    """
    dense_pairs = live_pairs(part.length, block_size=part.length)
    rows = []
    for block_size in block_sizes:
        for name in METHODS:
            label = _label(name, block_size)
            if label not in result.times:
                continue
            pairs = live_pairs(part.length, block_size=block_size)
            pattern = {}
            if name == "sliding":
                pattern["window"] = window(block_size)
                pairs = sliding_pairs(part.length, window(block_size))
            over_dense = ratio(result, label, "dense")
            rows.append(
                {
                    "name": name,
                    **part._asdict(),
                    "block_size": block_size,
                    **pattern,
                    "seconds": _digits(result.seconds(label)),
                    **over_dense,
                    "limit": dense_pairs / pairs,
                    "share": _digits(over_dense["ratio"] * pairs / dense_pairs),
                    "rounds": result.rounds,
                    "block_over_this": ratio(result, f"block {block_size}", label),
                    **(first or {}).get(label, {}),
                }
            )
    return rows


def sliding_pairs(length: int, window: int) -> int:
    """Pairs of a query and one of the ``window`` keys that end with its own.

    >>> sliding_pairs(4, 2)  # 1 + 2 + 2 + 2
    7
    """
    window = min(window, length)
    return window * (window + 1) // 2 + (length - window) * window


def _digits(number: float) -> float:
    return float(f"{number:.4g}")


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


def source() -> str:
    """A digest of the measured code: results of one run must all be of the same."""
    names = ("effedu/attention.py", "effedu/blocking.py", "effedu/bench.py", "tools/bench.py")
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in names)).hexdigest()[:16]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write as a whole or not at all: an interrupted run leaves the former file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _text(data)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's default is for the owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _text(data: Mapping[str, Any]) -> str:
    """JSON with one measurement a line: short, and what changed shows as lines that changed."""
    entries = []
    for key, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            items = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            text = f"[\n{items}\n ]"
        entries.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def begin(output: Path, heading: dict[str, Any], *, restart: bool) -> dict[str, Any]:
    """What an interrupted run left in ``output``, if the same run would go on; else a new start."""
    fresh = {
        **heading,
        "complete": False,
        "parts": [],
        "attention": [],
        "missing": [],
        "start": {},
    }
    if restart or not output.is_file():
        return fresh
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        left = {key: found[key] for key in fresh}
    except (OSError, ValueError, KeyError, TypeError):
        return fresh
    if left["complete"]:
        return fresh
    fixed = [key for key in heading if key not in ("date", "load_before")]
    changed = [key for key in fixed if left[key] != heading[key]]
    if changed:
        print(f"An interrupted run is dropped: {', '.join(changed)} changed since.")
        return fresh
    print(f"Going on behind the {len(left['parts'])} parts of an interrupted run.")
    return left


def parts_of(shapes: Sequence[str], lengths: Sequence[int]) -> list[Part]:
    """All parts, in the order in which they are measured."""
    sizes = [tuple(int(number) for number in shape.split("x")) for shape in shapes]
    return [
        Part(heads, head_dim, direction, length)
        for heads, head_dim in sizes
        for direction in DIRECTIONS
        for length in lengths
        if direction == "forward" or length <= BACKWARD_LONGEST
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: block attention's speedup over each peer, with its quartiles."""
    peers = ("dense", *PEERS)
    lines = [
        f"{'block':>5} {'time':>10} {'peak':>8} {'limit':>7} {'share':>6}"
        + "".join(f"  {'over ' + peer:>20} " for peer in peers)
    ]
    for ours in (row for row in rows if row["name"] == "block"):
        others = {row["name"]: row for row in rows if row["block_size"] == ours["block_size"]}
        cells = [
            _cell(others[peer]["block_over_this"] if peer in others else None) for peer in peers
        ]
        lines.append(
            f"{ours['block_size']:>5} {1000 * ours['seconds']:>7.1f} ms"
            f" {ours['peak_bytes'] / 1e6:>5.0f} MB {ours['limit']:>6.1f}x {ours['share']:>6.0%}"
            + "".join(cells)
        )
    return "\n".join([*lines, f"{rows[0]['rounds']} rounds; ~ marks differences within the noise"])


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return f"  {'-':>20} "
    text = f"{found['ratio']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"
    return f"  {text:>20}{'~' if found['noisy'] else ' '}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a subset, in about two minutes")
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted run left")
    parser.add_argument("--shapes", nargs="+", metavar="HxD", help="these heads x widths only")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="these lengths only")
    parser.add_argument("--blocks", type=int, nargs="+", metavar="B", help="these block sizes only")
    parser.add_argument("--rounds", type=int, default=25, help="at most so many in one part")
    parser.add_argument("--seconds", type=float, default=12, help="time for a part's rounds, about")
    parser.add_argument("--skip", nargs="+", default=[], choices=[*PEERS, "start"])
    parser.add_argument("--threads", type=int, help="PyTorch's threads; its own choice by default")
    parser.add_argument("--output", type=Path, help="where to write, part by part")
    options = parser.parse_args(arguments)
    narrow = options.quick or options.shapes or options.lengths or options.blocks or options.skip
    options.publish = not narrow and options.output is None
    options.output = options.output or (QUICK if narrow else WORKING)
    options.shapes = options.shapes or (SHAPES[:1] if options.quick else SHAPES)
    options.lengths = options.lengths or ((1024, 4096) if options.quick else LENGTHS)
    options.blocks = options.blocks or ((128,) if options.quick else BLOCK_SIZES)
    if max(options.blocks) >= min(options.lengths):
        parser.error("--blocks must be below all --lengths: one block alone is dense attention")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure part after part, print and write each; publish when all of them are there."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"Other programs keep {load:.1f} cores busy: expect noise, or wait until they end.")
    parts = parts_of(options.shapes, options.lengths)
    asked = {name: list(getattr(options, name)) for name in ("shapes", "lengths", "blocks", "skip")}
    heading = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "load_before": round(load, 1),
        "versions": versions(),
        "source": source(),
        "setting": {"batch": 1, "dtype": "float32", "causal": True, "blocks_back": 1},
        "asked": {**asked, "rounds": options.rounds, "seconds": options.seconds},
    }
    results = begin(options.output, heading, restart=options.restart)
    say = functools.partial(print, flush=True)
    for number, part in enumerate(parts, 1):
        if any(Part(*(done[name] for name in Part._fields)) == part for done in results["parts"]):
            continue
        say(f"\n[{number}/{len(parts)}] {part}: checking, compiling, measuring …")
        begun = time.perf_counter()
        rows, missing = measure_part(
            part, options.blocks, options.rounds, options.seconds, options.skip
        )
        took = round(time.perf_counter() - begun, 1)
        results["parts"].append({**part._asdict(), "took_seconds": took})
        results["attention"] += rows
        results["missing"] += missing
        write_json(options.output, results)
        say(f"{table(rows)}; {took:.0f} s")
        for reason in dict.fromkeys(f"without {m['name']}: {m['reason']}" for m in missing):
            say(reason)
    if "start" not in options.skip and not options.quick:
        results["start"] = measure_start(rounds=7)
        for name, value in results["start"].items():
            say(f"{name}: {value['ratio'] if isinstance(value, dict) else value}")
    results["complete"] = True
    write_json(options.output, results)
    if options.publish:
        write_json(PUBLISHED, results)
    say(f"written to {PUBLISHED if options.publish else options.output}")


if __name__ == "__main__":
    main()
