import math

import pytest
import torch
import transformers as hf
from hypothesis import example, given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

import effedu
from effedu.attention import attention
from effedu.positional import (
    ASK,
    KEYS,
    SCHEMES,
    SYMBOLS,
    TASKS,
    VOCABULARY,
    SmallTransformer,
    accuracy,
    alibi,
    alibi_slopes,
    fit,
    frequencies,
    order_task,
    rotary,
    sinusoidal,
    sparse_positions,
)

# --- Nothing says where a token stands ------------------------------------------------------------


@given(length=st.integers(1, 30), seed=st.integers(0, 1000), spread=st.sampled_from([0.1, 1, 20]))
def test_without_positions_attention_only_moves_with_its_tokens(length, seed, spread):
    torch.manual_seed(seed)
    query, key, value = torch.randn(3, 2, 3, length, 8, dtype=torch.float64) * spread
    order = torch.randperm(length)
    moved = attention(query[:, :, order], key[:, :, order], value[:, :, order], causal=False)
    assert_close(moved, attention(query, key, value, causal=False)[:, :, order])


@given(length=st.integers(2, 20), seed=st.integers(0, 100))
def test_a_whole_model_without_positions_is_blind_to_order(length, seed):
    torch.manual_seed(seed)
    model = SmallTransformer(30, causal=False).double()
    tokens = torch.randint(30, (2, length))
    order = torch.randperm(length)
    with torch.no_grad():
        assert_close(model(tokens[:, order]), model(tokens)[:, order])


@pytest.mark.parametrize(
    ("positions", "causal"),
    [(p, c) for p in SCHEMES for c in (False, True) if (p, c) != ("none", False)],
)
def test_every_scheme_and_the_causal_mask_break_the_symmetry(positions, causal):
    model = SmallTransformer(30, positions=positions, causal=causal)
    tokens = torch.arange(12)[None]
    order = torch.randperm(12)
    with torch.no_grad():
        assert (model(tokens[:, order]) - model(tokens)[:, order]).abs().max() > 1e-3


def test_alibi_cannot_tell_left_from_right_when_it_looks_both_ways():
    model = SmallTransformer(30, positions="alibi", causal=False)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert_close(model(tokens.flip(1)), model(tokens).flip(1))


@given(length=st.integers(3, 20), seed=st.integers(0, 100))
def test_the_start_alone_leaves_the_rest_without_order(length, seed):
    torch.manual_seed(seed)
    model = SmallTransformer(30, positions="sinusoidal", keep="start", causal=False).double()
    tokens = torch.randint(30, (1, length))
    order = torch.cat((torch.tensor([0]), 1 + torch.randperm(length - 1)))
    with torch.no_grad():
        assert_close(model(tokens[:, order]), model(tokens)[:, order])


# --- Sinusoids ------------------------------------------------------------------------------------


@given(
    length=st.integers(1, 40),
    pairs=st.integers(1, 20),
    base=st.sampled_from([2, 100.0, 10_000, 500_000]),
    scale=st.sampled_from([1, 2, 0.5]),
)
def test_sinusoids_are_those_of_the_formula(length, pairs, base, scale):
    table = sinusoidal(length, 2 * pairs, base=base, scale=scale)
    expected = torch.tensor(
        [
            [
                (math.sin, math.cos)[c % 2](p / scale / base ** ((c - c % 2) / (2 * pairs)))
                for c in range(2 * pairs)
            ]
            for p in range(length)
        ]
    )
    assert_close(table, expected, atol=1e-5, rtol=1e-5)


def test_sinusoids_are_those_of_transformers_in_another_order():
    table = sinusoidal(50, 16)
    theirs = gptj.create_sinusoidal_positions(50, 16)  # all sines, then all cosines
    assert_close(torch.cat((table[:, 0::2], table[:, 1::2]), 1), theirs)


@given(p=st.integers(0, 30), q=st.integers(0, 30), shift=st.integers(0, 30))
def test_products_of_sinusoids_depend_on_the_distance(p, q, shift):
    table = sinusoidal(61, 32)
    assert_close(table[p] @ table[q], table[p + shift] @ table[q + shift], atol=1e-4, rtol=1e-4)
    assert_close(
        table[p] @ table[q], torch.cos((p - q) * frequencies(32)).sum(), atol=1e-4, rtol=1e-4
    )


