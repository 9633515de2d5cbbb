"""Two uses of a Transformer outside of text: speech that is written down, items to recommend.

For speech: attention in chunks (Zhang et al. 2020, https://arxiv.org/abs/2012.05481), what CTC
writes and when it can be known; the recognizer itself is in :mod:`effedu.speech`. The recommender
is a causal language model whose tokens are items (Kang and McAuley 2018,
https://arxiv.org/abs/1808.09781).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import safe_open
from torch import Tensor

from effedu._checks import check_attention_inputs, check_int
from effedu.attention import attention
from effedu.speech import BLANK, FRAME_SECONDS, SAMPLE_RATE, SPEECH, from_mu_law, log_mel

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

MEASURED = Path(__file__).parent / "data" / "applications.json"


# --- Recordings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One test recording: the digits that are spoken, and 8-bit sound at 8,000 samples a second."""

    text: str  # "4 0 9"
    wave: bytes  # mu-law, see from_mu_law

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE

    @property
    def sound(self) -> Float[Tensor, "samples"]:
        return from_mu_law(torch.frombuffer(bytearray(self.wave), dtype=torch.uint8))

    @property
    def digits(self) -> list[int]:
        return [int(digit) for digit in self.text.split()]

    def spectrogram(self) -> UInt8[Tensor, "steps mels"]:
        """:func:`log_mel` for the eye: 0 at -14, 255 at 6."""
        return ((log_mel(self.sound) + 14) / 20 * 255).clamp(0, 255).round().to(torch.uint8)


def recordings() -> list[Recording]:
    """The test recordings that come with effedu: synthetic speech, voices unheard in training.

    >>> recordings()[39].text
    '7 3 5 3 8 8'
    """
    with safe_open(SPEECH / "recordings.safetensors", "pt") as file:
        texts = json.loads(file.metadata()["texts"])
        return [Recording(texts[k], file.get_tensor(k).numpy().tobytes()) for k in sorted(texts)]


# --- What was measured ----------------------------------------------------------------------------


def measured(path: Path | str = MEASURED) -> dict[str, Any]:
    """What ``tools/sweep_applications.py`` measured, as it comes with the package.

    The keys say what was measured, and of what:

    - ``quality/KIND/ATTENTION/COUNT``: the ``error_rate`` and the digits ``written`` per digit
      spoken, of a recognizer (``full``, ``dynamic``, or ``long``: trained on long recordings too),
      with ``COUNT`` recordings of about three seconds joined to one;
    - ``speech time/COUNT``: ``seconds`` of sound, and ``times``, which holds for each way to
      recognize it the share of full attention's time and its two quartiles;
    - ``recommend/ITEMS/HISTORY/USERS``: the same for the recommender, as shares of the dense
      model's time;
    - ``machine``: on what.

    Raises:
        ValueError: a file that is missing or holds something else.

    >>> 0 < measured()["quality/full/full/1"]["error_rate"] < 0.2
    True
    """
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path must be a file of tools/sweep_applications.py, got {path}: {error}"
        ) from None
    if "machine" not in found:
        raise ValueError(f"path must say on which machine it was measured, got only {list(found)}")
    return found


# --- What is written, and when --------------------------------------------------------------------


def collapse(best: Sequence[int]) -> list[tuple[int, int]]:
    """What CTC writes: ``(frame, symbol)`` for each run of one symbol, blanks left out.

    ``best`` holds the best symbol of each frame; ``frame`` is the first one of the run.

    Source: Graves et al. (2006), section 3.1 (the map B) and 3.2 (best path decoding).

    >>> collapse([0, 5, 5, 0, 5, 1])
    [(1, 5), (4, 5), (5, 1)]
    """
    written, frame = [], 0
    for symbol, run in groupby(best):
        if symbol != BLANK:
            written.append((frame, symbol))
        frame += len(list(run))
    return written


