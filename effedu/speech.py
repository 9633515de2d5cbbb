"""A small speech recognizer whose attention can be exchanged, and the sound that it reads.

A Transformer encoder trained with CTC (Graves et al. 2006, https://doi.org/10.1145/1143844.1143891)
on synthetic speech by ``tools/train_speech.py``. It can run while the sound comes in, as in Zhang
et al. (2020), https://arxiv.org/abs/2012.05481.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from effedu._checks import check_file, check_int
from effedu.attention import attention
from effedu.positional import rotary

SPEECH = Path(__file__).parent / "data" / "speech"
SAMPLE_RATE = 8000  # samples of sound a second, as on the telephone
STEP, WINDOW, MELS = 80, 200, 40  # samples between spectra, samples in one, bands of pitch
SUBSAMPLING = 4  # spectra in one frame of the encoder
FRAME_SECONDS = SUBSAMPLING * STEP / SAMPLE_RATE
BLANK = 0  # the symbol for "nothing new"; symbols 1 to 10 are the digits 0 to 9
SYMBOLS = 11

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key, value to output


# --- Sound ----------------------------------------------------------------------------------------


def from_mu_law(codes: Tensor) -> Float[Tensor, "*batch samples"]:
    """Sound between -1 and 1 from its 8-bit codes; undoes :func:`to_mu_law` up to rounding.

    ``codes`` is ``(..., samples)`` and of the type ``uint8``; ``ValueError`` if it is not.

    >>> from_mu_law(torch.tensor([0, 128, 255], dtype=torch.uint8)).round(decimals=2)
    tensor([-1.,  0.,  1.])
    """
    if codes.dtype != torch.uint8:
        raise ValueError(f"codes must be a uint8 tensor, got {codes.dtype}")
    wave = codes.float() / 127.5 - 1
    return wave.sign() * torch.expm1(wave.abs() * math.log(256)) / 255


def to_mu_law(wave: Float[Tensor, "*batch samples"]) -> UInt8[Tensor, "*batch samples"]:
    """Sound between -1 and 1 in 8 bits a sample, with fine steps where it is quiet.

    Louder sound is cut off at -1 and 1.

    Source: ITU-T G.711, in the continuous form with mu = 255.

    >>> to_mu_law(torch.tensor([-1.0, 0.0, 0.01, 1.0]))
    tensor([  0, 128, 157, 255], dtype=torch.uint8)
    """
    wave = wave.clamp(-1, 1)
    wave = wave.sign() * torch.log1p(255 * wave.abs()) / math.log(256)
    return ((wave + 1) * 127.5).round().to(torch.uint8)


def log_mel(wave: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch steps mels"]:
    """The spectrogram that the recognizer reads: every 10 ms the loudness in 40 bands of pitch.

    A spectrum covers 25 ms and ends where its step of 10 ms ends, so that it needs no sound from
    later on. Values are natural logarithms of the power, between -14 and about 10. ``ValueError``
    for a sound of less than a step, 80 samples.

    >>> log_mel(torch.zeros(8000)).shape  # one second
    torch.Size([100, 40])
    """
    if wave.shape[-1] < STEP:
        raise ValueError(f"wave must have at least {STEP} samples, got {wave.shape[-1]}")
    frames = F.pad(wave, (WINDOW - STEP, 0)).unfold(-1, WINDOW, STEP)  # (…, steps, window)
    window = torch.hann_window(WINDOW, device=wave.device)
    power = torch.fft.rfft(frames * window, n=256).abs().square()  # (…, steps, 129)
    loudness: Tensor = power @ _mel_bands().to(wave.device)  # (…, steps, mels)
    return (loudness + 1e-6).log()


@lru_cache(maxsize=1)
def _mel_bands() -> Float[Tensor, "129 mels"]:
    """Overlapping triangles, equally wide in mel (O'Shaughnessy's 2595 log10(1 + f/700))."""

    def mel(hertz: float | int) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = torch.linspace(mel(60), mel(SAMPLE_RATE / 2 - 100), MELS + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)  # in hertz
    bins = torch.linspace(0, SAMPLE_RATE / 2, 129)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


# --- The recognizer -------------------------------------------------------------------------------


def full(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every frame sees every frame: attention as an encoder has it by default."""
    return attention(query, key, value, causal=False)


