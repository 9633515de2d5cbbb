"""What makes your own model cheaper: every method measured on it, on your text, side by side.

The methods stand in copies of the model that share its numbers, so that all of them can take turns
in one interleaved run (:func:`effedu.bench.compare`). ``python -m effedu report`` writes what
:func:`measure` finds as a page.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from effedu._checks import check_int
from effedu.bench import Comparison, compare, machine
from effedu.linears import convert, nbytes
from effedu.lm import LanguageModel
from effedu.patch import block, block_topk, int4, int8, patched, quantized

# The parts that a configuration may have, by what one writes in Python to get them.
PARTS: dict[str, Any] = {
    "block(128)": block(128),
    "block_topk(64, k=8)": block_topk(64, k=8),
    "int8()": int8(),
    "int4(64)": int4(64),
    "quantized(4)": quantized(4),
}
SHORTEST = 128  # tokens; less says nothing about speed
_WRITES = 4  # tokens that are written at each turn; one alone takes too little time to trust
_WARMUP = 2  # calls before anything is timed
_ROUNDS = 14  # at most
_SPARE = _WRITES * (_WARMUP + _ROUNDS)  # places of the window for the tokens that are written
_CHUNK = 64  # tokens that a cache is given at once when its quality is measured


@dataclass(frozen=True)
class Configuration:
    """Which parts of a model are replaced; each is a key of ``PARTS``, or empty."""

    attention: str = ""
    linear: str = ""
    cache: str = ""

    @property
    def name(self) -> str:
        """Its parts, or ``"dense"`` if there are none."""
        return " + ".join(filter(None, (self.attention, self.linear, self.cache))) or "dense"

    @property
    def code(self) -> str:
        """The Python that does the same to ``lm.model``.

        >>> print(Configuration("block(128)", linear="int8()").code)
        from effedu.patch import block, convert, int8, patched
        <BLANKLINE>
        convert(lm.model, int8())  # for good
        with patched(lm.model, block(128)) as fast:
            ...
        """
        if self == Configuration():
            return "# nothing: leave the model as it is"
        lines = [f"convert(lm.model, {self.linear})  # for good"] if self.linear else []
        inside = [self.attention] if self.attention else []
        inside += [f"cache={self.cache}"] if self.cache else []
        if inside:
            lines += [f"with patched(lm.model, {', '.join(inside)}) as fast:", "    ..."]
        parts = [part.split("(")[0] for part in (self.attention, self.linear, self.cache) if part]
        parts += ["convert"] * bool(self.linear) + ["patched"] * bool(inside)
        return "\n".join([f"from effedu.patch import {', '.join(sorted(parts))}", "", *lines])


CONFIGURATIONS = (
    Configuration(),
    Configuration("block(128)"),
    Configuration("block_topk(64, k=8)"),
    Configuration(linear="int8()"),
    Configuration(linear="int4(64)"),
    Configuration(cache="quantized(4)"),
    Configuration("block(128)", linear="int8()"),
    Configuration("block(128)", linear="int4(64)"),
    Configuration(linear="int8()", cache="quantized(4)"),
)


@dataclass(frozen=True)
class Result:
    """What one configuration costs in memory (bytes) and in quality."""

    configuration: Configuration
    weights: int
    kv_cache: int  # after reading the prompt
    bits_per_byte: float
    agreement: float  # share of tokens at which its first choice is that of the dense model

    @property
    def memory(self) -> int:
        """Weights and cache together."""
        return self.weights + self.kv_cache


@dataclass(frozen=True)
class Report:
    """What :func:`measure` found. Names are those of the configurations, ``"dense"`` among them."""

    model: str
    description: str
    length: int  # tokens read
    new_tokens: int  # tokens that the job writes after them
    scored_tokens: int  # of the text, for the bits per byte
    loss: float  # more bits per byte that are accepted, as a share
    times: Comparison  # of "read …" and "write …"
    results: dict[str, Result]
    skipped: dict[str, str]  # why a configuration can't be had
    machine: dict[str, str | int]
    prompt: str = ""
    samples: dict[str, str] = field(default_factory=dict)  # what follows, by configuration

    @cached_property
    def job(self) -> Comparison:
        """Seconds to read ``length`` tokens and write ``new_tokens``, from the same rounds."""
        times = {}
        for name in self.results:
            reading, writing = (self.times.times[f"{what} {name}"] for what in ("read", "write"))
            times[name] = tuple(
                read + self.new_tokens * write for read, write in zip(reading, writing, strict=True)
            )
        return Comparison(times, "dense")

    def ratio(self, what: str, name: str) -> float:
        """Time to ``"read"`` or to ``"write"`` as a share of the dense model's."""
        return self.times.ratio(f"{what} {name}", over=f"{what} dense")

    @property
    def good_enough(self) -> list[str]:
        """Configurations that need at most ``loss`` more bits per byte than the dense model."""
        most = (1 + self.loss) * self.results["dense"].bits_per_byte
        return [name for name, result in self.results.items() if result.bits_per_byte <= most]

    @property
    def fastest(self) -> str:
        """Of those, the one that does the job in the least time; dense, if that is within noise."""
        name = min(self.good_enough, key=self.job.ratio)
        return name if self.job.ratio(name) < 1 and not self.job.noisy(name) else "dense"

    @property
    def smallest(self) -> str:
        """Of those, the one that needs the least memory."""
        return min(self.good_enough, key=lambda name: self.results[name].memory)