# --- Rotation -------------------------------------------------------------------------------------

conventions = {
    "interleaved": st.booleans(),
    "base": st.sampled_from([100, 10_000.0]),
    "scale": st.sampled_from([1, 4.0]),
    "rotary_dim": st.sampled_from([2, 6, 8, None]),
}


@given(
    p=st.integers(0, 50), q=st.integers(0, 50), shift=st.integers(0, 50), seed=st.integers(0, 99),
    **conventions,
)  # fmt: skip
def test_scores_of_turned_vectors_depend_on_the_distance(p, q, shift, seed, **convention):
    torch.manual_seed(seed)
    query, key = torch.randn(2, 1, 8, dtype=torch.float64)

    def score(at, of):
        turned = rotary(query[None], torch.tensor([at]), **convention)
        return (turned * rotary(key[None], torch.tensor([of]), **convention)).sum()

    assert_close(score(p, q), score(p + shift, q + shift))


@given(length=st.integers(1, 40), seed=st.integers(0, 99), **conventions)
@example(length=1, seed=0, interleaved=False, base=10_000.0, scale=1, rotary_dim=None)
def test_turning_keeps_lengths_and_the_first_row(length, seed, **convention):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, length, 8)
    turned = rotary(x, **convention)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert_close(turned[:, :, 0], x[:, :, 0])
    left = convention["rotary_dim"] or 8
    assert torch.equal(turned[..., left:], x[..., left:])


@given(length=st.integers(1, 30), seed=st.integers(0, 99))
def test_turning_is_multiplying_with_rotation_matrices(length, seed):
    """Su et al., equation 15: blocks of two by two on the diagonal."""
    torch.manual_seed(seed)
    x = torch.randn(length, 8, dtype=torch.float64)
    rows = []
    for p in range(length):
        blocks = []
        for i in range(4):
            angle = p * 10_000 ** (-2 * i / 8)
            c, s = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
        rows.append(torch.block_diag(*blocks) @ x[p])
    assert_close(rotary(x, interleaved=True), torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_the_conventions_differ_by_the_order_of_the_numbers_alone():
    x = torch.randn(5, 8)
    neighbours = torch.arange(8).view(2, 4).T.flatten()  # 0 4 1 5 2 6 3 7
    assert_close(rotary(x[:, neighbours], interleaved=True), rotary(x)[:, neighbours])


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_gpt_neox(share, dtype):
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share}
    config = hf.GPTNeoXConfig(hidden_size=128, num_attention_heads=2, rope_parameters=rope)
    query, key = torch.randn(2, 1, 2, 300, 64).to(dtype)
    positions = torch.arange(300)
    cos, sin = neox.GPTNeoXRotaryEmbedding(config)(query, positions[None])
    theirs = neox.apply_rotary_pos_emb(query, key, cos, sin)
    ours = [rotary(x, positions, rotary_dim=int(64 * share)) for x in (query, key)]
    # In 16 bits products and sums are rounded in another order.
    exact = {"atol": 0, "rtol": 0} if dtype == torch.float32 else {}
    for mine, reference in zip(ours, theirs, strict=True):
        assert_close(mine, reference, **exact)


@pytest.mark.parametrize("factor", [None, 4.0])
def test_equals_llama_with_and_without_interpolation(factor):
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    if factor:
        rope = {"rope_type": "linear", "rope_theta": 500_000.0, "factor": factor}
    config = hf.LlamaConfig(hidden_size=128, num_attention_heads=2, rope_parameters=rope)
    query, key = torch.randn(2, 1, 2, 300, 64)
    positions = torch.randperm(1000)[:300]
    cos, sin = llama.LlamaRotaryEmbedding(config)(query, positions[None])
    theirs = llama.apply_rotary_pos_emb(query, key, cos, sin)
    ours = [rotary(x, positions, base=500_000.0, scale=factor or 1) for x in (query, key)]
    for mine, reference in zip(ours, theirs, strict=True):
        assert_close(mine, reference, atol=1e-6, rtol=1e-6)


