"""Memory traffic against arithmetic: attention in tiles that fit in a cache, and the roofline.

A processor waits for numbers more often than it computes with them. Online softmax (Milakov and
Gimelshein, 2018, https://arxiv.org/abs/1805.02867) lets attention work on small tiles and never
store the scores, as in FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135); the
roofline (Williams et al., 2009, https://doi.org/10.1145/1498765.1498785) says what a step takes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from effedu._checks import check_attention_inputs, check_int, repeat_key_value


class _Running(NamedTuple):
    """What online softmax keeps of the keys that it has seen, for each query row."""

    maximum: Float[Tensor, "*rows 1"]  # the highest score; -inf before the first key
    total: Float[Tensor, "*rows 1"]  # sum of exp(score - maximum)
    weighted: Float[Tensor, "*rows value_dim"]  # sum of exp(score - maximum) · value


def _absorb(
    state: _Running, scores: Float[Tensor, "*rows tile"], value: Float[Tensor, "*heads tile width"]
) -> _Running:
    """Take one more tile of keys into account: the recurrence of online softmax."""
    # The maximum only keeps exp from overflowing and cancels in the result: it needs no gradient.
    maximum = torch.maximum(state.maximum, scores.detach().amax(-1, keepdim=True))
    # Where a row has seen nothing yet, -inf - (-inf) would be NaN.
    shift = maximum.masked_fill(maximum == -math.inf, 0.0)
    shrink = (state.maximum - shift).exp()  # what was summed under the old maximum is too large
    weights = (scores - shift).exp()
    total = shrink * state.total + weights.sum(-1, keepdim=True)
    return _Running(maximum, total, shrink * state.weighted + weights @ value)


def _empty(query: Tensor, value: Tensor) -> _Running:
    total = query.new_zeros(*query.shape[:-1], 1)
    weighted = query.new_zeros(*query.shape[:-1], value.shape[-1])
    return _Running(torch.full_like(total, -math.inf), total, weighted)


def _divided(state: _Running) -> Tensor:
    """The weighted mean; zero where a row has seen no key."""
    return state.weighted / state.total.masked_fill(state.total == 0, 1.0)


def tiled_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    tile: int = 64,
    causal: bool = True,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Attention by online softmax: exact, though no more than one tile of scores exists at a time.

    Equal to ``attention(query, key, value, causal=causal)``. Each tile of queries walks over the
    tiles of keys that it may see and keeps a running maximum, sum and weighted sum, so that beside
    the result memory holds ``tile × tile`` scores a head instead of ``queries × keys``. It shows
    the recurrence; written in Python, it is slower than the fused kernels that use it.

    Args:
        query: ``(batch, heads, queries, head_dim)``, any length.
        key: ``(batch, key_heads, keys, head_dim)``; ``heads`` is a multiple of ``key_heads``.
        value: ``(batch, key_heads, keys, value_dim)``.
        tile: queries, and keys, in a tile, at least 1.
        causal: if true, no query looks at a later position. The last query stands at the last
            key; a query that stands before the first key sees nothing and gives zeros.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an empty sequence, ``tile`` below 1.

    Source: Milakov and Gimelshein (2018), Algorithm 3, for the running maximum and sum; Dao et al.
    (2022), Algorithm 1, for the tiles. The order of the loops, and dividing once at the end, are
    those of FlashAttention-2 (Dao, 2023, https://arxiv.org/abs/2307.08691, section 3.1).

    >>> value = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> tiled_attention(value * 0, value * 0, value, tile=1)[0, 0]
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    check_attention_inputs(query, key, value)
    check_int("tile", tile, minimum=1)
    dtype, (queries, keys) = query.dtype, (query.shape[2], key.shape[2])
    wide = torch.promote_types(dtype, torch.float32)  # half precision would round every sum
    key, value = (x.to(wide) for x in repeat_key_value(query, key, value))
    query = query.to(wide) * query.shape[-1] ** -0.5
    position = torch.arange(max(queries, keys), device=query.device)
    offset = keys - queries  # the position of the first query among the keys

    outputs = []
    for top in range(0, queries, tile):
        q = query[:, :, top : top + tile]  # (batch, heads, tile, d)
        q_position = position[top : top + q.shape[2], None] + offset
        visible = min(keys, top + tile + offset) if causal else keys  # later tiles lie ahead
        state = _empty(q, value)
        for left in range(0, visible, tile):
            k, v = key[:, :, left : left + tile], value[:, :, left : left + tile]
            scores = q @ k.transpose(-1, -2)  # (batch, heads, tile, tile)
            if causal:
                k_position = position[left : left + k.shape[2]]
                scores = scores.masked_fill(k_position > q_position, -math.inf)
            state = _absorb(state, scores, v)
        outputs.append(_divided(state))
    return torch.cat(outputs, dim=2).to(dtype)


@dataclass(frozen=True)
class TilingStep:
    """One tile of :func:`tiling_steps`, and what is known of one query after it."""

    start: int  # the tile holds the keys start … stop - 1
    stop: int
    scores: list[float]  # of these keys, already divided by sqrt(head_dim)
    maximum: float  # the highest score so far
    shrink: float  # what the old sums are multiplied with: exp(old maximum - new maximum)
    weights: list[float]  # exp(score - maximum) of these keys
    total: float  # running sum of the weights
    weighted: list[float]  # running sum of weight · value
    output: list[float]  # weighted / total: attention to the keys so far


def tiling_steps(
    query: Float[Tensor, "head_dim"],
    key: Float[Tensor, "keys head_dim"],
    value: Float[Tensor, "keys value_dim"],
    *,
    tile: int = 64,
) -> Iterator[TilingStep]:
    """Walk one query over its keys tile by tile, as :func:`tiled_attention` does, and show it all.

    Computed in double precision. The last step's ``output`` is attention to all keys. To choose
    the scores themselves, pass ``query = [1.0]`` and the scores as ``key``, shaped ``(keys, 1)``.

    Args:
        query: ``(head_dim,)``, one row.
        key: ``(keys, head_dim)``: the keys that this query may see.
        value: ``(keys, value_dim)``.
        tile: keys in a tile, at least 1.

    Raises:
        ValueError: shapes that do not fit, no keys, or ``tile`` below 1.

    >>> steps = tiling_steps(torch.ones(1), torch.zeros(3, 1), torch.eye(3)[:, :1], tile=2)
    >>> [(step.start, step.stop, step.total, step.output) for step in steps]
    [(0, 2, 2.0, [0.5]), (2, 3, 3.0, [0.3333333333333333])]
    """
    if query.ndim != 1:
        raise ValueError(f"query must have the shape (head_dim,), got {tuple(query.shape)}")
    if key.ndim != 2 or value.ndim != 2:
        raise ValueError(
            f"key and value must have the shapes (keys, head_dim) and (keys, value_dim), "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    # As a batch of one head, the three have to fit as in every attention.
    check_attention_inputs(query[None, None, None], key[None, None], value[None, None])
    check_int("tile", tile, minimum=1)
    return _steps(query.detach().double()[None], key.detach().double(), value.double(), tile)


def _steps(query: Tensor, key: Tensor, value: Tensor, tile: int) -> Iterator[TilingStep]:
    # Apart from its caller, so that a bad argument is refused at the call and not at the first
    # step.
    state = _empty(query, value)
    for start in range(0, key.shape[0], tile):
        k, v = key[start : start + tile], value[start : start + tile]
        scores = query @ k.T * query.shape[-1] ** -0.5  # (1, tile)
        old, state = state, _absorb(state, scores, v)
        yield TilingStep(
            start=start,
            stop=start + k.shape[0],
            scores=scores[0].tolist(),
            maximum=state.maximum.item(),
            shrink=(old.maximum - state.maximum).exp().item(),
            weights=(scores - state.maximum).exp()[0].tolist(),
            total=state.total.item(),
            weighted=state.weighted[0].tolist(),
            output=_divided(state)[0].tolist(),
        )


@dataclass(frozen=True)
class Device:
    """The four numbers that say how fast a processor can be: from a data sheet, or measured.

    A step that computes ``flops`` and moves ``bytes_moved`` takes at least as long as the slower
    of the two (the *roofline*): :meth:`seconds`.
    """

    name: str
    memory: int | float | None  # bytes; None where nobody says
    bandwidth: int | float  # bytes per second, between that memory and the processor
    peak: Mapping[
        str, int | float
    ]  # FLOP per second of dense matrix products, by dtype, where known
    kind: str = "measured"  # such as "laptop" or "server GPU"
    source: str = "measured here"  # or the address of the vendor's page

    def __post_init__(self) -> None:
        numbers = {"bandwidth": self.bandwidth, **{f"peak[{d!r}]": n for d, n in self.peak.items()}}
        if self.memory is not None:
            numbers["memory"] = self.memory
        for name, number in numbers.items():
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {number!r}")

    def _peak(self, dtype: str) -> int | float:
        if dtype not in self.peak:
            known = ", ".join(self.peak) or "none, as its peak is not known"
            raise ValueError(f"dtype must be one of {known} for {self.name}; got {dtype!r}")
        return self.peak[dtype]

    def seconds(
        self, flops: int | float, bytes_moved: int | float, *, dtype: str = "float32"
    ) -> float:
        """The least time of a step: ``max(flops / peak, bytes_moved / bandwidth)``.

        >>> laptop = Device("laptop", memory=16e9, bandwidth=50e9, peak={"float32": 200e9})
        >>> laptop.seconds(flops=2e9, bytes_moved=1e9)  # 0.01 s to compute, 0.02 s to move
        0.02
        """
        for name, count in (("flops", flops), ("bytes_moved", bytes_moved)):
            if not 0 <= count < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {count!r}")
        return max(flops / self._peak(dtype), bytes_moved / self.bandwidth)

    def ridge(self, dtype: str = "float32") -> float:
        """Operations per byte at which computing takes as long as moving.

        Below it the memory sets the pace, above it the processor.

        >>> Device("laptop", memory=16e9, bandwidth=50e9, peak={"float32": 200e9}).ridge()
        4.0
        """
        return self._peak(dtype) / self.bandwidth


@functools.cache
def devices() -> dict[str, Device]:
    """Devices by name, with the figures and the page that their vendors publish.

    The figures stand in ``effedu/data/devices.json``, each with the words of the page it is from.
    They are limits for dense matrices, which real programs stay below.

    >>> h100 = devices()["NVIDIA H100 SXM"]
    >>> round(h100.ridge("bfloat16"))  # operations for every byte, to be busy
    295
    """
    text = (resources.files("effedu") / "data" / "devices.json").read_text(encoding="utf-8")
    return {
        entry["name"]: Device(
            name=entry["name"],
            memory=entry["memory_gb"] * 1e9,
            bandwidth=entry["bandwidth_gb_s"] * 1e9,
            peak={dtype: tflops * 1e12 for dtype, tflops in entry["peak_tflops"].items()},
            kind=entry["kind"],
            source=entry["source"],
        )
        for entry in json.loads(text)["devices"]
    }


@dataclass(frozen=True)
class Available:
    """A processor that PyTorch can use here, from :func:`device_info`."""

    device: str  # what one passes as device=
    model: str
    memory: int | None  # bytes; None where the system does not say
    dtypes: tuple[str, ...]  # that it can multiply matrices in; not all of them need be fast
    threads: int | None  # that PyTorch uses; None on a GPU


def device_info() -> tuple[Available, ...]:
    """What PyTorch can compute on here: the CPU, then each GPU. Nothing names the computer.

    >>> cpu = device_info()[0]
    >>> cpu.device, "float32" in cpu.dtypes, cpu.threads == torch.get_num_threads()
    ('cpu', True, True)
    """
    threads = torch.get_num_threads()
    found = [Available("cpu", processor_name(), _memory(), _dtypes("cpu"), threads)]
    for index in range(torch.cuda.device_count()):
        name, properties = f"cuda:{index}", torch.cuda.get_device_properties(index)
        found.append(Available(name, properties.name, properties.total_memory, _dtypes(name), None))
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        found.append(Available("mps", processor_name(), memory, _dtypes("mps"), None))
    return tuple(found)


def processor_name() -> str:
    """The processor's model name; Linux keeps it in a file, other systems tell Python.

    >>> len(processor_name()) > 0
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _dtypes(device: str) -> tuple[str, ...]:
    works = []
    for name in ("float64", "float32", "bfloat16", "float16"):
        try:
            ones = torch.ones(2, 2, dtype=getattr(torch, name), device=device)
            ones @ ones
        except (RuntimeError, TypeError):
            continue
        works.append(name)
    return tuple(works)


