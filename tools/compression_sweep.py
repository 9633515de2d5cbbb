"""Measure what compression costs the embedded model: ``effedu/data/compression.json``.

A case is one way to make the model smaller, with one setting, and a number of training steps that
repair it afterwards. Each finished case is written down at once, and a run that was interrupted
goes on behind it, provided that settings, versions and the measured code are still the same. The
book shows the file that only a complete run of all cases replaces.

    python -m tools.compression_sweep                 about ten minutes on two cores
    python -m tools.compression_sweep --seconds 300   begin no case after so long; again to go on
    python -m tools.compression_sweep --restart       nothing from an interrupted run
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effedu.bench import machine, seed_everything
from effedu.calibration import InputStatistics, input_statistics
from effedu.compression import (
    LowRankLinear,
    keep_layers,
    low_rank,
    magnitude_prune,
    prune_neurons,
    prune_two_of_four,
    replace_linears,
    share_layers,
)
from effedu.cost import cost
from effedu.distillation import distill
from effedu.lm import EMBEDDED, LanguageModel, heldout_text, load_lm
from tools.bench import versions, write_json

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "effedu" / "data" / "compression.json"
WORKING = ROOT / "book" / "_build" / "compression.json"
SCHEMA = 1

WINDOW = 1024  # tokens that the model reads at once
SETTINGS: dict[str, Any] = {
    # Characters of the held-out text: Macbeth is measured, Twelfth Night calibrates and trains.
    "measured": [20_000, 44_000],
    "calibration": [-40_000, None],
    "training": [-114_800, None],
    "window": WINDOW,
    "training_length": 128,
    "training_batch": 8,
    "training_rate": 1e-3,
    "seed": 0,
}
REPAIR = 42  # steps of 1,024 tokens: as many tokens as the training text has
STUDENT: dict[str, Any] = {"layers": [0, 2], "neurons": 640}  # half of the model's parameters

Setting = float | int | list[int] | None


class Case(NamedTuple):
    """One way to compress, its setting, and the training steps afterwards."""

    method: str
    setting: Setting = None
    steps: int = 0

    def __str__(self) -> str:
        setting = "" if self.setting is None else f" {self.setting}"
        return f"{self.method}{setting}" + (f", {self.steps} steps" if self.steps else "")


class Subject:
    """The model that is compressed, and the texts it is measured, calibrated and trained on."""

    def __init__(self, settings: Mapping[str, Any] = SETTINGS) -> None:
        self.settings = settings
        self.lm = load_lm()
        self.model: Any = self.lm.model

    def _text(self, name: str) -> str:
        first, last = self.settings[name]
        return heldout_text()[first:last]

    @cached_property
    def statistics(self) -> dict[str, InputStatistics]:
        text = self._text("calibration")
        return input_statistics(
            self.model, lambda: self.lm.bits_per_byte(text, length=self.settings["window"])
        )

    @cached_property
    def _training(self) -> Tensor:
        return torch.tensor(self.lm.tokenizer.encode(self._text("training")))

    @cached_property
    def _first_choice(self) -> Tensor:
        return self._choices(self.model)

    @torch.no_grad()
    def _choices(self, model: Any) -> Tensor:
        ids = self.lm.tokenizer.encode(self._text("measured"))[: self.settings["window"]]
        choices: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0].argmax(-1)
        return choices

    def train(self, student: Any, steps: int) -> list[float]:
        """Distil the whole model into ``student``, on the training text."""
        return distill(
            student,
            self.model,
            self._training,
            steps=steps,
            length=self.settings["training_length"],
            batch_size=self.settings["training_batch"],
            rate=self.settings["training_rate"],
            seed=self.settings["seed"],
            progress=False,
        )

    def measure(self, model: Any) -> dict[str, float | int]:
        """Size, work, bits per byte, and how often its first choice is that of the whole model."""
        reader = LanguageModel("compressed", model, self.lm.tokenizer)
        bits = reader.bits_per_byte(self._text("measured"), length=self.settings["window"])
        same = (self._choices(model) == self._first_choice).float().mean().item()
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "zeros": sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2),
            "flops": flops(model, self.settings["window"]),
            "bits_per_byte": round(bits, 4),
            "agreement": round(same, 4),
        }


def flops(model: Any, length: int) -> int:
    """Operations to read ``length`` tokens; :func:`effedu.cost.cost`, less what low rank saves."""
    thin = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    saved = 0
    for layer in thin:
        inputs, outputs = layer.narrow.in_features, layer.widen.out_features
        saved += inputs * outputs - layer.narrow.out_features * (inputs + outputs)
    return cost(model.config, length).flops.total - 2 * length * saved


# --- Methods -----------------------------------------------------------------------------------


def with_weights(model: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy with every linear layer's weight changed, the embedding left alone."""

    def replace(name: str, linear: Any) -> Any:
        linear.weight.data = change(linear.weight)
        return linear

    return replace_linears(model, replace)


def _low_rank(subject: Subject, rank: Any) -> Any:
    return replace_linears(subject.model, lambda _, linear: low_rank(linear, rank))


def _low_rank_aware(subject: Subject, rank: Any) -> Any:
    return replace_linears(
        subject.model,
        lambda name, linear: low_rank(linear, rank, moments=subject.statistics[name].moments),
    )


