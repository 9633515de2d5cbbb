"""A forward pass with every step kept: what each part of a GPT-NeoX adds on the way to the logits.

A token is one vector from beginning to end, and each head and each feed-forward network only adds
to it. That running sum is the residual stream (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits", https://transformer-circuits.pub/2021/framework/index.html). The layers are
those of Black et al. (2022), "GPT-NeoX-20B", section 2.1, https://arxiv.org/abs/2204.06745.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GPTNeoXForCausalLM

from effedu.attention import attention
from effedu.lm import LanguageModel
from effedu.positional import rotary


@dataclass(frozen=True, repr=False, eq=False)
class Walk:
    """What :func:`walk` met: the embedding, and what every part of every layer added to it.

    For each token ``embedding + heads.sum((0, 1)) + bias.sum(0) + feed_forward.sum(0)`` is the
    vector that the logits are read from.

    Attributes:
        lm: the model that was walked through.
        tokens: the text's tokens, as :meth:`effedu.lm.LanguageModel.tokens` shows them.
        ids: their numbers.
        embedding: where each token starts.
        weights: the attention weights of each head.
        heads: what each head adds.
        bias: what attention's output adds whatever the heads say, the same for all tokens.
        neurons: the activations inside the feed-forward network.
        feed_forward: what the feed-forward network adds, its bias included.
    """

    lm: LanguageModel
    tokens: list[str]
    ids: list[int]
    embedding: Float[Tensor, "length width"]
    weights: Float[Tensor, "layers heads length length"]
    heads: Float[Tensor, "layers heads length width"]
    bias: Float[Tensor, "layers width"]
    neurons: Float[Tensor, "layers length neurons"]
    feed_forward: Float[Tensor, "layers length width"]

    def __repr__(self) -> str:
        layers, heads, length, width = self.heads.shape
        return f"Walk({length} tokens, {layers} layers of {heads} heads, width {width})"

    @property
    def stream(self) -> Float[Tensor, "stages length width"]:
        """The residual stream: the embedding, then the sum after each layer."""
        added = self.heads.sum(1) + self.bias[:, None] + self.feed_forward
        return torch.cat([self.embedding[None], added]).cumsum(0)

    @torch.no_grad()
    def lens(self) -> Float[Tensor, "stages length vocab"]:
        """Logits read off the stream at each stage, as if no later layer added anything.

        The last stage holds the model's own logits. The others are the *logit lens*, a guess at
        what the model has worked out so far: no stage but the last was trained to be read this way.

        >>> from effedu.lm import load_lm
        >>> lm = load_lm()
        >>> steps = walk(lm, "To be, or not to be")
        >>> ids = torch.tensor([steps.ids])
        >>> torch.allclose(steps.lens()[-1], lm.model(ids).logits[0], atol=1e-4)
        True
        """
        logits: Tensor = _unembed(self.lm)(_net(self.lm).final_layer_norm(self.stream))
        return logits

    @torch.no_grad()
    def votes(self, position: int, ids: list[int]) -> Float[Tensor, "parts tokens"]:
        r"""How far each part lifts the logits of ``ids`` at ``position`` above the average token's.

        The parts are the embedding, then for each layer its heads, attention's bias and the
        feed-forward network, and last the bias of the final layer norm. That norm divides all
        parts by one number, so a column adds up to the token's logit minus the mean of all logits.

        Raises:
            ValueError: a position that the text does not have, or a number that is no token's.
        """
        if position not in range(-len(self.ids), len(self.ids)):
            raise ValueError(f"position must be one of {len(self.ids)} tokens, got {position}")
        vocabulary = _unembed(self.lm).weight  # (vocab, width)
        for index in ids:
            if index not in range(len(vocabulary)):
                raise ValueError(f"ids must be from 0 to {len(vocabulary) - 1}, got {index}")
        norm = _net(self.lm).final_layer_norm
        layers = torch.cat(
            [self.heads[:, :, position], self.bias[:, None], self.feed_forward[:, None, position]],
            dim=1,
        )  # (layers, heads + 2, width)
        parts = torch.cat([self.embedding[None, position], layers.flatten(0, 1)])
        final = parts.sum(0)
        spread = (final.var(correction=0) + norm.eps).sqrt()
        parts = norm.weight * (parts - parts.mean(-1, keepdim=True)) / spread
        directions = vocabulary[ids] - vocabulary.mean(0)  # (tokens, width)
        return torch.cat([parts, norm.bias[None]]) @ directions.mT

    @torch.no_grad()
    def promotes(self, layer: int, neuron: int, count: int = 3) -> list[int]:
        """The ``count`` tokens whose logits one neuron lifts most when it is active.

        A neuron adds its column of the output matrix to the stream, times its activation (Geva et
        al. 2021, section 4, https://arxiv.org/abs/2012.14913). This reads that column as logits.
        """
        column = _net(self.lm).layers[layer].mlp.dense_4h_to_h.weight[:, neuron]  # (width,)
        centred = (column - column.mean()) * _net(self.lm).final_layer_norm.weight
        best: list[int] = (_unembed(self.lm).weight @ centred).topk(count).indices.tolist()
        return best


@torch.no_grad()
def walk(lm: LanguageModel, text: str) -> Walk:
    r"""Run a GPT-NeoX on ``text``, written out of effedu's parts, and keep every step.

    Layer :math:`l` turns the stream :math:`x` into

    .. math:: x + \sum_{i=1}^{h} \mathrm{head}_i(\mathrm{LN}_1(x)) + \mathrm{FFN}(\mathrm{LN}_2(x)).

    Attention and the feed-forward network read the same :math:`x`: the *parallel residual*. In
    models without it the network reads what attention has already added to. Attention is dense,
    whatever :func:`effedu.patch.patched` has put into the model.

    Args:
        lm: a GPT-NeoX, such as the embedded model or any Pythia.
        text: at least one token and at most the model's positions.

    Raises:
        ValueError: another kind of model, another rotary scheme than the default one, an empty
            text, or more tokens than the model has positions.

    >>> from effedu.lm import load_lm
    >>> steps = walk(load_lm(), "To be, or not to be")
    >>> steps
    Walk(7 tokens, 4 layers of 4 heads, width 256)
    >>> steps.stream.shape  # the embedding, and after each of four layers
    torch.Size([5, 7, 256])
    """
    _check_neox(lm.model)
    ids = lm.tokenizer.encode(text)
    if not ids:
        raise ValueError(f"text must hold at least one token, got {text!r}")
    if lm.context_length is not None and len(ids) > lm.context_length:
        raise ValueError(
            f"text must have at most the model's {lm.context_length} positions, "
            f"got {len(ids)} tokens"
        )
    embedding = stream = _net(lm).embed_in(torch.tensor(ids, device=lm.device))
    steps = []
    for layer in _net(lm).layers:
        weights, heads = _heads(layer.attention, layer.input_layernorm(stream))
        bias = layer.attention.dense.bias
        bias = torch.zeros_like(stream[0]) if bias is None else bias.detach()
        attended = stream + heads.sum(0) + bias
        read = stream if layer.use_parallel_residual else attended
        neurons = layer.mlp.act(layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(read)))
        feed_forward = layer.mlp.dense_4h_to_h(neurons)
        stream = attended + feed_forward
        steps.append((weights, heads, bias, neurons, feed_forward))
    kept = (torch.stack(each) for each in zip(*steps, strict=True))
    return Walk(lm, lm.tokens(text), ids, embedding, *kept)


def _heads(
    module: Any, x: Float[Tensor, "length width"]
) -> tuple[Float[Tensor, "heads length length"], Float[Tensor, "heads length width"]]:
    """The weights of each head, and what it adds to the stream."""
    head_dim = module.head_size
    # NeoX keeps the query, key and value of one head side by side.
    grouped = module.query_key_value(x).unflatten(-1, (-1, 3 * head_dim)).transpose(0, 1)
    query, key, value = grouped.chunk(3, dim=-1)  # (heads, length, head_dim) each
    rope = module.config.rope_parameters
    turning = int(head_dim * rope.get("partial_rotary_factor", 1.0))  # a part of each head only
    query, key = (rotary(x, base=rope["rope_theta"], rotary_dim=turning) for x in (query, key))
    mixed, weights = attention(query[None], key[None], value[None], return_weights=True)
    # Each head has its own columns of the output matrix.
    output = module.dense.weight.unflatten(-1, (-1, head_dim))  # (width, heads, head_dim)
    return weights[0], torch.einsum("hnk,dhk->hnd", mixed[0], output)


def _net(lm: LanguageModel) -> Any:
    """The model without its output matrix."""
    return lm.model.base_model


def _unembed(lm: LanguageModel) -> nn.Linear:
    """The output matrix; releases of ``transformers`` differ in its name."""
    head: nn.Linear = lm.model.get_output_embeddings()
    return head


def _check_neox(model: nn.Module) -> None:
    if not isinstance(model, GPTNeoXForCausalLM):
        raise ValueError(
            f"lm must hold a GPT-NeoX, such as the embedded model or a Pythia, "
            f"got {type(model).__name__}"
        )
    scheme = model.config.rope_parameters.get("rope_type", "default")
    if scheme != "default":
        raise ValueError(f"lm must turn positions by the 'default' rotary scheme, got {scheme!r}")
