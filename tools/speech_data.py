"""Spoken digits for the recognizer of chapter 12, made by a program: synthetic speech.

Debian's ``espeak-ng`` reads strings of digits in many voices (an accent and a variant of it), at
different pitches, speeds and gaps; noise is added later. No voice of the test is in training.
What is made lies in one file of 8-bit sound at 8,000 samples a second.
"""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from effedu.speech import SAMPLE_RATE, to_mu_law
from tools import debian

WORDS = "zero one two three four five six seven eight nine".split()
ACCENTS = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
    "en-us-nyc",
)  # fmt: skip
# Variants of espeak-ng 1.51; whispers, robots and monsters are left out.
TRAINING = (
    "Alex Andy Annie AnxiousAndy Diogo Gene Gene2 Henrique Hugo Jacky Marco Mario Mike Nguyen "
    "RicishayMax RicishayMax2 RicishayMax3 Storm adam anika announcer antonio aunty benjamin caleb "
    "david ed edward edward2 f1 f3 f4 f5 grandma grandpa gustave iven iven2 iven3 iven4 john klatt "
    "klatt2 klatt3 klatt4 m1 m2 m4 m5 m6 m7 m8 marcelo max michel miguel norbert pablo paul pedro "
    "rob robert sandro shelby steph steph2 steph3 travis zac"
).split()
TEST = "Alicia Andrea Denis Lee Michael belinda boris f2 linda m3 quincy victor".split()


@dataclass(frozen=True)
class Spoken:
    """One synthetic recording: who speaks, which digits, and 8-bit sound without noise."""

    voice: str
    digits: tuple[int, ...]
    codes: Tensor  # (samples,), uint8, mu-law


@dataclass(frozen=True)
class Manner:
    """How a voice speaks: pitch and speed as espeak-ng has them, gaps between words in 10 ms."""

    voice: str
    pitch: int
    speed: int
    gap: int


def manner(voice: str, draw: random.Random) -> Manner:
    return Manner(voice, draw.randint(20, 80), draw.randint(120, 220), draw.randint(0, 12))


def speak(how: Manner, digits: Sequence[int], silence: float = 0.0) -> Spoken:
    """Let espeak-ng read the digits, with seconds of ``silence`` before them."""
    command = ["espeak-ng", "-v", how.voice, "-p", str(how.pitch), "-s", str(how.speed)]
    command += ["-g", str(how.gap), "--stdout", " ".join(WORDS[digit] for digit in digits)]
    done = subprocess.run(command, capture_output=True, check=True)
    with wave.open(BytesIO(done.stdout)) as file:
        rate = file.getframerate()
        data = file.readframes(file.getnframes())
    sound = np.frombuffer(data, dtype=np.int16).astype(np.float64) / 32768
    common = math.gcd(SAMPLE_RATE, rate)
    sound = resample_poly(sound, SAMPLE_RATE // common, rate // common)
    sound = np.concatenate([np.zeros(round(silence * SAMPLE_RATE)), sound])
    return Spoken(how.voice, tuple(digits), to_mu_law(torch.from_numpy(sound).float()))


def speak_all(jobs: Sequence[tuple[Manner, Sequence[int], float]]) -> Iterator[Spoken]:
    """The recordings in order, some made at once: starting a program is mostly waiting."""
    with ThreadPoolExecutor(6) as pool:
        yield from pool.map(lambda job: speak(*job), jobs)


def speak_training(count: int, seed: int = 0) -> Iterator[Spoken]:
    """Recordings of one to eight digits, each in a voice and a manner of its own."""
    draw, jobs = random.Random(seed), []
    for _ in range(count):
        voice = f"{draw.choice(ACCENTS)}+{draw.choice(TRAINING)}"
        digits = [draw.randrange(10) for _ in range(draw.randint(1, 8))]
        jobs.append((manner(voice, draw), digits, 0.3 * draw.random()))
    return speak_all(jobs)


def speak_test(recordings: int = 100, digits: int = 6, seed: int = 1) -> Iterator[Spoken]:
    """For each test voice, in two accents, the recordings that it speaks in one manner."""
    draw, jobs = random.Random(seed), []
    for variant in TEST:
        for accent in draw.sample(ACCENTS, 2):
            how = manner(f"{accent}+{variant}", draw)
            for _ in range(recordings):
                row = [draw.randrange(10) for _ in range(digits)]
                jobs.append((how, row, 0.2 * draw.random()))
    return speak_all(jobs)


def noisy(sound: Tensor, decibels: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise between white and brown, so many decibels below the loudness of the speech.

    ``sound`` is ``(batch, samples)``, ``decibels`` ``(batch,)``.
    """
    samples = -(-sound.shape[1] // 4096) * 4096  # a Fourier transform likes such lengths
    white = torch.fft.rfft(torch.randn(len(sound), samples, generator=generator))
    slope = torch.rand(len(sound), 1, generator=generator)  # 0 white, 1 brown
    frequency = torch.linspace(0, 1, white.shape[1]).clamp(min=0.01)
    noise = torch.fft.irfft(white * frequency**-slope, n=samples)[:, : sound.shape[1]]
    noise = noise / noise.square().mean(-1, keepdim=True).sqrt()
    speech = sound.abs() > 0.01  # the power of speech, not of the silence around it
    power = (sound.square() * speech).sum(-1) / speech.sum(-1).clamp(min=1)
    return sound + noise * (power.sqrt() * 10 ** (-decibels / 20))[:, None]


def save(path: Path, spoken: Sequence[Spoken]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [(s.voice, s.digits, s.codes) for s in spoken]
    torch.save(content, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path: Path) -> list[Spoken]:
    return [Spoken(*each) for each in torch.load(path, weights_only=True)]


def check_espeak() -> None:
    if not shutil.which("espeak-ng") and (problem := debian.install("espeak-ng")):
        raise SystemExit(f"speech needs the program espeak-ng, which is missing, {problem}")