def _student(subject: Subject, _: Any) -> Any:
    shallow = keep_layers(subject.model, STUDENT["layers"])
    found = {  # layer 2 of the whole model is layer 1 of the shallow one
        f"gpt_neox.layers.{new}.mlp.dense_4h_to_h": subject.statistics[
            f"gpt_neox.layers.{old}.mlp.dense_4h_to_h"
        ]
        for new, old in enumerate(STUDENT["layers"])
    }
    return prune_neurons(shallow, STUDENT["neurons"], statistics=found)


def _student_from_nothing(subject: Subject, _: Any) -> Any:
    seed_everything(subject.settings["seed"])
    return type(subject.model)(_student(subject, None).config).eval()


METHODS: dict[str, Callable[[Subject, Any], Any]] = {
    "dense": lambda subject, _: subject.model,
    "zeros": lambda subject, share: with_weights(
        subject.model, lambda weight: magnitude_prune(weight, share)
    ),
    "two_of_four": lambda subject, _: with_weights(subject.model, prune_two_of_four),
    "low_rank": _low_rank,
    "low_rank_aware": _low_rank_aware,
    "neurons": lambda subject, keep: prune_neurons(
        subject.model, keep, statistics=subject.statistics
    ),
    "neurons_by_weights": lambda subject, keep: prune_neurons(subject.model, keep),
    "layers": lambda subject, kept: keep_layers(subject.model, kept),
    "shared": lambda subject, size: share_layers(subject.model, size),
    "student": _student,
    "student_from_nothing": _student_from_nothing,
}
SWEEPS: dict[str, tuple[Setting, ...]] = {
    "dense": (None,),
    "zeros": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "two_of_four": (None,),
    "low_rank": (16, 32, 64, 96, 128, 160, 192, 224, 256),
    "low_rank_aware": (16, 32, 64, 96, 128, 160, 192, 224, 256),
    "neurons": (896, 768, 640, 512, 384, 256, 128),
    "neurons_by_weights": (768, 512, 256),
    "layers": ([1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1], [0, 2], [0, 3]),
    "shared": (2, 4),
}
TRAINED = (
    Case("zeros", 0.8, REPAIR),
    Case("two_of_four", None, REPAIR),
    Case("low_rank_aware", 64, REPAIR),
    Case("neurons", 256, REPAIR),
    Case("layers", [0, 2], REPAIR),
    Case("shared", 2, REPAIR),
    *(Case("student", None, steps) for steps in (0, 30, 60, 120)),
    Case("student_from_nothing", None, 120),
)


def all_cases() -> list[Case]:
    """What a complete file holds, in the order in which it is measured."""
    untrained = [Case(method, setting) for method, each in SWEEPS.items() for setting in each]
    return [*untrained, *TRAINED]


def measure_case(subject: Subject, case: Case) -> dict[str, Any]:
    """Compress, train, measure."""
    if case.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {case.method!r}")
    model = METHODS[case.method](subject, case.setting)
    losses = subject.train(model, case.steps) if case.steps else []
    row = {**case._asdict(), **subject.measure(model)}
    if case.method.startswith("student") and losses:
        row["losses"] = [round(loss, 3) for loss in losses]
    return row


# --- The file ----------------------------------------------------------------------------------


def source() -> str:
    """A digest of the measured code and the model: results of one run must all be of the same."""
    names = ("compression", "distillation", "calibration")
    files = [ROOT / "effedu" / f"{name}.py" for name in names]
    files.append(EMBEDDED / "model.safetensors")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def begin(output: Path, heading: dict[str, Any], *, restart: bool) -> list[dict[str, Any]]:
    """The rows that an interrupted run left in ``output``, if the same run would go on."""
    if restart or not output.is_file():
        return []
    try:
        found = json.loads(output.read_text(encoding="utf-8"))
        rows, same = list(found["rows"]), all(found[key] == heading[key] for key in heading)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not same:
        print("An interrupted run is dropped: settings, versions or code changed since.")
        return []
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure case after case, print and write each; publish when all of them are there."""
    parser = argparse.ArgumentParser(prog="python -m tools.compression_sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted run left")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="these only; no file")
    parser.add_argument("--output", type=Path, default=WORKING, help="where to write, case by case")
    options = parser.parse_args(arguments)
    subject, cases = Subject(), all_cases()
    if options.methods:
        for case in cases:
            if case.method in options.methods:
                print(tell(case, measure_case(subject, case)), flush=True)
        return

    heading = {
        "schema": SCHEMA,
        "source": source(),
        "versions": versions(),
        "settings": SETTINGS,
        "student": STUDENT,
    }
    rows = begin(options.output, heading, restart=options.restart)
    done = {str(Case(row["method"], row["setting"], row["steps"])) for row in rows}
    begun = time.perf_counter()
    for number, case in enumerate(cases, 1):
        if str(case) in done:
            continue
        if time.perf_counter() - begun > options.seconds:
            print(f"{number - 1} of {len(cases)} cases are there; call again to go on")
            return
        rows.append(measure_case(subject, case))
        write_json(options.output, {**heading, "rows": rows})
        print(f"[{number}/{len(cases)}] {tell(case, rows[-1])}", flush=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {**heading, "date": date, "machine": machine(), "rows": rows}
    target = PUBLISHED if options.output == WORKING else options.output
    write_json(target, result)
    print(f"written to {target}")


def tell(case: Case, row: Mapping[str, Any]) -> str:
    """A case's numbers on one line."""
    return (
        f"{case}: {row['parameters']:,} parameters, {row['flops'] / 1e9:.2f} GFLOPs, "
        f"{row['bits_per_byte']:.3f} bits per byte, agrees on {row['agreement']:.0%}"
    )


if __name__ == "__main__":
    main()
