"""TransformerWalk: one token's way through a language model, from its embedding to the next token.

The widget carries what each head and each feed-forward network adds to the token, and the page
adds it up; :func:`effedu.walk.walk` took it from the model.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from effedu.lm import LanguageModel
from effedu.walk import Walk, walk
from effedu.widgets._base import Widget, compose

GUESSES = 6  # tokens that a stage shows
NEURONS = 5


class TransformerWalk(Widget):
    """A walk to step through: heads, residual stream, feed-forward network, running prediction.

    Args:
        steps: what :func:`effedu.walk.walk` returns, of a short text: 8 to 16 tokens. Tokens are
            shown as text, never as HTML.
        token: position of the token that is followed first; the last one if not given.
        stage: 0 is the embedding, 1 the first layer, and after the last layer comes the next token.
            The last layer if not given.
        head: the head whose look is shown in the text.

    The vectors are stored as 8-bit integers, each with a scale of its own: a page carries about
    ``(1 + layers * (heads + 1)) * length * width`` bytes (and a third more, as text). ``token``,
    ``stage`` and ``head`` follow what the reader does and can be set; :meth:`stream` and
    :meth:`guesses` give the numbers shown.

    Raises:
        ValueError: a token, stage or head that isn't there.

    >>> from effedu.lm import load_lm
    >>> TransformerWalk.from_lm(load_lm(), "O Romeo, Romeo", token=4, head=2)
    TransformerWalk(6 tokens, token 4, stage 4, head 2)
    """

    _esm, _css = compose("transformer_walk")

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    ids = traitlets.List(traitlets.Int()).tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)  # layers, heads, length, width, vocab, …
    parts_bytes = traitlets.Bytes().tag(sync=True)  # int8, (length, parts, width)
    scales_bytes = traitlets.Bytes().tag(sync=True)  # float32, (length, parts)
    weights_bytes = traitlets.Bytes().tag(sync=True)  # uint16, in 65,535ths, as `Walk.weights`
    words = traitlets.List(traitlets.Unicode()).tag(sync=True)  # what the numbers below point to
    readings = traitlets.List().tag(sync=True)  # for each token and stage, see _readings
    neurons = traitlets.List().tag(sync=True)  # for each token and layer, see _neurons
    votes = traitlets.List().tag(sync=True)  # for each token, see _votes
    token = traitlets.Int().tag(sync=True)
    stage = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        steps: Walk,
        *,
        token: int | None = None,
        stage: int | None = None,
        head: int = 0,
    ) -> None:
        layers, heads, length, width = steps.heads.shape
        words = _Words(steps.lm)
        lens = steps.lens()
        integers, scales = _eight_bits(_parts(steps))
        super().__init__(
            tokens=steps.tokens,
            ids=steps.ids,
            shape=[layers, heads, length, width, lens.shape[-1], steps.neurons.shape[-1]],
            parts_bytes=integers.tobytes(),
            scales_bytes=scales.tobytes(),
            weights_bytes=(steps.weights.cpu() * 65535).round().numpy().astype("<u2").tobytes(),
            readings=_readings(lens, steps.ids, words),
            neurons=_neurons(steps, words),
            votes=_votes(steps, lens[-1], words),
            words=words.list,  # last: the lines above fill it
            token=length - 1 if token is None else token,
            stage=layers if stage is None else stage,
            head=head,
        )

    @classmethod
    def from_lm(cls, lm: LanguageModel, text: str, **options: Any) -> TransformerWalk:
        """Return the walk of ``text`` through a GPT-NeoX, such as the embedded model.

        Other options are those of :class:`TransformerWalk`.

        Raises:
            ValueError: as :func:`effedu.walk.walk`, and a token, stage or head that isn't there.
        """
        return cls(walk(lm, text), **options)

    def stream(self, token: int | None = None) -> Float[Tensor, "stages width"]:
        """The residual stream of a token (by default the trait's), as the page adds it up."""
        layers, heads, length, width = self.shape[:4]
        token = self.token if token is None else self._check("token", token)
        integers = np.frombuffer(self.parts_bytes, np.int8).reshape(length, -1, width)[token]
        scales = np.frombuffer(self.scales_bytes, "<f4").reshape(length, -1)[token]
        parts = torch.from_numpy(integers.astype(np.float64) * scales[:, None])
        layer_sums = parts[1:].view(layers, heads + 1, width).sum(1)
        return torch.cat([parts[:1], layer_sums]).cumsum(0)

    def guesses(self, token: int | None = None, stage: int | None = None) -> list[Any]:
        """The likeliest next tokens at a stage, and their probabilities, as the page shows them."""
        token = self.token if token is None else self._check("token", token)
        stage = self.stage if stage is None else self._check("stage", stage)
        reading = self.readings[token][min(stage, self.shape[0])]
        return [
            (self.words[word], float(np.exp(logit - reading["total"])))
            for word, logit in reading["top"]
        ]

    @traitlets.validate("token", "stage", "head")  # type: ignore[untyped-decorator]
    def _valid(self, proposal: Any) -> Any:
        return self._check(proposal["trait"].name, proposal["value"])

    def _check(self, name: str, value: int) -> int:
        layers, heads, length = self.shape[:3]
        many = {"token": length, "stage": layers + 2, "head": heads}[name]
        if isinstance(value, bool) or value not in range(many):
            raise ValueError(f"{name} must be from 0 to {many - 1}, got {value!r}")
        return value

    def _summary(self) -> str:
        return (
            f"{len(self.tokens)} tokens, token {self.token}, stage {self.stage}, head {self.head}"
        )

    def fallback(self) -> str:
        """Return the token's best guess at every stage as a table, under the text."""
        marked = "".join(
            f"<b>{html.escape(t)}</b>" if i == self.token else html.escape(t)
            for i, t in enumerate(self.tokens)
        )
        names = ["Embedding", *(f"Layer {n}" for n in range(self.shape[0]))]
        rows = ""
        for stage, name in enumerate(names):
            word, share = self.guesses(stage=stage)[0]
            length = float(self.stream()[stage].norm())
            rows += (
                f'<tr><th scope="row">{name}</th><td>{length:.1f}</td>'
                f"<td>“{html.escape(word)}”</td><td>{share:.0%}</td></tr>"
            )
        heads = ("after", "length of the stream", "best guess at the next token", "probability")
        columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
        return (
            f"<figure><p>{marked}</p><table><caption>What the model would say next at the token in "
            f"bold, read off after each layer.</caption><thead><tr>{columns}</tr></thead>"
            f"<tbody>{rows}</tbody></table></figure>"
        )


class _Words:
    """A list of the tokens that are mentioned, each once; called with a number, its place there."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.list: list[str] = []
        self._places: dict[int, int] = {}

    def __call__(self, index: int) -> int:
        if index not in self._places:
            self._places[index] = len(self.list)
            self.list.append(self.lm.readable(index))
        return self._places[index]


def _parts(steps: Walk) -> Float[Tensor, "length parts width"]:
    """The embedding, then for each layer what its heads add and what all else in it adds."""
    rest = steps.feed_forward + steps.bias[:, None]  # (layers, length, width)
    added = torch.cat([steps.heads, rest[:, None]], dim=1).flatten(0, 1)
    return torch.cat([steps.embedding[None], added]).transpose(0, 1)


def _eight_bits(
    parts: Float[Tensor, "length parts width"],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each vector as integers from -127 to 127, and the number that they are multiples of."""
    numbers = parts.float().cpu().numpy()
    scales = np.maximum(np.abs(numbers).max(-1), 1e-12).astype("<f4") / np.float32(127)
    return np.rint(numbers / scales[..., None]).astype(np.int8), scales


def _readings(
    lens: Float[Tensor, "stages length vocab"], ids: list[int], words: _Words
) -> list[Any]:
    """For each token and stage: the likeliest tokens, log of the sum, the token that does follow.

    ``{"top": [[word, logit], ...], "total": logsumexp, "next": [word, logit, rank] or None}``
    """

    def read(logits: Tensor, following: int | None) -> dict[str, Any]:
        best = logits.topk(min(GUESSES, len(logits)))
        top = [
            [words(i), round(v, 4)]
            for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        true = None
        if following is not None:
            rank = 1 + int((logits > logits[following]).sum())
            true = [words(following), round(float(logits[following]), 4), rank]
        return {"top": top, "total": round(float(logits.logsumexp(-1)), 4), "next": true}

    following = [*ids[1:], None]
    return [
        [read(lens[stage, i], following[i]) for stage in range(len(lens))] for i in range(len(ids))
    ]


def _neurons(steps: Walk, words: _Words) -> list[Any]:
    """For each token and layer the most active neurons: ``[neuron, activation, [word, ...]]``."""

    def active(layer: int, token: int) -> list[Any]:
        best = steps.neurons[layer, token].topk(min(NEURONS, steps.neurons.shape[-1]))
        return [
            [n, round(a, 3), [words(i) for i in steps.promotes(layer, n)]]
            for a, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    layers, length = steps.neurons.shape[:2]
    return [[active(layer, i) for layer in range(layers)] for i in range(length)]


def _votes(steps: Walk, logits: Float[Tensor, "length vocab"], words: _Words) -> list[Any]:
    """For each token, who lifts its likeliest successors: ``[word, above, [vote, ...]]``.

    The votes are those of the embedding, of each layer's heads and feed-forward network (with
    attention's bias), and of the final norm's bias. They add up to ``above``, the logit minus the
    mean of all logits.
    """
    layers, heads = steps.heads.shape[:2]
    following = [*steps.ids[1:], None]
    found = []
    for i, after in enumerate(following):
        best = logits[i].topk(GUESSES - 1).indices.tolist()
        chosen = best if after is None or after in best else [*best, after]
        votes = steps.votes(i, chosen)
        inside = votes[1:-1].view(layers, heads + 2, -1)
        rest = inside[:, heads:].sum(1, keepdim=True)
        inside = torch.cat([inside[:, :heads], rest], 1).flatten(0, 1)
        columns = torch.cat([votes[:1], inside, votes[-1:]]).T.tolist()
        above = (logits[i, chosen] - logits[i].mean()).tolist()
        found.append(
            [
                [words(t), round(a, 3), [round(v, 3) for v in column]]
                for t, a, column in zip(chosen, above, columns, strict=True)
            ]
        )
    return found
