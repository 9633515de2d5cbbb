"""Widgets that really compute: in Lab, VS Code and Colab with a kernel, on the site without one.

``AttentionMap`` shows where a language model looks, ``PatternExplorer`` what a block pattern costs,
``SpeedupExplorer`` what it saves on this machine, ``TilingStepper`` how a softmax comes together
tile by tile, ``HardwareCalculator`` which model fits on which device, ``Quantizer`` what few bits
do to weights, ``LowRankExplorer`` what two thin matrices keep of one, ``PositionExplorer`` how
near two positions look to a model, ``CostExplorer`` which part of a model costs what as the text
grows, ``TransformerWalk`` what one token meets on its way through the model, ``ParetoExplorer``
what each way of running a model costs and loses, ``StreamingListener`` what a recognizer of
speech has written while the sound still runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effedu.widgets._base import Widget, embed

if TYPE_CHECKING:
    from effedu.widgets.attention_map import AttentionMap
    from effedu.widgets.cost_explorer import CostExplorer
    from effedu.widgets.hardware_calculator import HardwareCalculator
    from effedu.widgets.low_rank_explorer import LowRankExplorer
    from effedu.widgets.pareto_explorer import ParetoExplorer
    from effedu.widgets.pattern_explorer import PatternExplorer
    from effedu.widgets.position_explorer import PositionExplorer
    from effedu.widgets.pruning_explorer import PruningExplorer
    from effedu.widgets.quantizer import Quantizer
    from effedu.widgets.speedup_explorer import SpeedupExplorer
    from effedu.widgets.streaming_listener import StreamingListener
    from effedu.widgets.tiling_stepper import TilingStepper
    from effedu.widgets.transformer_walk import TransformerWalk

__all__ = [
    "AttentionMap",
    "CostExplorer",
    "HardwareCalculator",
    "LowRankExplorer",
    "ParetoExplorer",
    "PatternExplorer",
    "PositionExplorer",
    "PruningExplorer",
    "Quantizer",
    "SpeedupExplorer",
    "StreamingListener",
    "TilingStepper",
    "TransformerWalk",
    "Widget",
    "embed",
]

_MODULES = {
    "AttentionMap": "attention_map",
    "CostExplorer": "cost_explorer",
    "HardwareCalculator": "hardware_calculator",
    "LowRankExplorer": "low_rank_explorer",
    "ParetoExplorer": "pareto_explorer",
    "PatternExplorer": "pattern_explorer",
    "PositionExplorer": "position_explorer",
    "PruningExplorer": "pruning_explorer",
    "Quantizer": "quantizer",
    "SpeedupExplorer": "speedup_explorer",
    "StreamingListener": "streaming_listener",
    "TilingStepper": "tiling_stepper",
    "TransformerWalk": "transformer_walk",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"effedu.widgets.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'effedu.widgets' has no attribute {name!r}")