def roofline(
    device: str = "cpu", *, dtypes: Iterable[str] = ("float32", "bfloat16"), copy_mb: int = 256
) -> Device:
    """Measure the two limits of a processor here: matrix products, and copying memory.

    Takes a few seconds. The peak is the best of square products of growing size, the bandwidth
    the best of some copies (bytes read and bytes written both count, as in STREAM). Other programs
    that run meanwhile make both lower.

    Args:
        device: ``"cpu"``, ``"cuda"``, …: any name of :func:`device_info`.
        dtypes: names of the floating-point types to measure products in, at least one.
        copy_mb: megabytes to copy, at least 1; enough to be much larger than every cache.

    Raises:
        ValueError: an unknown device or dtype, no dtype, or ``copy_mb`` below 1.

    >>> here = roofline(dtypes=["float32"], copy_mb=8)  # 8 MB may fit in a cache: a quick look
    >>> here.seconds(flops=1e9, bytes_moved=1e6) > 0
    True
    """
    found = {a.device: a for a in device_info()}
    place = found.get("cuda:0" if device == "cuda" else device)
    if place is None:
        raise ValueError(f"device must be one of {', '.join(found)} here, got {device!r}")
    dtypes = tuple(dtypes)
    if not dtypes:
        raise ValueError("dtypes must hold at least one name, got none")
    for name in dtypes:
        if name not in place.dtypes:
            raise ValueError(f"dtypes must be of {', '.join(place.dtypes)}; got {name!r}")
    check_int("copy_mb", copy_mb, minimum=1)
    return Device(
        name=place.model,
        memory=place.memory,
        bandwidth=_bandwidth(place.device, copy_mb * 1_000_000),
        peak={name: _peak(place.device, getattr(torch, name)) for name in dtypes},
    )


