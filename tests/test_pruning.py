import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from effedu.attention import attention, attention_weights
from effedu.pruning import (
    block_topk_attention,
    block_topk_mask,
    error_bound,
    threshold_attention,
    topk_attention,
)

shapes = st.fixed_dictionaries(
    {
        "keys": st.integers(1, 40),
        "new": st.floats(0, 1),  # the share of the keys that are queries too
        "groups": st.sampled_from([1, 2, 4]),
        "spread": st.sampled_from([0.0, 0.3, 1.0, 30.0]),  # of the scores
        "seed": st.integers(0, 1000),
    }
)


def qkv(keys=33, new=1.0, groups=2, spread=1.0, seed=0, batch=2, value_dim=5):
    torch.manual_seed(seed)
    queries = max(1, round(keys * new))
    return (
        torch.randn(batch, 4, queries, 8) * spread,
        torch.randn(batch, 4 // groups, keys, 8),
        torch.randn(batch, 4 // groups, keys, value_dim),
    )


def prune(query, key, value, causal, method, amount):
    if method == "threshold":
        return threshold_attention(query, key, value, threshold=amount, causal=causal)
    return topk_attention(query, key, value, k=max(1, round(amount * 20)), causal=causal)


pruning = {
    "method": st.sampled_from(["threshold", "topk"]),
    "amount": st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.3, 1.0]),
    "causal": st.booleans(),
}


# --- Pruning after scoring ------------------------------------------------------------------------


@given(shape=shapes, k=st.integers(1, 45), causal=st.booleans())
def test_topk_equals_dense_attention_over_the_k_largest_scores(shape, k, causal):
    query, key, value = qkv(**{**shape, "spread": 1.0})
    output, mass = topk_attention(query, key, value, k=k, causal=causal)
    weights = attention_weights(query, key, causal=causal)
    kept = torch.zeros_like(weights, dtype=torch.bool)
    order = weights.sort(-1, descending=True).indices[..., :k]
    kept.scatter_(-1, order, True)
    assert_close(output, attention(query, key, value, causal=causal, mask=kept))
    assert_close(mass, (weights * kept).sum(-1))


@given(shape=shapes, threshold=st.floats(0, 1), causal=st.booleans())
def test_threshold_equals_dense_attention_over_the_large_weights(shape, threshold, causal):
    query, key, value = qkv(**shape)
    output, mass = threshold_attention(query, key, value, threshold=threshold, causal=causal)
    weights = attention_weights(query, key, causal=causal)
    kept = (weights >= threshold) | (weights == weights.amax(-1, keepdim=True))
    assert_close(output, attention(query, key, value, causal=causal, mask=kept))
    assert_close(mass, (weights * kept).sum(-1))


@given(shape=shapes, **pruning)
def test_the_error_stays_within_the_bound(shape, method, amount, causal):
    query, key, value = qkv(**shape)
    output, mass = prune(query, key, value, causal, method, amount)
    error = (output - attention(query, key, value, causal=causal)).abs()
    bound = error_bound(mass, value, causal=causal)
    assert (error <= bound + 1e-5).all()
    assert ((mass > 0) & (mass <= 1 + 1e-6)).all()


@given(keys=st.integers(2, 30), seed=st.integers(0, 100))
def test_the_bound_holds_for_any_choice_of_keys(keys, seed):
    query, key, value = qkv(keys, seed=seed, groups=1)
    kept = torch.rand(2, 4, keys, keys) < 0.5
    kept |= torch.eye(keys, dtype=torch.bool)  # each keeps one
    weights = attention_weights(query, key)
    mass = (weights * kept).sum(-1)
    error = (attention(query, key, value, mask=kept) - attention(query, key, value)).abs()
    assert (error <= error_bound(mass, value) + 1e-5).all()


def test_the_bound_is_reached():
    """Dropped values at one end of the range, kept ones at the other."""
    zeros = torch.zeros(1, 1, 4, 8)
    value = torch.tensor([3.0, 3.0, 3.0, -1.0]).reshape(1, 1, 4, 1)
    key = zeros.clone()
    key[:, :, :3] = -1.0
    query = torch.ones(1, 1, 4, 8) * 0.1
    output, mass = topk_attention(query, key, value, k=1, causal=False)
    error = (output - attention(query, key, value, causal=False)).abs()
    assert mass.max() < 0.5
    assert_close(error, error_bound(mass, value, causal=False))


def test_nothing_dropped_is_dense_attention():
    query, key, value = qkv()
    dense = attention(query, key, value)
    for output, mass in (
        topk_attention(query, key, value, k=33),
        topk_attention(query, key, value, k=1000),
        threshold_attention(query, key, value, threshold=0),
    ):
        assert_close(output, dense)
        assert torch.equal(mass, torch.ones_like(mass))


