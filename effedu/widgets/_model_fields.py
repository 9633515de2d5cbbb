"""What the widgets share in which a reader chooses a model and a device, and changes their numbers.

Their page's part is ``model_fields.js``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import traitlets

from effedu._checks import check_int
from effedu.cost import cost
from effedu.hardware import Device, devices
from effedu.sizing import models
from effedu.widgets._base import Widget

_FAMILIES = ("gpt_neox", "llama", "qwen2")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)


class ModelWidget(Widget):
    """``config`` and ``device`` hold the present model and device as mappings, ``models`` and
    ``devices`` those to choose from."""

    models = traitlets.List(traitlets.Dict()).tag(sync=True)
    devices = traitlets.List(traitlets.Dict()).tag(sync=True)
    config = traitlets.Dict().tag(sync=True)
    device = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        model: str,
        device: str,
        add_models: Mapping[str, Any] | None,
        add_devices: Iterable[Device],
        **state: Any,
    ) -> None:
        configs = {
            name: _plain(name, config)
            for name, config in {**models(), **(add_models or {})}.items()
        }
        machines = {d.name: _as_dict(d) for d in [*devices().values(), *add_devices]}
        for argument, name, known in (("model", model, configs), ("device", device, machines)):
            if name not in known:
                raise ValueError(f"{argument} must be one of {', '.join(known)}; got {name!r}")
        for name, value in state.items():
            self._check(name, value)
        super().__init__(
            models=[{"name": name, "config": config} for name, config in configs.items()],
            devices=list(machines.values()),
            config=configs[model],
            device=machines[device],
            **state,
        )

    @staticmethod
    def _check(name: str, value: Any) -> Any:
        """Return a trait's value, or raise ``ValueError``."""
        raise NotImplementedError

    @traitlets.validate("config")  # type: ignore[untyped-decorator]
    def _valid_config(self, proposal: dict[str, Any]) -> dict[str, Any]:
        return _plain("config", SimpleNamespace(**proposal["value"]))

    @traitlets.validate("device")  # type: ignore[untyped-decorator]
    def _valid_device(self, proposal: dict[str, Any]) -> dict[str, Any]:
        return _as_dict(Device(**proposal["value"]))

    def _known_name(self) -> str:
        known = (m["name"] for m in reversed(self.models) if m["config"] == self.config)
        return next(known, "your own")  # as on the page: a model that was added keeps its name


def _plain(name: str, config: Any) -> dict[str, Any]:
    """Return a configuration as the mapping of the fields that the page computes with."""
    family = getattr(config, "model_type", None)
    if family not in _FAMILIES:
        raise ValueError(
            f"{name} must be a configuration with model_type one of {', '.join(_FAMILIES)}; "
            f"got {family!r}"
        )
    given = {key: getattr(config, key, None) for key in _SIZES}
    if given["num_key_value_heads"] is None:
        given["num_key_value_heads"] = given["num_attention_heads"]
    fields = {key: check_int(f"{name}.{key}", value, minimum=1) for key, value in given.items()}
    for few, many in (
        ("num_key_value_heads", "num_attention_heads"),
        ("num_attention_heads", "hidden_size"),
    ):
        if fields[few] > fields[many]:
            raise ValueError(
                f"{name}.{few} must be at most {many}, {fields[many]}, got {fields[few]}"
            )
    plain = {
        "model_type": family,
        **fields,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "attention_bias": family == "qwen2" or bool(getattr(config, "attention_bias", False)),
    }
    # Whatever else a configuration may say that changes its cost shows here.
    far = 2**20
    if cost(config, 1, cached=far) != cost(SimpleNamespace(**plain), 1, cached=far):
        raise ValueError(
            f"{name} must be a configuration without a sliding window, biases in its feed-forward "
            f"network or heads of a width of their own, got {config!r}"
        )
    return plain


def _as_dict(device: Device) -> dict[str, Any]:
    return {**vars(device), "peak": dict(device.peak)}
