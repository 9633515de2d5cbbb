"""PruningExplorer: drop small attention weights of one row, and see what is lost and what is saved.

The widget carries scores and values, and the page computes the rest: softmax, choice, kept mass,
error and bound, as :mod:`effedu.pruning` does.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from effedu.attention import attention
from effedu.pruning import (
    Pruned,
    check_threshold,
    error_bound,
    threshold_attention,
    topk_attention,
)
from effedu.widgets._base import Widget, compose

METHODS = ("topk", "threshold")


@dataclass(frozen=True)
class PruningNumbers:
    """What pruning does to one row. Multiply-adds are those of one query in one head."""

    kept: tuple[int, ...]  # positions
    kept_mass: float
    error: float  # the largest over the numbers of the output
    bound: float  # dropped mass times the widest range of the values
    dense_multiply_adds: int  # every score and every value
    pruned_multiply_adds: int  # every score, and the values that are kept
    chosen_multiply_adds: int  # scores and values of the kept keys only, had they been known


class PruningExplorer(Widget):
    """Rows of real attention weights with a knob that drops the small ones.

    Args:
        tokens: the text's tokens, as strings; shown as text, never as HTML.
        query, key, value: ``(layers, heads, length, head_dim)``, queries and keys after any rotary
            embedding; repeat grouped keys and values first. Scores and values are stored as
            float16.
        layer, head: those shown first.
        token: position of the token whose row is shown first; the last one if not given.
        method: ``"topk"`` keeps ``k`` keys, ``"threshold"`` those whose weight reaches
            ``threshold``.
        k, threshold: as in :func:`effedu.pruning.topk_attention` and
            :func:`effedu.pruning.threshold_attention`.

    A page that shows it carries ``2 * layers * heads * length * (length + head_dim)`` bytes, and a
    third more as text. ``layer``, ``head``, ``token``, ``method``, ``k`` and ``threshold`` follow
    what the reader does and can be set; :attr:`numbers` gives what is shown.

    Raises:
        ValueError: shapes that don't fit, numbers that float16 can't hold, or a choice that isn't
            there.

    >>> zeros = torch.zeros(1, 2, 3, 4)
    >>> widget = PruningExplorer(["to", " be", " or"], zeros, zeros, zeros + 1, k=1)
    >>> widget
    PruningExplorer(3 tokens, layer 0, head 0, topk)
    >>> widget.numbers.kept  # equal weights stay together
    (0, 1, 2)
    """

    _esm, _css = compose("pruning_explorer")

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    score_bytes = traitlets.Bytes().tag(sync=True)
    value_bytes = traitlets.Bytes().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)
    token = traitlets.Int().tag(sync=True)
    method = traitlets.Unicode("topk").tag(sync=True)
    k = traitlets.Int(4).tag(sync=True)
    threshold = traitlets.Float(0.02).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str],
        query: Float[Tensor, "layers heads length head_dim"],
        key: Float[Tensor, "layers heads length head_dim"],
        value: Float[Tensor, "layers heads length head_dim"],
        *,
        layer: int = 0,
        head: int = 0,
        token: int | None = None,
        method: str = "topk",
        k: int = 4,
        threshold: float | int = 0.02,
    ) -> None:
        shape = tuple(query.shape)
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            if tensor.ndim != 4 or 0 in tensor.shape or tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name} must be (layers, heads, length, head_dim), the same for all three and "
                    f"not empty, got {tuple(tensor.shape)} beside {shape}"
                )
        if len(tokens) != shape[2]:
            raise ValueError(f"tokens must be as many as the length {shape[2]}, got {len(tokens)}")
        scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(shape[3])
        super().__init__(
            tokens=[str(t) for t in tokens],
            shape=list(shape),
            score_bytes=_half("scores", scores.tril()).tobytes(),
            value_bytes=_half("value", value).tobytes(),
            layer=layer,
            head=head,
            token=shape[2] - 1 if token is None else token,
            method=method,
            k=k,
            threshold=threshold,
        )

    @classmethod
    def from_lm(cls, lm: Any, text: str, **options: Any) -> PruningExplorer:
        """Return the explorer for a language model's attention on ``text``.

        ``lm`` is what :func:`effedu.load_lm` returns; the options are those of the class.

        Raises:
            ValueError: empty text, or more tokens than the model has positions.
        """
        tokens, query, key = lm.attention_inputs(text)
        return cls(tokens, query, key, lm.attention_values(text), **options)

    @property
    def numbers(self) -> PruningNumbers:
        """What the page shows of the present row."""
        _, _, length, width = self.shape
        seen = self.token + 1
        scores = self._stored("score_bytes", length)[self.token, :seen]
        value = self._stored("value_bytes", width)[None, None, :seen]
        # Queries and keys whose scores these are: the scores themselves, and unit vectors.
        query = (scores * math.sqrt(seen))[None, None, None]
        key = torch.eye(seen)[None, None]
        output, mass = self._prune(query, key, value)
        shares = self._prune(query, key, key).output[0, 0, 0]
        error = (output - attention(query, key, value)).abs().max()
        kept = tuple(shares.nonzero().flatten().tolist())
        return PruningNumbers(
            kept=kept,
            kept_mass=float(mass),
            error=float(error),
            bound=float(error_bound(mass, value).max()),
            dense_multiply_adds=2 * seen * width,
            pruned_multiply_adds=(seen + len(kept)) * width,
            chosen_multiply_adds=2 * len(kept) * width,
        )

    def _prune(self, query: Tensor, key: Tensor, value: Tensor) -> Pruned:
        if self.method == "topk":
            return topk_attention(query, key, value, k=self.k)
        return threshold_attention(query, key, value, threshold=self.threshold)

    def _stored(self, name: str, width: int) -> Float[Tensor, "length width"]:
        """Scores or values of the present layer and head, as the page reads them."""
        layers, heads, length, _ = self.shape
        numbers = np.frombuffer(getattr(self, name), "<f2").reshape(layers, heads, length, width)
        return torch.from_numpy(numbers[self.layer, self.head].astype(np.float32))

    @traitlets.validate("layer", "head", "token", "method", "k", "threshold")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "threshold":
            return check_threshold(value)
        layers, heads, length, _ = self.shape
        allowed: dict[str, Sequence[Any]] = {
            "layer": range(layers),
            "head": range(heads),
            "token": range(length),
            "method": METHODS,
            "k": range(1, length + 1),
        }
        if value not in allowed[name]:
            some = allowed[name]
            which = f"{some[0]} to {some[-1]}" if isinstance(some, range) else ", ".join(some)
            raise ValueError(f"{name} must be one of {which}, got {value!r}")
        return value

    def _summary(self) -> str:
        return f"{len(self.tokens)} tokens, layer {self.layer}, head {self.head}, {self.method}"

    def fallback(self) -> str:
        """Return the row as a still picture, with its numbers in words."""
        numbers, seen = self.numbers, self.token + 1
        words = (
            f"Layer {self.layer}, head {self.head}, token {self.token}: pruning keeps "
            f"{len(numbers.kept)} of {seen} keys and {numbers.kept_mass:.1%} of the weight. The "
            f"output is off by at most {numbers.error:.2g}; the bound allows {numbers.bound:.2g}."
        )
        weights = self._stored("score_bytes", self.shape[2])[self.token, :seen].softmax(-1)
        top = float(weights.max())
        bars = "".join(
            f'<path d="M{j} 0v{-40 * float(w) / top:.2f}h0.8V0z" '
            f'fill="{"#0072b2" if j in numbers.kept else "currentColor"}" '
            f'fill-opacity="{1 if j in numbers.kept else 0.35}"/>'
            for j, w in enumerate(weights)
        )
        return (
            f'<figure class="fx-fallback"><svg role="img" aria-label="{html.escape(words)}" '
            f'viewBox="0 -41 {seen} 42" width="480" height="160" preserveAspectRatio="none" '
            f'style="max-width:100%">{bars}</svg><figcaption>{html.escape(words)}</figcaption>'
            "</figure>"
        )


def _half(name: str, tensor: Tensor) -> NDArray[Any]:
    """Return little-endian float16, or raise ``ValueError``."""
    array = tensor.detach().float().cpu().numpy()
    limit = float(np.finfo(np.float16).max)
    largest = float(np.abs(array).max())
    if not largest <= limit:
        raise ValueError(f"{name} must be numbers of at most ±{limit:.0f}, got {largest}")
    halves: NDArray[Any] = array.astype("<f2")
    return halves
