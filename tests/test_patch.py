"""effedu.patch: patched models equal dense ones under the same mask, and are restored exactly."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, GPT2, GROUPED, SIZES, VOCAB, some_tokens
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

import effedu.patch
import effedu.patterns
from effedu.blocking import block_mask
from effedu.patch import block, block_topk, dense, patched, threshold, topk
from effedu.patterns import BlockAttention, CausalAttention
from effedu.pruning import block_topk_mask

WINDOWED = {"mistral_windowed", "gemma3_windowed"}
BLOCK = block(4, blocks_back=1)
SINKS = block(4, blocks_back=1, sinks=3)


@pytest.fixture(scope="module")
def models() -> Callable[[str], PreTrainedModel]:
    made: dict[str, PreTrainedModel] = {}

    def get(family: str) -> PreTrainedModel:
        if family not in made:
            torch.manual_seed(0)
            made[family] = FAMILIES[family]().eval()
        return made[family]

    return get


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: Callable[[str], PreTrainedModel]) -> Any:
    return models(request.param)


@pytest.fixture
def neox(models: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    return models("gpt_neox")


def patterns(model: PreTrainedModel) -> list[BlockAttention]:
    """A model that drops old tokens by itself can't keep sinks."""
    return [BLOCK] if getattr(model.config, "sliding_window", None) else [BLOCK, SINKS]


def explicit_mask(pattern: BlockAttention, length: int) -> Tensor:
    """The reference: effedu's mask as the additive 4-D mask every Hugging Face model takes."""
    visible = block_mask(
        length,
        block_size=pattern.block_size,
        blocks_back=pattern.blocks_back,
        sinks=pattern.sinks,
    )
    return torch.zeros(1, 1, length, length).masked_fill(~visible, torch.finfo(torch.float32).min)


@torch.no_grad()
def reference(model: PreTrainedModel, tokens: Tensor, pattern: BlockAttention) -> Tensor:
    mask = explicit_mask(pattern, tokens.shape[1])
    return model(tokens, attention_mask=mask, use_cache=False).logits


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Tensor, **kwargs: Any) -> Tensor:
    return model(tokens, **kwargs).logits


