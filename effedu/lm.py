"""A language model to experiment on: the one that ships with effedu, or any causal LM.

The embedded model is a GPT-NeoX (Black et al. 2022, "GPT-NeoX-20B", section 2,
https://arxiv.org/abs/2204.06745) small enough to live in the wheel. It opens without a network.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

import effedu.linears  # noqa: F401  so that converted models can be loaded
from effedu._checks import check_file, check_int

EMBEDDED = Path(__file__).parent / "data" / "lm"
_ALTERNATIVES = (
    "load_lm() gives the embedded model and load_lm('path/to/folder') a model saved on this machine"
)


@dataclass(repr=False, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer; :func:`load_lm` makes one.

    Every method runs ``model`` as it stands, so inside ``effedu.patched(lm.model, ...)`` they all
    measure the patched model.

    Attributes:
        name: ``"embedded"``, a hub name or a folder.
        model: the ``transformers`` model, in evaluation mode.
        tokenizer: its tokenizer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _start: list[int] = field(init=False)  # the token the tokenizer puts before every text, if any
    _spells_bytes: bool = field(init=False)  # byte-level BPE

    def __post_init__(self) -> None:
        begin = self.tokenizer.bos_token_id
        adds_begin = begin is not None and self.tokenizer("")["input_ids"][:1] == [begin]
        self._start = [begin] if adds_begin else []
        decoder = json.loads(self.tokenizer.backend_tokenizer.to_str())["decoder"]
        self._spells_bytes = '"ByteLevel"' in json.dumps(decoder)

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"LanguageModel({self.name!r}, {type(self.model).__name__}, "
            f"{millions:.1f}M parameters, {self.device.type}, {dtype})"
        )

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return torch.device(self.model.device)

    @property
    def context_length(self) -> int | None:
        """Most tokens the model reads at once; ``None`` if its configuration sets no limit."""
        config = self.model.config.get_text_config()
        limit: int | None = getattr(config, "max_position_embeddings", None)
        return limit

    def tokens(self, text: str) -> list[str]:
        r"""The text's tokens in readable form, one string each, in the order the model reads them.

        A space that belongs to a token is shown as a space. A token that holds only a part of a
        character shows the bytes, such as ``\xe2``.

        >>> "".join(load_lm().tokens("To be, or not to be"))
        'To be, or not to be'
        """
        return [self.readable(index) for index in self._encode(text)[0]]

    def readable(self, index: int) -> str:
        """Token number ``index`` as text, as :meth:`tokens` shows it.

        Some models have more numbers than tokens; such a number is shown as ``[50300]``.

        >>> lm = load_lm()
        >>> [lm.readable(index) for index in lm.tokenizer.encode("To be")]
        ['To', ' be']
        """
        token: str | None = self.tokenizer.convert_ids_to_tokens(index)
        if token is None:
            return f"[{index}]"
        if index in self.tokenizer.all_special_ids:
            return token
        if self._spells_bytes:
            data = bytes(_BYTE_OF[character] for character in token)
        elif match := re.fullmatch("<0x([0-9A-F]{2})>", token):  # SentencePiece's single bytes
            data = bytes.fromhex(match[1])
        else:
            data = token.replace("▁", " ").encode()
        return data.decode(errors="backslashreplace")

    @torch.no_grad()
    def generate(
        self,
        text: str,
        max_new_tokens: int = 100,
        *,
        seed: int = 0,
        temperature: float | int = 0.8,
        top_k: int | None = None,
    ) -> str:
        """Continue ``text``; returns the new part only.

        Each new token is drawn from the softmax of the logits divided by ``temperature``. The
        draw has a random generator of its own: the same seed gives the same text, and PyTorch's
        global generator is neither read nor moved. Generation ends early where the model draws
        its end-of-text token, if its tokenizer has one.

        Args:
            text: where to start. An empty text starts from the tokenizer's begin-of-text token,
                or from a line break if it has none.
            max_new_tokens: at least 1. The text and this must fit in ``context_length``.
            seed: any non-negative integer.
            temperature: 0 takes the likeliest token each time; 1 draws from the model's own
                distribution.
            top_k: draw among the ``top_k`` likeliest tokens only.

        Raises:
            ValueError: an argument out of range, or more tokens than the model has positions.

        >>> lm = load_lm()
        >>> lm.generate("ROMEO:", 8, seed=1) == lm.generate("ROMEO:", 8, seed=1)
        True
        """
        check_int("max_new_tokens", max_new_tokens, minimum=1)
        check_int("seed", seed, minimum=0)
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be a finite number >= 0, got {temperature!r}")
        if top_k is not None:
            check_int("top_k", top_k, minimum=1)
        prompt = self._encode(text)[0] or self._encode("\n")[0]
        if self.context_length is not None and len(prompt) + max_new_tokens > self.context_length:
            raise ValueError(
                f"text ({len(prompt)} tokens) and max_new_tokens ({max_new_tokens}) must fit in "
                f"the model's {self.context_length} positions; shorten one of them"
            )

        generator = torch.Generator().manual_seed(seed)
        ids = list(prompt)
        cache = None
        for _ in range(max_new_tokens):
            # With a cache of keys and values the model reads the newest token only.
            unread = ids if cache is None else ids[-1:]
            output = self.model(self._row(unread), past_key_values=cache, use_cache=True)
            cache = getattr(output, "past_key_values", None)
            ids.append(_draw(output.logits[0, -1], temperature, top_k, generator))
            if ids[-1] == self.tokenizer.eos_token_id:
                ids.pop()
                break
        return self._continuation(prompt, ids)

    @torch.no_grad()
    def bits_per_byte(
        self,
        text: str,
        length: int | None = None,
        stride: int | None = None,
        *,
        batch_size: int | None = None,
    ) -> float:
        """Bits the model needs to encode one UTF-8 byte of ``text``; lower is better.

        The model reads windows of ``length`` tokens and predicts, at each, the token that follows.
        Windows begin every ``stride`` tokens and know nothing of what stands before them. Each
        token is counted once, in the first window that predicts it, so it has at least
        ``length - stride + 1`` tokens of context (fewer only at the start of the text).

        The first token has no context, so neither its bits nor its bytes count (if it is only a
        part of a character, that goes for the whole character). Where the tokenizer puts a
        begin-of-text token before every text, each window starts with it, it takes one of the
        ``length`` places, and every byte of the text counts.

        Bits are divided by bytes and not by tokens, so models with different tokenizers compare.

        Args:
            text: at least two tokens.
            length: tokens a window holds, at most ``context_length``; by default 1,024 or
                ``context_length``, whichever is smaller.
            stride: from 1 to ``length``, which is the default: windows side by side. A smaller
                stride takes longer and gives every token more context.
            batch_size: windows at once; by default as many as keep the logits at about 128 MiB.
                Changes speed and memory, not the result.

        Raises:
            ValueError: an argument out of range, or a text too short to predict anything.

        Source: Gao et al. (2020), "The Pile", section 3.1. https://arxiv.org/abs/2101.00027

        >>> lm = load_lm()
        >>> text = heldout_text()[:4000]
        >>> 1.0 < lm.bits_per_byte(text, length=256) < 3.0
        True
        """
        limit = self.context_length
        if length is None:
            length = min(1024, limit or 1024)
        check_int("length", length, minimum=1 + len(self._start))
        if limit is not None and length > limit:
            raise ValueError(f"length must be at most the model's {limit} positions, got {length}")
        room = length - len(self._start)  # places for the text's own tokens
        stride = room if stride is None else check_int("stride", stride, minimum=1)
        if stride > room:
            raise ValueError(f"stride must be from 1 to {room}, got {stride}")
        if batch_size is None:
            # Short windows are many; 2**25 float32 logits are 128 MiB.
            batch_size = max(1, 2**25 // (length * self.model.config.get_text_config().vocab_size))
        check_int("batch_size", batch_size, minimum=1)

        ids, ends = self._encode(text)
        ids, ends = ids[len(self._start) :], ends[len(self._start) :]
        first = 0 if self._start else _whole_characters(ends)
        if len(ids) <= first:
            raise ValueError(
                f"text must hold at least one token after its first, got {len(ids)} tokens: "
                f"{text[:20]!r}"
            )
        scored_bytes = len(text.encode()) - len(text[: ends[first - 1] if first else 0].encode())
        windows = list(_windows(len(ids), room, stride, first))
        nats = 0.0
        for _, same_width in groupby(windows, key=lambda window: window.stop - window.start):
            group = list(same_width)
            for i in range(0, len(group), batch_size):
                nats += self._nats(ids, group[i : i + batch_size])
        return nats / math.log(2) / scored_bytes

    @torch.no_grad()
    def predicts(self, prompt: str, answer: str) -> bool:
        """Whether ``answer`` is what the model finds likeliest after ``prompt``, token by token.

        The two are tokenized as one text, as in training, and the model reads it once: every
        token of the answer must be the model's first choice after all that stands before it. That
        is the case exactly if greedy generation from the prompt's tokens begins with the answer's
        tokens. A token that straddles the border belongs to the answer.

        Raises:
            ValueError: an empty prompt or answer, or more tokens than the model has positions.

        >>> lm = load_lm()
        >>> lm.predicts("ROMEO", lm.generate("ROMEO", 1, temperature=0))
        True
        """
        if not answer:
            raise ValueError("answer must not be empty, got ''")
        ids, ends = self._read("prompt + answer", prompt + answer)
        start = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
        if start == 0:
            raise ValueError(f"prompt must hold at least one token, got {prompt!r}")
        logits = self.model(self._row(ids[:-1]), use_cache=False).logits[0, start - 1 :]
        first_choices: list[int] = logits.argmax(-1).tolist()
        return first_choices == ids[start:]

    @torch.no_grad()
    def attention_maps(self, text: str) -> Float[Tensor, "layers heads length length"]:
        """Where each token looks: the attention weights of every layer and head, float32 on CPU.

        ``maps[layer, head, i, j]`` is the weight that token ``i`` gives to token ``j``; the tokens
        are those of :meth:`tokens`. The weights come from the attention the model really runs:
        attention is linear in the values, so putting the identity matrix in the values' place
        returns the weights. That takes ``length**3`` steps a head; texts of up to about 1,000
        tokens are quick.

        Raises:
            ValueError: an empty text, more tokens than the model has positions, or a model whose
                attention does not run through ``transformers``' ``AttentionInterface``.

        >>> maps = load_lm().attention_maps("To be, or not to be")
        >>> bool((maps.sum(-1) - 1).abs().max() < 1e-4)  # each row shares out one look
        True
        """
        ids, _ = self._read("text", text)
        return torch.stack([layer.weights() for layer in self._record(ids)])

    @torch.no_grad()
    def attention_inputs(
        self, text: str
    ) -> tuple[
        list[str],
        Float[Tensor, "layers heads length head_dim"],
        Float[Tensor, "layers heads length head_dim"],
    ]:
        """The tokens, and the queries and keys as attention receives them, float32 on CPU.

        Queries and keys have their rotary embedding already. Grouped keys are repeated, one per
        query head, and queries are scaled so that ``query @ key.mT / head_dim**0.5`` are the
        scores, whatever scale the model uses: for dense attention their causal softmax is
        :meth:`attention_maps`.

        Raises:
            ValueError: as :meth:`attention_maps`.

        >>> from effedu.attention import attention_weights
        >>> lm = load_lm()
        >>> tokens, query, key = lm.attention_inputs("To be, or not to be")
        >>> torch.allclose(attention_weights(query, key), lm.attention_maps("To be, or not to be"),
        ...                atol=1e-4)
        True
        """
        ids, _ = self._read("text", text)
        layers = self._record(ids)
        query = torch.stack([layer.query[0] * layer.query_factor() for layer in layers])
        key = torch.stack([layer.key[0] for layer in layers])
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        return [self.readable(i) for i in ids], query.float().cpu(), key.float().cpu()

    @torch.no_grad()
    def attention_values(self, text: str) -> Float[Tensor, "layers heads length value_dim"]:
        """The values as attention receives them, float32 on CPU; grouped ones once per query head.

        For dense attention, :meth:`attention_maps` times these is what the heads hand on.

        Raises:
            ValueError: as :meth:`attention_maps`.

        >>> load_lm().attention_values("To be, or not to be").shape[:2]
        torch.Size([4, 4])
        """
        ids, _ = self._read("text", text)
        layers = self._record(ids)
        value = torch.stack([layer.value[0] for layer in layers])
        return value.repeat_interleave(layers[0].query.shape[1] // value.shape[1], 1).float().cpu()

    # --- text and tokens ----------------------------------------------------------------------

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        """Token numbers, and for each token where it ends in ``text`` (in characters)."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ends = [end for _, end in encoding["offset_mapping"]]
        return self._start + encoding["input_ids"], [0] * len(self._start) + ends

    def _read(self, argument: str, text: str) -> tuple[list[int], list[int]]:
        """:meth:`_encode` for a text that the model reads in one piece."""
        ids, ends = self._encode(text)
        if not ids:
            raise ValueError(f"{argument} must hold at least one token, got {text!r}")
        if self.context_length is not None and len(ids) > self.context_length:
            raise ValueError(
                f"{argument} must have at most the model's {self.context_length} positions, "
                f"got {len(ids)} tokens"
            )
        return ids, ends

    def _row(self, ids: list[int]) -> Tensor:
        return torch.tensor([ids], device=self.device)  # (1, length)

    def _continuation(self, prompt: list[int], ids: list[int]) -> str:
        """Decode the new tokens in context: some tokenizers drop a space that begins a text."""
        before: str = self.tokenizer.decode(prompt)
        whole: str = self.tokenizer.decode(ids)
        if whole.startswith(before):
            return whole[len(before) :]
        new: str = self.tokenizer.decode(ids[len(prompt) :])
        return new

    # --- the model ----------------------------------------------------------------------------

    def _nats(self, ids: list[int], windows: list[_Window]) -> float:
        """Summed negative log-likelihood of what these windows, all of one width, count."""
        rows = torch.tensor([self._start + ids[w.start : w.stop] for w in windows])
        # With a begin-of-text token the first prediction is the window's own first token.
        shift = 1 - len(self._start)
        targets = torch.tensor([ids[w.start + shift : w.stop + 1] for w in windows])
        logits = self._logits(rows.to(self.device)).float()
        losses: Tensor = F.cross_entropy(  # (batch, length)
            logits.transpose(1, 2), targets.to(self.device), reduction="none"
        ).double()
        counted = [
            loss[w.first - w.start - shift :].sum() for w, loss in zip(windows, losses, strict=True)
        ]
        return float(torch.stack(counted).sum())

    def _logits(self, rows: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Of every token, in one pass without a cache."""
        logits: Tensor = self.model(rows, use_cache=False).logits
        return logits

    def _record(self, ids: list[int]) -> list[_LayerInputs]:
        with _recorded_attention(self.model) as layers:
            self.model(self._row(ids), use_cache=False)
        if not layers:
            raise ValueError(_no_interface(self.model))
        return layers


# --- parts of LanguageModel -------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """Reads tokens ``start`` to ``stop - 1``, counts the predictions of ``first`` to ``stop``."""

    start: int
    stop: int
    first: int


def _windows(count: int, room: int, stride: int, first: int) -> Iterator[_Window]:
    """Windows over ``count`` tokens that count each one from ``first`` on exactly once."""
    start = 0
    while first < count:
        stop = min(start + room, count - 1)  # the last token is predicted, never read
        if first <= stop:
            yield _Window(start, stop, first)
            first = stop + 1
        start += stride


def _whole_characters(ends: list[int]) -> int:
    """How many tokens make up the first one, or the whole character it is a part of."""
    # Tokens that share one character all end where it ends.
    return next((i for i, end in enumerate(ends) if end > ends[0]), len(ends))


def _draw(
    logits: Float[Tensor, "vocab"],
    temperature: float | int,
    top_k: int | None,
    generator: torch.Generator,
) -> int:
    """One token number, drawn on the CPU so that a seed means the same on every device."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.double().cpu()
    logits = (logits - logits.max()) / temperature
    if top_k is not None and top_k < len(logits):
        kept = logits.topk(top_k)
        logits = torch.full_like(logits, -math.inf).scatter(0, kept.indices, kept.values)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE spells each byte as one printable character; this reads them back.

    Source: Radford et al. (2019), GPT-2: bytes that print stand for themselves, the others for
    the characters from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_of_character()


# --- recording what attention receives --------------------------------------------------------


@dataclass(frozen=True)
class _LayerInputs:
    """One layer's call of the attention function, kept to be looked at afterwards."""

    query: Tensor  # (1, heads, length, head_dim)
    key: Tensor  # (1, key_heads, length, head_dim)
    value: Tensor  # (1, key_heads, length, value_dim)
    scaling: float | None
    attend: Callable[
        [Tensor], Tensor
    ]  # values (1, key_heads, length, any) -> (1, length, heads, any)

    def query_factor(self) -> float:
        root: float = self.query.shape[-1] ** 0.5
        return 1.0 if self.scaling is None else self.scaling * root

    def weights(self) -> Float[Tensor, "heads length length"]:
        heads, length = self.key.shape[1:3]
        identity = torch.eye(length, dtype=self.key.dtype, device=self.key.device)
        out = self.attend(identity.expand(1, heads, length, length))  # (1, length, heads, length)
        return out[0].transpose(0, 1).float().cpu()


@dataclass(frozen=True)
class _Recording:
    implementation: str  # what the model runs otherwise
    layers: list[_LayerInputs]


_recording: ContextVar[_Recording] = ContextVar("recording")
_RECORD = "effedu_record"


def _record_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function for ``transformers``: note the inputs, then do what the model does."""
    recording = _recording.get()
    forward: Any = AttentionInterface().get(recording.implementation)
    if forward is None:  # "eager" is not registered: each model brings its own
        forward = sys.modules[type(module).__module__].eager_attention_forward

    def attend(values: Tensor) -> Tensor:
        out: Tensor = forward(
            module, query, key, values, attention_mask, scaling=scaling, **kwargs
        )[0]
        return out

    recording.layers.append(_LayerInputs(query, key, value, scaling, attend))
    return attend(value), None


def _record_mask(*args: Any, **kwargs: Any) -> Any:
    """The mask that the model's own attention gets (some attentions take none)."""
    make_mask = AttentionMaskInterface().get(_recording.get().implementation)
    return None if make_mask is None else make_mask(*args, **kwargs)


AttentionInterface.register(_RECORD, _record_attention)
AttentionMaskInterface.register(_RECORD, _record_mask)


@contextmanager
def _recorded_attention(model: PreTrainedModel) -> Iterator[list[_LayerInputs]]:
    """Record what every attention layer of ``model`` receives, then leave the model as it was."""
    recording = _Recording(model.config._attn_implementation, [])
    token = _recording.set(recording)
    try:
        model.set_attn_implementation(_RECORD)
        if model.config._attn_implementation != _RECORD:
            raise ValueError(_no_interface(model))
        yield recording.layers
    finally:
        model.set_attn_implementation(recording.implementation)
        _recording.reset(token)


def _no_interface(model: PreTrainedModel) -> str:
    return (
        f"{type(model).__name__} does not run its attention through transformers' "
        "AttentionInterface, so its attention can't be recorded"
    )


# --- loading ----------------------------------------------------------------------------------


def load_lm(
    name: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """The embedded language model, or any causal language model from a folder or the hub.

    No code from a model's author is run, and only safetensors weights are read. A hub model that
    is already in the local cache is taken from there, without asking the hub.

    Args:
        name: nothing for the embedded model, a folder with a saved model, or a hub name such as
            ``"EleutherAI/pythia-70m"``.
        device: where to run it, such as ``"cuda"``; the CPU by default.
        dtype: a floating-point dtype; ``torch.float32`` by default, whatever the file holds.

    Raises:
        ValueError: a device or dtype that can't be used here, a folder or name that does not
            exist, or something that is not a causal language model.
        OSError: the hub can't be reached, or a file is missing or damaged.

    >>> load_lm().device
    device(type='cpu')
    """
    dtype = torch.float32 if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize == 1:
        raise ValueError(f"dtype must be float32, float64, bfloat16 or float16, got {dtype}")
    device = _check_device(device)
    if name is None:
        return _load_folder(EMBEDDED, "embedded", device, dtype)
    path = Path(name or "?").expanduser()  # an empty name is no folder, though Path("") is "."
    if (path / "sha256.json").is_file():
        return _load_folder(path, str(name), device, dtype)
    if path.is_dir():
        return _from_pretrained(str(name), str(path), device, dtype, local=True)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ValueError(
            f"name must be a folder that exists or a hub name such as 'EleutherAI/pythia-70m', "
            f"got {str(name)!r}"
        )
    try:
        return _from_pretrained(name, name, device, dtype, local=True)  # from the cache
    except OSError:
        _check_hub_has(name)
    return _from_pretrained(name, name, device, dtype, local=False)


def heldout_text() -> str:
    """The text that ships with the embedded model for evaluation; no part of it was trained on.

    >>> len(heldout_text()) > 10_000
    True
    """
    return (EMBEDDED / "heldout.txt").read_text(encoding="utf-8")


def recall_passages() -> list[dict[str, Any]]:
    """Passages that state facts early and ask for one later, to be used with ``predicts``.

    Each has ``"prompt"``, ``"answer"`` and ``"distance_tokens"``, the number of the embedded
    model's tokens between the fact and the question. Names and values occur nowhere in training.

    >>> sorted(recall_passages()[0].keys() & {"prompt", "answer", "distance_tokens"})
    ['answer', 'distance_tokens', 'prompt']
    """
    content = json.loads((EMBEDDED / "recall.json").read_text(encoding="utf-8"))
    passages: list[dict[str, Any]] = content["passages"]
    return passages


def _check_device(device: str | torch.device | None) -> torch.device:
    try:
        checked = torch.device("cpu" if device is None else device)
        torch.empty(1, device=checked).tolist()  # "meta" holds no numbers, so it fails here too
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one PyTorch can use here, such as 'cpu', got {str(device)!r}: {reason}"
        ) from None
    return checked


def _load_folder(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype
) -> LanguageModel:
    """A folder as ``tools/train_lm.py`` writes it, with the checksums of its files."""
    try:
        checksums = json.loads((folder / "sha256.json").read_text())
        for file, expected in checksums.items():
            check_file(folder / file, expected)
        config = GPTNeoXConfig.from_dict(json.loads((folder / "config.json").read_text()))
        weights = load_file(folder / "model.safetensors")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except FileNotFoundError as error:
        missing = error.filename or folder / "model.safetensors"
        raise OSError(f"{missing} is missing; install effedu again") from None
    config.dtype = dtype
    with torch.random.fork_rng(devices=[]):  # the weights drawn first are thrown away at once
        model = GPTNeoXForCausalLM(config)
    # Releases of transformers differ in the output matrix's name; a tied one is not in the file.
    head = {"embed_out.weight", "lm_head.weight"}
    own_head = head & model.state_dict().keys()
    weights = {(min(own_head) if k in head else k): tensor for k, tensor in weights.items()}
    lacking, unexpected = model.load_state_dict(weights, strict=False)
    lacking = set(lacking) - (own_head if config.tie_word_embeddings else set())
    if lacking or unexpected:
        raise OSError(
            f"{folder / 'model.safetensors'} does not fit config.json: "
            f"missing {sorted(lacking)}, unexpected {sorted(unexpected)}"
        )
    return LanguageModel(name, model.to(device=device, dtype=dtype).eval(), tokenizer)


def _from_pretrained(
    name: str, source: str, device: torch.device, dtype: torch.dtype, *, local: bool
) -> LanguageModel:
    """``source`` is a folder or a hub name; ``local`` allows no request to the hub."""
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        kind = OSError if isinstance(error, OSError | SafetensorError) else ValueError
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise kind(
            f"cannot load {name!r} as a causal language model: {reason}; {_ALTERNATIVES}"
        ) from None
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {name!r} does not say where its tokens stand in the text "
            f"({type(tokenizer).__name__} is not a fast tokenizer); {_ALTERNATIVES}"
        )
    model = model.to(device).eval()
    if not _is_causal(model):
        raise ValueError(
            f"{name!r} is not a causal language model: what {type(model).__name__} predicts for a "
            f"token depends on the tokens after it; {_ALTERNATIVES}"
        )
    return LanguageModel(name, model, tokenizer)


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Change the last token: nothing before it may change."""
    rows = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device)
    first, second = model(rows).logits[:, :2].float()
    tolerance = 64 * torch.finfo(model.dtype).eps * first.abs().max().item()
    return bool((first - second).abs().max() <= tolerance)


def _check_hub_has(name: str) -> None:
    """Ask the hub once, with a short timeout: transformers itself would retry for a minute."""
    try:
        HfApi().model_info(name, timeout=5)
    except RepositoryNotFoundError:
        raise ValueError(
            f"the hub has no public model named {name!r}, and there is no such folder here; "
            f"{_ALTERNATIVES}"
        ) from None
    except Exception:  # whatever the HTTP library in use raises without a network
        raise OSError(
            f"cannot load {name!r}: there is no copy of it on this machine and the model hub "
            f"can't be reached; {_ALTERNATIVES}"
        ) from None
