"""Widgets that really compute: in Lab, VS Code and Colab with a kernel, on the site without one.

``AttentionMap`` shows where a language model looks, ``PatternExplorer`` what a block pattern costs,
``SpeedupExplorer`` what it saves on this machine, ``TilingStepper`` how a softmax comes together
tile by tile, ``HardwareCalculator`` which model fits on which device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effedu.widgets._base import Widget, embed

if TYPE_CHECKING:
    from effedu.widgets.attention_map import AttentionMap
    from effedu.widgets.hardware_calculator import HardwareCalculator
    from effedu.widgets.pattern_explorer import PatternExplorer
    from effedu.widgets.pruning_explorer import PruningExplorer
    from effedu.widgets.speedup_explorer import SpeedupExplorer
    from effedu.widgets.tiling_stepper import TilingStepper

__all__ = [
    "AttentionMap",
    "HardwareCalculator",
    "PatternExplorer",
    "PruningExplorer",
    "SpeedupExplorer",
    "TilingStepper",
    "Widget",
    "embed",
]

_MODULES = {
    "AttentionMap": "attention_map",
    "HardwareCalculator": "hardware_calculator",
    "PatternExplorer": "pattern_explorer",
    "PruningExplorer": "pruning_explorer",
    "SpeedupExplorer": "speedup_explorer",
    "TilingStepper": "tiling_stepper",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"effedu.widgets.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'effedu.widgets' has no attribute {name!r}")
