"""effedu's methods inside any Hugging Face causal language model, and back out again.

``transformers`` looks its attention up by name, one function for the attention and one for the
mask; :func:`patched` registers ours under a fresh name, lets the model use it and takes it out
again. No model code is replaced, so training, generation and caches keep working. What stands in
the place of linear layers is in :mod:`effedu.linears`, the attentions are in
:mod:`effedu.patterns`.
https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import causal_mask_function, sdpa_mask

from effedu.attention import attention as dense_attention
from effedu.attention import causal_mask
from effedu.eviction import EvictingLayer, Eviction, heavy_hitters, streaming
from effedu.kv_cache import Quantized, QuantizedLayer, quantized
from effedu.linears import (
    LinearMethod,
    check_language_model,
    convert,
    int4,
    int8,
    low_rank,
    replaced,
)
from effedu.patterns import (
    BlockAttention,
    CausalAttention,
    ChoosingAttention,
    DenseAttention,
    block,
    block_topk,
    dense,
    threshold,
    topk,
)

__all__ = [
    "block",
    "block_topk",
    "convert",
    "dense",
    "heavy_hitters",
    "int4",
    "int8",
    "low_rank",
    "patched",
    "quantized",
    "streaming",
    "threshold",
    "topk",
]


_numbers = itertools.count(1)


@contextmanager
def patched(
    model: nn.Module,
    attention: CausalAttention | None = None,
    *,
    cache: Eviction | Quantized | None = None,
    linear: LinearMethod | None = None,
) -> Iterator[PreTrainedModel]:
    """Run a Hugging Face causal language model with cheaper parts inside the ``with`` block.

    Training, generation with a cache, chunked prefill, grouped queries and padded batches work as
    before, and a padded text gives what it gives alone: blocks are counted from a text's first
    real token, wherever padding stands. A prefill takes the fast path of
    :func:`effedu.blocking.block_attention`, padded or not, and a cached step reads only the keys
    it can see. A mask of queries × keys is built only for packed sequences, static caches,
    ``output_attentions=True`` and 4-D masks of your own. There a token's position is its rank
    among the keys that the query may see, which for packed sequences is its place in its own text.

    With ``cache`` the keys and values that generation keeps are rounded to few bits, or cut down
    to a budget after each pass, in every cache that is begun inside the block. After eviction
    attention is dense over what is left, and kept tokens keep their positions. A prompt is read
    densely before anything is evicted, unless it comes in chunks (``prefill_chunk_size`` of
    ``generate``). A pass without a cache has nothing to evict, and padded batches are refused.

    With ``linear`` other layers stand in the place of the linear ones. The model's own wait for the
    end of the block, so that memory does not fall; :func:`convert` is for good. With ``linear``
    alone the model's attention stays as it is.

    Afterwards, or after an exception, the model is exactly what it was. Blocks nest: of two
    attentions, or two caches, the innermost counts. Models that share one config object are
    patched together.

    Args:
        model: a ``transformers`` causal language model whose attention goes through
            ``AttentionInterface`` (GPT-NeoX, GPT-2, Llama, Qwen, Mistral, Gemma and most others).
        attention: :func:`block`, :func:`topk`, :func:`threshold`, :func:`block_topk` or
            :func:`dense`; ``block(128)`` if nothing is given, or ``dense()`` with a ``cache``.
        cache: :func:`quantized`, or with dense attention only :func:`streaming` or
            :func:`heavy_hitters`.
        linear: :func:`int8`, :func:`int4` or :func:`low_rank`.

    Yields:
        The same model.

    Raises:
        ValueError: on entry, for a model that can't be run this way: not a ``transformers`` model,
            an encoder or a decoder with cross-attention, attention outside of the interface,
            soft-capped scores, learned sinks, or a sliding window narrower than the attention
            reaches. In a forward pass: attention dropout in training mode, a 4-D float mask with
            values other than 0 and minus infinity, a mask that looks ahead. With ``cache``: layers
            that cache something else than keys and values, a cache that is not empty or not
            dynamic; and if it evicts, another attention than dense, a padded batch or a mask of
            your own. With ``linear``: a layer that it can't replace.

    Source: Child et al. (2019) for blocks, Xiao et al. (2023) for sinks.

    >>> from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=16, **sizes)).eval()
    >>> tokens = torch.arange(8)[None]
    >>> with torch.no_grad(), patched(model, block(2, blocks_back=0)) as fast:
    ...     alone, together = fast(tokens[:, :2]).logits, fast(tokens).logits
    >>> torch.allclose(alone, together[:, :2], atol=1e-6)
    True
    """
    if attention is None and linear is None:
        attention = BlockAttention() if cache is None else DenseAttention()
    with ExitStack() as patches:
        if attention is not None or cache is not None:
            patches.enter_context(_attending(model, attention or DenseAttention(), cache))
        if linear is not None:
            patches.enter_context(replaced(model, linear))
        yield cast(PreTrainedModel, model)


@contextmanager
def _attending(
    model: nn.Module, attention: CausalAttention, cache: Eviction | Quantized | None
) -> Iterator[None]:
    """Another attention, and a cache of its own, inside the block."""
    if not isinstance(attention, CausalAttention):
        raise ValueError(f"attention must be one such as block(128) or dense(), got {attention!r}")
    language_model = _check_model(model, attention)
    own_cache = None if cache is None else _own_cache(language_model, attention, cache)
    before = [(config, config._attn_implementation_internal) for config in _configs(language_model)]
    name = f"effedu_{next(_numbers)}"
    weights = _WeightsWanted()
    hooks = [
        module.register_forward_pre_hook(weights.look, with_kwargs=True)
        for module in language_model.modules()
        if isinstance(module, PreTrainedModel)
    ]
    if own_cache is not None:
        hooks.append(language_model.register_forward_pre_hook(own_cache.start, with_kwargs=True))
    forward = _attention_function(language_model, attention, weights)
    if isinstance(own_cache, _Evicting):
        forward = own_cache.after(forward)
    try:
        AttentionInterface.register(name, forward)
        AttentionMaskInterface.register(name, _mask_function(language_model))
        language_model.set_attn_implementation(name)
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        for hook in hooks:
            hook.remove()
        # transformers has a way to register a name, and none to take it back.
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


# --- What transformers calls -------------------------------------------------------------------
#
# Between the two functions the mask is one of three things:
#   None                 every column is a token, and the queries are the last columns;
#   (batch, seen)        true where a column is a token, not padding; queries are the last columns.
#                        A cache may have dropped the first of them;
#   (batch, 1, q, kv)    true where a query may look: everything else.


def _mask_function(model: PreTrainedModel) -> Any:
    """The function that ``transformers`` calls once a forward pass for each kind of layer."""

    def mask(
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: int | Tensor = 0,
        kv_offset: int = 0,
        mask_function: Any = causal_mask_function,
        attention_mask: Tensor | None = None,
        local_size: int | None = None,
        allow_is_causal_skip: bool = True,
        use_vmap: bool = False,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> Tensor | None:
        seen = kv_offset + kv_length
        # A cache of fixed size holds columns that no token has reached yet.
        at_the_end = isinstance(q_offset, int) and q_offset + q_length == seen
        # A sliding window is wide enough to change nothing (_check_window); any other pattern is
        # the model's own.
        causal = mask_function is causal_mask_function or local_size is not None
        if at_the_end and causal and allow_is_causal_skip and not use_vmap:
            if attention_mask is not None:
                real = F.pad(attention_mask, (0, max(0, seen - attention_mask.shape[1])))[:, :seen]
                if torch.compiler.is_compiling() or not real.all():
                    return real
            if kv_offset == 0:
                return None
            return torch.ones(batch_size, seen, dtype=torch.bool, device=device)
        if local_size is not None:
            raise _unsupported(
                model, "a sliding window together with a static cache or packed sequences"
            )
        full: Tensor = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,
            kv_offset=kv_offset,
            mask_function=mask_function,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=device,
        )
        if mask_function is not causal_mask_function and _looks_ahead(full, q_offset, kv_offset):
            raise _unsupported(model, "a mask that lets a token look ahead")
        return full

    return mask


def _attention_function(
    model: PreTrainedModel, attention: CausalAttention, weights: _WeightsWanted
) -> Any:
    """The function that ``transformers`` calls in each layer."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        _check_call(model, module, attention, dropout, kwargs)
        # Autocast may leave rotated queries and keys wider than the values.
        query, key = query.to(value.dtype), key.to(value.dtype)
        usual = query.shape[-1] ** -0.5
        if scaling is not None and scaling != usual:
            query = query * (scaling / usual)
        mask = _as_boolean(attention_mask)
        if weights.wanted:
            visible = _visible(attention, mask, query.shape[2], key.shape[2], query.device)
            output, shares = _with_weights(attention, query, key, value, visible)
            return output.transpose(1, 2).contiguous(), shares
        if mask is None:
            output = attention.attend(query, key, value)
        elif mask.ndim == 4:
            visible = _visible(attention, mask, query.shape[2], key.shape[2], query.device)
            output = _attend_where(attention, query, key, value, visible)
        elif query.shape[2] == key.shape[2] == mask.shape[1]:
            output = _padded_prefill(attention, query, key, value, mask)
        else:
            output = _padded_step(attention, query, key, value, mask)
        return output.transpose(1, 2).contiguous(), None

    return forward


