"""Train the speech recognizers of chapter 12: ``python -m tools.train_speech``.

Encoders of the same shape, on the same synthetic speech in the same order: ``full``, where every
frame sees every frame; ``dynamic``, where half of the steps see full attention and the others
chunks of random size (Zhang et al. 2020, https://arxiv.org/abs/2012.05481); and
``long``, full attention again, with up to twelve recordings joined to one. The first two come with
effedu. One thread, a fixed seed, four to twelve minutes each. Everything intermediate lies in
``work/speech/``, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from effedu.applications import chunk_mask
from effedu.speech import (
    FRAME_SECONDS,
    SAMPLE_RATE,
    SPEECH,
    SUBSAMPLING,
    Attend,
    SpeechEncoder,
    from_mu_law,
    log_mel,
    to_mu_law,
)
from tools import speech_data
from tools.speech_data import Spoken

WORK = Path(__file__).parents[1] / "work" / "speech"
KINDS = ("full", "dynamic", "long")
SHIPPED = ("full", "dynamic")
LONGEST_JOIN = 12  # recordings of about two seconds, for the kind "long"
LONGEST_CHUNK = 25  # frames, one second, as in the paper
SHIPPED_VOICES, SHIPPED_RECORDINGS = 8, 6


@dataclass(frozen=True)
class Settings:
    recordings: int = 8000
    steps: int = 1500
    batch: int = 32
    rate: float = 3e-3
    warmup: int = 200
    dropout: float = 0.1
    decibels: tuple[float, float] = (0.0, 30.0)  # of speech over noise
    checkpoint: int = 100  # steps from one to the next
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    features: Tensor  # (batch, steps, mels)
    frames: Tensor  # (batch,), how many of each row are sound
    targets: Tensor  # all digits of all rows, as symbols 1 to 10
    lengths: Tensor  # (batch,), digits of each row


def draw_batch(
    spoken: list[Spoken], settings: Settings, generator: torch.Generator, join: int = 1
) -> Batch:
    """Random recordings of similar length, with random loudness and noise.

    ``spoken`` is sorted by length, so that little of a batch is padding. Each ``join`` recordings
    in a row become one.
    """
    near = min(len(spoken), 16 * settings.batch)
    first = torch.randint(len(spoken) - near + 1, (1,), generator=generator)
    chosen = first + torch.randint(near, (settings.batch,), generator=generator)
    rows = [spoken[i] for i in chosen.tolist()]
    starts = range(0, len(rows), join)
    sounds = [torch.cat([from_mu_law(r.codes) for r in rows[i : i + join]]) for i in starts]
    low, high = settings.decibels
    decibels = low + (high - low) * torch.rand(len(sounds), generator=generator)
    gain = 10 ** (-torch.rand(len(sounds), 1, generator=generator))  # 0 to 20 decibels softer
    sound = speech_data.noisy(pad_sequence(sounds, batch_first=True), decibels, generator)
    sound = from_mu_law(to_mu_law(sound * gain))
    frames = torch.tensor([int(len(s) / SAMPLE_RATE / FRAME_SECONDS) for s in sounds])
    digits = [digit + 1 for row in rows for digit in row.digits]
    lengths = torch.tensor([sum(len(r.digits) for r in rows[i : i + join]) for i in starts])
    return Batch(log_mel(sound), frames, torch.tensor(digits), lengths)


def draw_mask(kind: str, frames: int, generator: torch.Generator) -> Tensor | None:
    """None for full attention, or a mask of chunks: random in size and in how many are seen."""
    if kind != "dynamic" or torch.rand(1, generator=generator) < 0.5:
        return None
    chunk = int(torch.randint(1, LONGEST_CHUNK + 1, (1,), generator=generator))
    back = int(torch.randint((frames - 1) // chunk + 1, (1,), generator=generator))
    return chunk_mask(frames, chunk, back)


def seeing(frames: Tensor, mask: Tensor | None) -> Attend:
    """Attention within each row's own sound, and within ``mask``."""
    sound = torch.arange(int(frames.max()))[None] < frames[:, None]  # (batch, frames)
    visible = sound[:, None, None]
    if mask is not None:
        visible = visible & mask
        visible = visible | ~visible.any(-1, keepdim=True)  # rows of padding: anything

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)

    return attend