def padded(texts: list[Tensor], side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and position ids of texts of different lengths."""
    width = max(len(text) for text in texts)
    ids, mask = torch.zeros(2, len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def everything(model: PreTrainedModel) -> list[Any]:
    """All that patching could leave behind."""
    modules = [
        (
            name,
            type(module),
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            # transformers leaves this mark itself when it is first asked for attention weights.
            set(vars(module)) - {"_output_capturing_hooks_installed"},
            module.training,
        )
        for name, module in model.named_modules()
    ]
    return [
        modules,
        [(id(config), dict(vars(config))) for config in effedu.patch._configs(model)],
        dict(AttentionInterface._global_mapping),
        dict(AttentionMaskInterface._global_mapping),
        {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
    ]


# --- The same as a dense model under the mask -----------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 4, 9, 30])
def test_logits_equal_the_unpatched_model_under_the_explicit_mask(model: Any, length: int) -> None:
    tokens = some_tokens(2, length)
    for pattern in patterns(model):
        expected = reference(model, tokens, pattern)
        with patched(model, pattern):
            torch.testing.assert_close(logits(model, tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_reference_does_not_depend_on_the_model_s_own_attention(
    neox: PreTrainedModel, implementation: str
) -> None:
    tokens = some_tokens(1, 30)
    with patched(neox, SINKS):
        found = logits(neox, tokens)
    neox.set_attn_implementation(implementation)
    torch.testing.assert_close(found, reference(neox, tokens, SINKS), atol=1e-4, rtol=1e-4)
    neox.set_attn_implementation("sdpa")


def test_the_pattern_matters(neox: PreTrainedModel) -> None:
    tokens = some_tokens(1, 30)
    plain = logits(neox, tokens)
    with patched(neox, BLOCK):
        assert (logits(neox, tokens) - plain).abs().max() > 0.1
    with patched(neox, dense()):
        torch.testing.assert_close(logits(neox, tokens), plain, atol=1e-4, rtol=1e-4)
    with patched(neox):  # block(128) covers 30 tokens
        torch.testing.assert_close(logits(neox, tokens), plain, atol=1e-4, rtol=1e-4)


@settings(max_examples=60)
@given(
    length=st.integers(1, 40),
    block_size=st.integers(1, 12),
    blocks_back=st.integers(0, 3),
    sinks=st.integers(0, 6),
    cut=st.floats(0, 1),
)
@example(length=33, block_size=8, blocks_back=1, sinks=6, cut=0.5)
@example(length=40, block_size=2, blocks_back=0, sinks=5, cut=0.4)
def test_prefill_chunks_and_steps_equal_the_mask(
    length: int, block_size: int, blocks_back: int, sinks: int, cut: float
) -> None:
    model = _property_model()
    pattern = block(block_size, blocks_back=blocks_back, sinks=sinks)
    tokens = some_tokens(2, length, seed=length)
    expected = reference(model, tokens, pattern)
    middle = min(round(cut * length), length - 1)
    with patched(model, pattern), torch.no_grad():
        whole = logits(model, tokens)
        cache = hf.DynamicCache(config=model.config)
        pieces = [tokens[:, :middle], tokens[:, middle:-1], tokens[:, -1:]]
        parts = [logits(model, p, past_key_values=cache) for p in pieces if p.shape[1]]
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


_made: list[PreTrainedModel] = []


def _property_model() -> PreTrainedModel:
    if not _made:
        torch.manual_seed(1)
        _made.append(FAMILIES["llama"]().eval())
    return _made[0]


@given(
    queries=st.integers(1, 20),
    past=st.integers(0, 40),
    block_size=st.integers(1, 9),
    blocks_back=st.integers(0, 3),
    sinks=st.integers(0, 12),
)
@settings(max_examples=100)
def test_attend_equals_visible(
    queries: int, past: int, block_size: int, blocks_back: int, sinks: int
) -> None:
    pattern = block(block_size, blocks_back=blocks_back, sinks=sinks)
    keys = past + queries
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, queries, 8, generator=generator)
    key, value = torch.randn(2, 1, 2, keys, 8, generator=generator)
    position = torch.arange(keys)
    mask = pattern.visible(position[past:, None], position)
    expected_mask = block_mask(keys, block_size=block_size, blocks_back=blocks_back, sinks=sinks)
    assert torch.equal(mask, expected_mask[past:])
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    expected = weights @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(pattern.attend(query, key, value), expected, atol=1e-5, rtol=1e-5)


# --- Caches and generation ------------------------------------------------------------------------


def generate(model: PreTrainedModel, tokens: Tensor, use_cache: bool, **kwargs: Any) -> Tensor:
    return model.generate(
        tokens, max_new_tokens=14, do_sample=False, use_cache=use_cache, pad_token_id=0, **kwargs
    )


def test_cached_and_recomputed_generation_agree(model: Any) -> None:
    tokens = some_tokens(2, 11)
    everywhere = torch.ones_like(tokens)
    for pattern in patterns(model):
        with patched(model, pattern):
            cached = generate(model, tokens, True, attention_mask=everywhere)
            recomputed = generate(model, tokens, False, attention_mask=everywhere)
        assert cached.shape == (2, 25)
        assert torch.equal(cached, recomputed)
        # Against the reference too: every new token is the likeliest under the explicit mask.
        best = reference(model, cached, pattern).argmax(-1)
        assert torch.equal(best[:, 10:-1], cached[:, 11:])


def test_steps_and_chunks_give_the_logits_of_one_prefill(model: Any) -> None:
    tokens = some_tokens(2, 30)
    for pattern in patterns(model):
        expected = reference(model, tokens, pattern)
        for sizes in ([13, *[1] * 17], [6, 2, 9, 13], [1] * 30):
            cache = hf.DynamicCache(config=model.config)
            with patched(model, pattern):
                parts = [logits(model, t, past_key_values=cache) for t in tokens.split(sizes, 1)]
            torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


def test_generation_with_chunked_prefill_beams_and_sampling(neox: PreTrainedModel) -> None:
    tokens = some_tokens(2, 22)
    everywhere = torch.ones_like(tokens)
    with patched(neox, SINKS):
        plain = generate(neox, tokens, True, attention_mask=everywhere)
        chunked = generate(neox, tokens, True, attention_mask=everywhere, prefill_chunk_size=5)
        beams = [
            generate(neox, tokens, cache, attention_mask=everywhere, num_beams=3)
            for cache in (True, False)
        ]
    assert torch.equal(plain, chunked)
    assert torch.equal(*beams)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("side", [None, "left"])
def test_static_cache(models: Any, family: str, side: str | None) -> None:
    model = models(family)
    tokens = some_tokens(2, 11)
    mask = torch.ones_like(tokens)
    if side == "left":
        mask[0, :5] = 0
    with patched(model, SINKS):
        dynamic = generate(model, tokens, True, attention_mask=mask)
        static = generate(model, tokens, True, attention_mask=mask, cache_implementation="static")
    assert torch.equal(dynamic, static)


def test_static_cache_with_a_sliding_window_is_refused(models: Any) -> None:
    model, tokens = models("mistral_windowed"), some_tokens(1, 5)
    with (
        patched(model, BLOCK),
        pytest.raises(ValueError, match=r"Mistral.*sliding window together with a static cache"),
    ):
        generate(model, tokens, True, cache_implementation="static")


# --- What is computed, and what is not ------------------------------------------------------------


def test_prefill_builds_no_mask_and_takes_the_fast_path(
    neox: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    fast = effedu.patterns.block_attention

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append(tuple(query.shape))
        return fast(query, *args, **kwargs)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("built a mask of queries × keys")

    monkeypatch.setattr(effedu.patterns, "block_attention", counted)
    monkeypatch.setattr(effedu.patch, "_visible", forbidden)
    monkeypatch.setattr(effedu.patch, "sdpa_mask", forbidden)
    tokens = some_tokens(2, 40)
    mask = torch.ones_like(tokens)
    with patched(neox, BLOCK):
        logits(neox, tokens)
        logits(neox, tokens, attention_mask=mask)
        mask[1, :7] = 0
        logits(neox, tokens, attention_mask=mask)
    assert shapes == [(2, 4, 40, 8)] * 2 * 3  # two layers, three forward passes


def test_memory_of_a_prefill_grows_with_the_length_only(neox: PreTrainedModel) -> None:
    largest = []
    for length in (256, 512):
        watch = _LargestTensor()
        with patched(neox, BLOCK), watch:
            logits(neox, some_tokens(1, length), use_cache=False)
        largest.append(watch.numbers)
    assert largest[1] == 2 * largest[0]
    assert largest[1] < 512 * 512


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


@pytest.mark.parametrize("side", [None, "left"])
def test_a_cached_step_reads_only_the_live_keys(
    neox: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, side: str | None
) -> None:
    read: list[int] = []
    attend = effedu.patch.dense_attention

    def counted(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        read.append(key.shape[2])
        return attend(query, key, *args, **kwargs)

    tokens = some_tokens(2, 101)
    mask = torch.ones_like(tokens)
    if side == "left":
        mask[1, :30] = 0
    cache = hf.DynamicCache(config=neox.config)
    with patched(neox, SINKS):
        logits(neox, tokens[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache)
        for module in (effedu.patch, effedu.patterns):
            monkeypatch.setattr(module, "dense_attention", counted)
        logits(neox, tokens[:, -1:], attention_mask=mask, past_key_values=cache)
    # Position 100 opens block 25: it sees block 24, itself and three sinks. A padded batch takes
    # a whole reach (8) for every row, for the rows stand at different places in their blocks.
    assert read == [8 if side is None else 8 + 3] * 2


# --- Padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_texts_alone(model: Any, side: str) -> None:
    texts = [some_tokens(1, n, seed=n)[0] for n in (23, 9, 30, 1)]
    ids, mask, positions = padded(texts, side)
    for pattern in patterns(model):
        with patched(model, pattern):
            together = logits(model, ids, attention_mask=mask, position_ids=positions)
            for row, text in enumerate(texts):
                alone = logits(model, text[None])[0]
                found = together[row, mask[row].bool()]
                torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
        assert together.isfinite().all()


def test_padded_generation_equals_the_texts_alone(model: Any) -> None:
    texts = [some_tokens(1, n, seed=n)[0] for n in (13, 6, 17)]
    ids, mask, _ = padded(texts, "left")
    for pattern in patterns(model):
        with patched(model, pattern):
            cached = generate(model, ids, True, attention_mask=mask)
            recomputed = generate(model, ids, False, attention_mask=mask)
            for row, text in enumerate(texts):
                alone = generate(model, text[None], True, attention_mask=torch.ones(1, len(text)))
                assert torch.equal(cached[row, -14:], alone[0, -14:])
        assert torch.equal(cached, recomputed)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pattern", [BLOCK, SINKS, dense()], ids=["block", "sinks", "dense"])
def test_padded_chunks(models: Any, side: str, pattern: CausalAttention) -> None:
    model = models("llama")
    texts = [some_tokens(1, n, seed=n)[0] for n in (23, 9, 30)]
    ids, mask, positions = padded(texts, side)
    with patched(model, pattern):
        expected = logits(model, ids, attention_mask=mask, position_ids=positions)
        cache, parts, done = hf.DynamicCache(config=model.config), [], 0
        for size in (8, 3, 1, 12, 6):
            piece = slice(done, done + size)
            done += size
            parts.append(
                logits(
                    model,
                    ids[:, piece],
                    attention_mask=mask[:, :done],
                    position_ids=positions[:, piece],
                    past_key_values=cache,
                )
            )
    found = torch.cat(parts, 1)
    assert found.isfinite().all()
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)


@settings(max_examples=80)
@given(
    rows=st.integers(1, 25).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    queries=st.integers(1, 25),
    block_size=st.integers(1, 6),
    blocks_back=st.integers(0, 2),
    sinks=st.integers(0, 4),
)
def test_any_padding_equals_the_pattern_counted_in_tokens(
    rows: list[list[bool]], queries: int, block_size: int, blocks_back: int, sinks: int
) -> None:
    real, pattern = torch.tensor(rows), block(block_size, blocks_back=blocks_back, sinks=sinks)
    batch, keys = real.shape
    queries = min(queries, keys)
    query = torch.randn(batch, 4, queries, 8)
    key, value = torch.randn(2, batch, 2, keys, 8)
    visible = torch.zeros(batch, keys, keys, dtype=torch.bool)
    for row in range(batch):  # the pattern of the text alone, spread over its columns
        column = real[row].nonzero().flatten()
        if n := len(column):
            alone = block_mask(n, block_size=block_size, blocks_back=blocks_back, sinks=sinks)
            visible[row, column[:, None], column] = alone
    visible = visible[:, None, keys - queries :]
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1).nan_to_num(0.0)
    expected = weights @ value.repeat_interleave(2, 1)  # zeros where a query is padding
    mask = effedu.patch._visible(pattern, real, queries, keys, real.device)
    assert torch.equal(mask, visible)
    found = effedu.patch._padded_step(pattern, query, key, value, real)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if queries == keys:
        found = effedu.patch._padded_prefill(pattern, query, key, value, real)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_empty_row_gives_no_nan(neox: PreTrainedModel) -> None:
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1] = 0
    with patched(neox, SINKS):
        assert logits(neox, some_tokens(2, 9), attention_mask=mask).isfinite().all()


def test_packed_sequences_equal_the_texts_alone(models: Any) -> None:
    model = models("llama")
    texts = [some_tokens(1, n, seed=n) for n in (13, 7, 18)]
    positions = torch.cat([torch.arange(t.shape[1]) for t in texts])[None]
    with patched(model, SINKS):
        together = logits(model, torch.cat(texts, 1), position_ids=positions, use_cache=False)
        alone = torch.cat([logits(model, t) for t in texts], 1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_a_4d_mask_of_one_s_own(models: Any, kind: str) -> None:
    model, tokens = models("qwen3"), some_tokens(1, 20)
    mask = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    if kind == "additive":
        mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    with patched(model, SINKS):
        found = logits(model, tokens, attention_mask=mask)
    expected = reference(model, tokens, SINKS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_mask_with_a_bias_is_refused(neox: PreTrainedModel) -> None:
    bias = -torch.arange(9.0).expand(1, 1, 9, 9)
    with patched(neox, BLOCK), pytest.raises(ValueError, match=r"attention_mask must be boolean"):
        logits(neox, some_tokens(1, 9), attention_mask=bias)


# --- Weights, training, precision -----------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_output_attentions(models: Any, family: str, side: str | None) -> None:
    model, tokens = models(family), some_tokens(2, 20)
    mask = torch.ones_like(tokens)
    if side:
        mask[1, slice(0, 6) if side == "left" else slice(14, 20)] = 0
    with patched(model, SINKS), torch.no_grad():
        plain = model(tokens, attention_mask=mask).logits
        out = model(tokens, attention_mask=mask, output_attentions=True)
        assert model(tokens).attentions is None
    real = mask.bool()
    torch.testing.assert_close(out.logits[real], plain[real], atol=1e-4, rtol=1e-4)
    assert [a.shape for a in out.attentions] == [(2, 4, 20, 20)] * 2
    visible = block_mask(20, block_size=4, blocks_back=1, sinks=3)
    assert torch.equal(out.attentions[0][0] > 0, visible.expand(4, -1, -1))
    sums = out.attentions[1].sum(-1)
    torch.testing.assert_close(sums, real[:, None].expand(-1, 4, -1).float())


def test_output_attentions_from_the_config_and_in_a_cached_step(models: Any) -> None:
    model, tokens = models("gpt_neox"), some_tokens(1, 20)
    cache = hf.DynamicCache(config=model.config)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    try:
        with patched(model, BLOCK), torch.no_grad():
            whole = model(tokens).attentions[1]
            model(tokens[:, :-1], past_key_values=cache)
            step = model(tokens[:, -1:], past_key_values=cache).attentions[1]
    finally:
        model.config.output_attentions = False
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(step, whole[:, :, -1:], atol=1e-5, rtol=1e-4)


def test_gradients_equal_those_under_the_mask(model: Any) -> None:
    tokens = some_tokens(2, 30)
    pattern = patterns(model)[-1]

    def gradients() -> dict[str, Tensor]:
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    mask = explicit_mask(pattern, 30)
    model(tokens, attention_mask=mask, labels=tokens, use_cache=False).loss.backward()
    expected = gradients()
    with patched(model, pattern):
        model(tokens, labels=tokens, use_cache=False).loss.backward()
    found = gradients()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("side", [None, "left"])
def test_training_lowers_the_loss(checkpointing: bool, side: str | None) -> None:
    torch.manual_seed(0)
    model = FAMILIES["gpt_neox"]().train()
    if checkpointing:
        model.activation_checkpointing_enable()
    tokens = some_tokens(2, 24)
    mask = torch.ones_like(tokens)
    if side:
        mask[0, :9] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    with patched(model, BLOCK):
        for _ in range(8):
            loss = model(tokens, attention_mask=mask, labels=labels, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_attention_dropout_in_training_is_refused() -> None:
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**{**GPT2, "attn_pdrop": 0.1}))
    tokens = some_tokens(1, 9)
    with patched(model.train(), BLOCK), pytest.raises(ValueError, match=r"GPT2.*dropout 0\.1"):
        model(tokens)
    with patched(model.eval(), BLOCK):
        assert logits(model, tokens).isfinite().all()


def test_autocast_and_bfloat16(models: Any) -> None:
    tokens = some_tokens(2, 30)
    model = models("llama")
    expected = reference(model, tokens, SINKS)
    with patched(model, SINKS), torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits(model, tokens)
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    torch.manual_seed(0)
    low = FAMILIES["llama"]().eval().to(torch.bfloat16)
    with patched(low, SINKS):
        found = logits(low, tokens)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = FAMILIES["llama"]().eval()
    texts = [some_tokens(1, n, seed=n)[0] for n in (23, 9, 30)]
    ids, mask, positions = padded(texts, "left")
    with patched(model, SINKS):
        expected = logits(model, ids, attention_mask=mask, position_ids=positions)[mask.bool()]
    model = model.to("cuda", dtype)
    ids, mask, positions = ids.cuda(), mask.cuda(), positions.cuda()
    with patched(model, SINKS):
        found = logits(model, ids, attention_mask=mask, position_ids=positions)[mask.bool()]
        cached = generate(model, ids, True, attention_mask=mask)
        recomputed = generate(model, ids, False, attention_mask=mask)
    limit = 1e-3 if dtype == torch.float32 else 0.1
    assert (found.float().cpu() - expected).norm() < limit * expected.norm()
    if dtype == torch.float32:
        assert torch.equal(cached, recomputed)


# --- Restoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_model_is_restored_exactly(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    before, tokens = everything(model), some_tokens(1, 20)
    plain = logits(model, tokens)
    with patched(model, BLOCK) as fast:
        assert fast is model
        assert everything(model) != before
        logits(model, tokens)
    assert everything(model) == before
    assert torch.equal(logits(model, tokens), plain)
    model.set_attn_implementation("sdpa")


def test_the_model_is_restored_after_an_exception(neox: PreTrainedModel) -> None:
    before = everything(neox)
    with pytest.raises(RuntimeError, match="stop"), patched(neox, BLOCK):
        raise RuntimeError("stop")
    assert everything(neox) == before
    with pytest.raises(IndexError), patched(neox, BLOCK):
        neox(torch.tensor([[VOCAB + 5]]))
    assert everything(neox) == before


def test_nesting(neox: PreTrainedModel) -> None:
    tokens, outside = some_tokens(1, 30), everything(neox)
    wide, narrow = block(8), block(2, blocks_back=0)
    expected_wide, expected_narrow = (reference(neox, tokens, p) for p in (wide, narrow))
    with patched(neox, wide):
        inside = everything(neox)
        with patched(neox, narrow):
            torch.testing.assert_close(logits(neox, tokens), expected_narrow, atol=1e-4, rtol=1e-4)
        assert everything(neox) == inside
        with pytest.raises(RuntimeError, match="stop"), patched(neox, narrow):
            raise RuntimeError("stop")
        assert everything(neox) == inside
        torch.testing.assert_close(logits(neox, tokens), expected_wide, atol=1e-4, rtol=1e-4)
    assert everything(neox) == outside


def test_two_models_in_two_threads() -> None:
    torch.manual_seed(0)
    jobs = [(FAMILIES["llama"]().eval(), block(2)), (FAMILIES["gpt_neox"]().eval(), block(5))]
    tokens = some_tokens(1, 30)
    expected = [reference(model, tokens, pattern) for model, pattern in jobs]
    found: list[list[Tensor]] = [[], []]
    start = threading.Barrier(2)

    def work(index: int) -> None:
        model, pattern = jobs[index]
        start.wait()
        for _ in range(5):
            with patched(model, pattern):
                found[index].append(logits(model, tokens))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, reference_logits in zip(found, expected, strict=True):
        assert len(results) == 5
        for result in results:
            torch.testing.assert_close(result, reference_logits, atol=1e-4, rtol=1e-4)
    assert not [n for n in AttentionInterface._global_mapping if re.fullmatch(r"effedu_\d+", n)]


def test_import_effedu_stays_light() -> None:
    code = "import sys, effedu; assert 'transformers' not in sys.modules; effedu.patched"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Attentions that choose by content ------------------------------------------------------------

TOPK, THRESHOLD, BLOCK_TOPK = topk(3), threshold(0.1), block_topk(4, k=3)
CHOOSING = [TOPK, THRESHOLD, BLOCK_TOPK]


@torch.no_grad()
def chosen_reference(model: PreTrainedModel, tokens: Tensor, attention: Any) -> Tensor:
    """Logits with weights dropped by hand; effedu gives the block mask only."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any,
               scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:  # fmt: skip
        groups, length = query.shape[1] // key.shape[1], key.shape[2]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        if attention is TOPK:
            kept = weights.argsort(-1, descending=True).argsort(-1) < 3
        elif attention is THRESHOLD:
            kept = (weights >= 0.1) | (weights == weights.amax(-1, keepdim=True))
        else:
            kept = block_topk_mask(query, key, block_size=4, k=3)
        weights = weights * kept
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ value).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    AttentionInterface.register("by_hand", attend)
    AttentionMaskInterface.register("by_hand", lambda *args, **kwargs: None)
    model.set_attn_implementation("by_hand")
    try:
        return model(tokens, use_cache=False).logits
    finally:
        model.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop("by_hand")
        AttentionMaskInterface._global_mapping.pop("by_hand")


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("attention", CHOOSING, ids=str)
def test_choosing_attentions_drop_what_they_say(
    models: Any, family: str, attention: CausalAttention
) -> None:
    model, tokens = models(family), some_tokens(2, 30)
    expected = chosen_reference(model, tokens, attention)
    plain = logits(model, tokens)
    assert (expected - plain).abs().max() > 0.1
    with patched(model, attention):
        found = logits(model, tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(model, tokens), plain)


