"""Compression: fewer numbers in a trained model, by zeros, low rank, fewer neurons or layers.

Zeros alone (:func:`magnitude_prune`) leave a matrix as large as it was. Fewer neurons
(:func:`prune_neurons`), two thin matrices for a large one (:func:`low_rank`) and layers that are
left out or shared (:func:`keep_layers`, :func:`share_layers`) make the model really smaller. What
such a model lost can be trained back, see :mod:`effedu.distillation`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from effedu._checks import check_int
from effedu.calibration import InputStatistics, damped
from effedu.grids import check_weight

Model = TypeVar("Model", bound=nn.Module)  # a transformers model: it has a config


def _config(model: nn.Module) -> Any:
    """The configuration of the part that reads text, which for most models is the whole one."""
    return cast(Any, model.config).get_text_config()


# --- Zeros -------------------------------------------------------------------------------------


def magnitude_prune(weight: Float[Tensor, "..."], share: float | int) -> Float[Tensor, "..."]:
    """A copy of ``weight`` in which the smallest numbers, by absolute value, are zero.

    The copy takes as much memory as before, and a product with it as much time: a dense matrix
    stores its zeros, and multiplies by them.

    Args:
        weight: floating-point, any shape, finite.
        share: of the numbers to set to zero, from 0 to 1; rounded to whole numbers.

    Raises:
        ValueError: a weight that is empty, not floating-point or not finite, or a share outside
            of 0 to 1.

    Source: Han et al. (2015), https://arxiv.org/abs/1506.02626, with a share in place of a
    threshold. Chooses as ``torch.nn.utils.prune.l1_unstructured`` does.

    >>> magnitude_prune(torch.tensor([[0.5, -2.0], [1.0, -0.1]]), 0.5)
    tensor([[ 0., -2.],
            [ 1.,  0.]])
    """
    check_weight(weight)
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share!r}")
    count = round(share * weight.numel())
    pruned = weight.detach().clone(memory_format=torch.contiguous_format)
    smallest = weight.detach().abs().flatten().topk(count, largest=False).indices
    pruned.view(-1)[smallest] = 0
    return pruned


def prune_two_of_four(weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
    """A copy in which the two smallest of each four neighbours along a row are zero.

    Half of the numbers are zero as with ``magnitude_prune(weight, 0.5)``, but in a pattern that
    the sparse units of recent NVIDIA GPUs can skip (Mishra et al., 2021,
    https://arxiv.org/abs/2104.08378).

    Args:
        weight: of a linear layer, finite; its inputs a multiple of four.

    Raises:
        ValueError: another shape, or a weight that is empty, not floating-point or not finite.

    >>> prune_two_of_four(torch.tensor([[4.0, 3.0, -2.0, 1.0, 0.0, -6.0, 1.0, 5.0]]))
    tensor([[ 4.,  3.,  0.,  0.,  0., -6.,  0.,  5.]])
    """
    check_weight(weight)
    if weight.ndim != 2 or weight.shape[1] % 4:
        raise ValueError(
            f"weight must be (outputs, inputs) with inputs a multiple of 4, "
            f"got shape {tuple(weight.shape)}"
        )
    fours = weight.detach().reshape(-1, 4)  # (outputs · inputs / 4, 4)
    smallest = fours.abs().topk(2, dim=-1, largest=False).indices
    return fours.scatter(-1, smallest, 0).view(weight.shape)


# --- Low rank ----------------------------------------------------------------------------------


def break_even_rank(outputs: int, inputs: int) -> float:
    """The rank at which two thin matrices hold as many numbers as one of ``outputs × inputs``.

    At rank :math:`r` they hold :math:`r (m + n)` numbers in place of :math:`m n`, and take as many
    multiply-adds a token, so low rank saves below :math:`m n / (m + n)` only.

    Raises:
        ValueError: a count that is not a positive integer.

    >>> break_even_rank(1024, 256)
    204.8
    """
    check_int("outputs", outputs, minimum=1)
    check_int("inputs", inputs, minimum=1)
    return outputs * inputs / (outputs + inputs)


class LowRankLinear(nn.Module):
    """A linear layer whose weight is the product of two thin ones; :func:`low_rank` fills it.

    Holds ``rank * (in_features + out_features)`` numbers, and the bias.

    >>> layer = LowRankLinear(256, 1024, rank=64, bias=False)
    >>> sum(p.numel() for p in layer.parameters()) == 64 * (256 + 1024)
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_int("in_features", in_features, minimum=1)
        check_int("out_features", out_features, minimum=1)
        check_int("rank", rank, minimum=1)
        self.narrow = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.widen = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The product, as one matrix."""
        return self.widen.weight @ self.narrow.weight

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Through the thin layer and out again: ``rank`` numbers in between."""
        hidden = self.narrow(x)  # (*batch, rank)
        output: Tensor = self.widen(hidden)
        return output


@torch.no_grad()
def low_rank(
    linear: nn.Linear,
    rank: int,
    *,
    moments: Float[Tensor, "inputs inputs"] | None = None,
    damping: float | int = 1e-4,
) -> LowRankLinear:
    r"""The best approximation of a linear layer by two thin ones, ``rank`` numbers in between.

    Without ``moments`` the weight itself is approximated: of :math:`W = U \Sigma V^\top` the
    ``rank`` largest singular values stay, and no other matrix of that rank comes closer:
    :math:`\lVert W - W_r \rVert_F^2 = \sum_{k > r} \sigma_k^2` (Eckart and Young, 1936).

    With ``moments`` the layer's output on those inputs is approximated. With
    :math:`X^\top X = C C^\top` (Cholesky), :math:`\lVert (W - \hat W) X^\top \rVert_F =
    \lVert (W - \hat W)\, C \rVert_F`; so the singular values of :math:`W C` are cut off, and
    :math:`\hat W = (W C)_r\, C^{-1}`. The error of the output is never larger than without
    ``moments``.

    Args:
        linear: its weight must be finite. It is left as it is.
        rank: from 1 to the smaller side of the weight.
        moments: ``XᵀX`` of the layer's inputs, one row of ``X`` a token, up to a factor
            (:func:`effedu.calibration.input_statistics`).
        damping: added to the diagonal of ``moments``, as a share of its mean, so that they have an
            inverse. Their error stays the smaller one at any damping.

    Returns:
        A layer of the same shape, dtype and device, with the bias as it was. Its two matrices
        share the singular values evenly.

    Raises:
        ValueError: not an ``nn.Linear``, a rank out of range, a weight or moments that are not
            finite, moments of another shape or all zero, or damping that is not positive and
            finite.

    Source: Wang et al. (2025), "SVD-LLM", https://arxiv.org/abs/2403.07378, for the whitening by a
    Cholesky factor; Yuan et al. (2023), "ASVD", https://arxiv.org/abs/2312.05821, scale each input
    by its size instead.

    >>> linear = nn.Linear(8, 6)
    >>> inputs = torch.randn(50, 3) @ torch.randn(3, 8)  # in three dimensions of eight
    >>> aware = low_rank(linear, 3, moments=inputs.T @ inputs)
    >>> torch.allclose(aware(inputs), linear(inputs), atol=1e-3)
    True
    """
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"linear must be an nn.Linear, got {type(linear).__name__}")
    check_weight(linear.weight)
    weight = linear.weight.double()  # (outputs, inputs)
    check_int("rank", rank, minimum=1)
    if rank > min(weight.shape):
        raise ValueError(
            f"rank must be at most {min(weight.shape)}, the smaller side of the weight, got {rank}"
        )
    factor = None  # the lower Cholesky factor of the moments
    if moments is not None:
        factor = torch.linalg.cholesky(damped(moments, weight.shape[1], damping))
    left, values, right = torch.linalg.svd(
        weight if factor is None else weight @ factor, full_matrices=False
    )
    left, root, right = left[:, :rank], values[:rank].sqrt(), right[:rank]
    if factor is not None:  # right · C⁻¹
        right = torch.linalg.solve_triangular(factor, right, upper=False, left=False)

    thin = LowRankLinear(
        linear.in_features,
        linear.out_features,
        rank,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
    thin.narrow.weight.copy_(root[:, None] * right)  # (rank, inputs)
    thin.widen.weight.copy_(left * root)  # (outputs, rank)
    if linear.bias is not None:
        thin.widen.bias.copy_(linear.bias)
    return thin


def replace_linears(
    model: Model,
    replace: Callable[[str, nn.Linear], nn.Module],
    kinds: Collection[str] | None = None,
) -> Model:
    """A copy of the model with something else in the place of the linear layers of its layers.

    Args:
        model: GPT-NeoX, Llama, or another whose layers stand in a list ``layers``; left as it is.
        replace: called with the name of a linear layer in the model and with the layer, which is
            a copy already; what it returns takes the layer's place. May change and return it.
        kinds: last parts of the names of those to replace, such as ``{"dense_4h_to_h"}``; all
            inside the layers if None. The layer that gives the logits stays.

    Raises:
        ValueError: another kind of model, or a kind that it does not have.

    >>> from effedu.lm import load_lm
    >>> thin = replace_linears(load_lm().model, lambda name, linear: low_rank(linear, 16))
    >>> type(thin.gpt_neox.layers[0].mlp.dense_h_to_4h).__name__
    'LowRankLinear'
    """
    changed = copy.deepcopy(model)
    layers = _layers(changed)[1]
    inside = {module for module in layers.modules() if isinstance(module, nn.Linear)}
    found = {n: m for n, m in changed.named_modules() if m in inside}
    have = {name.rpartition(".")[2] for name in found}
    if kinds is not None and not set(kinds) <= have:
        raise ValueError(f"kinds must be among {', '.join(sorted(have))}; got {sorted(kinds)}")
    for name, linear in found.items():
        if kinds is None or name.rpartition(".")[2] in kinds:
            changed.set_submodule(name, replace(name, cast(nn.Linear, linear)))
    return changed


# --- Fewer neurons -----------------------------------------------------------------------------


class _FeedForward(NamedTuple):
    """The linear layers of one feed-forward network: a neuron is a row of ``reads``' weights."""

    module: nn.Module
    name: str  # of ``module`` in the model
    reads: tuple[str, ...]
    writes: str  # a neuron is a column of its weight

    def linear(self, name: str) -> nn.Linear:
        layer: nn.Linear = getattr(self.module, name)
        return layer

    @property
    def output(self) -> str:
        """The name of the layer that the neurons write to, as statistics use it."""
        return f"{self.name}.{self.writes}"


_ALL = slice(None)
_KINDS = ((("dense_h_to_4h",), "dense_4h_to_h"), (("up_proj", "gate_proj"), "down_proj"))


def _feed_forwards(model: nn.Module) -> list[_FeedForward]:
    found = [
        _FeedForward(module, name, reads, writes)
        for name, module in model.named_modules()
        for reads, writes in _KINDS
        if all(isinstance(getattr(module, n, None), nn.Linear) for n in (*reads, writes))
    ]
    if not found or not hasattr(model, "config"):
        raise ValueError(
            f"model must be a transformers model with feed-forward networks like GPT-NeoX's "
            f"(dense_h_to_4h, dense_4h_to_h) or Llama's (gate_proj, up_proj, down_proj), "
            f"got {type(model).__name__}"
        )
    return found


@torch.no_grad()
def neuron_importance(
    model: nn.Module, statistics: Mapping[str, InputStatistics] | None = None
) -> dict[str, Float[Tensor, "neurons"]]:
    r"""How much each neuron of each feed-forward network adds, by the name of its output layer.

    Without ``statistics``, the product of the norms of what the neuron reads with and of what it
    writes. With them, :math:`\sqrt{\overline{a_j^2}}\; \lVert w_j \rVert`: the root mean square of
    its activation times the norm of its column, which is the root mean square of the vector that
    it adds.

    Args:
        model: GPT-NeoX, Llama, or another with feed-forward networks of the same names.
        statistics: of the output layers' inputs (:func:`effedu.calibration.input_statistics`).

    Raises:
        ValueError: another kind of model, or statistics that lack a layer or don't fit it.

    Source: Muralidharan et al. (2024), https://arxiv.org/abs/2407.14679, for choosing by
    activations on a small calibration text.

    >>> from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=16, intermediate_size=32, **sizes))
    >>> [tuple(each.shape) for each in neuron_importance(model).values()]
    [(32,)]
    """
    importance = {}
    for ffn in _feed_forwards(model):
        output = ffn.linear(ffn.writes)
        wrote = output.weight.float().norm(dim=0)  # (neurons,)
        if statistics is None:
            read = torch.stack([ffn.linear(n).weight.float().norm(dim=1) for n in ffn.reads])
            importance[ffn.output] = read.prod(0) * wrote
            continue
        found = statistics.get(ffn.output)
        if found is None or len(found.largest) != output.in_features:
            got = "none" if found is None else f"{len(found.largest)} inputs"
            raise ValueError(
                f"statistics must hold {output.in_features} inputs of {ffn.output}, got {got}"
            )
        mean_square = found.moments.diagonal() / found.tokens
        importance[ffn.output] = mean_square.sqrt().to(wrote.device) * wrote
    return importance


@torch.no_grad()
def prune_neurons(
    model: Model, keep: int, *, statistics: Mapping[str, InputStatistics] | None = None
) -> Model:
    """A copy of the model with the ``keep`` most important neurons of each feed-forward network.

    Matrices really shrink, and so does ``config.intermediate_size``: :func:`effedu.cost.cost` of
    the copy's configuration counts it right, and it saves and loads like any other. Its output is
    that of the model with the other neurons' activations set to zero.

    Args:
        model: as :func:`neuron_importance`; left as it is.
        keep: neurons to keep in each layer, from 1 to what there are.
        statistics: by which to choose, see :func:`neuron_importance`; weights alone if None.

    Raises:
        ValueError: as :func:`neuron_importance`, or ``keep`` out of range.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=16, intermediate_size=32, **sizes))
    >>> prune_neurons(model, 8).model.layers[0].mlp.down_proj
    Linear(in_features=8, out_features=8, bias=False)
    """
    check_int("keep", keep, minimum=1)
    importance = neuron_importance(model, statistics)
    fewest = min(len(each) for each in importance.values())
    if keep > fewest:
        raise ValueError(f"keep must be at most the model's {fewest} neurons a layer, got {keep}")
    smaller = copy.deepcopy(model)
    for ffn in _feed_forwards(smaller):
        kept = importance[ffn.output].topk(keep).indices.sort().values
        for name in ffn.reads:
            setattr(ffn.module, name, _selected(ffn.linear(name), rows=kept))
        setattr(ffn.module, ffn.writes, _selected(ffn.linear(ffn.writes), columns=kept))
        if hasattr(ffn.module, "intermediate_size"):
            ffn.module.intermediate_size = keep  # type: ignore[assignment]
    _config(smaller).intermediate_size = keep
    return smaller


def _selected(
    linear: nn.Linear, rows: Tensor | slice = _ALL, columns: Tensor | slice = _ALL
) -> nn.Linear:
    """A linear layer of these outputs and inputs only."""
    weight = linear.weight.detach()[rows][:, columns].clone()
    bias = None if linear.bias is None else linear.bias.detach()[rows].clone()
    outputs, inputs = weight.shape
    smaller = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight)
    if bias is not None:
        smaller.bias = nn.Parameter(bias)
    return smaller.train(linear.training)


