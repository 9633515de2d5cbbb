"""Which hardware for which model? Does it fit, and how many tokens a second at the most.

Reading a prompt keeps the processor busy, writing an answer keeps the memory busy: each token that
is written reads every weight once. Both limits follow from the model's shape (:mod:`effedu.cost`)
and the device's memory, bandwidth and arithmetic (:class:`effedu.hardware.Device`), by the roofline
of Williams et al. (2009). A full model of this kind, for several chips that share a model, is that
of Pope et al. (2022), "Efficiently Scaling Transformer Inference",
https://arxiv.org/abs/2211.05102.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import SimpleNamespace
from typing import Any

import torch

from effedu._checks import check_int
from effedu.cost import Cost, cost
from effedu.hardware import Device

BITS = (4, 8, 16, 32)


def check_bits(name: str, value: int) -> int:
    """Return ``value`` if numbers can be stored in so many bits here, else raise ``ValueError``.

    >>> check_bits("cache_bits", 8)
    8
    """
    if isinstance(value, bool) or value not in BITS:
        raise ValueError(f"{name} must be one of {', '.join(map(str, BITS))}; got {value!r}")
    return value


@cache
def models() -> dict[str, SimpleNamespace]:
    """Shapes of published models by name, from ``effedu/data/models.json``, which cites them.

    :func:`effedu.cost.cost` and :func:`fits` take them like a Hugging Face configuration.

    >>> models()["Llama-3.1-8B"].num_key_value_heads
    8
    """
    text = (resources.files("effedu") / "data" / "models.json").read_text(encoding="utf-8")
    return {m["name"]: SimpleNamespace(**m["config"]) for m in json.loads(text)["models"]}


@dataclass(frozen=True)
class Fit:
    """A model on a device, from :func:`fits`: bytes of memory, and limits that nothing exceeds."""

    device: Device
    length: int
    batch: int
    bits: int
    cache_bits: int
    weights: int
    kv_cache: int  # of `batch` sequences of `length` tokens
    activations: int  # while the prompt is read; an estimate
    flops_per_token: int  # to write the last token
    prefill_tokens_per_second: float | None  # None: the vendor prints no rate of arithmetic
    decode_tokens_per_second: float  # of all sequences together
    decode_bound: str  # what sets the pace: "memory" or "compute"
    advice: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes that must be in memory at once."""
        return self.weights + self.kv_cache + self.activations

    @property
    def fits(self) -> bool | None:
        """Whether they are fewer than the device has; None where that is not known."""
        return None if self.device.memory is None else self.total <= self.device.memory

    def __repr__(self) -> str:
        memory = "unknown" if self.device.memory is None else _gb(self.device.memory)
        answer = {True: "fits", False: "does not fit", None: "may fit"}[self.fits]
        prefill = self.prefill_tokens_per_second
        rows = [
            ("weights", _gb(self.weights)),
            ("KV cache", _gb(self.kv_cache)),
            ("activations", _gb(self.activations)),
            ("together", f"{_gb(self.total)} of {memory}: {answer}"),
            ("FLOP per token", f"{self.flops_per_token / 1e9:,.2f} G"),
            ("reading", "not known" if prefill is None else f"at most {_rate(prefill)}"),
            ("writing", f"at most {_rate(self.decode_tokens_per_second)} ({self.decode_bound})"),
            *(("to change", line) for line in self.advice),
        ]
        title = (
            f"{self.device.name}, {self.bits}-bit weights, batch {self.batch}, "
            f"{self.length:,} tokens"
        )
        return "\n".join([title, *(f"  {name:<16}{text}" for name, text in rows)])


def fits(
    config: Any,
    device: Device,
    *,
    length: int,
    batch: int = 1,
    bits: int = 16,
    cache_bits: int | None = None,
) -> Fit:
    """Ask whether a model fits a device, and how fast it can be there at the most.

    **Memory** holds every parameter in ``bits``, the KV cache of ``batch`` sequences of ``length``
    tokens, and activations. The last are an estimate of what one layer holds while the whole
    prompt is read at once, ``batch · length · 2 (width + inner)`` numbers, and one row of logits
    a sequence; a program that runs every small step by itself holds up to twice as much. Left out
    is what the runtime keeps for itself.

    **Speed** is a limit, never a promise. Reading the prompt (prefill) and writing the last token
    (decode) each take at least the time of :meth:`effedu.hardware.Device.seconds`, with the FLOPs
    and bytes of :func:`effedu.cost.cost`; of the pairs of tokens, those that a causal model needs
    are counted. Activations have 16 bits, or 32 with ``bits=32``. Arithmetic runs at the device's
    best rate, with ``bits=32`` at its float32 rate.

    Args:
        config: a configuration that :func:`effedu.cost.cost` can read, or one of :func:`models`.
        device: one of :func:`effedu.hardware.devices`, or what
            :func:`effedu.hardware.roofline` measured.
        length: tokens per sequence, prompt and answer together.
        batch: sequences at a time.
        bits: of each weight: 4, 8, 16 or 32.
        cache_bits: of each number in the KV cache, likewise; those of an activation if None.

    Raises:
        ValueError: for a configuration that ``cost`` cannot read, or an argument out of range.

    >>> from effedu.hardware import devices
    >>> fits(models()["Llama-3.1-8B"], devices()["NVIDIA RTX 4090"], length=8192).fits
    True
    """
    if not isinstance(device, Device):
        raise ValueError(f"device must be an effedu.hardware.Device, got {device!r}")
    check_int("length", length, minimum=1)
    check_int("batch", batch, minimum=1)
    if cache_bits is None:
        cache_bits = 32 if bits == 32 else 16
    check_bits("bits", bits)
    check_bits("cache_bits", cache_bits)
    found = _fit(config, device, length, batch, bits, cache_bits)
    return replace(found, advice=tuple(_advice(config, found)))