def loss_of(model: SpeechEncoder, batch: Batch, mask: Tensor | None) -> Tensor:
    longest = int(batch.frames.max())
    features = batch.features[:, : SUBSAMPLING * longest]
    scores = model(features, seeing(batch.frames, mask)).log_softmax(-1)
    return F.ctc_loss(
        scores.transpose(0, 1), batch.targets, batch.frames, batch.lengths, zero_infinity=True
    )


def rate_at(step: int, settings: Settings) -> float:
    """Up in a straight line, then down as half a cosine, to a hundredth."""
    if step < settings.warmup:
        return settings.rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / (settings.steps - settings.warmup)
    return settings.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    kind: str, spoken: list[Spoken], work: Path, settings: Settings, until: float = math.inf
) -> bool:
    """Train one recognizer; false if the time ``until`` (``time.monotonic``) came first."""
    torch.manual_seed(settings.seed)
    model = SpeechEncoder(dropout=settings.dropout).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(settings.seed)  # the same batches for every kind
    chunks = torch.Generator().manual_seed(settings.seed)
    losses: list[float] = []
    checkpoint = work / f"{kind}.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        losses = saved["losses"]
        generator.set_state(saved["generator"])
        chunks.set_state(saved["chunks"])
        torch.set_rng_state(saved["random"])

    def save() -> None:
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses,
            "generator": generator.get_state(), "chunks": chunks.get_state(),
            "random": torch.get_rng_state(),
        }  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)

    bar = tqdm(range(len(losses), settings.steps), desc=kind, mininterval=20)
    for step in bar:
        join = 1
        if kind == "long":
            join = int(torch.randint(1, LONGEST_JOIN + 1, (1,), generator=chunks))
        batch = draw_batch(spoken, settings, generator, join)
        mask = draw_mask(kind, int(batch.frames.max()), chunks)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, settings)
        loss = loss_of(model, batch, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % settings.checkpoint == 0 or step + 1 == settings.steps:
            save()
            if time.monotonic() > until:
                return step + 1 == settings.steps
    return True


# --- The test -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def held_out(work: Path = WORK) -> dict[str, list[tuple[Tensor, list[int]]]]:
    """By voice: sound with noise, and digits. One noise for all that a voice says.

    Each recording lasts a whole number of frames, so that joining them moves no frame.
    """
    voices: dict[str, list[Spoken]] = {}
    for spoken in speech_data.load(work / "test.pt"):
        voices.setdefault(spoken.voice, []).append(spoken)
    generator = torch.Generator().manual_seed(1)
    low, high = Settings().decibels
    frame = round(FRAME_SECONDS * SAMPLE_RATE)
    found = {}
    for voice, rows in voices.items():
        sounds = [from_mu_law(row.codes) for row in rows]
        sounds = [F.pad(sound, (0, -len(sound) % frame)) for sound in sounds]
        decibels = low + (high - low) * torch.rand(1, generator=generator)
        sound = speech_data.noisy(torch.cat(sounds)[None], decibels, generator)[0]
        pieces = from_mu_law(to_mu_law(sound)).split([len(sound) for sound in sounds])
        found[voice] = [(piece, list(row.digits)) for piece, row in zip(pieces, rows, strict=True)]
    return found


def load_trained(kind: str, work: Path = WORK) -> SpeechEncoder:
    """A recognizer as it is shipped: in evaluation mode, weights rounded to 16 bits."""
    state = torch.load(work / f"{kind}.pt", weights_only=True)["model"]
    model = SpeechEncoder()
    model.load_state_dict({name: weight.half().float() for name, weight in state.items()})
    return model.eval()


# --- What is shipped ------------------------------------------------------------------------------


def export(work: Path, out: Path = SPEECH) -> None:
    """Write the recognizers in 16 bits, some test recordings, checksums and the model card."""
    out.mkdir(parents=True, exist_ok=True)
    for kind in SHIPPED:
        weights = load_trained(kind, work).half().state_dict()
        save_file(weights, out / f"{kind}.safetensors")
    waves, texts = {}, {}
    voices = list(held_out(work).values())
    every = max(1, len(voices) // SHIPPED_VOICES)
    for number, rows in enumerate(voices[::every]):
        for place, (sound, digits) in enumerate(rows[:SHIPPED_RECORDINGS]):
            name = f"{number}{place}"
            waves[name] = to_mu_law(sound)
            texts[name] = " ".join(map(str, digits))
    # One entry, because the order of several would differ from run to run.
    save_file(waves, out / "recordings.safetensors", metadata={"texts": json.dumps(texts)})
    (out / "MODEL_CARD.md").write_text(model_card(work), encoding="utf-8")
    checksums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("*.safetensors"))
    }
    for name in checksums:
        (out / name).chmod(0o644)  # safetensors writes for its owner alone
    (out / "sha256.json").write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")


