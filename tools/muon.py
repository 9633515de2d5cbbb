"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) in float32.

``torch.optim.Muon`` orthogonalises in bfloat16, which a processor without instructions for it
emulates: about a hundred times slower. This one gives the same steps in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic whose iteration drives every singular value towards one, fast rather than exactly.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, for the weight matrices inside the layers.

    The step of an m×n matrix has the size that AdamW's would have: the rate times
    ``0.2 * max(m, n) ** 0.5`` (Liu et al. 2025, "Muon is Scalable for LLM Training",
    https://arxiv.org/abs/2502.16982).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure here
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - momentum)
                update = orthogonalise(weight.grad.lerp(average, momentum))  # Nesterov's look ahead
                weight.mul_(1 - rate * group["weight_decay"])
                weight.sub_(update, alpha=rate * 0.2 * max(weight.shape) ** 0.5)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """About ``U V^T`` of the singular value decomposition ``U S V^T``, by Newton–Schulz."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT  # the smaller side squared
        wide = _A * wide + (_B * gram + _C * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
