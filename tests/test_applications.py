import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from effedu.applications import (
    BLANK,
    FRAME_SECONDS,
    Recording,
    chunk_attention,
    chunk_mask,
    collapse,
    edit_distance,
    known_at,
    measured,
    recommend,
    recommender,
    recordings,
)
from effedu.linears import int8
from effedu.patch import block, dense, patched
from effedu.speech import from_mu_law

symbols = st.lists(st.integers(0, 3), max_size=12)


# --- Attention in chunks ---


@settings(max_examples=40)
@given(
    length=st.integers(1, 40),
    chunk=st.integers(1, 12),
    back=st.one_of(st.none(), st.integers(0, 4)),
)
def test_mask_is_what_the_words_say(length, chunk, back):
    mask = chunk_mask(length, chunk, back)
    for i, j in itertools.product(range(length), repeat=2):
        behind = i // chunk - j // chunk
        assert mask[i, j] == (behind >= 0 and (back is None or behind <= back))


@settings(max_examples=60)
@given(
    length=st.integers(1, 70),
    chunk=st.integers(1, 20),
    back=st.integers(0, 5),
    batch=st.integers(1, 2),
)
def test_equals_dense_attention_under_the_mask(length, chunk, back, batch):
    query, key = torch.randn(2, batch, 3, length, 8).unbind()
    value = torch.randn(batch, 3, length, 5)  # a width of its own
    wanted = F.scaled_dot_product_attention(
        query, key, value, attn_mask=chunk_mask(length, chunk, back)
    )
    assert_close(chunk_attention(query, key, value, chunk=chunk, back=back), wanted)


def test_a_chunk_does_not_depend_on_later_ones():
    query, key, value = torch.randn(3, 1, 2, 40, 8).unbind()
    before = chunk_attention(query, key, value, chunk=8, back=2)
    key[:, :, 24:] = value[:, :, 24:] = 7.0
    after = chunk_attention(query, key, value, chunk=8, back=2)
    assert_close(after[:, :, :24], before[:, :, :24])
    assert not torch.allclose(after[:, :, 24:], before[:, :, 24:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_chunks_on_cuda():
    query, key, value = torch.randn(3, 1, 2, 50, 8, device="cuda").unbind()
    found = chunk_attention(query, key, value, chunk=8, back=2)
    wanted = chunk_attention(query.cpu(), key.cpu(), value.cpu(), chunk=8, back=2)
    assert_close(found.cpu(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunk_mask(0, 1), "length must be an integer of at least 1, got 0"),
        (lambda: chunk_mask(4, 0), "chunk must be an integer of at least 1, got 0"),
        (lambda: chunk_mask(4, 2, -1), "back must be an integer of at least 0, got -1"),
        (lambda: chunk_attention(*_qkv(), chunk=0, back=1), "chunk must be an integer of at least"),
        (lambda: chunk_attention(*_qkv(), chunk=2, back=-1), "back must be an integer of at least"),
        (
            lambda: chunk_attention(*_qkv(key_length=5), chunk=2, back=1),
            r"query and key must have the same heads and length for chunks, got shapes "
            r"\(1, 2, 6, 4\) and \(1, 2, 5, 4\)",
        ),
        (
            lambda: chunk_attention(*_qkv(key_heads=1), chunk=2, back=1),
            "query and key must have the same heads",
        ),
    ],
)
def test_bad_chunks(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _qkv(key_length=6, key_heads=2):
    return (torch.randn(1, 2, 6, 4), *torch.randn(2, 1, key_heads, key_length, 4).unbind())


# --- What is written ---


@given(best=symbols)
def test_collapse_against_groupby(best):
    runs = [symbol for symbol, _ in itertools.groupby(best)]
    assert [symbol for _, symbol in collapse(best)] == [s for s in runs if s != BLANK]
    for frame, symbol in collapse(best):
        assert best[frame] == symbol
        assert frame == 0 or best[frame - 1] != symbol


def test_collapse_inverts_what_ctc_scores_highest():
    # The loss of the written symbols is low, of others high, if the frames are sure of themselves.
    best = [0, 2, 2, 0, 2, 1, 0]
    scores = (10.0 * F.one_hot(torch.tensor(best), 4).float()).log_softmax(-1)[:, None]

    def loss(target):
        return F.ctc_loss(
            scores, torch.tensor([target]), torch.tensor([len(best)]), torch.tensor([len(target)]),
            reduction="sum",
        )  # fmt: skip

    written = [symbol for _, symbol in collapse(best)]
    assert written == [2, 2, 1]
    assert loss(written) < 0.1
    assert min(loss([2, 1]), loss([2, 2, 2, 1]), loss([1, 2, 2])) > 5


@given(a=symbols, b=symbols, c=symbols)
def test_edit_distance_is_a_distance(a, b, c):
    assert edit_distance(a, a) == 0
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(a=st.lists(st.integers(0, 2), max_size=6), b=st.lists(st.integers(0, 2), max_size=6))
def test_edit_distance_against_its_definition(a, b):
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        same = slow(a[1:], b[1:]) + (a[0] != b[0])
        return min(same, slow(a[1:], b) + 1, slow(a, b[1:]) + 1)

    assert edit_distance(a, b) == slow(a, b)


@given(length=st.integers(1, 60), chunk=st.integers(1, 25), data=st.data())
def test_known_at_is_the_end_of_the_chunk(length, chunk, data):
    frame = data.draw(st.integers(0, length - 1))
    seen = chunk_mask(length, chunk)[frame].nonzero().max().item()  # the last frame needed
    assert known_at(frame, chunk, length) == pytest.approx((seen + 1) * FRAME_SECONDS)
    assert known_at(frame, None, length) == pytest.approx(length * FRAME_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 2, 5), "frame must be below length = 5, got 5"),
        ((-1, 2, 5), "frame must be an integer of at least 0, got -1"),
        ((0, 0, 5), "chunk must be an integer of at least 1, got 0"),
        ((0, None, 0), "length must be an integer of at least 1, got 0"),
    ],
)
def test_bad_times(arguments, message):
    with pytest.raises(ValueError, match=message):
        known_at(*arguments)


