"""Muon in float32 takes the steps that PyTorch's takes in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tools.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(12, 48), (48, 12), (24, 24)])
def test_steps_are_those_of_pytorch(shape):
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = [
        Muon([ours], **settings),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
    ]
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bfloat16 keeps two to three digits


def test_orthogonalise_keeps_the_directions_and_evens_out_the_sizes():
    matrix = torch.randn(16, 40)
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.max() > 2 * sizes.min()
    even = u.mT @ orthogonalise(matrix) @ v.mT
    assert_close(even, even.diag().diag(), atol=1e-4, rtol=0)  # the same singular vectors
    assert even.diag().min() > 0.6
    assert even.diag().max() < 1.3


def test_a_weight_without_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    Muon([weight], lr=1.0).step()
    assert_close(weight.detach(), torch.ones(2, 3))
