"""Measure what chapter 12 shows: ``python -m tools.sweep_applications``.

Speech: digit error rates of the two recognizers on test voices, recordings joined to longer ones;
the digits, the sound and the noise are the same at every length. Times of both the recognizer and
the recommender are seconds of the processor on one thread, in turns, as ratios. What is done stands
in ``--work``, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from effedu.applications import chunk_attention, collapse, edit_distance, recommend, recommender
from effedu.bench import Comparison, machine
from effedu.blocking import block_attention
from effedu.linears import int8
from effedu.patch import patched
from effedu.patterns import block
from effedu.quantized_linear import Int8Linear
from effedu.speech import (
    SAMPLE_RATE,
    SUBSAMPLING,
    Attend,
    SpeechEncoder,
    SpeechStream,
    best_symbols,
    full,
    log_mel,
)
from tools.bench import write_json
from tools.sweep import NoAttention, processor_times
from tools.train_speech import WORK, held_out, load_trained

OUT = Path(__file__).parents[1] / "effedu" / "data" / "applications.json"
JOINED = (1, 3, 10, 30, 100)  # recordings of about three seconds in one
ROUNDS, SECONDS = 7, 10  # at least so many rounds, and more where they take less than that

# Frames in a chunk, and chunks back: about the same past, 64 frames or 2.56 seconds, for each.
CHUNKS = {f"chunk {chunk}": (chunk, 64 // chunk) for chunk in (1, 4, 8, 16, 32)}
ATTENTION: dict[str, Attend] = {
    "full": full,
    **{
        name: partial(chunk_attention, chunk=chunk, back=back)
        for name, (chunk, back) in CHUNKS.items()
    },
    "local": partial(block_attention, block_size=32, blocks_back=1, causal=False),
}


# --- Speech ---------------------------------------------------------------------------------------


def in_int8(model: SpeechEncoder) -> SpeechEncoder:
    """A copy whose layers compute with 8 bits; convolutions and output stay as they are."""
    model = copy.deepcopy(model)
    for layer in model.stack():
        for name, module in list(layer.named_children()):
            if isinstance(module, nn.Linear):
                setattr(layer, name, Int8Linear.from_linear(module))
    return model


def joined(
    recordings: list[tuple[Tensor, list[int]]], count: int
) -> list[tuple[Tensor, list[int]]]:
    """Each ``count`` recordings of one voice in a row as one."""
    groups = [recordings[i : i + count] for i in range(0, len(recordings) // count * count, count)]
    return [
        (torch.cat([sound for sound, _ in group]), [d for _, digits in group for d in digits])
        for group in groups
    ]


def errors(
    model: SpeechEncoder, recordings: list[tuple[Tensor, list[int]]], attend: Attend
) -> tuple[int, int, int]:
    """Wrong digits, digits written, and digits spoken."""
    wrong = wrote = said = 0
    for sound, spoken in recordings:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, sound, attend))]
        wrong += edit_distance(written, spoken)
        wrote, said = wrote + len(written), said + len(spoken)
    return wrong, wrote, said


def quality(kind: str, config: str, count: int) -> dict[str, Any]:
    """Errors of one recognizer with one attention, by voice, at one length."""
    model = load_trained(kind)
    if config.endswith(" int8"):
        model = in_int8(model)
    attend = ATTENTION[config.removesuffix(" int8")]
    voices = list(held_out().values())[::2]  # every variant in one of its two accents
    by_voice = [errors(model, joined(recordings, count), attend) for recordings in voices]
    wrong, wrote, said = (sum(column) for column in zip(*by_voice, strict=True))
    return {
        "error_rate": round(wrong / said, 5),
        "written": round(wrote / said, 4),
        "wrong_by_voice": [wrong for wrong, _, _ in by_voice],
        "digits_by_voice": by_voice[0][2],
    }


def quality_jobs() -> Iterator[tuple[str, str, int]]:
    everywhere = ("full", "chunk 16", "local")
    for kind in ("dynamic", "full"):
        for config in [*ATTENTION, *(f"{name} int8" for name in everywhere)]:
            for count in JOINED:
                if config in everywhere or count in (1, 100):
                    yield kind, config, count
    for config in ("full", "local"):
        for count in JOINED:
            yield "long", config, count


def speech_times(count: int) -> dict[str, Any]:
    """Times to recognize ``count`` recordings as one, as shares of full attention's."""
    model = load_trained("dynamic")
    quick = in_int8(model)
    by_length = sorted(held_out().values(), key=lambda rows: sum(len(sound) for sound, _ in rows))
    sound = joined(by_length[len(by_length) // 2], count)[0][0]  # who speaks neither fast nor slow
    features = log_mel(sound)[None]
    calls: dict[str, Callable[[], object]] = {
        name: partial(model, features, attend) for name, attend in ATTENTION.items()
    }
    calls |= {
        f"{name} int8": partial(quick, features, ATTENTION[name])
        for name in ("full", "chunk 16", "local")
    }
    calls |= {
        f"stream {chunk}": partial(stream, model, features, *CHUNKS[f"chunk {chunk}"])
        for chunk in (1, 4, 16)
    }
    calls["spectrogram"] = partial(log_mel, sound)
    calls["no attention"] = partial(model, features, lambda query, key, value: value)
    return {"seconds": round(len(sound) / SAMPLE_RATE, 2)} | ratios(calls, "full")


def stream(model: SpeechEncoder, features: Tensor, chunk: int, back: int) -> None:
    stream = SpeechStream(model, chunk=chunk, back=back)
    for piece in features.split(SUBSAMPLING * chunk, dim=1):
        if piece.shape[1] >= SUBSAMPLING:
            stream.accept(piece)


def ratios(calls: dict[str, Callable[[], object]], baseline: str) -> dict[str, Any]:
    """Seconds of the baseline, and each call's time as a share of it, with its quartiles."""
    with torch.no_grad():
        processor_times(calls, 1)  # some kernels prepare themselves once
        once = sum(times[0] for times in processor_times(calls, 1).values())
        rounds = max(ROUNDS, min(100, round(SECONDS / once)))
        found = Comparison(processor_times(calls, rounds), baseline)
    times = {}
    for name in calls:
        low, high = found.spread(name)
        times[name] = [round(x, 4) for x in (found.ratio(name), 1 / high, 1 / low)]
    return {"baseline_seconds": round(found.seconds(baseline), 5), "times": times}


# --- Recommendation -------------------------------------------------------------------------------


CATALOGUES, HISTORIES, USERS = (3_000, 100_000), (50, 200, 1_000, 8_000), (1, 64)
BLOCK = 64  # actions: each user's last 64 to 128 are seen
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "block": {"attention": block(BLOCK)},
    "int8": {"linear": int8(lm_head=True)},
    "block int8": {"attention": block(BLOCK), "linear": int8(lm_head=True)},
    "no attention": {"attention": NoAttention()},
}


def recommend_times(items: int, history: int, users: int) -> dict[str, Any]:
    """Times to recommend ten items to each of so many users, as shares of the dense model's."""
    if users * history > 100_000:
        users = 100_000 // history
    actions = torch.randint(items, (users, history), generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack, torch.no_grad():
        for name, method in METHODS.items():
            model = recommender(items, history)
            if method:
                model = stack.enter_context(patched(model, **method))
            calls[name] = partial(recommend, model, actions)
            if name in ("dense", "block int8"):
                calls[f"{name}, one more action"] = one_more(model, actions)
        model = recommender(items, history)
        last = torch.randn(users, model.config.n_embd)
        calls["scores"] = lambda: model.lm_head(last).topk(10)
        return {"users": users} | ratios(calls, "dense")


def one_more(model: Any, actions: Tensor) -> Callable[[], object]:
    """The next request of users whose keys and values of before are kept."""
    cache = model(actions[:, :-1], use_cache=True, logits_to_keep=1).past_key_values

    def call() -> None:
        recommend(model, actions[:, -1:], cache=cache)
        cache.crop(-1)  # as before

    return call


# --- All of it ------------------------------------------------------------------------------------


def jobs() -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by the name under which it is stored."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        f"quality/{kind}/{config}/{count}": partial(quality, kind, config, count)
        for kind, config, count in quality_jobs()
    }
    found |= {f"speech time/{count}": partial(speech_times, count) for count in JOINED}
    found |= {
        f"recommend/{items}/{history}/{users}": partial(recommend_times, items, history, users)
        for items in CATALOGUES
        for history in HISTORIES
        for users in USERS
    }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing; publish when nothing is."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep_applications", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default="", help="parts whose name begins so")
    parser.add_argument("--work", type=Path, default=Path("work/applications.json"), help="done")
    parser.add_argument("--out", type=Path, default=OUT, help="published when all is there")
    options = parser.parse_args(arguments)
    if not (WORK / "test.pt").exists():
        parser.error(f"{WORK} holds no recordings: run `python -m tools.train_speech` first")
    torch.set_num_threads(1)
    work = jobs()
    results = json.loads(options.work.read_text("utf-8")) if options.work.exists() else {}
    for name in tqdm([name for name in work if name.startswith(options.only)]):
        if name not in results:
            results[name] = work[name]()
            write_json(options.work, results)
    if left := [name for name in work if name not in results]:
        print(f"{len(left)} still to measure, such as {left[0]}")
        return
    write_json(options.out, {"machine": machine(), **{name: results[name] for name in work}})
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
