import hashlib
import json

import numpy as np
import pytest
import scipy.signal
import torch
from torch.testing import assert_close

import effedu.speech
from effedu.applications import chunk_attention, collapse, edit_distance, recordings
from effedu.attention import attention
from effedu.speech import (
    MELS,
    SAMPLE_RATE,
    SpeechEncoder,
    SpeechStream,
    best_symbols,
    from_mu_law,
    full,
    load_speech,
    log_mel,
    to_mu_law,
)


def small():
    torch.manual_seed(0)
    return SpeechEncoder(width=16, heads=2, layers=2).eval()


# --- Sound ---


def test_mu_law_there_and_back():
    codes = torch.arange(256, dtype=torch.uint8)
    assert_close(to_mu_law(from_mu_law(codes)), codes)
    sound = torch.linspace(-1, 1, 2001)
    error = (from_mu_law(to_mu_law(sound)) - sound).abs()
    assert error.max() < 0.03  # one step where it is loud
    assert error[sound.abs() < 0.01].max() < 5e-4  # fine ones where it is quiet
    assert_close(to_mu_law(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8))


def test_bad_codes():
    with pytest.raises(ValueError, match=r"codes must be a uint8 tensor, got torch.float32"):
        from_mu_law(torch.zeros(3))


def test_log_mel_against_scipy():
    sound = torch.randn(4000)
    padded = np.concatenate([np.zeros(120), sound.numpy()])
    _, _, spectrum = scipy.signal.stft(
        padded, window=scipy.signal.get_window("hann", 200), nperseg=200, noverlap=120, nfft=256,
        boundary=None, padded=False, scaling="spectrum",
    )  # fmt: skip
    power = np.abs(spectrum * 100) ** 2  # the window's sum, by which scipy divides
    wanted = np.log(power.T @ effedu.speech._mel_bands().numpy() + 1e-6)
    assert_close(log_mel(sound), torch.from_numpy(wanted).float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("hertz", "band"), [(200, 4), (1000, 20), (3000, 35)])
def test_a_tone_lights_its_band(hertz, band):
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    loudest = log_mel(tone)[50].argmax().item()
    assert abs(loudest - band) <= 3


def test_a_spectrum_needs_no_later_sound():
    sound = torch.randn(1600)
    whole = log_mel(sound)
    assert whole.shape == (20, MELS)
    assert_close(log_mel(sound[:800]), whole[:10])


def test_too_short_a_sound():
    with pytest.raises(ValueError, match="wave must have at least 80 samples, got 79"):
        log_mel(torch.zeros(79))


# --- The encoder ---


def test_a_frame_needs_no_later_spectra_without_attention():
    model, features = small(), torch.randn(1, 40, MELS)

    def own(query, key, value):
        return value

    whole = model(features, own)
    assert whole.shape == (1, 10, 11)
    assert_close(model(features[:, :20], own), whole[:, :5])


def test_full_sees_everything():
    query, key, value = torch.randn(3, 1, 2, 9, 8).unbind()
    everything = torch.ones(9, 9, dtype=torch.bool)
    assert_close(
        full(query, key, value), attention(query, key, value, causal=False, mask=everything)
    )


@torch.no_grad()
def test_rotary_positions_count_distances_alone():
    """In chunks without a past, a chunk gives the same wherever it stands."""
    model = small()
    features = torch.randn(1, 16, MELS)
    twice = torch.cat([features, features, features], dim=1)

    def chunks(query, key, value):
        return chunk_attention(query, key, value, chunk=4, back=0)

    scores = model(twice, chunks)
    assert_close(scores[:, 5:8], scores[:, 9:12], atol=1e-4, rtol=1e-4)  # not the first frame:
    # its convolution looks back across the seam


@pytest.mark.parametrize(("chunk", "back"), [(1, 0), (1, 9), (4, 2), (5, 0), (16, 1), (99, 3)])
@torch.no_grad()
def test_stream_equals_the_whole_pass(chunk, back):
    model, features = small(), torch.randn(2, 4 * 37, MELS)
    whole = model(features, lambda q, k, v: chunk_attention(q, k, v, chunk=chunk, back=back))
    stream = SpeechStream(model, chunk=chunk, back=back)
    parts = [stream.accept(piece) for piece in features.split(4 * chunk, dim=1)]
    assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_a_stream_keeps_no_more_than_the_chunks_back():
    stream = SpeechStream(small(), chunk=4, back=2)
    for _ in range(6):
        stream.accept(torch.randn(1, 16, MELS))
    assert all(key.shape[2] == value.shape[2] == 8 for key, value in stream.cache)


def test_bad_sizes():
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        SpeechEncoder(layers=0)
    with pytest.raises(ValueError, match=r"width must be a multiple of 2 \* heads = 8, got 20"):
        SpeechEncoder(width=20, heads=4)


def test_bad_streams():
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        SpeechStream(small(), chunk=0, back=1)
    with pytest.raises(ValueError, match="back must be an integer of at least 0, got -1"):
        SpeechStream(small(), chunk=1, back=-1)
    stream = SpeechStream(small(), chunk=2, back=1)
    with pytest.raises(ValueError, match="features must have 4 to 8 steps, got 12"):
        stream.accept(torch.zeros(1, 12, MELS))
    stream.accept(torch.zeros(1, 4, MELS))
    with pytest.raises(ValueError, match="features must not come after a chunk that was not full"):
        stream.accept(torch.zeros(1, 8, MELS))
    with pytest.raises(ValueError, match="features must have at least 4 steps, got 3"):
        small()(torch.zeros(1, 3, MELS))


# --- What comes with the package ---


@pytest.mark.parametrize("name", ["full", "dynamic"])
def test_recognizers_recognize(name):
    model = load_speech(name)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) < 600_000
    wrong = said = 0
    for recording in recordings()[::4]:
        written = [symbol - 1 for _, symbol in collapse(best_symbols(model, recording.sound))]
        wrong += edit_distance(written, recording.digits)
        said += len(recording.digits)
    assert wrong / said < 0.3


def test_unknown_recognizer():
    with pytest.raises(ValueError, match="name must be 'full' or 'dynamic', got 'recordings'"):
        load_speech("recordings")


def test_damaged_weights_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(effedu.speech, "SPEECH", tmp_path)
    (tmp_path / "full.safetensors").write_bytes(b"half a file")
    (tmp_path / "sha256.json").write_text(json.dumps({"full.safetensors": "0" * 64}))
    found = hashlib.sha256(b"half a file").hexdigest()
    with pytest.raises(OSError, match=f"is damaged: its SHA-256 is {found}, not 000"):
        load_speech("full")