class _WeightsWanted:
    """Notes at the start of a forward pass whether it was called with ``output_attentions``.

    Some models (GPT-2) keep that argument from the attention function.
    """

    wanted = False

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked = kwargs.get("output_attentions")
        config = cast(PreTrainedModel, module).config
        self.wanted = bool(getattr(config, "output_attentions", False) if asked is None else asked)


def _own_cache(
    model: PreTrainedModel, attention: CausalAttention, policy: Eviction | Quantized
) -> _OwnCache:
    if isinstance(policy, Quantized):
        return _OwnCache(model, policy)
    if isinstance(policy, Eviction):
        return _Evicting(model, attention, policy)
    raise ValueError(f"cache must be one such as streaming(256) or quantized(4), got {policy!r}")


class _OwnCache:
    """Gives caches that are begun under the patch layers that quantize or evict."""

    def __init__(self, model: PreTrainedModel, policy: Eviction | Quantized) -> None:
        layers = DynamicCache(config=model.config).layers
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            raise _unsupported(model, "layers that cache something else than all keys and values")
        self.policy, self.count = policy, len(layers)
        self.signature = inspect.signature(model.forward)
        # transformers 5.24 began to call it cache, and takes the old name too until 5.40.
        self.name = "cache" if "cache" in self.signature.parameters else "past_key_values"
        self.layers: list[Any] = []  # of the cache of this pass

    def start(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before a pass: make sure that its cache, if it has one, is of this kind."""
        kwargs = {self.name if key == "past_key_values" else key: kwargs[key] for key in kwargs}
        call = self.signature.bind_partial(*args, **kwargs)
        cache, wanted = (call.arguments.get(n) for n in (self.name, "use_cache"))
        config = cast(PreTrainedModel, module).config
        if cache is None and (getattr(config, "use_cache", False) if wanted is None else wanted):
            cache = DynamicCache()
            self._fill(cache)
            call.arguments[self.name] = cache
        elif cache is not None:
            self._take_over(cache)
        self.layers = [] if cache is None else cache.layers
        return call.args, call.kwargs

    def _take_over(self, cache: Any) -> None:
        if type(cache) is not DynamicCache:
            raise ValueError(
                f"past_key_values must be a DynamicCache, or None, with {self.policy}, "
                f"got {type(cache).__name__}"
            )
        policies = {getattr(layer, "policy", None) for layer in cache.layers}
        if cache.get_seq_length() == 0:
            self._fill(cache)
        elif policies != {self.policy}:
            raise ValueError(
                f"past_key_values already holds {cache.get_seq_length()} tokens, kept by another "
                f"rule than {self.policy}; begin with an empty cache"
            )

    def _fill(self, cache: DynamicCache) -> None:
        """Give an empty cache the right layers. Whoever holds it already holds the right one."""
        cache.layers = [self._layer() for _ in range(self.count)]
        cache.layer_class_to_replicate = None

    def _layer(self) -> DynamicLayer:
        if isinstance(self.policy, Quantized):
            return QuantizedLayer(self.policy)
        return EvictingLayer(self.policy)


class _Evicting(_OwnCache):
    """Tells the layers of the cache when to evict.

    A layer learns only after attention which of its keys were of use.
    """

    def __init__(
        self, model: PreTrainedModel, attention: CausalAttention, policy: Eviction
    ) -> None:
        if not isinstance(attention, DenseAttention):
            raise ValueError(
                f"attention must be dense() with a cache that evicts, which counts no positions, "
                f"got {attention!r}"
            )
        super().__init__(model, policy)
        if any(not hasattr(m, "layer_idx") for m in model.modules() if hasattr(m, "is_causal")):
            raise _unsupported(
                model, "attention layers without a layer_idx, their place in a cache"
            )

    def after(self, forward: Any) -> Any:
        """The attention function, followed by eviction in the layer that it read."""

        def attend_and_evict(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            scaling: float | None = None,
            **kwargs: Any,
        ) -> tuple[Tensor, Tensor | None]:
            if not self.layers:
                return cast(
                    tuple[Tensor, Tensor | None],
                    forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs),
                )
            mask = _as_boolean(attention_mask)
            if mask is not None and (mask.ndim == 4 or not mask.all()):
                raise ValueError(
                    "attention_mask must show all tokens to a cache that evicts, which can't tell "
                    "padding from text; give it texts of one length, or one at a time"
                )
            result = forward(module, query, key, value, None, scaling=scaling, **kwargs)
            layer: EvictingLayer = self.layers[cast(int, module.layer_idx)]
            usual = query.shape[-1] ** -0.5
            layer.evict(query.detach() * (1.0 if scaling is None else scaling / usual))
            return cast(tuple[Tensor, Tensor | None], result)

        return attend_and_evict


# --- Padded batches and masks ------------------------------------------------------------------


def _padded_prefill(
    attention: CausalAttention, query: Tensor, key: Tensor, value: Tensor, real: Tensor
) -> Tensor:
    """Move each row's tokens to its front, attend, and move the outputs back; padding gets zeros.

    Padding is then behind all tokens, where causal attention can't see it.
    """
    count = real.cumsum(1)  # (batch, length): tokens up to here
    column = _column_of(count, torch.arange(real.shape[1], device=real.device).expand_as(count))
    packed = [_take(x, column) for x in (query, key, value)]
    output = _take(attention.attend(*packed), (count - 1).clamp(min=0))
    return output.masked_fill(~real[:, None, :, None], 0.0)


def _padded_step(
    attention: CausalAttention, query: Tensor, key: Tensor, value: Tensor, real: Tensor
) -> Tensor:
    """A few new tokens against a cache with padding: take the keys that each row can see."""
    queries, keys = query.shape[2], key.shape[2]
    count = real.cumsum(1)  # (batch, seen)
    width = keys if attention.reach is None else min(keys, attention.reach + queries - 1)
    recent = count[:, -1:] - width + torch.arange(width, device=real.device)
    sinks = torch.arange(attention.sinks, device=real.device).expand(len(real), -1)
    sinks = torch.where(sinks < recent[:, :1], sinks, -1)  # no key twice
    position = torch.cat([sinks, recent], dim=1)  # (batch, sinks + width), negative: no such key
    column = _column_of(count, position) - (real.shape[1] - keys)
    column = column.clamp(min=0)
    visible = attention.visible(
        (count[:, -queries:] - 1)[:, None, :, None], position[:, None, None, :]
    )
    mask = visible & (position >= 0)[:, None, None, :] & real[:, None, -queries:, None]
    key, value = _take(key, column), _take(value, column)
    return _attend_where(attention, query, key, value, mask)


def _attend_where(
    attention: CausalAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> Tensor:
    """Attention where the mask allows it; it holds the attention's own pattern already."""
    if isinstance(attention, ChoosingAttention):
        return attention.attend_where(query, key, value, mask)
    return dense_attention(query, key, value, causal=False, mask=mask)


def _with_weights(
    attention: CausalAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, with the weights of every query and key."""
    if not isinstance(attention, ChoosingAttention):
        return dense_attention(query, key, value, causal=False, mask=mask, return_weights=True)
    # What is chosen does not depend on the values: the identity in their place gives the weights.
    identity = torch.eye(key.shape[2], dtype=value.dtype, device=value.device)
    shares = attention.attend_where(
        query, key, identity.expand(*key.shape[:2], -1, -1), mask
    )  # (batch, heads, queries, keys)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return shares @ value, shares


def _visible(
    attention: CausalAttention,
    mask: Tensor | None,
    queries: int,
    keys: int,
    device: torch.device,
) -> Tensor:
    """Any of the three kinds of mask, and the attention's pattern, as one mask over all keys."""
    if mask is not None and mask.ndim == 4:
        rank = mask.cumsum(-1) - 1  # (batch, 1, queries, keys)
        return mask & attention.visible(rank[..., -1:], rank)
    allowed = causal_mask(queries, keys, device)
    if mask is None:
        position = torch.arange(keys, device=device)
        return allowed & attention.visible(position[keys - queries :, None], position)
    position = mask.cumsum(1)[:, None] - 1  # (batch, 1, seen)
    visible = attention.visible(
        position[:, :, -queries:, None], position[:, :, None, position.shape[-1] - keys :]
    )
    return visible & allowed & mask[:, None, -queries:, None] & mask[:, None, None, -keys:]


def _as_boolean(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.dtype == torch.bool:
        return mask
    hidden = mask <= torch.finfo(mask.dtype).min
    if not (hidden | (mask == 0)).all():
        raise ValueError(
            "attention_mask must be boolean, or hold only 0 (may look) and minus infinity; "
            "got other values, such as a position bias, which this attention can't add"
        )
    return ~hidden


def _looks_ahead(mask: Tensor, q_offset: int | Tensor, kv_offset: int) -> bool:
    query = torch.arange(mask.shape[2], device=mask.device) + q_offset
    key = torch.arange(mask.shape[3], device=mask.device) + kv_offset
    return bool((mask & (key > query[:, None])).any())


def _column_of(count: Tensor, position: Tensor) -> Tensor:
    """Where in its row the token at each position stands (the last column if there is none)."""
    column = torch.searchsorted(count, position + 1)
    return column.clamp(max=count.shape[1] - 1)


def _take(x: Tensor, column: Tensor) -> Tensor:
    """``(batch, heads, length, dim)`` at ``(batch, columns)`` of its length."""
    return x.gather(2, column[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


# --- What can't be patched ---------------------------------------------------------------------

_EXTRAS = {
    "attn_logit_softcapping": "soft-capped attention scores",
    "sinks": "learned attention sinks",
}
_EXTRA_ARGUMENTS = {
    "softcap": _EXTRAS["attn_logit_softcapping"],
    "s_aux": _EXTRAS["sinks"],
    "sinks": _EXTRAS["sinks"],
    "position_bias": "a bias on the scores",
    "indices": "keys chosen by an indexer",
    "block_indices": "keys chosen by an indexer",
}
# Layers without attention (linear_attention, conv, ...) never ask for one and stay as they are.
_OTHER_PATTERNS = {"chunked_attention", "indexed_attention", "minimax_m3_sparse"} | {
    "compressed_sparse_attention",
    "heavily_compressed_attention",
}


def _check_model(module: nn.Module, attention: CausalAttention) -> PreTrainedModel:
    model = check_language_model(module)
    if model.config.is_encoder_decoder:
        raise _unsupported(model, "an encoder and cross-attention")
    if not model._can_set_attn_implementation():
        raise _unsupported(model, "attention that does not go through AttentionInterface")
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "is_causal")}
    if not layers:
        raise _unsupported(model, "no attention layer that is marked causal")
    for name, layer in layers.items():
        if not layer.is_causal:
            raise _unsupported(model, f"attention that is not causal ({name})")
        for attribute, what in _EXTRAS.items():
            if getattr(layer, attribute, None) is not None:
                raise _unsupported(model, f"{what} ({name})")
    for config in _configs(model):
        if not getattr(config, "is_causal", True):
            raise _unsupported(model, "attention that is not causal (config.is_causal)")
        kinds = set(getattr(config, "layer_types", None) or ())
        if other := kinds & _OTHER_PATTERNS:
            raise _unsupported(model, f"a pattern of its own ({', '.join(sorted(other))})")
        if not kinds or "sliding_attention" in kinds:
            _check_window(model, getattr(config, "sliding_window", None), attention)
    return model


def _check_call(
    model: PreTrainedModel,
    module: nn.Module,
    attention: CausalAttention,
    dropout: float,
    kwargs: dict[str, Any],
) -> None:
    """What only shows when a layer calls."""
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise _unsupported(model, "attention that is not causal")
    for argument, what in _EXTRA_ARGUMENTS.items():
        if kwargs.get(argument) is not None:
            raise _unsupported(model, what)
    _check_window(model, kwargs.get("sliding_window"), attention)
    if dropout > 0:
        raise ValueError(
            f"{type(model).__name__} asks for attention dropout {dropout} in training mode, which "
            f"effedu's attentions don't have; set the config's attention dropout to 0 before "
            f"building the model, or call model.eval()"
        )


def _check_window(model: PreTrainedModel, window: int | None, attention: CausalAttention) -> None:
    """A model's own sliding window is fine where it hides nothing that the attention would show."""
    if window is None:
        return
    if attention.reach is None or attention.reach > window:
        reach = "all tokens" if attention.reach is None else f"up to {attention.reach} tokens"
        raise _unsupported(
            model, f"a sliding window of {window} tokens, while {attention} looks at {reach}"
        )
    if attention.sinks:
        raise _unsupported(
            model, f"a sliding window of {window} tokens, which drops the {attention.sinks} sinks"
        )


def _unsupported(model: PreTrainedModel, what: str) -> ValueError:
    return ValueError(f"{type(model).__name__} can't be patched: it has {what}")


def _configs(model: PreTrainedModel) -> list[Any]:
    """Every config object below the model, each once."""
    waiting = [model.config] + [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())