@pytest.mark.parametrize("attention", [topk(100), threshold(0.0), block_topk(4, k=10)], ids=str)
def test_choosing_everything_is_dense(neox: PreTrainedModel, attention: CausalAttention) -> None:
    tokens = some_tokens(2, 30)
    plain = logits(neox, tokens)
    with patched(neox, attention):
        torch.testing.assert_close(logits(neox, tokens), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", [TOPK, THRESHOLD], ids=str)
def test_choosing_by_weights_steps_and_chunks(models: Any, attention: CausalAttention) -> None:
    model, tokens = models("llama"), some_tokens(2, 30)
    with patched(model, attention):
        expected = logits(model, tokens)
        cache = hf.DynamicCache(config=model.config)
        pieces = tokens.split([7, 1, 1, 12, 9], 1)
        parts = [logits(model, piece, past_key_values=cache) for piece in pieces]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)


def test_a_cached_step_chooses_its_blocks_itself(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = models("llama"), some_tokens(2, 31)
    calls: list[tuple[Tensor, ...]] = []
    attend = effedu.patterns.block_topk_attention

    def noted(*inputs: Tensor, **pattern: int) -> Tensor:
        calls.append((*inputs, attend(*inputs, **pattern)))
        return calls[-1][-1]

    cache = hf.DynamicCache(config=model.config)
    with patched(model, BLOCK_TOPK):
        logits(model, tokens[:, :30], past_key_values=cache)
        monkeypatch.setattr(effedu.patterns, "block_topk_attention", noted)
        logits(model, tokens[:, 30:], past_key_values=cache)
    assert len(calls) == 2
    for query, key, value, found in calls:
        assert query.shape[2] == 1
        mask = block_topk_mask(query, key, block_size=4, k=3)
        assert mask.sum(-1).max() == 11  # two whole blocks and the three tokens of its own
        expected = effedu.attention(query, key, value, mask=mask)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", CHOOSING, ids=str)
def test_choosing_in_a_padded_batch_equals_its_texts_alone(
    models: Any, attention: CausalAttention, side: str
) -> None:
    model = models("llama")
    texts = [some_tokens(1, n, seed=n)[0] for n in (23, 9, 30, 1)]
    ids, mask, positions = padded(texts, side)
    with patched(model, attention):
        together = logits(model, ids, attention_mask=mask, position_ids=positions)
        for row, text in enumerate(texts):
            found = together[row, mask[row].bool()]
            expected = logits(model, text[None])[0]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        if side == "left":
            cached = generate(model, ids, True, attention_mask=mask)
            for row, text in enumerate(texts):
                alone = generate(model, text[None], True, attention_mask=torch.ones(1, len(text)))
                assert torch.equal(cached[row, -14:], alone[0, -14:])


@pytest.mark.parametrize("attention", [TOPK, THRESHOLD], ids=str)
def test_choosing_gives_its_weights(models: Any, attention: CausalAttention) -> None:
    model, tokens = models("llama"), some_tokens(2, 20)
    model.set_attn_implementation("eager")
    with patched(model, attention), torch.no_grad():
        expected = logits(model, tokens)
        output = model(tokens, output_attentions=True)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 20))
        count = (weights > 0).sum(-1)
        assert (count <= 3).all() if attention is TOPK else (weights[weights > 0] >= 0.1).all()


