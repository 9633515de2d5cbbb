"""Distillation: a small model, the student, learns to predict what a large one, the teacher, does.

The teacher's probabilities say more about a text than its next token alone (Hinton et al., 2015,
https://arxiv.org/abs/1503.02531). The same training repairs a model that was compressed: it learns
to be again what it was, and no text can teach it more than the teacher knows.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from effedu._checks import check_int


def distillation_loss(
    student: Float[Tensor, "*batch vocab"], teacher: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, ""]:
    r"""How far the student's probabilities are from the teacher's, in nats a token.

    :math:`\frac{1}{N} \sum_i \sum_v p_{iv} \log \frac{p_{iv}}{q_{iv}}`, the mean Kullback–Leibler
    divergence, with :math:`p` the softmax of the teacher's logits and :math:`q` of the student's.

    Args:
        student, teacher: logits for the same tokens.

    Raises:
        ValueError: logits of different shapes.

    >>> logits = torch.randn(2, 5, 16)
    >>> round(distillation_loss(logits, logits + 3).item(), 5)
    0.0
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have logits of one shape, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    ours, theirs = (x.flatten(0, -2).float().log_softmax(-1) for x in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def distill(
    student: nn.Module,
    teacher: nn.Module,
    tokens: Int[Tensor, "length"],
    *,
    steps: int = 100,
    length: int = 256,
    batch_size: int = 8,
    rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> list[float]:
    """Train ``student``, in place, to predict what ``teacher`` predicts on pieces of a text.

    AdamW, with a rate that rises for a tenth of the steps and then falls to zero in a straight
    line. Both models stay in evaluation mode, so that nothing is dropped. Weights that are exactly
    zero stay zero: a pruned matrix keeps its pattern. The same seed gives the same training, and
    PyTorch's global generator is neither read nor moved.

    Args:
        student: any causal language model with the teacher's vocabulary.
        teacher: left as it is.
        tokens: numbers of a text's tokens, at least ``length`` of them.
        steps: at least 1.
        length: tokens of a piece; pieces are drawn at random.
        batch_size: pieces a step.
        rate: the highest learning rate.
        seed: of the pieces, any non-negative integer.
        progress: show a bar on standard output.

    Returns:
        The loss of each step, in nats a token (:func:`distillation_loss`).

    Raises:
        ValueError: an argument out of range, a text that is too short, or models with different
            vocabularies.

    >>> from effedu.compression import prune_neurons
    >>> from effedu.lm import load_lm
    >>> teacher = load_lm().model
    >>> student = prune_neurons(teacher, 256)
    >>> losses = distill(student, teacher, torch.arange(64), steps=5, length=32, progress=False)
    >>> losses[-1] < losses[0]
    True
    """
    for name, value in (("steps", steps), ("length", length), ("batch_size", batch_size)):
        check_int(name, value, minimum=1)
    check_int("seed", seed, minimum=0)
    if not 0 < rate < 1:
        raise ValueError(f"rate must be between 0 and 1, got {rate!r}")
    if len(tokens) < length:
        raise ValueError(f"tokens must be at least length, {length}, got {len(tokens)}")
    sizes = [cast(Any, model.config).vocab_size for model in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"student and teacher must have one vocabulary, got sizes {sizes}")

    student.eval()
    teacher.eval()
    parameters = [p for p in student.parameters() if p.requires_grad]
    zeros = [(p == 0) if p.ndim == 2 else None for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    losses = []
    bar = tqdm(range(steps), file=sys.stdout, disable=not progress, leave=False, mininterval=1)
    for step, rows in zip(bar, _pieces(tokens, length, batch_size, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(10 * (step + 1) / steps, (steps - step) / steps, 1.0)
        losses.append(_step(student, teacher, rows, optimizer, zeros))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return losses


def _pieces(tokens: Tensor, length: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of random pieces, without end: ``(batch_size, length)``."""
    rng = random.Random(seed)
    while True:
        starts = [rng.randint(0, len(tokens) - length) for _ in range(batch_size)]
        yield torch.stack([tokens[start : start + length] for start in starts])


def _step(
    student: nn.Module,
    teacher: nn.Module,
    rows: Tensor,
    optimizer: torch.optim.Optimizer,
    zeros: list[Tensor | None],
) -> float:
    """One step; returns the loss before it."""
    with torch.no_grad():
        target = teacher(rows, use_cache=False).logits
    with torch.enable_grad():
        loss = distillation_loss(student(rows, use_cache=False).logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = optimizer.param_groups[0]["params"]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for parameter, zero in zip(parameters, zeros, strict=True):
        if zero is not None and parameter.grad is not None:
            parameter.grad.masked_fill_(zero, 0)
    optimizer.step()
    return loss.item()
