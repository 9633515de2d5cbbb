"""AttentionMap: where each token of a text looks, in every layer and head.

The widget carries the queries and keys, not the weights: the page computes
``softmax(q k^T / sqrt(d))`` itself (Vaswani et al., 2017, section 3.2.1), so that the causal mask
and the root can be switched off and the consequence seen. https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from effedu.attention import attention_weights
from effedu.widgets._base import Widget, compose


class AttentionMap(Widget):
    """An explorable map of attention weights.

    Args:
        tokens: the text's tokens, as strings; shown as text, never as HTML.
        query: ``(layers, heads, length, head_dim)``, after any rotary embedding; an array or tensor
            of numbers. Stored as float16.
        key: the same shape. Models with grouped keys repeat them first.
        layer: the layer shown first, one of ``layers``.
        head: the head shown first, from 0.
        token: position of the token whose row is shown first, from 0; the last one if not given.
        layers: the numbers of the layers in ``query``, if they are not all: ``(0, 2, 4)``.

    A page that shows it carries ``4 * layers * heads * length * head_dim`` bytes (and a third more,
    as text): 60 tokens of 5 layers of 8 heads of 32 are 300 kB.

    ``layer``, ``head``, ``token``, ``causal``, ``scaled`` and ``view`` (``"map"`` or ``"table"``)
    follow what the reader does and can be set; :meth:`weights` gives the numbers shown.

    Raises:
        ValueError: shapes that don't fit ``(layers, heads, length, head_dim)`` or each other, a
            number of tokens that isn't ``length``, numbers that float16 can't hold, or a layer,
            head or token that isn't there.

    >>> tokens = ["to", " be", " or"]
    >>> widget = AttentionMap(tokens, np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)), head=1)
    >>> widget
    AttentionMap(3 tokens, layer 0, head 1)
    >>> widget.weights()[1]
    tensor([0.5000, 0.5000, 0.0000])
    """

    _esm, _css = compose("attention_map")

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    query_bytes = traitlets.Bytes().tag(sync=True)
    key_bytes = traitlets.Bytes().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    layers = traitlets.List(traitlets.Int()).tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)
    token = traitlets.Int().tag(sync=True)
    causal = traitlets.Bool(True).tag(sync=True)
    scaled = traitlets.Bool(True).tag(sync=True)
    view = traitlets.Unicode("map").tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str],
        query: Float[Tensor, "layers heads length head_dim"] | NDArray[Any],
        key: Float[Tensor, "layers heads length head_dim"] | NDArray[Any],
        *,
        layer: int | None = None,
        head: int = 0,
        token: int | None = None,
        layers: Sequence[int] | None = None,
        **traits: Any,
    ) -> None:
        halves = [_half(name, array) for name, array in (("query", query), ("key", key))]
        shape = halves[0].shape
        if halves[1].shape != shape:
            raise ValueError(
                f"key must have the query's shape {shape}, got {halves[1].shape}; "
                "repeat grouped keys first"
            )
        tokens = [str(t) for t in tokens]
        if len(tokens) != shape[2]:
            raise ValueError(f"tokens must be as many as the length {shape[2]}, got {len(tokens)}")
        numbers = list(range(shape[0])) if layers is None else [int(n) for n in layers]
        if len(numbers) != shape[0] or len(set(numbers)) != shape[0]:
            raise ValueError(f"layers must name {shape[0]} different layers, got {numbers}")
        super().__init__(
            tokens=tokens,
            shape=list(shape),
            layers=numbers,
            query_bytes=halves[0].tobytes(),
            key_bytes=halves[1].tobytes(),
            layer=numbers[0] if layer is None else layer,
            head=head,
            token=len(tokens) - 1 if token is None else token,
            **traits,
        )

    @classmethod
    def from_lm(
        cls, lm: Any, text: str, *, layers: Sequence[int] | None = None, **options: Any
    ) -> AttentionMap:
        """Return the map of a language model's attention on ``text``.

        ``lm`` is what :func:`effedu.load_lm` returns. ``layers`` picks some of its layers, which
        keeps a page small; other options are those of :class:`AttentionMap`.

        Raises:
            ValueError: empty text, or a layer the model doesn't have.
        """
        if not text:
            raise ValueError(f"text must have at least one character, got {text!r}")
        tokens, query, key = lm.attention_inputs(text)
        if layers is not None:
            for number in layers:
                _check_choice("layers", number, range(query.shape[0]))
            query, key = query[list(layers)], key[list(layers)]
        return cls(tokens, query, key, layers=layers, **options)

    def weights(
        self, layer: int | None = None, head: int | None = None
    ) -> Float[Tensor, "length length"]:
        """Return the weights of one layer and head, as the page computes them.

        Row ``i`` is where token ``i`` looks. Layer and head are those shown if not given;
        ``causal`` and ``scaled`` count as they are set now.
        """
        layer = self.layer if layer is None else _check_choice("layer", layer, self.layers)
        head = self.head if head is None else _check_choice("head", head, range(self.shape[1]))
        index = self.layers.index(layer)
        query, key = (
            torch.from_numpy(np.frombuffer(data, "<f2").reshape(self.shape)[index, head].copy())
            for data in (self.query_bytes, self.key_bytes)
        )
        scale = None if self.scaled else 1.0
        return attention_weights(
            query.float()[None, None], key.float()[None, None], causal=self.causal, scale=scale
        )[0, 0]

    @traitlets.validate("layer", "head", "token", "view")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        allowed: dict[str, Sequence[Any]] = {
            "layer": self.layers,
            "head": range(self.shape[1]),
            "token": range(self.shape[2]),
            "view": ("map", "table"),
        }
        name = proposal["trait"].name
        return _check_choice(name, proposal["value"], allowed[name])

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens, layer {self.layer}, head {self.head}"

    def fallback(self) -> str:
        weights = self.weights()
        row = weights[self.token]
        order = row.argsort(descending=True, stable=True)[:3].tolist()
        looks = ", ".join(
            f"{_quoted(self.tokens[j])} at {j} ({row[j]:.2f})" for j in order if row[j] > 0
        )
        sentence = (
            f"Layer {self.layer}, head {self.head}: token {_quoted(self.tokens[self.token])} at "
            f"{self.token} looks most at {looks}."
        )
        return (
            '<figure class="fx-fallback" style="margin:1rem 0">'
            f"{_svg(weights.numpy(), label='A map of attention weights. ' + sentence)}"
            f"<figcaption>{sentence} Rows look, columns are looked at. This picture stands still: "
            "where scripts or a kernel run, one can choose other tokens, layers and heads."
            "</figcaption></figure>"
        )


def _half(name: str, array: Any) -> NDArray[Any]:
    """Return ``array`` as little-endian float16, or raise ``ValueError``."""
    if isinstance(array, Tensor):
        array = array.detach().float().cpu().numpy()
    array = np.asarray(array)
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(
            f"{name} must be (layers, heads, length, head_dim) and not empty, "
            f"got shape {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    limit = float(np.finfo(np.float16).max)
    largest = float(np.abs(array).max())
    if not largest <= limit:
        raise ValueError(f"{name} must hold numbers of at most ±{limit:.0f}, got {largest}")
    halves: NDArray[Any] = array.astype("<f2")
    return halves


def _check_choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    if value not in allowed:
        choices = f"0 to {len(allowed) - 1}" if isinstance(allowed, range) else list(allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    return value


def _quoted(token: str) -> str:
    """Return a token as HTML text, with its spaces and line ends made visible."""
    shown = token.replace("\r\n", "⏎").replace("\n", "⏎").replace(" ", "·").replace("\t", "⇥")
    return f"“{html.escape(shown or '∅')}”"


def _svg(weights: NDArray[Any], label: str, side: int = 48, levels: int = 6) -> str:
    """Return a map as SVG in the text's own colour: one path for each of a few strengths.

    At most ``side`` cells a side are drawn; of weights that share a cell, the largest shows. The
    strength is the weight's square root, as in the widget.
    """
    length = len(weights)
    side = min(side, length)
    cell = np.arange(length) * side // length
    pooled = np.zeros((side, side))
    np.maximum.at(pooled, (cell[:, None], cell[None, :]), weights)
    strength = np.ceil(np.sqrt(pooled) * levels - 0.5).astype(int)
    paths = []
    for level in range(1, levels + 1):
        runs = []
        for i, line in enumerate(strength == level):
            edges = np.flatnonzero(np.diff(np.concatenate(([0], line, [0])).astype(int)))
            runs += [f"M{a} {i}h{b - a}v1h{a - b}z" for a, b in edges.reshape(-1, 2).tolist()]
        if runs:
            paths.append(f'<path fill-opacity="{level / levels:.2f}" d="{"".join(runs)}"/>')
    return (
        f'<svg role="img" aria-label="{label}" viewBox="-0.5 -0.5 {side + 1} {side + 1}" '
        'width="320" style="max-width:100%;height:auto" fill="currentColor">'
        f'<path fill="none" stroke="currentColor" stroke-width="0.1" '
        f'd="M0 0h{side}v{side}h-{side}z"/>'
        f"{''.join(paths)}</svg>"
    )
