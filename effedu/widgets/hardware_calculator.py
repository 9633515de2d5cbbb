"""HardwareCalculator: which model fits which device, and how many tokens a second at the most.

The page computes every number anew; :func:`effedu.sizing.fits` is the same in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from types import SimpleNamespace
from typing import Any

import traitlets

from effedu._checks import check_int
from effedu.hardware import Device
from effedu.sizing import Fit, check_bits, fits
from effedu.widgets._base import compose
from effedu.widgets._model_fields import ModelWidget

_MOST = {"length": 2**24, "batch": 2**20}  # beyond any use; JavaScript still counts well


class HardwareCalculator(ModelWidget):
    """A language model on a device: memory, whether it fits, and the limits of its speed.

    Args:
        model: the name of one of :func:`effedu.sizing.models`, or of those in ``add_models``.
        device: the name of one of :func:`effedu.hardware.devices`, or of ``add_devices``.
        length: tokens per sequence, prompt and answer together, up to 2**24.
        batch: sequences at a time, up to 2**20.
        bits: of each weight: 4, 8, 16 or 32.
        cache_bits: of each number in the KV cache: 4, 8, 16 or 32.
        add_models: more configurations to choose from, by name: of the GPT-NeoX, Llama or Qwen2
            family, with heads of width ``hidden_size / heads`` and without a sliding window.
        add_devices: more devices to choose from, such as what :func:`effedu.hardware.roofline`
            measured.

    ``config`` and ``device`` hold the present model and device as mappings; the reader can change
    their numbers. :meth:`fit` says what the page shows.

    Raises:
        ValueError: an unknown name, a configuration of another kind, or a number out of range.

    >>> calculator = HardwareCalculator("Llama-3.1-8B", "NVIDIA RTX 4090", length=8192)
    >>> calculator
    HardwareCalculator(Llama-3.1-8B on NVIDIA RTX 4090, length=8192, batch=1, bits=16)
    >>> calculator.fit().fits
    True
    """

    _esm, _css = compose("model_fields", "hardware_calculator")

    length = traitlets.Int(8192).tag(sync=True)
    batch = traitlets.Int(1).tag(sync=True)
    bits = traitlets.Int(16).tag(sync=True)
    cache_bits = traitlets.Int(16).tag(sync=True)

    def __init__(
        self,
        model: str = "Llama-3.1-8B",
        device: str = "NVIDIA RTX 4090",
        *,
        length: int = 8192,
        batch: int = 1,
        bits: int = 16,
        cache_bits: int = 16,
        add_models: Mapping[str, Any] | None = None,
        add_devices: Iterable[Device] = (),
    ) -> None:
        super().__init__(
            model,
            device,
            add_models,
            add_devices,
            length=length,
            batch=batch,
            bits=bits,
            cache_bits=cache_bits,
        )

    def fit(self) -> Fit:
        """Return what the page shows: :func:`effedu.sizing.fits` of the present state."""
        return fits(
            SimpleNamespace(**self.config),
            Device(**self.device),
            length=self.length,
            batch=self.batch,
            bits=self.bits,
            cache_bits=self.cache_bits,
        )

    @staticmethod
    def _check(name: str, value: int) -> int:
        if name.endswith("bits"):
            return check_bits(name, value)
        if check_int(name, value, minimum=1) > _MOST[name]:
            raise ValueError(f"{name} must be at most {_MOST[name]:,}, got {value:,}")
        return value

    @traitlets.validate("length", "batch", "bits", "cache_bits")  # type: ignore[untyped-decorator]
    def _valid_number(self, proposal: dict[str, Any]) -> int:
        return self._check(proposal["trait"].name, proposal["value"])

    def _summary(self) -> str:
        numbers = f"length={self.length}, batch={self.batch}, bits={self.bits}"
        return f"{self._known_name()} on {self.device['name']}, {numbers}"

    def fallback(self) -> str:
        """Return the present state as a bar and a table, under one sentence."""
        found = self.fit()
        memory = found.device.memory
        answer = {True: "It fits", False: "It does not fit", None: "Whether it fits is not known"}
        have = "" if memory is None else f" of {memory / 1e9:,.4g} GB"
        prefill = found.prefill_tokens_per_second
        words = (
            f"{self._summary()}. {answer[found.fits]}: it takes {found.total / 1e9:,.4g} GB{have}."
        )
        rows = {
            "weights": f"{found.weights / 1e9:,.4g} GB",
            "KV cache": f"{found.kv_cache / 1e9:,.4g} GB",
            "activations, about": f"{found.activations / 1e9:,.4g} GB",
            "reads at most": "not known" if prefill is None else f"{prefill:,.0f} tokens/s",
            "writes at most": f"{found.decode_tokens_per_second:,.1f} tokens/s, "
            f"bound by {found.decode_bound}",
            **{f"to change, {n}": line for n, line in enumerate(found.advice, start=1)},
        }
        body = "".join(
            f'<tr><th scope="row">{name}</th><td>{escape(text)}</td></tr>'
            for name, text in rows.items()
        )
        return (
            f"<figure>{_bar(found, words)}<table><caption>{escape(words)}</caption>"
            f"<tbody>{body}</tbody></table></figure>"
        )


def _bar(found: Fit, words: str, width: int = 480, height: int = 40) -> str:
    """The three parts side by side in a frame as wide as the device's memory."""
    memory = found.device.memory or 0
    scale = (width - 2) / max(found.total, memory)
    x, parts = 1.0, ""
    for size, fill, opacity in (
        (found.weights, "#0072b2", 1),
        (found.kv_cache, "#009e73", 1),
        (found.activations, "currentColor", 0.5),
    ):
        wide = size * scale
        parts += (
            f'<rect x="{x:.1f}" y="5" width="{wide:.1f}" height="{height - 10}" fill="{fill}" '
            f'opacity="{opacity}"/>'
        )
        x += wide
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(words)}" style="max-width:100%;height:auto">{parts}'
        f'<rect x="1" y="1" width="{memory * scale:.1f}" height="{height - 2}" fill="none" '
        'stroke="currentColor" stroke-width="2"/></svg>'
    )
