"""Three widgets that really compute: in Lab, VS Code and Colab with a kernel, on the site without.

``AttentionMap`` shows where a language model looks, ``PatternExplorer`` what a block pattern costs,
``SpeedupExplorer`` what it saves on this machine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effedu.widgets._base import Widget, embed

if TYPE_CHECKING:
    from effedu.widgets.attention_map import AttentionMap
    from effedu.widgets.pattern_explorer import PatternExplorer
    from effedu.widgets.speedup_explorer import SpeedupExplorer

__all__ = ["AttentionMap", "PatternExplorer", "SpeedupExplorer", "Widget", "embed"]

_MODULES = {
    "AttentionMap": "attention_map",
    "PatternExplorer": "pattern_explorer",
    "SpeedupExplorer": "speedup_explorer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"effedu.widgets.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'effedu.widgets' has no attribute {name!r}")
