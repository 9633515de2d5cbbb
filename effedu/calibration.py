"""Rounding that looks at a layer's inputs: GPTQ, and the statistics it needs.

Rounding to nearest treats all weights alike. But what counts is the layer's output, and a weight
whose input is large counts more. GPTQ (Frantar et al., 2023, https://arxiv.org/abs/2210.17323)
rounds one column after another and corrects the columns that are still to come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from effedu.grids import (
    Grid,
    check_bits,
    check_weight,
    from_grid,
    group_length,
    make_grid,
    pack,
    round_to_grid,
)
from effedu.quantization import QuantizedTensor


class InputStatistics(NamedTuple):
    """What a linear layer received: one row of ``X`` for each token, one column for each input."""

    moments: Float[Tensor, "inputs inputs"]  # XᵀX
    largest: Float[Tensor, "inputs"]  # the largest |x| of each input
    tokens: int


@torch.no_grad()
def input_statistics(model: nn.Module, run: Callable[[], object]) -> dict[str, InputStatistics]:
    """Statistics of what each linear layer inside ``model`` receives while ``run`` runs.

    Keeps ``inputs²`` numbers for each layer, however many tokens pass.

    Args:
        model: its ``nn.Linear`` layers are watched.
        run: called once, without arguments; it should run the model over text like that which the
            model will see, such as ``lambda: lm.bits_per_byte(text)``.

    Returns:
        By the layer's name in ``model.named_modules()``; layers that did not run are left out.

    >>> layer = nn.Linear(2, 3)
    >>> input_statistics(layer, lambda: layer(torch.tensor([[1.0, 2.0], [0.0, -3.0]])))[""].largest
    tensor([1., 3.])
    """
    found: dict[str, InputStatistics] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).float()  # (tokens, inputs)
            new = InputStatistics(rows.mT @ rows, rows.abs().amax(0), len(rows))
            old = found.get(name)
            if old is not None:
                new = InputStatistics(
                    old.moments + new.moments,
                    torch.maximum(old.largest, new.largest),
                    old.tokens + new.tokens,
                )
            found[name] = new

        return hook

    hooks = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def gptq(
    weight: Float[Tensor, "outputs inputs"],
    moments: Float[Tensor, "inputs inputs"],
    *,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
    damping: float | int = 0.01,
) -> QuantizedTensor:
    r"""Round a weight column by column, each time correcting the columns still to come.

    Rounding to nearest makes :math:`\lVert \hat W - W \rVert` small; this makes the error of the
    output small, :math:`\lVert (\hat W - W) X^\top \rVert`. With :math:`H = X^\top X` and
    :math:`U` the upper Cholesky factor of :math:`H^{-1}` (:math:`H^{-1} = U^\top U`), rounding
    column :math:`i` to :math:`\hat w_i` changes the columns :math:`j > i` to
    :math:`w_j - \frac{w_i - \hat w_i}{U_{ii}}\, U_{ij}`: the change that makes up best for the
    error, as far as the rest of the row can.

    Args:
        weight: of a linear layer, ``(outputs, inputs)``, finite.
        moments: ``XᵀX`` of the layer's inputs (:func:`input_statistics`), up to a factor.
        bits, group_size, symmetric, scale_dtype: as in :func:`effedu.quantization.quantize`. The
            grid of a group is made when its first column is reached.
        damping: added to the diagonal of ``moments``, as a share of its mean.

    Raises:
        ValueError: as :func:`effedu.quantization.quantize`; ``moments`` of another shape, not
            finite, or all zero; ``damping`` that is not positive and finite.

    Source: Frantar et al. (2023), Algorithm 1, without its blocks of columns: those make it fast
    on a GPU and do not change the result.

    >>> weight, inputs = torch.randn(8, 16), torch.randn(100, 4) @ torch.randn(4, 16)
    >>> better = gptq(weight, inputs.T @ inputs, bits=2)
    >>> from effedu.quantization import quantize
    >>> nearest = quantize(weight, bits=2)
    >>> error = [((q.dequantize() - weight) @ inputs.T).norm() for q in (better, nearest)]
    >>> bool(error[0] < error[1])
    True
    """
    check_bits(bits)
    values = check_weight(weight).clone()
    if weight.ndim != 2:
        raise ValueError(f"weight must be (outputs, inputs), got shape {tuple(weight.shape)}")
    size, columns = group_length(weight, group_size), weight.shape[1]
    factor = _inverse_factor(moments, columns, damping)

    codes = torch.empty_like(values, dtype=torch.uint8)
    grids = []
    for start in range(0, columns, size):
        group = values[:, start : start + size]
        grid = make_grid(group, bits=bits, symmetric=symmetric, scale_dtype=scale_dtype)
        grids.append(grid)
        for i in range(start, start + size):
            column = values[:, i : i + 1]
            code = codes[:, i : i + 1] = round_to_grid(column, grid, bits=bits)
            error = (column - from_grid(code, grid, bits=bits)) / factor[i, i]
            values[:, i + 1 :] -= error * factor[i, i + 1 :]
    scale = torch.stack([grid.scale for grid in grids], dim=1)  # (outputs, groups of a row)
    offset = None
    if not symmetric:
        offset = torch.stack([grid.offset for grid in grids], dim=1).flatten()  # type: ignore[misc]
    packed = pack(codes.flatten(), bits)
    return QuantizedTensor(packed, Grid(scale.flatten(), offset), bits, tuple(weight.shape))


def _inverse_factor(moments: Tensor, inputs: int, damping: float | int) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moments, in float32."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moments, inputs, damping)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def damped(
    moments: Float[Tensor, "inputs inputs"], inputs: int, damping: float | int
) -> Float[Tensor, "inputs inputs"]:
    """Moments with a share ``damping`` of their mean on the diagonal, so that they have an inverse.

    In float64. Inputs that always were zero, or that depend on each other, have none without.

    Raises:
        ValueError: moments of another shape than ``inputs × inputs``, not finite, or with nothing
            positive on the diagonal; damping that is not positive and finite.

    >>> damped(torch.eye(2), 2, 0.5).tolist()
    [[1.5, 0.0], [0.0, 1.5]]
    """
    if moments.shape != (inputs, inputs):
        raise ValueError(
            f"moments must have the shape {(inputs, inputs)} that the layer's inputs give, "
            f"got {tuple(moments.shape)}"
        )
    mean = moments.diagonal().double().mean().item()
    if not moments.isfinite().all() or mean <= 0:
        raise ValueError("moments must be finite, with something positive on the diagonal")
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping must be positive and finite, got {damping!r}")
    identity = torch.eye(inputs, dtype=torch.float64, device=moments.device)
    return moments.double() + damping * mean * identity