class SpeechEncoder(nn.Module):
    """A small Transformer that gives each 40 ms of sound a score for blank and each digit.

    Two convolutions make one frame of four spectra and look back only; rotary positions make the
    layers depend on distances alone. What a frame sees is up to ``attend``.

    Args:
        width: numbers a frame between the layers, a multiple of twice ``heads``.
        heads, layers: how many.
        dropout: share of what each layer adds that is dropped in training.

    Raises:
        ValueError: sizes below 1 or that don't fit; in a pass, fewer than four spectra.

    >>> SpeechEncoder()(torch.zeros(1, 100, 40)).shape  # one second
    torch.Size([1, 25, 11])
    """

    def __init__(
        self, width: int = 96, heads: int = 4, layers: int = 3, dropout: float | int = 0.0
    ) -> None:
        super().__init__()
        for name, size in {"width": width, "heads": heads, "layers": layers}.items():
            check_int(name, size, minimum=1)
        if width % (2 * heads):  # rotary positions turn pairs
            raise ValueError(f"width must be a multiple of 2 * heads = {2 * heads}, got {width}")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, width, kernel_size=3, stride=2) for inputs in (MELS, width)
        )
        self.layers = nn.ModuleList(SpeechLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(
        self, features: Float[Tensor, "batch steps mels"], attend: Attend = full
    ) -> Float[Tensor, "batch frames symbols"]:
        """Scores (logits) of every symbol in each frame; ``frames`` is ``steps // 4``."""
        x, _ = self.subsample(features)
        positions = torch.arange(x.shape[1], device=x.device)
        for layer in self.stack():
            query, key, value = layer.project(x, positions)
            x = layer.finish(x, attend(query, key, value))
        return self.scores(x)

    def stack(self) -> Iterator[SpeechLayer]:
        """The layers, from the first to the last."""
        return iter(cast("Any", self.layers))

    def scores(self, x: Tensor) -> Float[Tensor, "batch frames symbols"]:
        """What the last layer's output says about each symbol."""
        return cast("Tensor", self.head(self.norm(x)))

    def subsample(
        self, features: Tensor, before: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch frames width"], list[Tensor]]:
        """Frames of four spectra, and what the convolutions need of these for the next ones."""
        steps = features.shape[1] // SUBSAMPLING * SUBSAMPLING
        if not steps:
            raise ValueError(
                f"features must have at least {SUBSAMPLING} steps, got {features.shape[1]}"
            )
        x, last = (features[:, :steps].mT + 7) / 4, []  # (batch, mels, steps), about -2 to 2
        for i, convolution in enumerate(self.convolutions):
            x = torch.cat([torch.zeros_like(x[..., :1]) if before is None else before[i], x], -1)
            last.append(x[..., -1:])
            x = F.gelu(convolution(x))
        return x.mT, last


class SpeechLayer(nn.Module):
    """One layer, norms first; attention itself happens between ``project`` and ``finish``."""

    def __init__(self, width: int, heads: int, dropout: float | int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(batch, heads, frames, head_dim)`` each."""
        qkv = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).movedim(1, 3)
        query, key, value = qkv.unbind(1)
        return rotary(query, positions), rotary(key, positions), value

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what attention found, then what the feed-forward network makes of it."""
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return cast("Tensor", x + self.dropout(self.down(F.gelu(self.up(self.norm_2(x))))))


class SpeechStream:
    """Recognize sound while it comes in, one chunk after another, in memory that stays the same.

    Each layer keeps the keys and values of the last ``back`` chunks. The scores equal those of
    one pass over the whole recording with :func:`chunk_attention`.

    >>> model = SpeechEncoder(width=8, heads=2, layers=1)
    >>> stream = SpeechStream(model, chunk=4, back=2)
    >>> stream.accept(torch.zeros(1, 16, 40)).shape  # 160 ms
    torch.Size([1, 4, 11])
    """

    def __init__(self, model: SpeechEncoder, *, chunk: int, back: int) -> None:
        self.chunk, self.back = check_int("chunk", chunk, 1), check_int("back", back, 0)
        self.model, self.frames = model, 0
        self.before: list[Tensor] | None = None
        self.cache: list[tuple[Tensor, Tensor] | None] = [None] * len(model.layers)

    @torch.no_grad()
    def accept(
        self, features: Float[Tensor, "batch steps mels"]
    ) -> Float[Tensor, "batch frames symbols"]:
        """Scores of the next chunk; fewer steps than in a chunk only at the end."""
        if not SUBSAMPLING <= features.shape[1] <= SUBSAMPLING * self.chunk:
            raise ValueError(
                f"features must have {SUBSAMPLING} to {SUBSAMPLING * self.chunk} steps, "
                f"got {features.shape[1]}"
            )
        if self.frames % self.chunk:
            raise ValueError("features must not come after a chunk that was not full")
        x, self.before = self.model.subsample(features, self.before)
        positions = torch.arange(self.frames, self.frames + x.shape[1], device=x.device)
        self.frames += x.shape[1]
        for i, layer in enumerate(self.model.stack()):
            query, key, value = layer.project(x, positions)
            if (kept := self.cache[i]) is not None:
                key = torch.cat([kept[0], key], dim=2)
                value = torch.cat([kept[1], value], dim=2)
            keep = self.back * self.chunk
            self.cache[i] = (key[:, :, -keep:], value[:, :, -keep:]) if keep else None
            x = layer.finish(x, full(query, key, value))
        return self.model.scores(x)


def load_speech(name: str = "dynamic") -> SpeechEncoder:
    """A recognizer that comes with effedu, in evaluation mode; see its model card.

    Args:
        name: ``"full"``, trained with full attention alone, or ``"dynamic"``, trained with chunks
            of random size.

    Raises:
        ValueError: another name.
        OSError: a file that is missing or damaged.

    >>> sum(weight.numel() for weight in load_speech("full").parameters())
    376139
    """
    checksums = json.loads((SPEECH / "sha256.json").read_text(encoding="utf-8"))
    file = f"{name}.safetensors"
    if file not in checksums or name == "recordings":
        raise ValueError(f"name must be 'full' or 'dynamic', got {name!r}")
    check_file(SPEECH / file, checksums[file])
    model = SpeechEncoder()
    model.load_state_dict({k: t.float() for k, t in load_file(SPEECH / file).items()})
    return model.eval()


@torch.no_grad()
def best_symbols(model: SpeechEncoder, sound: Tensor, attend: Attend = full) -> list[int]:
    """The best symbol of each 40 ms frame of one recording.

    :func:`effedu.applications.collapse` makes what is written of them.

    >>> silence = torch.zeros(8000)
    >>> set(best_symbols(load_speech(), silence)) == {BLANK}
    True
    """
    best: list[int] = model(log_mel(sound)[None], attend)[0].argmax(-1).tolist()
    return best
