"""Small random models of several families, for tests of what runs inside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedModel

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    # A real id would stop a random model's text at a random place.
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.3,  # wide enough for attention to be far from uniform
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
GPT2 = {
    "vocab_size": VOCAB,
    "n_positions": 512,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,
    "attn_pdrop": 0.0,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "gpt2_scaled_by_layer": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"})
    ),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**GROUPED)),
    "mistral_windowed": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**GROUPED, sliding_window=12)
    ),
    "gemma3_windowed": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **GROUPED,
            sliding_window=12,
            query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
}


def some_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random tokens of these models' vocabulary, such as ``some_tokens(batch, length)``."""
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))
