"""What does it cost: multiply-adds, parameters and bytes by counting; milliseconds by measuring.

Counting needs torch or onnx, measuring and naming the device do not. So what counts is loaded on
first use: a process that times ONNX sessions never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conditions import Conditions, watching
from .device import fingerprint
from .errors import ProfileError
from .latency import Clock, Speedup, Timing, measure, paired_speedup
from .reasons import NOTES, REASONS, Reason
from .regression import Launch, Regression, Rule, decide

if TYPE_CHECKING:
    from .counts import Counts, LayerCount, count
    from .onnx_counts import FileCounts, NodeCount, count_file

__all__ = [
    "NOTES",
    "REASONS",
    "Clock",
    "Conditions",
    "Counts",
    "FileCounts",
    "Launch",
    "LayerCount",
    "NodeCount",
    "ProfileError",
    "Reason",
    "Regression",
    "Rule",
    "Speedup",
    "Timing",
    "count",
    "count_file",
    "decide",
    "fingerprint",
    "measure",
    "paired_speedup",
    "watching",
]

if not TYPE_CHECKING:  # hidden from the type checker, to which every misspelt name would exist

    def __getattr__(name: str) -> object:
        if name in ("Counts", "LayerCount", "count"):
            from . import counts

            return getattr(counts, name)
        if name in ("FileCounts", "NodeCount", "count_file"):
            from . import onnx_counts

            return getattr(onnx_counts, name)
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
