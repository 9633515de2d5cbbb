"""Efficient Transformers, Live: small, readable PyTorch for cheaper language models.

One module per idea, one chapter per module. Importing ``effedu`` loads PyTorch and nothing
heavier; the language model and the widgets load when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effedu.attention import attention
from effedu.bench import compare
from effedu.blocking import block_attention, block_mask
from effedu.claims import Claim
from effedu.cost import cost
from effedu.hardware import tiled_attention
from effedu.pruning import block_topk_attention, threshold_attention, topk_attention

if TYPE_CHECKING:
    from effedu.lm import load_lm
    from effedu.patch import patched

__version__ = "0.1.0"

__all__ = [
    "Claim",
    "attention",
    "block_attention",
    "block_mask",
    "block_topk_attention",
    "compare",
    "cost",
    "load_lm",
    "patched",
    "threshold_attention",
    "tiled_attention",
    "topk_attention",
]

_LAZY = {"load_lm": "effedu.lm", "patched": "effedu.patch"}  # these import transformers


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'effedu' has no attribute {name!r}")
