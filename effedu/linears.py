"""Cheaper linear layers inside a Hugging Face causal language model: 8 bits, 4 bits, low rank.

A method says what takes the place of a linear layer. :func:`effedu.patch.patched` puts the new
layers in and takes them out again. :func:`convert` puts them in for good: memory really falls, and
the model is saved and loaded like any other, with ``save_pretrained`` and ``from_pretrained``.
https://huggingface.co/docs/transformers/quantization/contribute
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from effedu import compression
from effedu._checks import check_int
from effedu.calibration import InputStatistics, gptq
from effedu.compression import LowRankLinear, break_even_rank
from effedu.quantization import quantize
from effedu.quantized_linear import Int4Linear, Int8Linear

Statistics = Mapping[str, InputStatistics]  # by the layer's name in the model


@runtime_checkable
class LinearMethod(Protocol):
    """What takes the place of a linear layer.

    ``empty`` makes a layer of the new form on the ``meta`` device, to load numbers into; it raises
    ``ValueError`` for a layer that can't be replaced. ``replace`` makes the new layer itself, of
    the linear layer with that name. ``lm_head`` and ``embeddings`` say whether the layer that gives
    the logits, and the table in which tokens are looked up, are replaced too.
    """

    @property
    def lm_head(self) -> bool: ...

    @property
    def embeddings(self) -> bool: ...

    def empty(self, name: str, linear: nn.Linear) -> nn.Module: ...

    def replace(self, name: str, linear: nn.Linear) -> nn.Module: ...


@dataclass(frozen=True)
class Int8Layers:
    """8-bit weights, and inputs rounded as they come. Made by :func:`int8`."""

    lm_head: bool = field(default=False, kw_only=True)
    embeddings: bool = field(default=False, kw_only=True)

    def empty(self, name: str, linear: nn.Linear) -> nn.Module:
        return Int8Linear(**_sizes(linear), device="meta")

    def replace(self, name: str, linear: nn.Linear) -> nn.Module:
        return Int8Linear.from_linear(linear)


@dataclass(frozen=True)
class Int4Layers:
    """4-bit weights, ``group_size`` of them with one scale. Made by :func:`int4`."""

    group_size: int = 64
    statistics: Statistics | None = field(default=None, kw_only=True, compare=False, repr=False)
    lm_head: bool = field(default=False, kw_only=True)
    embeddings: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_int("group_size", self.group_size, minimum=2)

    def empty(self, name: str, linear: nn.Linear) -> nn.Module:
        return Int4Linear(**_sizes(linear), group_size=self.group_size, device="meta")

    def replace(self, name: str, linear: nn.Linear) -> nn.Module:
        if self.statistics is None:
            return Int4Linear.from_linear(linear, group_size=self.group_size)
        codes = gptq(
            linear.weight,
            self.statistics[name].moments,
            bits=4,
            group_size=self.group_size,
            scale_dtype=torch.bfloat16,
        )
        return Int4Linear.from_quantized(codes, linear.bias)


@dataclass(frozen=True)
class LowRankLayers:
    """Two thin layers for one, with a share ``keep`` of its weights. Made by :func:`low_rank`."""

    keep: float
    statistics: Statistics | None = field(default=None, kw_only=True, compare=False, repr=False)
    lm_head: bool = field(default=False, kw_only=True)

    embeddings = False  # not a linear layer

    def __post_init__(self) -> None:
        if not (isinstance(self.keep, float | int) and 0 < self.keep < 1):
            raise ValueError(f"keep must be between 0 and 1, got {self.keep!r}")

    def empty(self, name: str, linear: nn.Linear) -> nn.Module:
        sizes = _sizes(linear)
        return LowRankLinear(
            **sizes, rank=self._rank(linear), device="meta", dtype=linear.weight.dtype
        )

    def replace(self, name: str, linear: nn.Linear) -> nn.Module:
        moments = None if self.statistics is None else self.statistics[name].moments
        return compression.low_rank(linear, self._rank(linear), moments=moments)

    def _rank(self, linear: nn.Linear) -> int:
        return max(1, int(self.keep * break_even_rank(linear.out_features, linear.in_features)))


def _sizes(linear: nn.Linear) -> dict[str, Any]:
    return {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
    }


def int8(*, lm_head: bool = False, embeddings: bool = False) -> Int8Layers:
    """8-bit linear layers for :func:`patched` and :func:`convert`.

    See :class:`effedu.quantized_linear.Int8Linear`.

    Args:
        lm_head: the layer that gives the logits, too; by default it stays as it is.
        embeddings: the table that tokens are looked up in, too, one scale a row.

    >>> int8(lm_head=True)
    Int8Layers(lm_head=True, embeddings=False)
    """
    return Int8Layers(lm_head=lm_head, embeddings=embeddings)


def int4(
    group_size: int = 64,
    *,
    statistics: Statistics | None = None,
    lm_head: bool = False,
    embeddings: bool = False,
) -> Int4Layers:
    """4-bit linear layers for :func:`patched` and :func:`convert`.

    See :class:`effedu.quantized_linear.Int4Linear`.

    Args:
        group_size: weights of a row that share a scale: even, and a divisor of each layer's inputs.
        statistics: of each layer's inputs, from :func:`effedu.calibration.input_statistics`; the
            weights are then rounded by :func:`effedu.calibration.gptq` instead of to nearest.
        lm_head: the layer that gives the logits, too; by default it stays as it is.
        embeddings: the table that tokens are looked up in, too, in 8 bits with one scale a row.

    Raises:
        ValueError: ``group_size`` is not an integer of at least 2.

    >>> int4(32)
    Int4Layers(group_size=32, lm_head=False, embeddings=False)
    """
    return Int4Layers(group_size, statistics=statistics, lm_head=lm_head, embeddings=embeddings)


def low_rank(
    keep: float, *, statistics: Statistics | None = None, lm_head: bool = False
) -> LowRankLayers:
    """Two thin linear layers in the place of each, for :func:`patched` and :func:`convert`.

    See :func:`effedu.compression.low_rank`. The rank is ``keep`` times the break-even rank.

    Args:
        keep: share of each layer's weights that stays, between 0 and 1.
        statistics: of each layer's inputs, from :func:`effedu.calibration.input_statistics`; the
            layers' outputs on those inputs are then approximated, and not their weights.
        lm_head: the layer that gives the logits, too; by default it stays as it is.

    Raises:
        ValueError: ``keep`` out of range.

    >>> low_rank(0.5)
    LowRankLayers(keep=0.5, lm_head=False)
    """
    return LowRankLayers(keep, statistics=statistics, lm_head=lm_head)


class Int8Embedding(nn.Module):
    """A table of vectors in 8 bits with one scale a row; what is looked up comes as ``dtype``."""

    weight: Int8[Tensor, "rows width"]
    scale: Float[Tensor, "rows 1"]

    def __init__(self, rows: int, width: int, dtype: torch.dtype, device: Any = None) -> None:
        super().__init__()
        self.dtype = dtype
        codes = torch.zeros(rows, width, dtype=torch.int8, device=device)
        self.register_buffer("weight", codes)
        self.register_buffer("scale", torch.ones(rows, 1, device=device))

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> Int8Embedding:
        """Round each row to nearest."""
        rows, width = embedding.weight.shape
        table = cls(rows, width, embedding.weight.dtype)
        quantized = quantize(embedding.weight, bits=8)
        table.weight, table.scale = quantized.codes(), quantized.grid.scale[:, None]
        return table.train(embedding.training)

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        codes, scale = F.embedding(ids, self.weight), F.embedding(ids, self.scale)
        return (codes * scale).to(self.dtype)


@contextmanager
def replaced(model: nn.Module, method: LinearMethod) -> Iterator[None]:
    """Put other layers in the place of the linear ones inside the ``with`` block.

    All new layers are made before the first one is put in, so that an error changes nothing.
    """
    before = _layers(model, method)
    after = {name: _replacement(name, layer, method) for name, layer in before.items()}
    _put(model, after)
    try:
        yield
    finally:
        _put(model, before)


def convert(model: nn.Module, linear: LinearMethod) -> PreTrainedModel:
    """Put other layers in the place of the linear ones for good, so that memory falls.

    One layer after the other: at no time are more than one of them there twice. Afterwards
    ``model.save_pretrained(folder)`` writes the new layers, and ``from_pretrained(folder)`` or
    :func:`effedu.lm.load_lm` reads them, once :mod:`effedu.patch` has been imported.

    Args:
        model: a ``transformers`` causal language model; it is changed.
        linear: :func:`int8`, :func:`int4` or :func:`low_rank`.

    Returns:
        The same model.

    Raises:
        ValueError: before anything is changed: not a ``transformers`` model, one that is converted
            already, or a layer that can't be replaced, which is named.

    >>> from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    >>> sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256}
    >>> model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=16, num_hidden_layers=1, **sizes))
    >>> before = nbytes(model)
    >>> nbytes(convert(model, int8())) < before / 3
    True
    """
    converted = check_language_model(model)
    layers = _layers(model, linear)
    for name in list(layers):
        _put(model, {name: _replacement(name, layers.pop(name), linear)})
    if linear.lm_head or linear.embeddings:  # the two no longer share their numbers
        for part in (converted.config, converted.config.get_text_config()):
            part.tie_word_embeddings = False
    config = EffeduConfig(**_as_config(linear))
    converted.config.quantization_config = config
    converted.hf_quantizer = EffeduQuantizer(config)
    return converted


def nbytes(model: nn.Module) -> int:
    """Bytes that a model's numbers take, also where a library holds them in an order of its own.

    >>> nbytes(nn.Linear(10, 2)), nbytes(Int8Linear(10, 2))
    (88, 36)
    """
    sizes: dict[int, int] = {}  # by identity: what is shared counts once
    for module in model.modules():
        if isinstance(module, Int8Linear | Int4Linear):
            sizes[id(module)] = module.nbytes
        else:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            sizes.update({id(tensor): tensor.nbytes for tensor in own})
    return sum(sizes.values())


def check_language_model(model: nn.Module) -> PreTrainedModel:
    """Return ``model`` if it is one of ``transformers``, else raise ``ValueError``.

    >>> check_language_model(nn.Linear(2, 2))
    Traceback (most recent call last):
    ValueError: model must be a transformers causal language model, got Linear
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model must be a transformers causal language model, got {type(model).__name__}"
        )
    return model


