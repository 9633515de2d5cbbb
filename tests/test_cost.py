"""The counts of ``effedu.cost`` against models that really run, and against ``block_mask``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from effedu.blocking import block_mask
from effedu.cost import Cost, _scaled, cost, crossover, live_pairs
from effedu.sizing import models

SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED = {**SMALL, "intermediate_size": 40, "num_key_value_heads": 2}
CONFIGS = {
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL, intermediate_size=96),
    "gpt_neox without bias": transformers.GPTNeoXConfig(
        **SMALL, intermediate_size=50, attention_bias=False, tie_word_embeddings=True
    ),
    "gpt2": transformers.GPT2Config(vocab_size=61, n_embd=24, n_layer=3, n_head=4, n_positions=64),
    "gpt2 with its own width": transformers.GPT2Config(
        vocab_size=61, n_embd=24, n_layer=2, n_head=2, n_positions=64, n_inner=56
    ),
    "llama": transformers.LlamaConfig(**GATED),
    "llama with biases": transformers.LlamaConfig(
        **GATED, head_dim=8, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "qwen2": transformers.Qwen2Config(**GATED),
    "qwen3": transformers.Qwen3Config(**GATED, head_dim=16, tie_word_embeddings=True),
    "qwen3 with biases": transformers.Qwen3Config(**GATED, head_dim=16, attention_bias=True),
    "mistral": transformers.MistralConfig(**GATED),
    "mistral with a window": transformers.MistralConfig(**GATED, sliding_window=5),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def build(config: Any, attention: str = "eager") -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


def counted(model: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, int], Any]:
    """FLOPs by name of the module that ran them, the rotation's tables left out, and the output."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        output = model(*args, **kwargs)
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    rotary = sum(n for name, n in by_module.items() if name.endswith("rotary_emb"))
    by_module["Global"] -= rotary  # some versions of Transformers form its angles by a product
    return by_module, output


@each_config
def test_parameters_are_the_model_s(config: Any) -> None:
    model = build(config)
    assert cost(config, 7).parameters == sum(p.numel() for p in model.parameters())


@each_config
@pytest.mark.parametrize(("length", "batch"), [(1, 1), (13, 1), (32, 3)])
def test_flops_are_those_of_a_forward_pass(config: Any, length: int, batch: int) -> None:
    model, flops = build(config), cost(config, length, batch=batch).flops
    real, _ = counted(model, torch.zeros(batch, length, dtype=torch.long))
    assert flops.total == real["Global"]
    name = type(model).__name__
    assert flops.unembedding == real[f"{name}.lm_head"]
    feed_forward = sum(n for module, n in real.items() if module.endswith(".mlp"))
    assert flops.feed_forward == feed_forward
    attention = sum(
        n for module, n in real.items() if module.endswith((".attention", ".attn", ".self_attn"))
    )
    assert flops.attention_projections + flops.attention == attention
    assert flops.attention_scores == flops.attention_values


@each_config
@pytest.mark.parametrize("new", [1, 4])
def test_flops_and_cache_with_cached_tokens(config: Any, new: int) -> None:
    model, batch, cached = build(config), 2, 9
    with torch.no_grad():
        past = model(torch.zeros(batch, cached, dtype=torch.long), use_cache=True).past_key_values
    real, output = counted(
        model, torch.zeros(batch, new, dtype=torch.long), past_key_values=past, logits_to_keep=1
    )
    expected = cost(config, new, cached=cached, batch=batch, logits_to_keep=1)
    assert expected.flops.total == real["Global"]
    held = [t for layer in output.past_key_values.layers for t in (layer.keys, layer.values)]
    assert expected.kv_cache_bytes == sum(tensor.nbytes for tensor in held)