def _fit(config: Any, device: Device, length: int, batch: int, bits: int, cache_bits: int) -> Fit:
    dtype = torch.float32 if bits == 32 else torch.bfloat16
    prefill = cost(config, length, batch=batch, logits_to_keep=1, dtype=dtype)
    decode = cost(config, 1, batch=batch, cached=length - 1, dtype=dtype)

    # A dense model computes all length² pairs, and cost counts them; a causal one needs these.
    needed = prefill.flops.attention * (length + 1) // (2 * length)
    prefill_flops = prefill.flops.total - prefill.flops.attention + needed

    rates = {d: n for d, n in device.peak.items() if bits < 32 or d == "float32"}
    rate = max(rates.values(), default=None)
    moving = _moved(decode, bits, cache_bits) / device.bandwidth
    reading, computing = None, 0.0
    if rate is not None:
        reading = max(prefill_flops / rate, _moved(prefill, bits, cache_bits) / device.bandwidth)
        computing = decode.flops.total / rate
    return Fit(
        device=device,
        length=length,
        batch=batch,
        bits=bits,
        cache_bits=cache_bits,
        weights=prefill.parameters * bits // 8,
        kv_cache=decode.kv_cache_bytes * cache_bits // (8 * dtype.itemsize),
        activations=batch * dtype.itemsize * (length * _numbers_held(config) + config.vocab_size),
        flops_per_token=decode.flops.total // batch,
        prefill_tokens_per_second=None if reading is None else batch * length / reading,
        decode_tokens_per_second=batch / max(moving, computing),
        decode_bound="compute" if computing > moving else "memory",
        advice=(),
    )


def _moved(one_pass: Cost, bits: int, cache_bits: int) -> float:
    """Bytes of a pass whose weights have ``bits``, and the numbers in its cache ``cache_bits``."""
    moved, counted = one_pass.bytes_moved, 8 * one_pass.dtype.itemsize
    cache = moved.kv_cache_read + moved.kv_cache_written
    return (moved.weights * bits + cache * cache_bits) / counted + moved.activations


def _numbers_held(config: Any) -> int:
    """Numbers a token that a layer holds at once: its input, normalised too, and the widest step.

    That step is the feed-forward network's: what goes into its activation function and comes out.
    """
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    width = int(config.hidden_size)
    return 2 * width + 2 * int(inner or 4 * width)


def _advice(config: Any, found: Fit) -> Iterator[str]:
    """What would make it fit; or, where it does, what would make it faster."""
    memory = found.device.memory
    if memory is None:
        return

    def other(batch: int, bits: int) -> Fit:
        return _fit(config, found.device, found.length, batch, bits, found.cache_bits)

    def gain(better: Fit) -> str:
        return _three(better.decode_tokens_per_second / found.decode_tokens_per_second)

    fewer = [other(found.batch, bits) for bits in BITS[::-1] if bits < found.bits]
    each = (found.kv_cache + found.activations) / found.batch  # bytes of one sequence
    room = int((memory - found.weights) // each)  # sequences beside the weights
    if found.fits:
        if found.decode_bound == "memory" and room > found.batch:
            yield (
                f"there is room for a batch of {room:,}: up to {gain(other(room, found.bits))} "
                "times more tokens a second, as one reading of the weights serves all"
            )
        if fewer and fewer[0].decode_tokens_per_second > 1.05 * found.decode_tokens_per_second:
            yield f"{fewer[0].bits}-bit weights: writes up to {gain(fewer[0])} times faster"
        return
    small = next((fit for fit in fewer if fit.fits), None)
    if small:
        yield f"{small.bits}-bit weights: {_gb(small.total)} together, which fits"
    if room >= 1:
        yield f"a batch of at most {room:,}"
    elif memory > found.weights:
        tokens = int(found.length * (memory - found.weights) / (each * found.batch))
        if tokens:
            yield f"at most {tokens:,} tokens a sequence"
    yield f"{math.ceil(found.total / memory)} such devices that share the model, or a larger one"


def _three(number: int | float) -> str:
    """Three digits, and no exponent: ``0.0562``, ``1.5``, ``24``, ``1,230``."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _gb(count: int | float) -> str:
    return f"{_three(count / 1e9)} GB" if count < 1e12 else f"{_three(count / 1e12)} TB"


def _rate(tokens_per_second: float) -> str:
    return f"{_three(tokens_per_second)} tokens/s"