def _bandwidth(device: str, size: int) -> float:
    source = torch.ones(size // 4, device=device)  # ones: pages of zeros need not be in memory
    target = torch.ones_like(source)
    return 2 * source.nbytes / _best_time(lambda: target.copy_(source), device)


def _peak(device: str, dtype: torch.dtype) -> float:
    best, size, once = 0.0, 128, 0.0
    while size <= 8192 and once < 0.03:  # larger products are not faster, only longer
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        # Some libraries are fast in one order of storage only; a linear layer has the second.
        times = [_best_time(functools.partial(torch.mm, a, x), device) for x in (b, b.T)]
        once = max(times)
        best = max(best, 2 * size**3 / min(times))
        size *= 2
    return best


def _best_time(function: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Seconds of the fastest call after a first one that warms up: the limit, not the usual."""

    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        return max(time.perf_counter() - start, 1e-9)

    once()
    return min(once() for _ in range(repeats))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


class Work(NamedTuple):
    """What a step has to do at the least: matrix-product FLOPs, and bytes to and from memory."""

    flops: int
    bytes_moved: int

    @property
    def intensity(self) -> float:
        """Operations per byte; compare with :meth:`Device.ridge`."""
        return self.flops / self.bytes_moved


def linear_work(
    tokens: int, inputs: int, outputs: int, *, dtype: torch.dtype = torch.float32
) -> Work:
    """A linear layer: every weight read once, every activation read or written once.

    >>> linear_work(1, 4096, 4096).intensity < 1 < linear_work(512, 4096, 4096).intensity
    True
    """
    for name, count in (("tokens", tokens), ("inputs", inputs), ("outputs", outputs)):
        check_int(name, count, minimum=1)
    numbers = inputs * outputs + tokens * (inputs + outputs)
    return Work(2 * tokens * inputs * outputs, numbers * dtype.itemsize)


def attention_work(
    queries: int,
    keys: int,
    *,
    heads: int,
    head_dim: int,
    key_heads: int | None = None,
    batch: int = 1,
    causal: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Work:
    """Fused attention: scores and weighted sum of the visible pairs; no score ever in memory.

    As in :func:`effedu.attention.attention`, the last query stands at the last key.

    >>> attention_work(1024, 1024, heads=8, head_dim=64).flops  # 4 · 8 · 64 · N (N + 1) / 2
    1074790400
    """
    key_heads = heads if key_heads is None else key_heads
    named = {"queries": queries, "keys": keys, "heads": heads, "head_dim": head_dim}
    for name, count in {**named, "key_heads": key_heads, "batch": batch}.items():
        check_int(name, count, minimum=1)
    pairs = queries * keys
    if causal:
        seeing = min(queries, keys)  # queries that stand before the first key see nothing
        pairs = seeing * keys - seeing * (seeing - 1) // 2
    numbers = 2 * heads * queries + 2 * key_heads * keys  # query and output; key and value
    return Work(4 * batch * heads * head_dim * pairs, batch * head_dim * numbers * dtype.itemsize)


def elementwise_work(
    numbers: int, *, read: int = 1, written: int = 1, dtype: torch.dtype = torch.float32
) -> Work:
    """A step such as ``a + b``, one operation a number: ``read`` tensors in, ``written`` out.

    >>> elementwise_work(1000, read=2)
    Work(flops=1000, bytes_moved=12000)
    """
    check_int("numbers", numbers, minimum=1)
    check_int("read", read, minimum=0)
    check_int("written", written, minimum=1)
    return Work(numbers, numbers * (read + written) * dtype.itemsize)