def _layers(model: nn.Module, method: LinearMethod) -> dict[str, nn.Module]:
    """The layers to replace by name, once it is known that all of them can be."""
    language_model = check_language_model(model)
    if not isinstance(method, LinearMethod):
        raise ValueError(f"linear must be one such as int8() or int4(64), got {method!r}")
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("model must not be quantized already; load it again as it was")
    head = language_model.get_output_embeddings()
    table = language_model.get_input_embeddings()
    if method.embeddings and type(table) is not nn.Embedding:
        raise ValueError(f"the embeddings can't be replaced: they are a {type(table).__name__}")
    layers: dict[str, nn.Module] = {}
    # A layer that stands at two places has two names.
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Linear, Conv1D) and (method.lm_head or module is not head):
            _check(name, module, method)
            layers[name] = module
        if method.embeddings and module is table:
            layers[name] = module
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers to replace")
    return layers


def _check(name: str, layer: nn.Module, method: LinearMethod) -> None:
    try:
        method.empty(name, _as_linear(layer))
    except ValueError as error:
        raise ValueError(f"{name} can't be replaced: {error}") from None
    statistics = getattr(method, "statistics", None)
    if statistics is not None and name not in statistics:
        raise ValueError(f"statistics must hold every layer that is replaced, {name} is missing")