def known_at(frame: int, chunk: int | None, length: int) -> float:
    """Seconds of sound that must have come in before the encoder can compute ``frame``.

    Args:
        frame: from 0 to ``length - 1``.
        chunk: frames in a chunk, or None when each frame sees the whole recording.
        length: frames of the recording.

    Raises:
        ValueError: a number out of range.

    >>> known_at(5, chunk=4, length=20), known_at(5, chunk=None, length=20)
    (0.32, 0.8)
    """
    check_int("length", length, minimum=1)
    check_int("frame", frame, minimum=0)
    if frame >= length:
        raise ValueError(f"frame must be below length = {length}, got {frame}")
    if chunk is None:
        return length * FRAME_SECONDS
    check_int("chunk", chunk, minimum=1)
    return min((frame // chunk + 1) * chunk, length) * FRAME_SECONDS


def edit_distance(written: Sequence[int], spoken: Sequence[int]) -> int:
    """Fewest symbols to insert, delete or replace that turn one sequence into the other.

    Source: Levenshtein (1966). Divided by the length of ``spoken`` it is the error rate.

    >>> edit_distance([4, 0, 9], [4, 9, 9, 1])
    2
    """
    row = list(range(len(spoken) + 1))
    for i, symbol in enumerate(written, start=1):
        corner, row[0] = row[0], i
        for j, wanted in enumerate(spoken, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (symbol != wanted))
    return row[-1]


# --- Attention in chunks --------------------------------------------------------------------------


def chunk_mask(
    length: int, chunk: int, back: int | None = None, device: torch.device | str | None = None
) -> Bool[Tensor, "length length"]:
    """True where a query may look: its own chunk, to the end, and ``back`` chunks before it.

    Without ``back`` it sees all chunks before. ``ValueError`` for a ``length`` or ``chunk`` below
    1, or ``back`` below 0.

    >>> chunk_mask(5, chunk=2, back=1).int()
    tensor([[1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 1, 0],
            [0, 0, 1, 1, 1]], dtype=torch.int32)
    """
    check_int("length", length, minimum=1)
    check_int("chunk", chunk, minimum=1)
    number = torch.arange(length, device=device) // chunk
    distance = number[:, None] - number[None, :]  # in chunks; positive = looking back
    if back is None:
        return distance >= 0
    check_int("back", back, minimum=0)
    return (distance >= 0) & (distance <= back)


def chunk_attention(
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch key_heads keys head_dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    *,
    chunk: int,
    back: int,
) -> Float[Tensor, "batch heads length value_dim"]:
    """Attention where a frame sees its own chunk, later frames of it too, and ``back`` before it.

    Equal to ``attention(query, key, value, causal=False, mask=chunk_mask(...))`` in time and
    memory ``O(length · chunk · back)``. What stands ``chunk`` frames later is never seen, so the
    sound can be recognized while it comes in.

    Args:
        query, key, value: as many heads and frames in each; the value may have a width of its own.
        chunk: frames in a chunk, at least 1.
        back: chunks that a frame sees before its own, at least 0.

    Raises:
        ValueError: shapes, dtypes or devices that don't fit, ``chunk`` below 1, ``back`` below 0.

    Source: Zhang et al. (2020), with the past limited to ``back`` chunks.

    >>> x = torch.arange(4.0).reshape(1, 1, 4, 1)
    >>> chunk_attention(x * 0, x * 0, x, chunk=2, back=0).flatten()
    tensor([0.5000, 0.5000, 2.5000, 2.5000])
    """
    check_attention_inputs(query, key, value)
    check_int("chunk", chunk, minimum=1)
    check_int("back", back, minimum=0)
    length = query.shape[2]
    if key.shape[:3] != query.shape[:3]:
        raise ValueError(
            f"query and key must have the same heads and length for chunks, "
            f"got shapes {tuple(query.shape)} and {tuple(key.shape)}"
        )
    first, whole = min(length, back * chunk), length // chunk * chunk
    parts = []
    if first:  # the first chunks have fewer before them
        mask = chunk_mask(first, chunk, device=query.device)
        parts.append(
            attention(*(x[:, :, :first] for x in (query, key, value)), causal=False, mask=mask)
        )
    if whole > first:
        queries = query[:, :, first:whole].reshape(
            -1, (whole - first) // chunk, chunk, query.shape[3]
        )

        def windows(x: Tensor) -> Tensor:
            view = x[:, :, :whole].flatten(0, 1).unfold(1, (back + 1) * chunk, chunk)
            return view.mT  # (batch·heads, chunks, window, d), a view

        inner = F.scaled_dot_product_attention(queries, windows(key), windows(value))
        parts.append(inner.reshape(*query.shape[:2], whole - first, -1))
    if length > max(first, whole):  # the last chunk is not full
        start = whole - back * chunk
        parts.append(
            attention(query[:, :, whole:], key[:, :, start:], value[:, :, start:], causal=False)
        )
    return torch.cat(parts, dim=2)


# --- The recommender ------------------------------------------------------------------------------


def recommender(
    items: int, history: int, *, width: int = 64, layers: int = 2, heads: int = 2
) -> PreTrainedModel:
    """A recommender in the shape of SASRec: a causal language model whose tokens are items.

    What a user did is the text, and the next item is the next token. The weights are random: it
    shows what recommending costs, which depends on shapes alone, and recommends nothing sensible.

    Args:
        items: how many items there are to recommend.
        history: the most actions of one user that it reads.
        width, layers, heads: as in a language model; the feed-forward network is as wide.

    Raises:
        ValueError: a number below 1, or a width that the heads don't divide.

    Source: Kang and McAuley (2018), section III: two layers, learned positions, item embeddings
    shared between input and scores, a feed-forward network of the model's width.

    >>> model = recommender(items=100, history=50)
    >>> model(torch.zeros(1, 50, dtype=torch.long), logits_to_keep=1).logits.shape
    torch.Size([1, 1, 100])
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"items": items, "history": history, "width": width, "layers": layers, "heads": heads}
    for name, size in sizes.items():
        check_int(name, size, minimum=1)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads = {heads}, got {width}")
    config = GPT2Config(
        vocab_size=items,
        n_positions=history,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=width,
        activation_function="relu",
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@torch.no_grad()
def recommend(
    model: PreTrainedModel,
    actions: Int[Tensor, "users length"],
    *,
    count: int = 10,
    cache: Cache | None = None,
) -> Int[Tensor, "users count"]:
    """The items with the highest scores after each user's actions, the best one first.

    Only the last action needs scores over the whole catalogue. With a ``cache`` of earlier actions
    (``past_key_values`` of a pass over them) ``actions`` are the new ones alone, and join it.
    ``ValueError`` for a ``count`` below 1 or above the number of items.

    >>> recommend(recommender(items=100, history=50), torch.zeros(2, 50, dtype=torch.long)).shape
    torch.Size([2, 10])
    """
    check_int("count", count, minimum=1)
    if count > model.config.vocab_size:
        raise ValueError(f"count must be at most {model.config.vocab_size} items, got {count}")
    output = model(actions, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
    best: Tensor = output.logits[:, -1].topk(count).indices
    return best