# --- Recordings ---


def test_recordings_come_with_the_package():
    found = recordings()
    assert len(found) >= 20
    for recording in found:
        assert len(recording.digits) == 6
        assert 1 < recording.seconds < 8
        assert len(recording.wave) % (FRAME_SECONDS * 8000) == 0  # whole frames
    assert {digit for recording in found for digit in recording.digits} == set(range(10))


def test_a_recording_as_sound_and_as_picture():
    codes = torch.randint(256, (1600,), dtype=torch.uint8)
    recording = Recording("4 0 9", bytes(codes.tolist()))
    assert recording.digits == [4, 0, 9]
    assert recording.seconds == 0.2
    assert_close(recording.sound, from_mu_law(codes))
    picture = recording.spectrogram()
    assert picture.shape == (20, 40)
    assert picture.dtype == torch.uint8


# --- The recommender ---


def test_recommender_has_the_shape_of_sasrec():
    model = recommender(items=500, history=30, width=16)
    parts = {name: p.numel() for name, p in model.named_parameters()}
    per_layer = 4 * (16 * 16 + 16) + 2 * (16 * 16 + 16) + 4 * 16  # q, k, v, out; two; norms
    assert sum(parts.values()) == 500 * 16 + 30 * 16 + 2 * per_layer + 2 * 16
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not model.training


def test_recommender_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    recommender(items=10, history=4, width=8)
    assert_close(torch.rand(2), wanted)


def test_recommends_the_highest_scores():
    model = recommender(items=50, history=12, width=16)
    actions = torch.randint(50, (3, 12))
    with torch.no_grad():
        scores = model(actions).logits[:, -1]
    for row, best in zip(scores, recommend(model, actions, count=4), strict=True):
        assert best.tolist() == row.argsort(descending=True)[:4].tolist()


def test_kept_keys_and_values_recommend_the_same():
    model = recommender(items=50, history=12, width=16)
    actions = torch.randint(50, (3, 12))
    cache = model(actions[:, :-1], use_cache=True).past_key_values
    again = recommend(model, actions[:, -1:], cache=cache)
    assert again.tolist() == recommend(model, actions).tolist()
    assert cache.get_seq_length() == 12


def test_recommender_can_be_patched():
    model = recommender(items=50, history=64, width=64)
    actions = torch.randint(50, (2, 64))
    plain = recommend(model, actions)
    with patched(model, dense()) as same:
        assert recommend(same, actions).tolist() == plain.tolist()
    with torch.no_grad(), patched(model, block(8), linear=int8(lm_head=True)) as fast:
        near = fast(actions).logits
        actions[:, :8] = 0  # far out of sight of the last action, two layers of 16 actions
        assert_close(fast(actions).logits[:, -1], near[:, -1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recommender(0, 5), "items must be an integer of at least 1, got 0"),
        (lambda: recommender(5, 0), "history must be an integer of at least 1, got 0"),
        (lambda: recommender(5, 5, width=7), "width must be a multiple of heads = 2, got 7"),
        (
            lambda: recommend(recommender(5, 5, width=8), torch.zeros(1, 5, dtype=torch.long)),
            "count must be at most 5 items, got 10",
        ),
    ],
)
def test_bad_recommenders(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- What was measured ---


def test_measurements_come_with_the_package():
    found = measured()
    assert found["speech time/1"]["times"]["full"] == [1, 1, 1]


def test_bad_measurements(tmp_path):
    with pytest.raises(ValueError, match=r"path must be a file of .*, got .*none\.json"):
        measured(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"path must say on which machine .* got only \['rows'\]"):
        measured(tmp_path / "other.json")