def measure(
    lm: LanguageModel,
    text: str,
    *,
    length: int | None = None,
    new_tokens: int = 100,
    loss: float | int = 0.01,
    rounds: int = 7,
    windows: int = 3,
    configurations: Iterable[Configuration] = CONFIGURATIONS,
    progress: bool = False,
) -> Report:
    """Try every configuration on a model: time, memory, and quality on a text.

    A configuration whose parts the model can't take is skipped, and the report says why.

    Args:
        lm: the model and its tokenizer; it is left as it was.
        text: what to read; its first ``windows * length`` tokens count.
        length: tokens that the model reads at once; by default 2,048, or the model's positions, or
            all the tokens of the text, whichever is least. At least 128.
        new_tokens: tokens that the job writes after them; their time is that of one, many times.
        loss: more bits per byte that are accepted, as a share of the dense model's.
        rounds: of the interleaved run, from 3 to 14.
        windows: of the text, for the bits per byte.
        configurations: the first one has to be the dense model.
        progress: show a bar on standard error.

    Raises:
        ValueError: an argument out of range, or a text with too few tokens.

    >>> from effedu.lm import heldout_text, load_lm
    >>> few = CONFIGURATIONS[:2]
    >>> found = measure(load_lm(), heldout_text()[:900], rounds=3, configurations=few)
    >>> list(found.results), found.good_enough[0]
    (['dense', 'block(128)'], 'dense')
    """
    check_int("windows", windows, minimum=1)
    check_int("new_tokens", new_tokens, minimum=1)
    check_int("rounds", rounds, minimum=3)
    if rounds > _ROUNDS:
        raise ValueError(f"rounds must be at most {_ROUNDS}, got {rounds}")
    if not 0 <= loss < 1:
        raise ValueError(f"loss must be from 0 to 1, such as 0.01 for 1 %, got {loss!r}")
    wanted = list(configurations)
    if not wanted or wanted[0] != Configuration():
        raise ValueError(f"configurations must begin with the dense Configuration(), got {wanted}")
    ids, text, length = _opening(lm, text, length, windows)
    row = torch.tensor([ids[:length]], device=lm.device)  # (1, length)

    steps = len(wanted) * (2 + 2 * (_WARMUP + rounds))
    bar = tqdm(total=steps, file=sys.stderr, disable=not progress, leave=False, mininterval=0.5)
    with ExitStack() as stack, torch.no_grad():
        stack.callback(bar.close)
        models, skipped = _variants(lm.model, wanted, stack, bar)
        times, caches = _timed(models, row, rounds, bar)
        results: dict[str, Result] = {}
        readers: dict[str, LanguageModel] = {}
        dense: Tensor | None = None  # the first one's choices
        for name, model in models.items():
            bar.set_description(f"quality of {name}")
            configuration = next(c for c in wanted if c.name == name)
            kind = _ThroughCache if configuration.cache else LanguageModel
            reader = readers[name] = kind(lm.name, model, lm.tokenizer)
            choices = reader._logits(row).argmax(-1)  # (1, length)
            dense = choices if dense is None else dense
            results[name] = Result(
                configuration,
                weights=nbytes(model),
                kv_cache=caches[name],
                bits_per_byte=reader.bits_per_byte(text, length=length),
                agreement=(choices == dense).double().mean().item(),
            )
            bar.update()
        report = Report(
            model=lm.name,
            description=repr(lm),
            length=length,
            new_tokens=new_tokens,
            scored_tokens=len(ids),
            loss=float(loss),
            times=times,
            results=results,
            skipped=skipped,
            machine=machine(),
        )
        prompt = _first(lm, text, min(64, length // 2))[1]
        samples = {
            name: readers[name].generate(prompt, min(30, length // 2))
            for name in dict.fromkeys(["dense", report.fastest, report.smallest])
        }
    return replace(report, prompt=prompt, samples=samples)


# --- Parts of measure --------------------------------------------------------------------------


def _opening(
    lm: LanguageModel, text: str, length: int | None, windows: int
) -> tuple[list[int], str, int]:
    """The tokens to read, their text, and the tokens that are read at once."""
    limit = lm.context_length
    if length is not None:
        check_int("length", length, minimum=SHORTEST)
        if limit is not None and length > limit:
            raise ValueError(f"length must be at most the model's {limit} positions, got {length}")
    longest = length or min(2048, limit or 2048)
    ids, opening = _first(lm, text, windows * longest)
    if len(ids) < (length or SHORTEST):
        raise ValueError(
            f"text must hold at least {length or SHORTEST} tokens, got {len(ids)}: {text[:20]!r}"
        )
    return ids, opening, min(longest, len(ids))


def _first(lm: LanguageModel, text: str, tokens: int) -> tuple[list[int], str]:
    """The first tokens of a text, as numbers and as text."""
    encoding = lm.tokenizer(
        text[: 20 * tokens],  # a book need not be read to its end
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ends = [end for _, end in encoding["offset_mapping"][:tokens]]
    return encoding["input_ids"][:tokens], text[: ends[-1]] if ends else ""


def _variants(
    model: PreTrainedModel, configurations: list[Configuration], stack: ExitStack, bar: Any
) -> tuple[dict[str, PreTrainedModel], dict[str, str]]:
    """A model for each configuration, patched while the stack is open; and why others failed."""
    converted = {"": model}
    models, skipped = {}, {}
    for configuration in configurations:
        bar.set_description(f"preparing {configuration.name}")
        bar.update()
        linear, attention, cache = (
            getattr(configuration, part) for part in ("linear", "attention", "cache")
        )
        try:
            if linear not in converted:
                converted[linear] = convert(_shared_copy(model), PARTS[linear])
            found = _shared_copy(converted[linear])
            if attention or cache:
                stack.enter_context(patched(found, PARTS.get(attention), cache=PARTS.get(cache)))
        except ValueError as error:
            skipped[configuration.name] = str(error)
        else:
            models[configuration.name] = found
    return models, skipped


def _shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own, to put other parts in, whose layers are the same objects."""
    layers: dict[int, Any] = {
        id(module): module for module in model.modules() if not any(module.children())
    }
    return copy.deepcopy(model, layers)


def _timed(
    models: dict[str, PreTrainedModel], row: Int[Tensor, "1 length"], rounds: int, bar: Any
) -> tuple[Comparison, dict[str, int]]:
    """Reading the row and writing a token after it, in turns; and the bytes of each cache."""
    calls, sizes = {}, {}
    for name, model in models.items():
        bar.set_description(f"cache of {name}")
        cache = _pass(model, row[:, :-_SPARE], use_cache=True).past_key_values
        sizes[name] = sum(_layer_bytes(layer) for layer in cache.layers)
        calls[f"read {name}"] = partial(_pass, model, row, use_cache=False)
        calls[f"write {name}"] = partial(_write, model, row[:, -1:], cache)
    bar.set_description("timing, in turns")
    watched = {name: _counted(call, bar) for name, call in calls.items()}
    # One call a turn, as each makes the cache longer.
    found = compare(
        watched, repeats=rounds, baseline="read dense", warmup=_WARMUP, min_time=0
    ).times
    for name in models:
        found[f"write {name}"] = tuple(t / _WRITES for t in found[f"write {name}"])
    return Comparison(found, "read dense"), sizes


def _pass(model: PreTrainedModel, row: Int[Tensor, "1 tokens"], **kwargs: Any) -> Any:
    """A forward pass with the logits of the last token, as generation needs them."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kwargs["logits_to_keep"] = 1
    return model(row, **kwargs)


def _write(model: PreTrainedModel, token: Int[Tensor, "1 1"], cache: Any) -> None:
    for _ in range(_WRITES):
        _pass(model, token, use_cache=True, past_key_values=cache)


def _counted(call: Callable[[], object], bar: Any) -> Callable[[], None]:
    def run() -> None:
        call()
        bar.update()

    return run


def _layer_bytes(layer: Any) -> int:
    own = getattr(layer, "nbytes", None)  # of a quantized one
    return int(layer.keys.nbytes + layer.values.nbytes if own is None else own)


class _ThroughCache(LanguageModel):
    """Reads every text through its cache, a few tokens at a time.

    What a cache loses shows only in tokens that are read back from it.
    """

    def _logits(self, rows: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        logits, cache = [], None
        for chunk in torch.split(rows, _CHUNK, dim=1):
            output = self.model(chunk, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
        return torch.cat(logits, dim=1)