def test_blocks_can_not_be_chosen_under_a_mask_of_pairs(neox: PreTrainedModel) -> None:
    tokens = some_tokens(1, 9)
    with patched(neox, BLOCK_TOPK), pytest.raises(ValueError, match=r"mask of queries x keys"):
        neox(tokens, output_attentions=True)


@pytest.mark.unchecked_shapes
# --- What is refused ------------------------------------------------------------------------------


def _small(config: type, **changes: Any) -> Any:
    names = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    sizes = {k: v for k, v in SIZES.items() if k in names or k == "vocab_size"}
    return config(**{**sizes, "num_hidden_layers": 1, **changes})


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "not a language model": (
        lambda: nn.Linear(2, 2),
        r"transformers causal language model.*Linear",
    ),
    "bloom": (
        lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4)
        ),
        r"BloomForCausalLM can't be patched.*AttentionInterface",
    ),
    "mpt": (
        lambda: hf.MptForCausalLM(
            hf.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=1, n_heads=4)
        ),
        r"MptForCausalLM can't be patched.*AttentionInterface",
    ),
    "mamba": (lambda: hf.MambaForCausalLM(_small(hf.MambaConfig)), r"Mamba.*no attention layer"),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        ),
        r"T5ForConditionalGeneration can't be patched.*encoder and cross-attention",
    ),
    "bert": (lambda: hf.BertModel(_small(hf.BertConfig)), r"BertModel.*not causal \(encoder\."),
    "gpt2 with cross-attention": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, add_cross_attention=True)),
        r"GPT2LMHeadModel.*not causal \(transformer\.h\.0\.crossattention\)",
    ),
    "gemma2": (lambda: hf.Gemma2ForCausalLM(_small(hf.Gemma2Config)), r"Gemma2.*soft-capped"),
    "gpt_oss": (
        lambda: hf.GptOssForCausalLM(
            _small(hf.GptOssConfig, num_local_experts=2, num_key_value_heads=2, head_dim=8)
        ),
        r"GptOss.*learned attention sinks",
    ),
    "narrow window": (
        lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=7)),
        r"Mistral.*window of 7 tokens, while BlockAttention\(.*\) looks at up to 8 tokens",
    ),
    "bidirectional by config": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, is_causal=False)),
        r"Llama.*not causal \(config\.is_causal\)",
    ),
    "chunked attention": (
        lambda: hf.Llama4ForCausalLM(
            _small(
                hf.Llama4TextConfig,
                intermediate_size_mlp=48,
                num_local_experts=2,
                num_key_value_heads=2,
                head_dim=8,
            )
        ),
        r"Llama4.*pattern of its own \(chunked_attention\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_models_are_refused_and_left_alone(case: str) -> None:
    make, message = REFUSED[case]
    model = make()
    before = everything(model) if isinstance(model, PreTrainedModel) else None
    with pytest.raises(ValueError, match=message), patched(model, BLOCK):
        pass
    assert before is None or everything(model) == before


@pytest.mark.parametrize(
    ("attention", "message"),
    [(SINKS, r"drops the 3 sinks"), (dense(), r"looks at all tokens")],
    ids=["sinks", "dense"],
)
def test_what_a_sliding_window_does_not_allow(
    models: Any, attention: CausalAttention, message: str
) -> None:
    model = models("mistral_windowed")
    with pytest.raises(ValueError, match=message), patched(model, attention):
        pass


def test_cross_attention_or_extras_that_only_show_in_the_call(neox: PreTrainedModel) -> None:
    tokens = some_tokens(1, 9)
    for argument, message in [
        ({"softcap": 5.0}, "soft-capped"),
        ({"s_aux": torch.zeros(4)}, "learned attention sinks"),
        ({"position_bias": torch.zeros(1)}, "bias on the scores"),
        ({"is_causal": False}, "look ahead"),
        ({"sliding_window": 3}, "window of 3 tokens"),
    ]:
        with patched(neox, BLOCK), pytest.raises(ValueError, match=f"GPTNeoX.*{message}"):
            neox(tokens, **argument)  # the model hands these on to its attention
    layer = neox.gpt_neox.layers[1].attention
    with patched(neox, BLOCK):
        layer.is_causal = False
        with pytest.raises(ValueError, match=r"GPTNeoX.*not causal"):
            neox(tokens)
    layer.is_causal = True


def test_a_mask_that_looks_ahead_is_refused(neox: PreTrainedModel) -> None:
    from transformers.masking_utils import create_causal_mask

    embeds = torch.zeros(1, 6, 32)
    arguments: dict[str, Any] = {
        "config": neox.config,
        "inputs_embeds": embeds,
        "attention_mask": None,
        "past_key_values": None,
    }
    with patched(neox, BLOCK):
        assert create_causal_mask(**arguments) is None
        with pytest.raises(ValueError, match=r"GPTNeoX.*look ahead"):
            create_causal_mask(**arguments, or_mask_function=lambda b, h, q, k: k < 3)


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("attention", ["block", block, 128], ids=["text", "function", "number"])
def test_attention_must_be_one(neox: PreTrainedModel, attention: Any) -> None:
    message = r"attention must be one such as block\(128\)"
    with pytest.raises(ValueError, match=message), patched(neox, attention):
        pass
