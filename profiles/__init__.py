"""Cost of a network: multiply-adds, parameters and bytes by counting; milliseconds by measuring.

Counting needs torch or onnx, measuring and naming the device do not. So the counting modules are
loaded on first use: a process that times ONNX sessions never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from compressor.profiling.conditions import Conditions, watching
from compressor.profiling.machine import fingerprint
from compressor.profiling.reasons import NOTES, REASONS, Reason
from compressor.profiling.regression import Launch, Regression, Rule, decide
from compressor.profiling.timing import Clock, Speedup, Timing, measure, paired_speedup

if TYPE_CHECKING:
    from compressor.profiling.between_products import Between, lies_between
    from compressor.profiling.block_times import BlockTimes, time_blocks
    from compressor.profiling.blocks import Block, blocks_of
    from compressor.profiling.counts import Counts, LayerCount, count
    from compressor.profiling.nodes import NodeTime, NodeTimes, node_times
    from compressor.profiling.onnx_counts import FileCounts, NodeCount, count_file

__all__ = [
    "NOTES",
    "REASONS",
    "Between",
    "Block",
    "BlockTimes",
    "Clock",
    "Conditions",
    "Counts",
    "FileCounts",
    "Launch",
    "LayerCount",
    "NodeCount",
    "NodeTime",
    "NodeTimes",
    "Reason",
    "Regression",
    "Rule",
    "Speedup",
    "Timing",
    "blocks_of",
    "count",
    "count_file",
    "decide",
    "fingerprint",
    "lies_between",
    "measure",
    "node_times",
    "paired_speedup",
    "time_blocks",
    "watching",
]

_LAZY = {
    "counts": ("Counts", "LayerCount", "count"),
    "onnx_counts": ("FileCounts", "NodeCount", "count_file"),
    "nodes": ("NodeTime", "NodeTimes", "node_times"),
    "between_products": ("Between", "lies_between"),
    "blocks": ("Block", "blocks_of"),
    "block_times": ("BlockTimes", "time_blocks"),
}
"""The module that each of these names is loaded from."""

if not TYPE_CHECKING:  # hidden from the type checker, which would accept every misspelt name

    def __getattr__(name: str) -> object:
        for module, names in _LAZY.items():
            if name in names:
                return getattr(import_module(f".{module}", __name__), name)
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
