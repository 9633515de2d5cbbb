"""effedu.eviction: a cache with a budget equals a dense pass that hides what was evicted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES as MODELS
from tiny_models import GROUPED, some_tokens
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

import effedu
from effedu.eviction import EvictingLayer, Eviction, heavy_hitters, streaming
from effedu.patch import block, dense, patched, topk

FAMILIES = {name: MODELS[name] for name in ("gpt_neox", "gpt2", "llama", "qwen2")}
POLICIES: list[Eviction] = [streaming(8, sinks=2), heavy_hitters(8, recent=3)]


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    return {family: make().eval() for family, make in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, PreTrainedModel]) -> Any:
    return models[request.param]


@torch.no_grad()
def read_in_pieces(
    model: PreTrainedModel, tokens: Tensor, sizes: list[int], policy: Eviction
) -> tuple[Tensor, list[list[Tensor]]]:
    """Logits, and the positions that each layer held before each piece."""
    parts, held, cache = [], [], hf.DynamicCache()
    with patched(model, cache=policy):
        for piece in tokens.split(sizes, 1):
            layers = [layer for layer in cache.layers if layer.is_initialized]
            held.append([layer.positions for layer in layers])
            parts.append(model(piece, past_key_values=cache).logits)
            assert all(layer.keys.shape[2] <= policy.budget for layer in cache.layers)
    return torch.cat(parts, 1), held


@contextmanager
def masked_by_layer(model: PreTrainedModel, masks: Tensor) -> Iterator[list[Tensor]]:
    """Dense attention under a mask for each layer; notes the weights of each. Knows no effedu."""
    noted: list[Tensor] = []

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any,
               scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        visible = masks[module.layer_idx].repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        noted.append(weights.unflatten(1, (-1, groups)).sum(2))
        return (weights @ value).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    AttentionInterface.register("reference", attend)
    AttentionMaskInterface.register("reference", lambda *args, **kwargs: None)
    model.set_attn_implementation("reference")
    try:
        yield noted
    finally:
        model.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop("reference")
        AttentionMaskInterface._global_mapping.pop("reference")


@torch.no_grad()
def recomputed(
    model: PreTrainedModel, tokens: Tensor, sizes: list[int], policy: Eviction
) -> tuple[Tensor, list[list[Tensor]]]:
    """The same without a cache: after each piece the policy's words, then the whole text again."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    layers, length = config.num_hidden_layers, tokens.shape[1]
    masks = torch.eye(length, dtype=torch.bool).repeat(layers, len(tokens), heads, 1, 1)
    alive = torch.zeros(layers, len(tokens), heads, length, dtype=torch.bool)
    held, start = [], 0
    for size in sizes:
        held.append([_positions(alive[layer]) for layer in range(layers)] if start else [])
        for i in range(start, start + size):
            masks[..., i, :] = alive
            masks[..., i, start : i + 1] = True
        stop = start + size
        with masked_by_layer(model, masks) as weights:
            logits = model(tokens, use_cache=False).logits
        alive[..., start:stop] = True
        for layer in range(layers):
            received = weights[layer][:, :, :stop].sum(2)  # all that each key got so far
            for row in range(len(tokens)):
                for head in range(heads):
                    _forget(alive[layer, row, head], received[row, head], stop, policy)
        start = stop
    return logits, held


def _forget(alive: Tensor, received: Tensor, stop: int, policy: Any) -> None:
    while alive.sum() > policy.budget:
        candidates = alive.nonzero().flatten().tolist()
        if hasattr(policy, "sinks"):
            victim = next(i for i in candidates if i >= policy.sinks)  # the oldest
        else:
            candidates = candidates[: -policy.recent]
            victim = min(candidates, key=lambda i: float(received[i]))
        alive[victim] = False


def _positions(alive: Tensor) -> Tensor:
    return torch.stack([torch.stack([h.nonzero().flatten() for h in row]) for row in alive])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("sizes", [[5, *[1] * 20], [12, 1, 1, 6, 1, 1, 3]], ids=["steps", "chunks"])