def model_card(work: Path) -> str:
    """Say what the recognizers are, what they heard, and how their training went."""
    settings = Settings()
    spoken = speech_data.load(work / "training.pt")
    hours = sum(len(row.codes) for row in spoken) / SAMPLE_RATE / 3600
    parameters = sum(p.numel() for p in SpeechEncoder().parameters())
    losses = [torch.load(work / f"{kind}.pt", weights_only=True)["losses"] for kind in SHIPPED]
    tenth = max(1, len(losses[0]) // 10)
    curve = "\n".join(
        f"| {stop} | "
        + " | ".join(f"{sum(each[stop - tenth : stop]) / tenth:.3f}" for each in losses)
        + " |"
        for stop in range(tenth, len(losses[0]) + 1, tenth)
    )
    return f"""# Model card: the speech recognizers

Two Transformer encoders of {parameters:,} parameters each (3 layers, width 96, 4 heads, rotary
positions, two convolutions in front that turn 10 ms spectra into 40 ms frames), trained with CTC
to write down English digits. They exist to be measured in the book. They have heard synthetic
speech alone, will not understand people well, and must not be used for anything else.

- `full.safetensors`: trained with full attention.
- `dynamic.safetensors`: half of the steps with full attention, the others with chunks of 1 to
  {LONGEST_CHUNK} frames and a random number of chunks before them (Zhang et al. 2020,
  arXiv:2012.05481).
- `recordings.safetensors`: {SHIPPED_VOICES * SHIPPED_RECORDINGS} test recordings of six digits in
  {SHIPPED_VOICES} voices, 8-bit mu-law at 8,000 samples a second; the digits stand in the metadata.

## Data

Synthetic speech, made with Debian's `espeak-ng` 1.51 by `tools/speech_data.py`: {len(spoken):,}
training recordings of one to eight random digits ({hours:.1f} hours) in
{len(speech_data.TRAINING)} voice variants and {len(speech_data.ACCENTS)} accents, at random
pitch, speed and pauses. The test has {len(speech_data.TEST)} variants that are in no training
recording, each in two accents. Noise between white and brown is added to all of it,
{settings.decibels[0]:.0f} to {settings.decibels[1]:.0f} dB below the speech.

## Training

`python -m tools.train_speech`, seed {settings.seed}, {settings.steps:,} steps of {settings.batch}
recordings, AdamW, peak rate {settings.rate}, dropout {settings.dropout}; both on the same batches.
Four minutes each on one core that has nothing else to do. Mean loss over tenths of the training
(nats a digit, from `torch.nn.functional.ctc_loss`):

| up to step | {" | ".join(SHIPPED)} |
|---:|---:|---:|
{curve}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after about so many")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)  # the same sums in the same order, however many cores there are
    synthesise(options.work)
    spoken = sorted(speech_data.load(options.work / "training.pt"), key=lambda s: len(s.codes))
    if all(train(kind, spoken, options.work, Settings(), until) for kind in KINDS):
        export(options.work)
        print(f"the recognizers are in {SPEECH}")
    else:
        print("training stopped; run again to go on")


def synthesise(work: Path) -> None:
    """Let the recordings be spoken, unless they are there."""
    speech_data.check_espeak()
    jobs = {
        "training": lambda: speech_data.speak_training(Settings().recordings),
        "test": speech_data.speak_test,
    }
    for name, job in jobs.items():
        if not (work / f"{name}.pt").exists():
            speech_data.save(work / f"{name}.pt", list(tqdm(job(), desc=f"speaking, {name}")))


if __name__ == "__main__":
    main()