# --- Fewer layers ------------------------------------------------------------------------------


def _layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The list of the model's layers, and the module that holds it."""
    if hasattr(model, "config"):
        for module in model.modules():
            layers = getattr(module, "layers", None)
            if isinstance(layers, nn.ModuleList):
                return module, layers
    raise ValueError(
        f"model must be a transformers model with a list of layers, such as GPT-NeoX or Llama, "
        f"got {type(model).__name__}"
    )


def keep_layers(model: Model, kept: Sequence[int]) -> Model:
    """A copy of the model with some of its layers only, in the order given.

    Args:
        model: GPT-NeoX, Llama, or another whose layers stand in a list ``layers``.
        kept: numbers of layers, counted from 0, each at most once.

    Raises:
        ValueError: another kind of model, or no, doubled or missing layers.

    Source: Sanh et al. (2019), "DistilBERT", https://arxiv.org/abs/1910.01108, begin with every
    other layer of the teacher.

    >>> from effedu.lm import load_lm
    >>> keep_layers(load_lm().model, [0, 2]).config.num_hidden_layers
    2
    """
    count = len(_layers(model)[1])
    if not kept or len(set(kept)) < len(kept) or not set(kept) <= set(range(count)):
        raise ValueError(f"kept must hold numbers from 0 to {count - 1}, once each, got {kept!r}")
    smaller = copy.deepcopy(model)
    holder, layers = _layers(smaller)
    holder.layers = nn.ModuleList([layers[i] for i in kept])
    for i, layer in enumerate(holder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where the KV cache keeps this layer's tokens
                module.layer_idx = i  # type: ignore[assignment]
    config = _config(smaller)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    return smaller


@torch.no_grad()
def share_layers(model: Model, size: int) -> Model:
    """A copy in which runs of ``size`` neighbouring layers share one set of weights, their mean.

    The copy holds fewer numbers and computes as much as before. Save its ``state_dict`` rather
    than the model, if it has to be saved: files of tied weights are not written.

    Args:
        model: as :func:`keep_layers`; its layers must be alike.
        size: layers that share, at least 1; a last run may be shorter.

    Raises:
        ValueError: another kind of model, layers of different shapes, or ``size`` below 1.

    Source: Lan et al. (2020), "ALBERT", https://arxiv.org/abs/1909.11942, train all layers as one
    from the start; here they are made one afterwards.

    >>> from effedu.lm import load_lm
    >>> lm = load_lm()
    >>> shared = share_layers(lm.model, 2)
    >>> sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in lm.model.parameters())
    True
    """
    check_int("size", size, minimum=1)
    shapes = [{n: p.shape for n, p in layer.named_parameters()} for layer in _layers(model)[1]]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("model must have layers of one shape to share weights; its layers differ")
    shared = copy.deepcopy(model)
    layers = _layers(shared)[1]
    for start in range(0, len(layers), size):
        run = list(layers[start : start + size])
        for name in shapes[0]:
            path, _, leaf = name.rpartition(".")
            owners = [layer.get_submodule(path) for layer in run]
            mean = nn.Parameter(torch.stack([getattr(owner, leaf) for owner in owners]).mean(0))
            for owner in owners:
                setattr(owner, leaf, mean)
    return shared