def test_cached_generation_equals_the_whole_text_with_the_evicted_keys_hidden(
    model: Any, policy: Eviction, sizes: list[int]
) -> None:
    tokens = some_tokens(2, 25)
    found, held = read_in_pieces(model, tokens, sizes, policy)
    expected, held_before = recomputed(model, tokens, sizes, policy)
    for ours, theirs in zip(held, held_before, strict=True):
        for layer, reference in zip(ours, theirs, strict=True):
            assert torch.equal(layer, reference)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def test_eviction_matters(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(1, 25)
    with torch.no_grad():
        plain = model(tokens).logits
    for policy in POLICIES:
        found, _ = read_in_pieces(model, tokens, [1] * 25, policy)
        torch.testing.assert_close(found[:, :8], plain[:, :8], atol=1e-4, rtol=1e-4)
        assert (found[:, -1] - plain[:, -1]).abs().max() > 0.1
    roomy, _ = read_in_pieces(model, tokens, [1] * 25, streaming(25))
    torch.testing.assert_close(roomy, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_generating_ten_times_the_budget_in_bounded_memory(model: Any, policy: Eviction) -> None:
    prompt = some_tokens(2, 5)
    with patched(model, cache=policy):
        result = model.generate(
            prompt, max_new_tokens=10 * policy.budget, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones_like(prompt), return_dict_in_generate=True,
        )  # fmt: skip
    assert result.sequences.shape == (2, 5 + 10 * policy.budget)
    cache = result.past_key_values
    assert cache.get_seq_length() == 4 + 10 * policy.budget  # the last token was never read
    for layer in cache.layers:
        assert isinstance(layer, EvictingLayer)
        numbers = layer.keys.untyped_storage().nbytes() // 4
        assert numbers == 2 * layer.keys.shape[1] * policy.budget * 8  # head_dim 8, no views
        newest = layer.positions.max(-1).values
        assert (newest == 3 + 10 * policy.budget).all()


def test_the_embedded_model_generates_with_a_budget() -> None:
    lm = effedu.load_lm()
    with patched(lm.model, cache=streaming(16, sinks=2)):
        text = lm.generate("Enter the king", 40, seed=0)
        assert text == lm.generate("Enter the king", 40, seed=0)
    assert text


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_beams_and_sampling_and_chunked_prefill(
    models: dict[str, PreTrainedModel], policy: Eviction
) -> None:
    model, prompt = models["llama"], some_tokens(2, 7)
    mask = torch.ones_like(prompt)
    common = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    with patched(model, cache=policy):
        together = model.generate(prompt, num_beams=3, **common)
        alone = [
            model.generate(row[None], num_beams=3, **{**common, "attention_mask": mask[:1]})
            for row in prompt
        ]
        whole = model.generate(prompt, **common)
        chunked = model.generate(prompt, prefill_chunk_size=4, **common)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(whole, chunked)  # 7 tokens fit in the budget, however they come


def test_the_model_is_itself_again(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(1, 20)
    hooks = dict(model._forward_pre_hooks)
    with torch.no_grad():
        before = model(tokens).logits
        with pytest.raises(RuntimeError, match="stop"), patched(model, cache=streaming(4, sinks=1)):
            raise RuntimeError("stop")
        assert dict(model._forward_pre_hooks) == hooks
        assert torch.equal(model(tokens).logits, before)
        assert not isinstance(model(tokens).past_key_values.layers[0], EvictingLayer)


def test_without_a_cache_nothing_is_evicted(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(1, 20)
    with torch.no_grad():
        before = model(tokens).logits
        with patched(model, cache=streaming(4, sinks=1)):
            found = model(tokens, use_cache=False)
            positional = model(tokens, None, None)
    assert found.past_key_values is None
    assert positional.past_key_values.layers[0].keys.shape[2] == 4
    torch.testing.assert_close(found.logits, before, atol=1e-4, rtol=1e-4)


def test_blocks_nest_and_the_innermost_counts(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(1, 20)
    with torch.no_grad(), patched(model, cache=streaming(10)):
        with patched(model, cache=heavy_hitters(6, recent=2)):
            assert model(tokens).past_key_values.layers[0].keys.shape[2] == 6
        with patched(model, dense()):
            assert model(tokens).past_key_values.layers[0].keys.shape[2] == 20
        assert model(tokens).past_key_values.layers[0].keys.shape[2] == 10


@given(
    keys=st.integers(1, 30),
    budget=st.integers(2, 12),
    part=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_policies_keep_what_their_words_say(keys: int, budget: int, part: float, seed: int) -> None:
    keys += budget
    scores = torch.rand(2, 3, keys, generator=torch.Generator().manual_seed(seed))
    sinks = round(part * (budget - 1))
    kept = streaming(budget, sinks=sinks).keep(scores)
    expected = [*range(sinks), *range(keys - budget + sinks, keys)]
    assert kept.tolist() == [[expected] * 3] * 2
    recent = max(1, sinks)
    kept = heavy_hitters(budget, recent=recent).keep(scores)
    for row, numbers in zip(kept.flatten(0, 1).tolist(), scores.flatten(0, 1), strict=True):
        old = sorted(range(keys - recent), key=lambda i: -float(numbers[i]))[: budget - recent]
        assert row == sorted(old) + list(range(keys - recent, keys))


# --- What is refused ------------------------------------------------------------------------------


def test_padding_and_masks_are_refused(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(2, 10)
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    full = torch.zeros(2, 1, 10, 10)
    for bad in (mask, full):
        with (
            patched(model, cache=streaming(4, sinks=1)),
            pytest.raises(ValueError, match="attention_mask must show all tokens"),
        ):
            model(tokens, attention_mask=bad)


def test_other_caches_are_refused(models: dict[str, PreTrainedModel]) -> None:
    model, tokens = models["gpt_neox"], some_tokens(1, 10)
    with torch.no_grad():
        used = model(tokens).past_key_values
    static = hf.StaticCache(config=model.config, max_cache_len=20)
    with patched(model, cache=streaming(4, sinks=1)):
        with pytest.raises(ValueError, match=r"must be a DynamicCache.* got StaticCache"):
            model(tokens, past_key_values=static)
        with pytest.raises(ValueError, match="already holds 10 tokens, kept by another rule"):
            model(tokens, past_key_values=used)
        mine = model(tokens).past_key_values
        with pytest.raises(ValueError, match="evicting cache can't be cropped"):
            mine.crop(-1)
        mine.crop(0)
        mine.reset()
        assert model(tokens, past_key_values=mine).past_key_values.get_seq_length() == 10


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attention": block(4), "cache": streaming(8)},
            r"attention must be dense\(\) with a cache",
        ),
        (
            {"attention": topk(4), "cache": streaming(8)},
            r"attention must be dense\(\) with a cache",
        ),
        ({"cache": 256}, r"cache must be one such as streaming\(256\) or quantized\(4\), got 256"),
    ],
)
def test_what_does_not_go_together(
    models: dict[str, PreTrainedModel], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), patched(models["llama"], **arguments):
        pass


def test_models_that_cache_something_else_are_refused() -> None:
    config = hf.LlamaConfig(**{**GROUPED, "num_hidden_layers": 1})
    config.layer_types = ["sliding_attention"]
    config.sliding_window = 600
    model = hf.LlamaForCausalLM(config)
    with (
        pytest.raises(ValueError, match="LlamaForCausalLM can't be patched"),
        patched(model, cache=streaming(8)),
    ):
        pass
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**GROUPED, "num_hidden_layers": 1}))
    del model.model.layers[0].self_attn.layer_idx
    with (
        pytest.raises(ValueError, match="attention layers without a layer_idx"),
        patched(model, cache=streaming(8)),
    ):
        pass


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: streaming(0), "budget must be an integer of at least 1, got 0"),
        (lambda: streaming(4, sinks=-1), "sinks must be an integer of at least 0, got -1"),
        (lambda: streaming(4, sinks=4), "sinks must be less than budget.* got 4 and 4"),
        (lambda: heavy_hitters(0), "budget must be an integer of at least 1, got 0"),
        (lambda: heavy_hitters(4, recent=0), "recent must be an integer of at least 1, got 0"),
        (lambda: heavy_hitters(4, recent=5), "recent must be at most budget, got 5 and 4"),
    ],
)
def test_policies_check_their_arguments(make: Callable[[], Eviction], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_forward_pass_whose_argument_is_called_cache(
    models: dict[str, PreTrainedModel],
) -> None:
    """As transformers names it since 5.24; callers may use the old name still."""
    model, tokens = models["gpt_neox"], some_tokens(1, 30)
    old = type(model).forward

    class Renamed(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> Any:
            return old(self, input_ids, past_key_values=cache, **kwargs)

    renamed = copy.deepcopy(model)
    renamed.__class__ = Renamed
    found = []
    for each, name in (
        (model, "past_key_values"),
        (renamed, "past_key_values"),
        (renamed, "cache"),
    ):
        with patched(each, cache=streaming(8)), torch.no_grad():
            cache = each(tokens[:, :20], use_cache=True).past_key_values
            found.append(each(tokens[:, 20:], use_cache=True, **{name: cache}).logits)
        assert cache.layers[0].policy == streaming(8)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