def test_a_row_always_keeps_its_largest_weight_and_ties_stay():
    query = key = torch.zeros(1, 1, 5, 8)
    value = torch.randn(1, 1, 5, 3)
    for output, mass in (
        threshold_attention(query, key, value, threshold=1),
        topk_attention(query, key, value, k=1),
    ):
        assert_close(output, attention(query, key, value))
        assert torch.equal(mass, torch.ones(1, 1, 5))


def test_a_mask_and_rows_that_see_nothing():
    query, key, value = qkv(10, groups=1)
    mask = torch.rand(2, 4, 10, 10) < 0.5
    mask[:, :, 3] = False
    for output, mass in (
        topk_attention(query, key, value, k=2, mask=mask),
        threshold_attention(query, key, value, threshold=0.3, mask=mask),
    ):
        assert output.isfinite().all()
        assert output[:, :, 3].abs().max() == 0
        assert (mass[:, :, 3] == 1).all()
    everything = topk_attention(query, key, value, k=10, mask=mask).output
    assert_close(everything, attention(query, key, value, mask=mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    query, key, value = (x.to(dtype) for x in qkv(60))
    for pruned, reference in (
        (topk_attention(query, key, value, k=5), topk_attention),
        (threshold_attention(query, key, value, threshold=0.05), threshold_attention),
    ):
        assert pruned.output.dtype == dtype
        arguments = {"k": 5} if reference is topk_attention else {"threshold": 0.05}
        wide = reference(query.double(), key.double(), value.double(), **arguments)
        assert_close(pruned.output.double(), wide.output, atol=2e-2, rtol=2e-2)
        assert_close(pruned.kept_mass.double(), wide.kept_mass, atol=1e-5, rtol=1e-5)
        assert error_bound(pruned.kept_mass, value).isfinite().all()


def test_large_scores_stay_finite():
    query, key, value = qkv(20, spread=1e4)
    for pruned in (
        topk_attention(query, key, value, k=3),
        threshold_attention(query, key, value, threshold=0.5),
    ):
        assert pruned.output.isfinite().all()
        assert pruned.kept_mass.min() > 0


def test_gradients_are_those_of_masked_attention():
    results = []
    for method in ("topk", "mask"):
        inputs = [x.requires_grad_() for x in qkv(20)]
        if method == "topk":
            output = topk_attention(*inputs, k=4).output
        else:
            weights = attention_weights(*inputs[:2])
            kept = weights >= weights.topk(4).values[..., -1:]
            output = attention(*inputs, mask=kept)
        (output * torch.linspace(-1, 1, 5)).sum().backward()
        results.append([x.grad for x in inputs])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# --- Choosing blocks before scoring ---------------------------------------------------------------

blocks = st.fixed_dictionaries({"block_size": st.integers(1, 12), "k": st.integers(2, 5)})


def chosen_by_hand(query, key, block_size, k, causal):
    """The choice of one head, block by block, in plain words."""
    keys, start = len(key), len(key) - len(query)
    mask = torch.zeros(len(query), keys, dtype=torch.bool)
    means = [key[i : i + block_size].mean(0) for i in range(0, keys, block_size)]
    for i in range(len(query)):
        own = (start + i) // block_size
        chooser = max(own * block_size - start, 0)
        candidates = range(own + 1) if causal else range(len(means))
        worth = {j: float(query[chooser] @ means[j]) for j in candidates if j not in (0, own)}
        best = sorted(worth, key=worth.get, reverse=True)[: k - len({0, own})]
        for j in {0, own, *best}:
            mask[i, j * block_size : (j + 1) * block_size] = True
        if causal:
            mask[i, start + i + 1 :] = False
    return mask


@settings(max_examples=60)
@given(shape=shapes, pattern=blocks, causal=st.booleans())
def test_the_mask_is_what_the_words_say(shape, pattern, causal):
    query, key, _ = qkv(**{**shape, "spread": 1.0})
    mask = block_topk_mask(query, key, causal=causal, **pattern)
    for head in range(4):
        by_hand = chosen_by_hand(query[1, head], key[1, head // shape["groups"]], **pattern,
                                 causal=causal)  # fmt: skip
        assert torch.equal(mask[1, head], by_hand)


@given(shape=shapes, pattern=blocks, causal=st.booleans())
@example(
    shape={"keys": 40, "new": 1.0, "groups": 2, "spread": 1.0, "seed": 0},
    pattern={"block_size": 4, "k": 3},
    causal=False,
)
def test_block_topk_equals_dense_attention_under_its_mask(shape, pattern, causal):
    query, key, value = qkv(**{**shape, "spread": 1.0})
    output, mass = block_topk_attention(
        query, key, value, causal=causal, return_mass=True, **pattern
    )
    mask = block_topk_mask(query, key, causal=causal, **pattern)
    assert_close(
        output, attention(query, key, value, causal=causal, mask=mask), atol=2e-6, rtol=1e-5
    )
    assert_close(mass, (attention_weights(query, key, causal=causal) * mask).sum(-1))
    error = (output - attention(query, key, value, causal=causal)).abs()
    assert (error <= error_bound(mass, value, causal=causal) + 1e-5).all()


def test_own_and_first_block_are_always_kept():
    query, _, _ = qkv(64)
    mask = block_topk_mask(query, -query[:, :2] * 10, block_size=8, k=3)  # disliked by all
    assert mask[..., 0].all()
    assert mask.diagonal(dim1=2, dim2=3).all()
    assert (mask.sum(-1) <= 24).all()


def test_the_future_changes_nothing():
    query, key, value = qkv(60)
    pattern = {"block_size": 8, "k": 3}
    full = block_topk_attention(query, key, value, **pattern)
    for length in (1, 17, 30, 59):
        part = block_topk_attention(
            query[:, :, :length], key[:, :, :length], value[:, :, :length], **pattern
        )
        assert_close(part, full[:, :, :length], atol=2e-6, rtol=1e-5)


def test_a_step_chooses_for_itself():
    query, key, value = qkv(60)
    step = block_topk_attention(query[:, :, -1:], key, value, block_size=8, k=3)
    mask = block_topk_mask(query[:, :, -1:], key, block_size=8, k=3)
    assert mask.shape == (2, 4, 1, 60)
    assert_close(step, attention(query[:, :, -1:], key, value, mask=mask), atol=2e-6, rtol=1e-5)


def test_block_gradients_equal_masked_attention():
    results = []
    for function in (block_topk_attention, attention):
        inputs = [x.requires_grad_() for x in qkv(50)]
        mask = block_topk_mask(*inputs[:2], block_size=4, k=3)
        pattern = {"block_size": 4, "k": 3} if function is block_topk_attention else {"mask": mask}
        (function(*inputs, **pattern) * torch.linspace(-1, 1, 5)).sum().backward()
        results.append([x.grad for x in inputs])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_block_topk_dtypes(dtype):
    query, key, value = (x.to(dtype) for x in qkv(100))
    output, mass = block_topk_attention(query, key, value, block_size=8, k=3, return_mass=True)
    mask = block_topk_mask(query, key, block_size=8, k=3)
    wide = attention(query.double(), key.double(), value.double(), mask=mask)
    assert output.dtype == dtype
    assert_close(output.double(), wide, atol=3e-2, rtol=3e-2)
    assert mass.isfinite().all()


def test_memory_does_not_grow_with_the_square_of_the_length():
    largest = []
    for length in (1024, 2048):
        query, key, value = torch.randn(3, 1, 2, length, 16)
        with torch.profiler.profile(profile_memory=True) as profile:
            block_topk_attention(query, key, value, block_size=16, k=4)
        largest.append(max(event.self_cpu_memory_usage for event in profile.events()))
    assert 0 < largest[1] <= 2.2 * largest[0]
    assert largest[1] < 2048 * 2048 * 4


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=f"threshold must be from 0 to 1, got {threshold}"):
        threshold_attention(*qkv(), threshold=threshold)


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, "block_size must be an integer of at least 1, got 0"),
        ({"k": 1}, "k must be an integer of at least 2, got 1"),
        ({"k": 2.0}, "k must be an integer of at least 2, got 2.0"),
    ],
)
def test_bad_blocks(arguments, message):
    query, key, value = qkv()
    with pytest.raises(ValueError, match=message):
        block_topk_attention(query, key, value, **arguments)
    with pytest.raises(ValueError, match=message):
        block_topk_mask(query, key, **arguments)


