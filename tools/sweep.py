"""Measure every method, and combinations, on the whole embedded language model.

Reading N tokens into a KV cache with the logits of the last one, as ``generate`` does, and writing
tokens after them: time and memory as ratios to the dense model in float32, and what the
predictions lose. Each time is from one interleaved run of all configurations of a phase and
length, on one thread.

    python -m tools.sweep                    every part that is missing, then the published file
    python -m tools.sweep --parts time share
    python -m tools.sweep --add              only what the published file lacks

What is done stands in ``--work``, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import effedu
from effedu import patch
from effedu.bench import Comparison, machine, peak_memory
from effedu.calibration import input_statistics
from effedu.compression import prune_neurons
from effedu.linears import nbytes
from effedu.lm import LanguageModel, heldout_text, load_lm, recall_passages
from effedu.patterns import DenseAttention
from effedu.report import _layer_bytes, _shared_copy
from effedu.tradeoffs import SWEEP, sweep
from tools.bench import write_json

VERSION = 1
READ_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
WRITE_LENGTHS = (512, 2048, 8192, 16384)
CALIBRATION = 4096  # first tokens of the held-out text, which no quality is measured on
# Tokens behind them that quality is measured on, in windows side by side: most for the longest
# context of the training, whose figures count most.
QUALITY = {4096: 32768, 8192: 16384}
QUALITY_ELSEWHERE = 8192
WRITTEN = 128  # tokens that are written, and scored, after each context
LONGEST_CONTEXT = 2048
CONTEXTS = 8  # texts that are continued
STEPS = 4  # tokens written at each turn of a timing
KINDS = ("time", "share", "memory", "quality", "recall")


@dataclass(frozen=True)
class Configuration:
    """A line of Python that makes a cheaper model, and how it is named.

    ``call`` is evaluated where ``effedu``, ``lm``, everything of :mod:`effedu.patch`,
    ``prune_neurons`` and ``statistics`` (of each linear layer's inputs) are known.
    """

    label: str
    method: tuple[str, ...]
    call: str
    chunk: int | None = None  # tokens read at once; None: all

    @property
    def shown(self) -> str:
        """The call, and what to tell ``generate`` if the text is read in chunks."""
        if self.chunk is None:
            return self.call
        return f"{self.call}  # then generate(ids, prefill_chunk_size={self.chunk})"


def _patched(arguments: str, model: str = "lm.model") -> str:
    return f"effedu.patched({model}, {arguments})"


def _in_chunks(configuration: Configuration, chunk: int) -> Configuration:
    return Configuration(
        f"{configuration.label}, chunks of {chunk:,}",
        (*(m for m in configuration.method if m != "dense"), "chunks"),
        configuration.call,
        chunk,
    )


def _part(label: str, method: str, argument: str) -> Configuration:
    return Configuration(label, (method,), _patched(argument))


def _both(attention: str, linear: str, methods: tuple[str, str]) -> Configuration:
    call = _patched(f"attention={attention}, linear={linear}()")
    return Configuration(f"{attention} + {linear}", methods, call)


_DENSE = Configuration("dense", ("dense",), "lm.model")
_FEWER = "prune_neurons(lm.model, 896, statistics=statistics)"
_BLOCKS = {n: _part(f"block({n})", "blocking", f"attention=block({n})") for n in (64, 128, 256)}
_TOPK = {
    k: _part(f"block_topk(64, k={k})", "pruning", f"attention=block_topk(64, k={k})")
    for k in (4, 8)
}
_LINEARS = (
    _part("int8", "int8", "linear=int8()"),
    _part("int4", "int4", "linear=int4(64)"),
    _part("low rank, 75 %", "low rank", "linear=low_rank(0.75, statistics=statistics)"),
    Configuration("896 of 1,024 neurons", ("neurons",), _FEWER),
)
_WIDE = _part("block(128, blocks_back=3)", "blocking", "attention=block(128, blocks_back=3)")
_BLOCK_INT8 = {n: _both(f"block({n})", "int8", ("blocking", "int8")) for n in (64, 128, 256)}
_WIDE_INT8 = _both("block(128, blocks_back=3)", "int8", ("blocking", "int8"))
_TOPK_INT8 = _both("block_topk(64, k=8)", "int8", ("pruning", "int8"))
_ALL_THREE = Configuration(
    "block(64) + int8 + 896 neurons",
    ("blocking", "int8", "neurons"),
    _patched("attention=block(64), linear=int8()", _FEWER),
)
_ATTENTIONS = {each.call for each in (_DENSE, *_BLOCKS.values(), _WIDE, *_TOPK.values())}
READ = (
    _DENSE,
    *_BLOCKS.values(),
    _WIDE,
    *_TOPK.values(),
    *_LINEARS,
    _BLOCK_INT8[128],
    _BLOCK_INT8[256],
    _TOPK_INT8,
    _in_chunks(_DENSE, 2048),
    _in_chunks(_BLOCKS[128], 2048),
    *(_in_chunks(each, 2048) for each in _BLOCK_INT8.values()),
    _in_chunks(_WIDE_INT8, 2048),
    _in_chunks(_WIDE_INT8, 4096),
    _in_chunks(_TOPK_INT8, 2048),
    _in_chunks(_ALL_THREE, 2048),
)
WRITE = (
    _DENSE,
    _BLOCKS[128],
    _BLOCKS[256],
    _TOPK[8],
    *_LINEARS,
    _part("quantized cache, 8 bits", "kv", "cache=quantized(8)"),
    _part("quantized cache, 4 bits", "kv", "cache=quantized(4)"),
    _part("streaming(256)", "pruning", "cache=streaming(256)"),
    _part("streaming(512)", "pruning", "cache=streaming(512)"),
    _part("heavy_hitters(512)", "pruning", "cache=heavy_hitters(512, recent=256)"),
    _BLOCK_INT8[256],
    Configuration(
        "streaming(512) + int8",
        ("pruning", "int8"),
        _patched("cache=streaming(512), linear=int8()"),
    ),
    Configuration(
        "quantized cache, 4 bits + int8",
        ("kv", "int8"),
        _patched("cache=quantized(4), linear=int8()"),
    ),
)
CONFIGURATIONS = {"read": READ, "write": WRITE}
LENGTHS = {"read": READ_LENGTHS, "write": WRITE_LENGTHS}


def measured(phase: str, length: int) -> list[Configuration]:
    """The configurations of a phase at a length.

    Chunks only where there are several of them, and the longest text, which dense attention reads
    slowly, is read by nothing that leaves attention as it is.
    """
    return [
        each
        for each in CONFIGURATIONS[phase]
        if (each.chunk is None or each.chunk < length)
        and (phase == "write" or length < 16384 or each is _DENSE or "attention=" in each.call)
    ]


class Bench:
    """The model, the text, and the statistics that some methods ask for."""

    def __init__(self, calibration: int = CALIBRATION) -> None:
        self.lm = load_lm()
        self.ids = torch.tensor(self.lm._encode(heldout_text())[0])
        opening = self.ids[None, :calibration]
        self.statistics = input_statistics(
            self.lm.model, lambda: self.lm.model(opening, use_cache=False)
        )

    def opened(self, call: str, stack: ExitStack) -> Any:
        """The model that a call makes, apart from all others, while the stack is open."""
        own = dataclasses.replace(self.lm, model=_shared_copy(self.lm.model))
        names = {name: getattr(patch, name) for name in patch.__all__}
        names |= {"effedu": effedu, "prune_neurons": prune_neurons, "statistics": self.statistics}
        found = eval(call, {**names, "lm": own})
        return stack.enter_context(found) if hasattr(found, "__enter__") else found


# --- What is measured --------------------------------------------------------------------------


def read(model: Any, row: Tensor, chunk: int | None = None) -> Any:
    """Read ``(1, length)`` tokens into a cache, logits for the last one of each chunk."""
    cache = None
    for piece in row.split(chunk or row.shape[1], dim=1):
        cache = model(
            piece, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).past_key_values
    return cache


def write(model: Any, token: Tensor, cache: Any, steps: int = 1) -> None:
    """Write ``steps`` tokens after what the cache holds."""
    for _ in range(steps):
        model(token, past_key_values=cache, use_cache=True)


def time_part(bench: Bench, phase: str, length: int, rounds: int) -> dict[str, Any]:
    """Ratios of all configurations from one interleaved run, with their quartiles."""
    row = bench.ids[None, :length]
    calls: dict[str, Callable[[], object]] = {}
    with torch.no_grad(), ExitStack() as stack:
        for each in measured(phase, length):
            model = bench.opened(each.call, stack)
            read(model, row[:, :128])
            if phase == "read":
                calls[each.label] = partial(read, model, row, each.chunk)
            else:
                calls[each.label] = partial(write, model, row[:, -1:], read(model, row), STEPS)
                calls[each.label]()
        found = Comparison(processor_times(calls, rounds), "dense")
    times = {}
    for name in calls:
        low, high = found.spread(name)
        times[name] = {
            "time": _digits(found.ratio(name)),
            "time_spread": [_digits(1 / high), _digits(1 / low)],
        }
    return times


def processor_times(
    calls: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Seconds of the processor for each call, in turns, in random order in each round.

    On one thread they leave out what other programs take, as the time of day does not.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            begun = time.process_time()
            calls[name]()
            times[name].append(time.process_time() - begun)
    return {name: tuple(each) for name, each in times.items()}


def memory_part(bench: Bench, phase: str, length: int, each: Configuration) -> int:
    """Bytes of the weights that the model keeps, and of what is there beside them.

    Reading: the most that the pass holds at once, the cache that it builds included. Writing: the
    cache, which is all that stays from one token to the next.
    """
    row = bench.ids[None, :length]
    with torch.no_grad(), ExitStack() as stack:
        model = bench.opened(each.call, stack)
        read(model, row[:, :128])  # some kernels bring their weights into another order once
        if phase == "read":
            return nbytes(model) + peak_memory(lambda: read(model, row, each.chunk))
        cache = read(model, row)
        write(model, row[:, -1:], cache)
        return nbytes(model) + sum(_layer_bytes(layer) for layer in cache.layers)


PARTS_OF_TIME = {
    "attention": ("scaled_dot_product", "bmm"),
    "linear layers": ("addmm", "aten::mm", "quantized::linear"),
    "rounding of inputs": ("abs", "amax", "div", "lerp", "clamp"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm",),
    "copies": ("cat", "copy_", "index", "gather", "pad"),
}


def part_times(bench: Bench, length: int, each: Configuration, passes: int = 4) -> dict[str, float]:
    """Shares of the time of a pass by what PyTorch's profiler says it computed.

    Of several passes each part's least time counts, which other programs have disturbed least.
    """
    row = bench.ids[None, :length]
    spent = dict.fromkeys([*PARTS_OF_TIME, "rest"], math.inf)
    with torch.no_grad(), ExitStack() as stack:
        model = bench.opened(each.call, stack)
        read(model, row[:, :128])
        for _ in range(passes):
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                read(model, row, each.chunk)
            found = dict.fromkeys(spent, 0.0)
            for event in profiler.key_averages():
                fits = (k for k, ops in PARTS_OF_TIME.items() if any(op in event.key for op in ops))
                found[next(fits, "rest")] += event.self_cpu_time_total
            spent = {name: min(least, found[name]) for name, least in spent.items()}
    return {name: _digits(time / sum(spent.values())) for name, time in spent.items()}


class NoAttention(DenseAttention):
    """Hands every token its own value: what a model costs without attention."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return value[:, :, -query.shape[2] :]


def attention_share(bench: Bench, length: int, rounds: int) -> float:
    """The share of dense attention in the time of reading: what is saved by leaving it out."""
    row = bench.ids[None, :length]
    own = _shared_copy(bench.lm.model)
    with torch.no_grad(), patch.patched(own, NoAttention()) as without:
        calls: dict[str, Callable[[], object]] = {
            "dense": partial(read, bench.lm.model, row),
            "without": partial(read, without, row),
        }
        found = Comparison(processor_times(calls, rounds), "dense")
    return _digits(1 - found.ratio("without"))


def read_quality(bench: Bench, length: int, call: str) -> tuple[float, Tensor]:
    """Nats of the predictions in windows of ``length`` tokens side by side, and first choices."""
    nats, choices = 0.0, []
    with torch.no_grad(), ExitStack() as stack:
        model = bench.opened(call, stack)
        for row, targets in windows(bench.ids, length):
            logits = model(row, use_cache=False).logits  # (windows, length, vocab)
            nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            choices.append(logits.argmax(-1).flatten())
    return nats, torch.cat(choices)


def scored(length: int) -> int:
    """Tokens whose successors are scored, in windows of this length."""
    return max(length, QUALITY.get(length, QUALITY_ELSEWHERE) // length * length)


def windows(ids: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of the text behind the calibration, and what follows each token, up to 8,192 at once."""
    count = scored(length) // length
    text = ids[CALIBRATION : CALIBRATION + count * length + 1]
    rows, targets = text[:-1].view(count, length), text[1:].view(count, length)
    at_once = max(1, 8192 // length)
    yield from zip(rows.split(at_once), targets.split(at_once), strict=True)


def write_quality(bench: Bench, context: int, call: str) -> tuple[float, Tensor]:
    """The same for ``WRITTEN`` tokens after each of some contexts, read back one at a time."""
    size = context + WRITTEN + 1
    starts = torch.linspace(CALIBRATION, len(bench.ids) - size, CONTEXTS).long()
    rows = bench.ids[starts[:, None] + torch.arange(size)]  # (contexts, size)
    nats, choices = 0.0, []
    with torch.no_grad(), ExitStack() as stack:
        model = bench.opened(call, stack)
        cache = model(rows[:, :context], use_cache=True, logits_to_keep=1).past_key_values
        for i in range(context, context + WRITTEN):
            output = model(rows[:, i : i + 1], past_key_values=cache, use_cache=True)
            logits = output.logits[:, 0]  # (contexts, vocab)
            nats += F.cross_entropy(logits, rows[:, i + 1], reduction="sum").item()
            choices.append(logits.argmax(-1))
    return nats, torch.cat(choices)


def recall_part(bench: Bench, call: str) -> dict[str, float]:
    """Share of facts that the model finds again, by the tokens between fact and question."""
    found: dict[str, list[bool]] = {}
    with ExitStack() as stack:
        lm = dataclasses.replace(bench.lm, model=bench.opened(call, stack))
        for passage in recall_passages():
            right = lm.predicts(passage["prompt"], passage["answer"])
            found.setdefault(str(passage["target_distance"]), []).append(right)
    return {distance: _digits(sum(hits) / len(hits)) for distance, hits in found.items()}


def _digits(number: float) -> float:
    return float(f"{number:.4g}")


# --- Part by part ------------------------------------------------------------------------------

Parts = dict[str, dict[str, Any]]  # by the part's name, then by label or call
PROFILED = (_DENSE, _BLOCKS[128], _WIDE, _in_chunks(_WIDE_INT8, 4096))


def quality_length(bench: Bench, phase: str, length: int) -> int:
    """Where the quality of a row is measured: at its length, if that was trained and is quick."""
    return min(length, trained(bench.lm) if phase == "read" else LONGEST_CONTEXT)


def trained(lm: LanguageModel) -> int:
    """The longest context of the model's training."""
    limit = lm.context_length
    assert limit is not None
    return limit


def jobs(bench: Bench, rounds: int) -> Iterator[tuple[str, str, str, Callable[[], Any]]]:
    """Everything there is to do: the kind, the part, the entry in it (or all), and the work."""
    for phase, lengths in LENGTHS.items():
        for length in lengths:
            work = partial(time_part, bench, phase, length, rounds)
            yield "time", f"time {phase} {length}", "*", work
    for length in READ_LENGTHS:
        yield "share", "attention", str(length), partial(attention_share, bench, length, rounds)
    for each in PROFILED:
        yield "share", "time_by_part", each.label, partial(part_times, bench, 8192, each)
    for phase, lengths in LENGTHS.items():
        for length in lengths:
            for each in measured(phase, length):
                work = partial(memory_part, bench, phase, length, each)
                yield "memory", f"memory {phase} {length}", each.label, work
    for phase, lengths in LENGTHS.items():
        quality = read_quality if phase == "read" else write_quality
        calls: dict[int, dict[str, None]] = {}  # by the length that quality is measured at
        for length in lengths:
            here = calls.setdefault(quality_length(bench, phase, length), {})
            here.update(dict.fromkeys(each.call for each in measured(phase, length)))
        if phase == "read":
            attentions = [each.call for each in READ if each.call in _ATTENTIONS]
            calls[2 * trained(bench.lm)] = dict.fromkeys(attentions)
        for length, some in calls.items():
            reference = _Once(partial(quality, bench, length, _DENSE.call))
            for call in some:
                own = partial(quality, bench, length, call) if call != _DENSE.call else reference
                work = partial(_against, reference, own)
                yield "quality", f"quality {phase} {length}", call, work
    for call in dict.fromkeys(each.call for each in READ):
        yield "recall", "recall", call, partial(recall_part, bench, call)


class _Once:
    """A function that is called at most once, when somebody first asks."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.found = function, None

    def __call__(self) -> Any:
        if self.found is None:
            self.found = self.function()
        return self.found


def _against(reference: Callable[[], Any], quality: Callable[[], Any]) -> dict[str, float]:
    (nats, choices), (own_nats, own_choices) = reference(), quality()
    same = (own_choices == choices).double().mean().item()
    return {"bits": round(own_nats / nats - 1, 6), "agreement": round(same, 5), "nats": own_nats}


def run(
    work: Path, kinds: Iterable[str], rounds: int, match: str, say: Callable[[str], None]
) -> Parts:
    """Do what is missing of these kinds, and write ``work`` after each entry."""
    parts = begun(work)
    bench = Bench()
    for kind, part, entry, job in jobs(bench, rounds):
        done = parts.setdefault(part, {})
        if kind not in kinds or match not in part or (done if entry == "*" else entry in done):
            continue
        result = job()
        done.update(result if entry == "*" else {entry: result})
        write_json(work, parts)
        say(f"{part}: {entry} {result}")
    return parts


def begun(work: Path) -> Parts:
    """What an interrupted run has left."""
    if not work.is_file():
        return {}
    try:
        parts: Parts = json.loads(work.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"work must be a file of this tool, got {work}: {error}") from None
    return parts


def published(path: Path) -> Parts:
    """The parts that the published file was made of, ratios in place of bytes."""
    found = sweep(path)
    here = {**machine(), "threads": found["machine"]["threads"]}
    if here != found["machine"]:
        raise ValueError(
            f"output must come from this machine to be added to: {path} comes from "
            f"{found['machine']}, this one is {here}"
        )
    parts: Parts = {"attention": found["attention_share"], "time_by_part": found["time_by_part"]}
    calls: dict[str, str] = {}  # by label
    for row in found["rows"]:
        phase, length, label = row["phase"], row["length"], row["label"]
        call = row["call"].partition("  #")[0]
        calls.setdefault(label.partition(", chunks")[0], call)
        times = {name: row[name] for name in ("time", "time_spread")}
        parts.setdefault(f"time {phase} {length}", {})[label] = times
        parts.setdefault(f"memory {phase} {length}", {})[label] = row["memory"]
        where = row["bits_length"] - (WRITTEN if phase == "write" else 0)
        quality = {name: row[name] for name in ("bits", "agreement")}
        parts.setdefault(f"quality {phase} {where}", {})[call] = quality
    for row in found["beyond"]:
        quality = {name: row[name] for name in ("bits", "agreement")}
        quality["nats"] = row["nats_per_token"] * scored(row["length"])
        parts.setdefault(f"quality read {row['length']}", {})[calls[row["label"]]] = quality
    parts["recall"] = {calls[label]: found for label, found in found["recall"].items()}
    return parts


def missing(bench: Bench, parts: Parts) -> list[str]:
    """What is still to be measured before the file can be published."""
    return [
        f"{part}: {entry}"
        for _, part, entry, _ in jobs(bench, 3)
        if not (parts.get(part) if entry == "*" else entry in parts.get(part, {}))
    ]


def assemble(bench: Bench, parts: Parts) -> dict[str, Any]:
    """The published file from the parts."""
    rows = []
    for phase, lengths in LENGTHS.items():
        for length in lengths:
            where = quality_length(bench, phase, length)
            memory = parts[f"memory {phase} {length}"]
            for each in measured(phase, length):
                quality = parts[f"quality {phase} {where}"][each.call]
                row = {
                    "method": list(each.method),
                    "label": each.label,
                    "call": each.shown,
                    "phase": phase,
                    "length": length,
                    **parts[f"time {phase} {length}"][each.label],
                    "memory": _digits(memory[each.label] / memory["dense"]),
                    "bits": quality["bits"],
                    "agreement": quality["agreement"],
                    "bits_length": where + (WRITTEN if phase == "write" else 0),
                }
                rows.append(row | ({"chunk": each.chunk} if each.chunk else {}))
    labels: dict[str, str] = {}  # by call, the shortest one: that of the text read at once
    for each in READ:
        labels.setdefault(each.call, each.label.partition(", chunks")[0])
    beyond = [
        {"label": labels[call], "length": length, **{k: found[k] for k in ("bits", "agreement")}}
        | {"nats_per_token": _digits(found["nats"] / scored(length))}
        for length in (trained(bench.lm), 2 * trained(bench.lm))
        for call, found in parts[f"quality read {length}"].items()
        if call in _ATTENTIONS
    ]
    return {
        "version": VERSION,
        "machine": machine(),
        "trained_context": trained(bench.lm),
        "attention_share": parts["attention"],
        "time_by_part": parts["time_by_part"],
        "beyond": beyond,
        "recall": {labels[call]: found for call, found in parts["recall"].items()},
        "rows": rows,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--parts", nargs="+", default=list(KINDS), metavar="KIND", help="which")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts with this in their name")
    parser.add_argument("--rounds", type=int, default=5, help="of each timing, 3 or more")
    parser.add_argument("--add", action="store_true", help="begin with what --output holds")
    parser.add_argument("--work", type=Path, default=Path("work/sweep.json"), help="what is done")
    parser.add_argument("--output", type=Path, default=SWEEP, help="published when all is there")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(KINDS)):
        parser.error(f"--parts must be of {', '.join(KINDS)}, got {', '.join(unknown)}")
    if options.rounds < 3:
        parser.error(f"--rounds must be at least 3, got {options.rounds}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing; publish when nothing is."""
    options = parse(arguments)
    torch.set_num_threads(1)
    say = partial(print, flush=True)
    if options.add and not options.work.exists():
        write_json(options.work, published(options.output))
    parts = run(options.work, options.parts, options.rounds, options.only, say)
    bench = Bench()
    if left := missing(bench, parts):
        say(f"{len(left)} still to measure, such as {left[0]}")
        return
    write_json(options.output, assemble(bench, parts))
    say(f"written to {options.output}")


if __name__ == "__main__":
    main()