def test_equals_gpt_j():
    x = torch.randn(1, 40, 2, 16)  # GPT-J turns before it moves the heads to the front
    sin, cos = gptj.create_sinusoidal_positions(40, 8)[None].chunk(2, dim=-1)
    theirs = torch.cat((gptj.apply_rotary_pos_emb(x[..., :8], sin, cos), x[..., 8:]), -1)
    ours = rotary(x.transpose(1, 2), rotary_dim=8, interleaved=True).transpose(1, 2)
    assert_close(ours, theirs)


def test_turns_the_embedded_model_as_its_own_layer_does():
    lm = effedu.load_lm()
    config = lm.model.config
    text = "To be, or not to be, that is the question"
    layer, seen = lm.model.gpt_neox.layers[0].attention, []
    hook = layer.query_key_value.register_forward_hook(lambda *parts: seen.append(parts[2]))
    _, query, key = lm.attention_inputs(text)
    hook.remove()
    before = seen[0].view(1, -1, config.num_attention_heads, 3 * layer.head_size).transpose(1, 2)
    plain_query, plain_key, _ = before.detach().chunk(3, dim=-1)
    for plain, turned in ((plain_query, query[0]), (plain_key, key[0])):
        assert_close(rotary(plain, rotary_dim=layer.head_size // 4)[0], turned)


def test_positions_far_out_keep_their_precision_in_16_bits():
    x = torch.ones(1, 8)
    far = torch.tensor([40_001])
    wide = rotary(x, far)
    for dtype in (torch.bfloat16, torch.float16):
        assert_close(rotary(x.to(dtype), far).float(), wide, atol=2e-2, rtol=2e-2)


def test_interpolation_squeezes_positions():
    x = torch.randn(9, 8)
    assert_close(rotary(x, scale=4)[8], rotary(x[8:], torch.tensor([2]))[0])
    assert_close(sinusoidal(9, 8, scale=4)[8], sinusoidal(9, 8)[2])


def test_gradients_turn_back():
    """The gradient of a rotation is the rotation by the opposite angle."""
    x, upstream = torch.randn(2, 7, 8)
    x.requires_grad_()
    (rotary(x) * upstream).sum().backward()
    assert_close(x.grad, rotary(upstream, -torch.arange(7)))


@pytest.mark.cuda
@pytest.mark.parametrize("positions", SCHEMES)
def test_on_cuda(positions):
    model = SmallTransformer(VOCABULARY, positions=positions)
    tokens, _ = order_task("copy")
    with torch.no_grad():
        here = model(tokens)
        assert_close(model.cuda()(tokens.cuda()).cpu(), here, atol=1e-3, rtol=1e-3)
    losses = fit(model, lambda g: order_task("first", generator=g), steps=3)
    assert math.isfinite(losses[-1])


# --- ALiBi ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [*range(1, 34), 71, 112])
def test_slopes_are_those_of_bloom(heads):
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert_close(alibi_slopes(heads), theirs)


@pytest.mark.parametrize("heads", [4, 12])
def test_weights_are_those_of_bloom(heads):
    scores = torch.randn(heads, 20, 20)
    future = torch.ones(20, 20, dtype=torch.bool).triu(1)
    theirs = build_alibi_tensor(torch.ones(1, 20), heads, torch.float32)  # slope · key position
    ours = (scores + alibi(heads, 20)).masked_fill(future, -math.inf).softmax(-1)
    assert_close(ours, (scores + theirs).masked_fill(future, -math.inf).softmax(-1))


@given(heads=st.integers(1, 20), length=st.integers(1, 20))
def test_alibi_is_slope_times_distance(heads, length):
    bias = alibi(heads, length)
    assert torch.equal(bias, bias.mT)
    for h, slope in enumerate(alibi_slopes(heads).tolist()):
        for i in range(length):
            assert bias[h, i, 0].item() == pytest.approx(-slope * i)
    assert (bias <= 0).all()


# --- Sparse positions -----------------------------------------------------------------------------


@given(length=st.integers(1, 50), keep=st.one_of(st.just("start"), st.integers(1, 60)))
def test_sparse_positions_by_hand(length, keep):
    kept = sparse_positions(torch.arange(length), keep=keep)
    expected = [p == 0 if keep == "start" else p % keep == 0 for p in range(length)]
    assert kept.tolist() == expected
    assert kept[0]


def test_the_starts_of_blocks_are_every_so_many():
    block = torch.arange(30) // 8
    starts = torch.cat((torch.tensor([True]), block[1:] != block[:-1]))
    assert torch.equal(sparse_positions(torch.arange(30), keep=8), starts)


def test_keeping_all_is_the_full_encoding():
    tokens = torch.randint(30, (2, 12))
    torch.manual_seed(1)
    full = SmallTransformer(30, positions="sinusoidal")
    sparse = SmallTransformer(30, positions="sinusoidal", keep=1)
    sparse.load_state_dict(full.state_dict())
    with torch.no_grad():
        assert_close(sparse(tokens), full(tokens))


# --- The small model ------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", SCHEMES)
def test_a_causal_model_does_not_see_the_future(positions):
    model = SmallTransformer(30, positions=positions)
    tokens = torch.randint(30, (2, 12))
    with torch.no_grad():
        assert_close(model(tokens)[:, :5], model(tokens[:, :5]))


@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_relative_schemes_read_a_shifted_text_alike(positions):
    """In a window of their own, tokens look the same wherever the window begins."""
    torch.manual_seed(3)
    model = SmallTransformer(30, positions=positions, layers=1, causal=False)
    bias = model._bias(20)
    x = torch.randn(1, 4, 20, 16)
    if positions == "alibi":
        assert_close(bias[:, 5:, 5:], bias[:, :15, :15])
    else:
        scores = model._rotate(x) @ model._rotate(x).mT
        again = rotary(x, torch.arange(7, 27)) @ rotary(x, torch.arange(7, 27)).mT
        assert_close(scores, again, atol=1e-4, rtol=1e-4)


def test_scale_reaches_the_positions():
    tokens = torch.randint(30, (1, 8))
    with torch.no_grad():
        for positions in SCHEMES:
            model = SmallTransformer(30, positions=positions)
            before = model(tokens)
            model.scale = 2
            moved = (model(tokens) - before).abs().max() > 1e-4
            assert moved == (positions in ("sinusoidal", "rotary"))


@pytest.mark.parametrize("name", TASKS)
def test_tasks_ask_what_they_say(name):
    tokens, targets = order_task(name, length=9, batch=50)
    assert tokens.shape == targets.shape
    assert (targets[:, :9] == -100).all()
    assert tokens.max() < VOCABULARY
    for row, answers in zip(tokens.tolist(), targets[:, 9:].tolist(), strict=True):
        symbols, asked = row[:9], row[9:]
        assert max(symbols) < SYMBOLS
        if name == "nearest":
            key = asked[0] - SYMBOLS
            same = [s for s in symbols if s // (SYMBOLS // KEYS) == key]
            assert answers == [same[-1]]
        else:
            assert set(asked) == {ASK}
            expected = {"copy": symbols, "reverse": symbols[::-1], "first": symbols[:1]}
            assert answers == expected[name]


def test_the_same_seed_trains_the_same_model():
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        model = SmallTransformer(VOCABULARY, positions="alibi", width=16, layers=1)
        results.append(fit(model, lambda g: order_task("nearest", generator=g), steps=8))
    assert results[0] == results[1]


def test_a_start_is_enough_to_find_the_first_symbol_and_nothing_is_not():
    found = {}
    for positions, keep in (("none", None), ("sinusoidal", "start")):
        torch.manual_seed(0)
        model = SmallTransformer(
            VOCABULARY, positions=positions, keep=keep, causal=False, width=32, layers=1
        )
        fit(model, lambda g: order_task("first", generator=g), steps=200)
        found[keep] = accuracy(model, order_task("first", batch=300))
    assert found["start"] > 0.9
    assert found[None] < 0.5


def test_accuracy_counts_what_is_asked():
    tokens, targets = order_task("copy", length=4, batch=2)
    right = torch.nn.functional.one_hot(targets.clamp(min=0), VOCABULARY).float()
    assert accuracy(lambda _: right, (tokens, targets)) == 1
    right[0, 4] = torch.nn.functional.one_hot((targets[0, 4] + 1) % SYMBOLS, VOCABULARY).float()
    assert accuracy(lambda _: right, (tokens, targets)) == pytest.approx(7 / 8)


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frequencies(7), "dim must be even, two numbers for each frequency, got 7"),
        (lambda: frequencies(0), "dim must be an integer of at least 2, got 0"),
        (lambda: frequencies(8, base=0), "base must be positive and finite, got 0"),
        (lambda: frequencies(8, scale=math.nan), "scale must be positive and finite, got nan"),
        (lambda: sinusoidal(0, 8), "length must be an integer of at least 1, got 0"),
        (lambda: sinusoidal(3, 5), "dim must be even"),
        (lambda: rotary(torch.ones(4)), r"x must be a floating-point .* got shape \(4,\)"),
        (
            lambda: rotary(torch.ones(2, 4, dtype=torch.long)),
            r"x must be a floating-point tensor \(…, length, head_dim\), .* torch.int64",
        ),
        (
            lambda: rotary(torch.ones(3, 4), torch.arange(2)),
            r"positions must hold 3 numbers, one for each row of x, got shape \(2,\)",
        ),
        (lambda: rotary(torch.ones(1, 4), torch.tensor([True])), "dtype torch.bool"),
        (
            lambda: rotary(torch.ones(1, 4), torch.zeros(1, device="meta")),
            "positions must be on x's device cpu, got meta",
        ),
        (
            lambda: rotary(torch.ones(1, 4), rotary_dim=3),
            "rotary_dim must be even and at most the head_dim 4, got 3",
        ),
        (lambda: rotary(torch.ones(1, 4), rotary_dim=6), "at most the head_dim 4, got 6"),
        (lambda: rotary(torch.ones(1, 4), rotary_dim=0), "rotary_dim must be an integer of at"),
        (lambda: rotary(torch.ones(1, 5)), "rotary_dim must be even and .* got 5"),
        (lambda: rotary(torch.ones(1, 4), scale=-1), "scale must be positive and finite, got -1"),
        (lambda: alibi_slopes(0), "num_heads must be an integer of at least 1, got 0"),
        (lambda: alibi(4, 0), "length must be an integer of at least 1, got 0"),
        (
            lambda: sparse_positions(torch.ones(3)),
            "positions must be whole numbers, got dtype torch.float32",
        ),
        (lambda: sparse_positions(torch.ones(3) > 0), "whole numbers, got dtype torch.bool"),
        (
            lambda: sparse_positions(torch.arange(3), keep="end"),
            "keep must be 'start' or an integer of at least 1, got 'end'",
        ),
        (lambda: sparse_positions(torch.arange(3), keep=0), "keep must be an integer of at least"),
        (lambda: SmallTransformer(0), "vocabulary must be an integer of at least 1, got 0"),
        (
            lambda: SmallTransformer(9, positions="rope"),
            "positions must be one of none, learned, sinusoidal, rotary, alibi; got 'rope'",
        ),
        (
            lambda: SmallTransformer(9, positions="rotary", keep="start"),
            "keep must be None with the scheme 'rotary', got 'start'",
        ),
        (
            lambda: SmallTransformer(9, width=20, heads=4),
            "width must be a multiple of twice the heads, got 20 and 4",
        ),
        (
            lambda: SmallTransformer(9, positions="sinusoidal", keep="end"),
            "keep must be 'start' or an integer of at least 1, got 'end'",
        ),
        (
            lambda: SmallTransformer(9, positions="learned", max_length=4)(torch.ones(1, 5).long()),
            "tokens must have at most the learned table's 4 positions, got 5",
        ),
        (
            lambda: order_task("sort"),
            "name must be one of copy, reverse, first, nearest; got 'sort'",
        ),
        (lambda: order_task("copy", length=0), "length must be an integer of at least 1, got 0"),
        (lambda: order_task("copy", batch=0), "batch must be an integer of at least 1, got 0"),
        (lambda: fit(SmallTransformer(9), None, steps=0), "steps must be an integer of at least 1"),
        (lambda: fit(SmallTransformer(9), None, seed=-1), "seed must be an integer of at least 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