@pytest.mark.unchecked_shapes
def test_bad_input():
    query, key, value = qkv()
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        topk_attention(query, key, value, k=0)
    for function, arguments in (
        (topk_attention, {"k": 3}),
        (threshold_attention, {"threshold": 0.1}),
        (block_topk_attention, {}),
    ):
        with pytest.raises(ValueError, match="key must have 4 dimensions"):
            function(query, key[0], value, **arguments)
    with pytest.raises(ValueError, match=r"query must not be longer than key .* got 33 and 20"):
        block_topk_attention(query, key[:, :, :20], value[:, :, :20])
    mass = torch.ones(2, 4, 33)
    with pytest.raises(ValueError, match=r"kept_mass must be \(batch, heads, queries\)"):
        error_bound(mass[0], value)
    with pytest.raises(ValueError, match="kept_mass and value must be of one attention"):
        error_bound(mass, value[:, :, :20])
    with pytest.raises(ValueError, match="kept_mass and value must be of one attention"):
        error_bound(mass[:, :3], value)


@pytest.mark.cuda
def test_cuda_equals_cpu():
    inputs = qkv(100)
    on_gpu = [x.cuda() for x in inputs]
    pattern = {"block_size": 8, "k": 3}
    expected = block_topk_attention(*inputs, **pattern)
    assert_close(block_topk_attention(*on_gpu, **pattern).cpu(), expected, atol=1e-4, rtol=1e-4)
    expected = topk_attention(*inputs, k=5).output
    assert_close(topk_attention(*on_gpu, k=5).output.cpu(), expected, atol=1e-4, rtol=1e-4)
