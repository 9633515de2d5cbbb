import hashlib
import json
import math
import shutil

import pytest
import torch
from torch.testing import assert_close

import effedu.speech
from effedu.applications import chunk_mask
from effedu.speech import SpeechEncoder, load_speech, to_mu_law
from tools import speech_data, train_speech
from tools.speech_data import Manner, Spoken, noisy, speak
from tools.train_speech import (
    Settings,
    draw_batch,
    draw_mask,
    export,
    held_out,
    loss_of,
    rate_at,
    seeing,
    train,
)

SETTINGS = Settings(steps=4, batch=4, warmup=2, checkpoint=2)


def beeps(digits, voice="a"):
    """A recording without espeak-ng: a tone for each digit, with silence between them."""
    seconds = torch.arange(1600) / 8000
    tones = [0.3 * torch.sin(2 * math.pi * (300 + 300 * digit) * seconds) for digit in digits]
    sound = torch.cat([torch.cat([tone, torch.zeros(900)]) for tone in tones])
    return Spoken(voice, tuple(digits), to_mu_law(sound))


SPOKEN = [beeps([i % 10] * (1 + i // 4)) for i in range(12)]  # from short to long


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- Data ---


def test_no_voice_of_the_test_is_in_training():
    assert not set(speech_data.TEST) & set(speech_data.TRAINING)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_is_as_loud_as_it_should_be(decibels):
    torch.manual_seed(0)
    sound = torch.randn(2, 8000).clamp(-3, 3) * 0.2
    noise = noisy(sound, torch.full((2,), decibels), generator()) - sound
    ratio = 10 * (sound.square().mean(-1) / noise.square().mean(-1)).log10()
    assert_close(ratio, torch.full((2,), decibels), atol=0.5, rtol=0)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")
def test_espeak_says_longer_things_for_longer():
    how = Manner("en-us", 50, 160, 0)
    one, three = speak(how, [7]), speak(how, [7, 7, 7], silence=0.5)
    assert one.digits == (7,)
    assert one.codes.dtype == torch.uint8
    assert 0.3 < len(one.codes) / 8000 < 1.5
    assert len(three.codes) - 0.5 * 8000 > 1.8 * len(one.codes)
    assert set(three.codes[:4000].tolist()) == {128}  # silence


def test_saved_recordings_come_back(tmp_path):
    speech_data.save(tmp_path / "new" / "some.pt", SPOKEN[:2])
    again = speech_data.load(tmp_path / "new" / "some.pt")
    assert again[1].digits == SPOKEN[1].digits
    assert torch.equal(again[1].codes, SPOKEN[1].codes)


# --- Batches ---


@pytest.mark.parametrize("join", [1, 3])
def test_a_batch_holds_together(join):
    batch = draw_batch(SPOKEN, SETTINGS, generator(), join)
    rows = -(-SETTINGS.batch // join)
    assert len(batch.features) == len(batch.frames) == len(batch.lengths) == rows
    assert batch.lengths.sum() == len(batch.targets)
    assert batch.targets.min() >= 1
    assert batch.targets.max() <= 10
    assert batch.frames.max() * 4 <= batch.features.shape[1]
    # 2,500 samples a digit, 320 a frame
    assert_close(batch.frames, (batch.lengths * 2500 / 320).long())


def test_masks_are_random_chunks_or_none():
    draw = generator()
    assert all(draw_mask(kind, 40, draw) is None for kind in ("full", "long") for _ in range(9))
    masks = [draw_mask("dynamic", 40, draw) for _ in range(60)]
    some = [mask for mask in masks if mask is not None]
    assert 15 < len(some) < 45
    every = [chunk_mask(40, c, b) for c in range(1, 26) for b in range(-(-40 // c))]
    assert all(any(torch.equal(mask, one) for one in every) for mask in some)


def test_padding_is_not_seen():
    torch.manual_seed(0)
    model = SpeechEncoder(width=16, heads=2, layers=2).eval()
    features, frames = torch.randn(2, 40, 40), torch.tensor([6, 10])
    for mask in (None, chunk_mask(10, 4, 1)):
        both = model(features, seeing(frames, mask))
        own = None if mask is None else mask[:6, :6]
        alone = model(features[:1, :24], seeing(frames[:1], own))
        assert_close(both[:1, :6], alone, atol=1e-5, rtol=1e-4)
        assert both.isfinite().all()


def test_rate_goes_up_and_down():
    rates = [rate_at(step, Settings(steps=100, warmup=10, rate=1.0)) for step in range(100)]
    assert rates[9] == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert 0.01 <= rates[-1] < 0.02


# --- Training ---


def test_the_loss_falls():
    torch.manual_seed(0)
    model = SpeechEncoder(width=32, heads=2, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = draw_batch(SPOKEN, SETTINGS, generator())
    losses = []
    for _ in range(30):
        loss = loss_of(model, batch, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", ["dynamic", "long"])
def test_a_stopped_training_goes_on_as_if_it_had_not(kind, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert train(kind, SPOKEN, whole, SETTINGS)
    assert not train(kind, SPOKEN, parts, SETTINGS, until=0)
    assert len(torch.load(parts / f"{kind}.pt")["losses"]) == 2
    assert train(kind, SPOKEN, parts, SETTINGS)
    one, other = (torch.load(path / f"{kind}.pt") for path in (whole, parts))
    assert one["losses"] == other["losses"]
    for name, weight in one["model"].items():
        assert torch.equal(weight, other["model"][name]), name


# --- What is shipped ---


@pytest.fixture
def work(tmp_path, monkeypatch):
    held_out.cache_clear()
    speech_data.save(tmp_path / "training.pt", SPOKEN)
    test = [beeps([i, i + 1], voice) for voice in "ab" for i in range(3)]
    speech_data.save(tmp_path / "test.pt", test)
    for kind in train_speech.SHIPPED:
        train(kind, SPOKEN, tmp_path, Settings(steps=1, batch=2, warmup=1))
    yield tmp_path
    held_out.cache_clear()


def test_exported_files_load(work, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(work, out)
    monkeypatch.setattr(effedu.speech, "SPEECH", out)
    state = torch.load(work / "full.pt")["model"]
    for name, weight in load_speech("full").state_dict().items():
        assert_close(weight, state[name].half().float(), atol=0, rtol=0)
    checksums = json.loads((out / "sha256.json").read_text())
    assert set(checksums) == {"full.safetensors", "dynamic.safetensors", "recordings.safetensors"}
    for name, checksum in checksums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == checksum
    assert "376,139 parameters" in (out / "MODEL_CARD.md").read_text()


def test_held_out_sound_lasts_whole_frames_and_has_noise(work):
    voices = held_out(work)
    assert set(voices) == {"a", "b"}
    for rows in voices.values():
        assert [digits for _, digits in rows] == [[0, 1], [1, 2], [2, 3]]
        for sound, _ in rows:
            assert len(sound) == -(-5000 // 320) * 320
            assert sound[1700:2400].abs().max() > 0  # silence before