class MatmulBytes(TorchDispatchMode):
    """Bytes of weights, and of activations, that pass in and out of products and attention."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name in ("mm", "addmm", "_scaled_dot_product_flash_attention_for_cpu"):
            result = output if isinstance(output, torch.Tensor) else output[0]
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            moved = [t for t in tensors if t.untyped_storage().data_ptr() not in self.parameters]
            self.activations += sum(t.numel() * t.itemsize for t in [*moved, result])
        return output


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_bytes_are_those_of_a_forward_pass(name: str, dtype: torch.dtype) -> None:
    config, batch, length = CONFIGS[name], 2, 16
    model = build(config, "sdpa").to(dtype)
    with MatmulBytes(model) as real, torch.no_grad():
        model(torch.zeros(batch, length, dtype=torch.long), use_cache=False)
    expected = cost(config, length, batch=batch, dtype=dtype).bytes_moved
    assert expected.activations == real.activations


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "qwen3"])
def test_weight_bytes(name: str) -> None:
    config, batch, length = CONFIGS[name], 2, 16
    model = build(config)
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    looked_up = [batch * length, length][: len(tables)]
    read = {p: p.numel() for p in model.parameters() if not any(p is t.weight for t in tables)}
    read[model.lm_head.weight] = model.lm_head.weight.numel()  # also where it is the first table
    rows = sum(n * t.embedding_dim for n, t in zip(looked_up, tables, strict=True))
    expected = cost(config, length, batch=batch, dtype=torch.float16).bytes_moved
    assert expected.weights == 2 * (sum(read.values()) + rows)


def test_cache_bytes_read_and_written() -> None:
    config = CONFIGS["llama"]  # 3 layers, 2 key heads of 6
    moved = cost(config, 5, cached=11, batch=2, dtype=torch.float16).bytes_moved
    per_token = 2 * 3 * 2 * 6 * 2  # keys and values, layers, heads, width, bytes
    assert moved.kv_cache_read == 2 * 11 * per_token
    assert moved.kv_cache_written == 2 * 5 * per_token
    assert moved.total == (
        moved.weights + moved.kv_cache_read + moved.kv_cache_written + moved.activations
    )


@each_config
def test_parts_share_out_the_totals(config: Any) -> None:
    for passed in ({"length": 13, "batch": 3}, {"length": 2, "cached": 9, "logits_to_keep": 1}):
        found = cost(config, **passed, dtype=torch.bfloat16)
        parts = found.parts.values()
        assert sum(part.flops for part in parts) == found.flops.total
        assert sum(part.bytes_moved for part in parts) == found.bytes_moved.total
        kept = 2 * found.parameters + found.kv_cache_bytes
        assert sum(part.bytes_kept for part in parts) == kept
        assert found.parts["attention"].flops == found.flops.attention


@each_config
def test_parts_keep_the_weights_of_their_modules(config: Any) -> None:
    model, parts = build(config), cost(config, 4).parts

    def size(*names: str) -> int:
        """Bytes of parameters below modules of these names; tied ones count once."""
        found = {
            parameter: parameter.nbytes
            for name, parameter in model.named_parameters()
            if any(f".{part}." in f".{name}" for part in names)
        }
        return sum(found.values())

    assert parts["feed-forward"].bytes_kept == size("mlp")
    projections = ("query_key_value", "dense", "c_attn", "attn.c_proj", "q_proj", "k_proj")
    assert parts["projections"].bytes_kept == size(*projections, "v_proj", "o_proj")
    assert parts["logits"].bytes_kept == model.lm_head.weight.nbytes
    assert parts["attention"].bytes_kept == cost(config, 4).kv_cache_bytes


@settings(max_examples=100, deadline=None)
@given(cached=st.integers(0, 30), length=st.integers(1, 30), window=st.none() | st.integers(1, 40))
def test_causal_counts_what_the_mask_lets_through(
    cached: int, length: int, window: int | None
) -> None:
    config = transformers.MistralConfig(**GATED, sliding_window=window)
    position = torch.arange(cached + length)
    distance = position[cached:, None] - position
    mask = (distance >= 0) & (distance < (window or 99))
    found = cost(config, length, cached=cached, causal=True)
    assert found.flops.attention == 3 * 2 * 2 * 24 * int(mask.sum())
    everything = cost(config, length, cached=cached)
    assert found.flops.feed_forward == everything.flops.feed_forward
    assert found.bytes_moved == everything.bytes_moved


@given(
    heads=st.integers(1, 9),
    head_dim=st.integers(1, 16),
    inner=st.integers(1, 300),
    gated=st.booleans(),
    causal=st.booleans(),
)
def test_crossover_is_where_attention_overtakes(
    heads: int, head_dim: int, inner: int, gated: bool, causal: bool
) -> None:
    config = SimpleNamespace(
        model_type="llama" if gated else "gpt_neox",
        vocab_size=7,
        hidden_size=heads * head_dim,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=inner,
        attention_bias=False,
        tie_word_embeddings=False,
    )
    found = crossover(config, causal=causal)
    after = cost(config, found, causal=causal).flops
    assert after.attention > after.feed_forward
    if found > 1:
        before = cost(config, found - 1, causal=causal).flops
        assert before.attention <= before.feed_forward


def test_crossover_of_published_models() -> None:
    assert crossover(models()["gpt-neox-20b"]) == 2 * 24576  # 2 d_ff
    assert crossover(models()["gpt-neox-20b"], causal=False) == 24576 + 1
    assert crossover(models()["Llama-3.1-8B"]) == 3 * 14336  # three matrices, not two
    assert crossover(CONFIGS["mistral"], causal=False) == 61  # its window is far longer


patterns = {
    "block_size": st.integers(1, 20),
    "blocks_back": st.integers(0, 5),
    "sinks": st.integers(0, 60),
}


@settings(max_examples=400, deadline=None)
@given(length=st.integers(1, 80), causal=st.booleans(), **patterns)
def test_live_pairs_count_the_mask(length: int, causal: bool, **pattern: int) -> None:
    mask = block_mask(length, causal=causal, **pattern)
    assert live_pairs(length, causal=causal, **pattern) == int(mask.sum())


@settings(max_examples=100, deadline=None)
@given(cached=st.integers(0, 40), length=st.integers(1, 40), **patterns)
def test_block_attention_costs_its_live_pairs(cached: int, length: int, **pattern: int) -> None:
    config = CONFIGS["gpt_neox"]  # 3 layers, width 24
    found = cost(config, length, cached=cached, attention=SimpleNamespace(**pattern))
    mask = block_mask(cached + length, **pattern)[cached:]
    assert found.flops.attention == 3 * 2 * 2 * 24 * int(mask.sum())
    seen = mask[:, :cached].any(0).sum()  # cached keys that some new query looks at
    assert found.bytes_moved.kv_cache_read == 3 * 2 * 24 * 4 * int(seen)
    dense = cost(config, length, cached=cached)
    assert found.flops.feed_forward == dense.flops.feed_forward
    assert found.parameters == dense.parameters


def test_the_design_s_limit_for_8192_tokens() -> None:
    dense = live_pairs(8192, block_size=8192)
    assert round(dense / live_pairs(8192, block_size=128, blocks_back=1), 1) == 21.5


def test_text_and_html() -> None:
    found = cost(CONFIGS["gpt_neox"], 1, cached=8)
    assert isinstance(found, Cost)
    text, page = repr(found), found._repr_html_()
    assert text.splitlines()[0] == "Cost of one pass: 1 token after 8 cached, batch 1, float32"
    for part in ("attention projections", "KV cache read", "parameters"):
        assert part in text
        assert part in page
    assert f"{found.parameters:,}" in text
    assert "style=" not in page
    assert "0x" not in text
    scaled = {"999 kB": 999_000, "1.00 MB": 999_900, "12.3 kB": 12_345, "17 B": 17}
    assert [_scaled(n, "B") for n in scaled.values()] == list(scaled)


def test_bad_arguments() -> None:
    config = CONFIGS["gpt_neox"]
    with pytest.raises(ValueError, match=r"model_type one of gpt2, .*; got .* 'mamba'"):
        cost(SimpleNamespace(model_type="mamba"), 8)
    with pytest.raises(ValueError, match="got dict with model_type None"):
        cost({}, 8)
    with pytest.raises(ValueError, match=r"add_cross_attention must be False"):
        cost(transformers.GPT2Config(add_cross_attention=True), 8)
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        cost(config, 0)
    with pytest.raises(ValueError, match="batch must be an integer of at least 1, got 0"):
        cost(config, 1, batch=0)
    with pytest.raises(ValueError, match="cached must be an integer of at least 0, got -1"):
        cost(config, 1, cached=-1)
    with pytest.raises(ValueError, match="logits_to_keep must be an integer of at least 0"):
        cost(config, 1, logits_to_keep=-1)
    with pytest.raises(ValueError, match="at most the model's 64 positions, got 65"):
        cost(CONFIGS["gpt2"], 5, cached=60)
    pattern = SimpleNamespace(block_size=4, blocks_back=1, sinks=0)
    with pytest.raises(ValueError, match=r"sliding window \(5\) is shorter than .* \(6\)"):
        cost(CONFIGS["mistral with a window"], 6, attention=pattern)
    with pytest.raises(ValueError, match=r"no sliding window .* at 120 tokens, got one of 5"):
        crossover(CONFIGS["mistral with a window"])
    with pytest.raises(ValueError, match="block_size must be an integer of at least 1, got 0"):
        live_pairs(8, block_size=0)
    with pytest.raises(ValueError, match="blocks_back must be an integer of at least 0, got -1"):
        live_pairs(8, block_size=2, blocks_back=-1)
    with pytest.raises(ValueError, match="sinks must be an integer of at least 0, got -2"):
        live_pairs(8, block_size=2, sinks=-2)
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        live_pairs(0, block_size=2)