def _replacement(name: str, layer: nn.Module, method: LinearMethod) -> nn.Module:
    if isinstance(layer, nn.Embedding):
        return Int8Embedding.from_embedding(layer)
    return method.replace(name, _as_linear(layer)).train(layer.training)


def _as_linear(layer: nn.Module) -> nn.Linear:
    """GPT-2's ``Conv1D`` is a linear layer whose weight lies the other way round."""
    if isinstance(layer, nn.Linear):
        return layer
    linear = nn.Linear(layer.nx, layer.nf, device="meta")  # type: ignore[arg-type]
    linear.weight = nn.Parameter(layer.weight.detach().T)  # type: ignore[operator]
    linear.bias = nn.Parameter(layer.bias.detach())  # type: ignore[operator]
    return linear


def _put(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    for name, layer in layers.items():
        model.set_submodule(name, layer)


# --- Saving and loading ------------------------------------------------------------------------

_METHODS: dict[str, Any] = {
    "int8": Int8Layers,
    "int4": Int4Layers,
    "low_rank": LowRankLayers,
}


def _as_config(method: Any) -> dict[str, Any]:
    """The method's name and its arguments, less the statistics, which loading does not need."""
    (name,) = (name for name, kind in _METHODS.items() if isinstance(method, kind))
    arguments = [field.name for field in fields(method) if field.name != "statistics"]
    return {"method": name, **{key: getattr(method, key) for key in arguments}}


@register_quantization_config("effedu")
class EffeduConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What ``config.json`` says of a converted model: the method by name, and its arguments."""

    def __init__(self, method: str, quant_method: str = "effedu", **arguments: Any) -> None:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        self.quant_method = quant_method
        self.method = method
        self.arguments = arguments
        self.linear = _METHODS[method](**arguments)

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": self.quant_method, "method": self.method, **self.arguments}


@register_quantizer("effedu")
class EffeduQuantizer(HfQuantizer):  # type: ignore[misc]
    """Tells ``from_pretrained`` which layers a converted model has."""

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, **kwargs: Any
    ) -> PreTrainedModel:
        if not self.pre_quantized:
            raise ValueError("load the model as it is, then call effedu.patch.convert")
        method = self.quantization_config.linear
        for name, layer in _layers(model, method).items():
            if isinstance(layer, nn.Embedding):
                rows, width = layer.weight.shape
                empty: nn.Module = Int8Embedding(rows, width, layer.weight.dtype, device="meta")
            else:
                empty = method.empty(name, _as_linear(layer))
            model.set_submodule(name, empty)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False
