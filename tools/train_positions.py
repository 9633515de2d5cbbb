"""Train the small models of chapter 09: ``python -m tools.train_positions``.

One model for each scheme, task and mask, with :func:`effedu.positional.fit`, a fixed seed and one
thread; about twenty minutes in all. What they reach is written to ``effedu/data/positions.json``
after each run, so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from effedu.lm import heldout_text
from effedu.positional import (
    SCHEMES,
    TASKS,
    VOCABULARY,
    Batch,
    SmallTransformer,
    accuracy,
    fit,
    order_task,
)

OUT = Path(__file__).parents[1] / "effedu" / "data" / "positions.json"


@dataclass(frozen=True)
class Run:
    """One model to train: on one of ``TASKS``, or on ``"text"``."""

    task: str
    positions: str
    keep: Literal["start"] | int | None
    causal: bool
    seed: int


@dataclass(frozen=True)
class Settings:
    """What all runs share. Lengths are those of training, in symbols and in characters."""

    task_steps: int = 600  # four times what the learned table needs for "copy"
    task_rate: float = 3e-3
    task_length: int = 12
    task_width: int = 32
    task_rows: int = 1000  # tested on
    text_steps: int = 1200
    text_rate: float = 5e-3
    text_length: int = 32
    text_width: int = 48
    tuning_steps: int = 200  # at the greatest length, after training
    tuning_rate: float = 1e-3
    factors: tuple[int, ...] = (1, 2, 4)  # lengths tested, as multiples of those of training
    batch: int = 64  # of the tasks; texts come in half as many rows


KINDS: list[tuple[str, Literal["start"] | int | None]] = [(name, None) for name in SCHEMES]
SPARSE: list[tuple[str, Literal["start"] | int | None]] = [
    ("sinusoidal", "start"),
    ("sinusoidal", 2),  # every other one
    ("sinusoidal", 4),  # the starts of blocks of four
]
STRETCHED = ("learned", "sinusoidal", "rotary")  # what position interpolation applies to


def all_runs() -> list[Run]:
    """Every run, the first seeds first; a second seed where the verdict depends on it."""
    runs = [
        Run(task, *kind, causal, 0)
        for kind in KINDS + SPARSE
        for task in TASKS
        for causal in (False, True)
    ]
    runs += [Run("text", *kind, True, 0) for kind in KINDS + SPARSE]
    runs += [
        Run(task, *kind, causal, 1)
        for kind in [("none", None), *SPARSE]
        for task in TASKS
        for causal in (False, True)
    ]
    return runs


# --- Tasks ----------------------------------------------------------------------------------------


def train_task(run: Run, settings: Settings) -> dict[str, Any]:
    """Train on an order task, and test at the length of training and beyond."""
    length = settings.task_length
    model = build(run, VOCABULARY, settings.task_width, 2 * length * max(settings.factors))

    def draw(generator: torch.Generator) -> Batch:
        return order_task(run.task, length=length, batch=settings.batch, generator=generator)

    def right(model: SmallTransformer, factor: int) -> float:
        held_out = torch.Generator().manual_seed(10_000)
        rows = settings.task_rows
        return accuracy(
            model, order_task(run.task, length=factor * length, batch=rows, generator=held_out)
        )

    losses = fit(model, draw, steps=settings.task_steps, rate=settings.task_rate, seed=run.seed)
    result = {"losses": tenths(losses), "accuracy": round(right(model, 1), 4)}
    if run.task == "nearest" and run.keep is None:
        asked = length + 1  # places in training, with the one that asks
        result |= longer(model, asked, settings.factors, right)
    return result


# --- Text -----------------------------------------------------------------------------------------


def train_text(run: Run, settings: Settings) -> dict[str, Any]:
    """Train on characters, test on later ones; then a short training at the greatest length."""
    symbols, ids = torch.tensor(list(heldout_text().encode())).unique(return_inverse=True)
    split = len(ids) * 9 // 10
    training, testing = ids[:split], ids[split:]
    length, factor = settings.text_length, max(settings.factors)
    model = build(run, len(symbols), settings.text_width, length * factor)

    def rows_of(length: int, batch: int) -> Callable[[torch.Generator], Batch]:
        def draw(generator: torch.Generator) -> Batch:
            starts = torch.randint(len(training) - length, (batch, 1), generator=generator)
            rows = training[starts + torch.arange(length + 1)]  # (batch, length + 1)
            return rows[:, :-1], rows[:, 1:]

        return draw

    def bits(model: SmallTransformer, factor: int) -> float:
        return bits_per_byte(model, testing, factor * length)

    batch = settings.batch // 2
    losses = fit(
        model,
        rows_of(length, batch),
        steps=settings.text_steps,
        rate=settings.text_rate,
        seed=run.seed,
    )
    result: dict[str, Any] = {"losses": tenths(losses), "bits": round(bits(model, 1), 4)}
    if run.keep is not None:
        return result
    result |= longer(model, length, settings.factors, bits)
    tuned = {"plain": copy.deepcopy(model)}
    if model.positions in STRETCHED:
        tuned["interpolated"] = interpolated(model, length, factor)
    for name, one in tuned.items():
        fit(
            one,
            rows_of(factor * length, max(1, batch // factor)),
            steps=settings.tuning_steps,
            rate=settings.tuning_rate,
            seed=run.seed,
        )
        result[f"tuned_{name}"] = round(bits(one, factor), 4)
    return result


@torch.no_grad()
def bits_per_byte(model: SmallTransformer, ids: Tensor, length: int) -> float:
    """Bits for each character of ``ids``, read in windows of ``length`` side by side."""
    windows = (len(ids) - 1) // length
    tokens = ids[: windows * length].view(windows, length)
    targets = ids[1 : windows * length + 1].view(windows, length)
    nats = sum(
        F.cross_entropy(model(rows).flatten(0, 1), wanted.flatten(), reduction="sum").item()
        for rows, wanted in zip(tokens.split(64), targets.split(64), strict=True)
    )
    return nats / math.log(2) / targets.numel()


# --- Beyond the length of training ----------------------------------------------------------------


def longer(
    model: SmallTransformer,
    trained: int,
    factors: Iterable[int],
    score: Callable[[SmallTransformer, int], float],
) -> dict[str, list[float]]:
    """Scores at multiples of the ``trained`` places: positions as they are, and interpolated."""
    result = {"plain": [round(score(model, factor), 4) for factor in factors]}
    if model.positions in STRETCHED:
        result["interpolated"] = [
            round(score(interpolated(model, trained, factor), factor), 4) for factor in factors
        ]
    return result


@torch.no_grad()
def interpolated(model: SmallTransformer, trained: int, factor: int) -> SmallTransformer:
    """A copy whose positions are divided by ``factor``; a learned table is stretched as much.

    Between two rows of the table lies a straight line, and beyond the last trained one nothing
    new. Source: Chen et al. (2023), section 2.3, https://arxiv.org/abs/2306.15595.
    """
    model = copy.deepcopy(model)
    model.scale = factor
    if model.table is not None:
        rows = model.table.weight[:trained].clone()
        places = (torch.arange(model.table.num_embeddings) / factor).clamp(max=trained - 1)
        low = places.long()
        high = (low + 1).clamp(max=trained - 1)
        model.table.weight.copy_(torch.lerp(rows[low], rows[high], (places - low)[:, None]))
    return model


# --- All of them ----------------------------------------------------------------------------------


def build(run: Run, vocabulary: int, width: int, max_length: int) -> SmallTransformer:
    """The run's model, with weights that its seed draws."""
    torch.manual_seed(run.seed)
    return SmallTransformer(
        vocabulary,
        positions=run.positions,
        keep=run.keep,
        causal=run.causal,
        width=width,
        max_length=max_length,
    )


