"""CostExplorer: which part of a language model costs what, as the text grows.

The page computes every number anew; :func:`effedu.cost.cost` is the same in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from types import SimpleNamespace
from typing import Any

import torch
import traitlets

from effedu._checks import check_int
from effedu.cost import Cost, cost
from effedu.hardware import Device
from effedu.widgets._base import compose
from effedu.widgets._model_fields import ModelWidget

_TASKS = ("read", "write")
_SHOWN = ("flops", "bytes_moved", "seconds", "bytes_kept")
_BITS = (16, 32)
_PARTS = ("attention", "feed-forward", "projections", "logits", "embedding and norms")
_WORDS = {
    "flops": "of the operations",
    "bytes_moved": "of the bytes moved",
    "seconds": "of the least time",
    "bytes_kept": "of the memory",
}
_MOST = 2**24  # tokens; beyond any use, and JavaScript still counts well


class CostExplorer(ModelWidget):
    """Operations, bytes, least time and memory of each part of a model, against the length.

    Args:
        model: the name of one of :func:`effedu.sizing.models`, or of those in ``add_models``.
        device: the name of one of :func:`effedu.hardware.devices`, or of ``add_devices``. Where no
            rate of arithmetic is published, the least time is that of moving the bytes.
        length: tokens of the text, up to 2**24.
        task: ``"read"`` the text at once, or ``"write"`` its last token with a KV cache.
        shown: what the curves share out: ``"flops"``, ``"bytes_moved"``, ``"seconds"`` or
            ``"bytes_kept"``.
        bits: of each number, 16 or 32.
        all_logits: compute logits for every token that is read, or for the last one only.
        add_models: more configurations to choose from, by name: of the GPT-NeoX, Llama or Qwen2
            family, with heads of width ``hidden_size / heads`` and without a sliding window.
        add_devices: more devices to choose from.

    Of the pairs of tokens those are counted that a causal model needs. :meth:`cost`,
    :meth:`by_part` and :meth:`crossover` say what the page shows.

    Raises:
        ValueError: an unknown name, a configuration of another kind, or a number out of range.

    >>> explorer = CostExplorer("Llama-3.1-8B", length=8192)
    >>> explorer
    CostExplorer(Llama-3.1-8B, read 8,192 tokens, attention 13 % of the operations)
    >>> explorer.crossover()
    43008
    """

    _esm, _css = compose("model_fields", "cost_explorer")

    length = traitlets.Int(8192).tag(sync=True)
    task = traitlets.Unicode("read").tag(sync=True)
    shown = traitlets.Unicode("flops").tag(sync=True)
    bits = traitlets.Int(16).tag(sync=True)
    all_logits = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        model: str = "Llama-3.1-8B",
        device: str = "NVIDIA RTX 4090",
        *,
        length: int = 8192,
        task: str = "read",
        shown: str = "flops",
        bits: int = 16,
        all_logits: bool = True,
        add_models: Mapping[str, Any] | None = None,
        add_devices: Iterable[Device] = (),
    ) -> None:
        super().__init__(
            model,
            device,
            add_models,
            add_devices,
            length=length,
            task=task,
            shown=shown,
            bits=bits,
            all_logits=all_logits,
        )

    def cost(self, length: int | None = None) -> Cost:
        """Return the cost of the present task, at another length if one is given."""
        tokens = self.length if length is None else length
        reading = self.task == "read"
        return cost(
            SimpleNamespace(**self.config),
            tokens if reading else 1,
            cached=0 if reading else tokens - 1,
            causal=True,
            logits_to_keep=0 if self.all_logits else 1,
            dtype=torch.bfloat16 if self.bits == 16 else torch.float32,
        )

    def by_part(self, length: int | None = None) -> dict[str, int | float]:
        """Return what the curves share out, in FLOPs, bytes or seconds, for each part."""
        parts = self.cost(length).parts
        if self.shown != "seconds":
            return {name: getattr(parts[name], self.shown) for name in _PARTS}
        device = Device(**self.device)
        rates = {d: rate for d, rate in device.peak.items() if self.bits < 32 or d == "float32"}
        if not rates:
            return {name: parts[name].bytes_moved / device.bandwidth for name in _PARTS}
        fastest = max(rates, key=lambda dtype: rates[dtype])
        return {
            name: device.seconds(parts[name].flops, parts[name].bytes_moved, dtype=fastest)
            for name in _PARTS
        }

    def crossover(self) -> int | None:
        """Return the first length at which attention costs more than the feed-forward network.

        It is measured by what is shown; None if that happens at no length up to 2**24.
        """

        def overtaken(length: int) -> bool:
            parts = self.by_part(length)
            return parts["attention"] > parts["feed-forward"]

        low, high = 0, _MOST  # attention's share only grows, so halving the interval finds it
        if not overtaken(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if overtaken(middle) else (middle, high)
        return high

    @staticmethod
    def _check(name: str, value: Any) -> Any:
        if name == "length":
            if check_int(name, value, minimum=1) > _MOST:
                raise ValueError(f"length must be at most {_MOST:,}, got {value:,}")
            return value
        choices = {"task": _TASKS, "shown": _SHOWN, "bits": _BITS}
        if name in choices and (isinstance(value, bool) or value not in choices[name]):
            allowed = ", ".join(map(str, choices[name]))
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
        return value

    @traitlets.validate("length", "task", "shown", "bits")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: dict[str, Any]) -> Any:
        return self._check(proposal["trait"].name, proposal["value"])

    def _summary(self) -> str:
        task = "read" if self.task == "read" else "write one token at"
        parts = self.by_part()
        share = 100 * parts["attention"] / sum(parts.values())
        words = _WORDS[self.shown]
        return (
            f"{self._known_name()}, {task} {self.length:,} tokens, attention {share:.0f} % {words}"
        )

    def fallback(self) -> str:
        """Return the present state as one bar and a table, under one sentence."""
        parts = self.by_part()
        total, found = sum(parts.values()), self.crossover()
        where = "at no length" if found is None else f"at {found:,} tokens"
        words = f"{self._summary()}; it overtakes the feed-forward network {where}."
        unit = {"flops": "FLOP", "seconds": "s"}.get(self.shown, "B")
        body = "".join(
            f'<tr><th scope="row">{name}</th><td>{value:.3g} {unit}</td>'
            f"<td>{value / total:.0%}</td></tr>"
            for name, value in parts.items()
        )
        return (
            f"<figure>{_bar(list(parts.values()), words)}<table><caption>{escape(words)}</caption>"
            f"<tbody>{body}</tbody></table></figure>"
        )


def _bar(sizes: list[int | float], words: str, width: int = 480, height: int = 32) -> str:
    """The parts side by side, to scale."""
    x, total, bands = 0.0, sum(sizes), ""
    for size, fill in zip(
        sizes, ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676"), strict=True
    ):
        wide = width * size / total
        bands += f'<rect x="{x:.1f}" y="0" width="{wide:.1f}" height="{height}" fill="{fill}"/>'
        x += wide
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(words)}" style="max-width:100%;height:auto">{bands}</svg>'
    )