def tenths(losses: list[float]) -> list[float]:
    """The mean loss of each tenth of the training, in nats."""
    count = min(10, len(losses))
    borders = [i * len(losses) // count for i in range(count + 1)]
    return [round(sum(losses[a:b]) / (b - a), 4) for a, b in pairwise(borders)]


def load(path: Path, settings: Settings) -> dict[Run, dict[str, Any]]:
    """The results that ``path`` holds; none if it was written with other settings."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != json.loads(json.dumps(asdict(settings))):
        return {}
    names = Run.__dataclass_fields__
    return {
        Run(**{name: record[name] for name in names}): {
            name: value for name, value in record.items() if name not in names
        }
        for record in content["runs"]
    }


def save(path: Path, settings: Settings, results: dict[Run, dict[str, Any]]) -> None:
    """Write all results at once: a reader never sees half a file."""
    records = [json.dumps(asdict(run) | result) for run, result in results.items()]
    text = f'{{"settings": {json.dumps(asdict(settings))},\n"runs": [\n' + ",\n".join(records)
    temporary = path.with_suffix(".part")
    temporary.write_text(text + "\n]}\n", encoding="utf-8")
    os.replace(temporary, path)


def train_all(
    path: Path,
    runs: Iterable[Run],
    settings: Settings,
    *,
    minutes: float = math.inf,
    progress: bool = True,
) -> int:
    """Train what is missing, for about so many minutes; return how many are missing still."""
    results = load(path, settings)
    missing = [run for run in runs if run not in results]
    began = time.monotonic()
    bar = tqdm(missing, disable=not progress, mininterval=1)
    for done, run in enumerate(bar):
        if time.monotonic() - began > 60 * minutes:
            return len(missing) - done
        bar.set_description(" ".join(str(value) for value in asdict(run).values()))
        train = train_text if run.task == "text" else train_task
        results[run] = train(run, settings)
        save(path, settings, results)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after about so many")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order, however many cores there are
    left = train_all(options.out, all_runs(), Settings(), minutes=options.minutes)
    print(f"{left} runs left" if left else f"all runs are in {options.out}")


if __name__ == "__main__":
    main()
