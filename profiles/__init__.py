"""What does it cost: multiply-adds, parameters and bytes by counting; milliseconds by measuring.

Counting needs torch, measuring and naming the device do not. So ``count``, ``Counts`` and
``LayerCount`` are loaded on first use: a process that times ONNX sessions never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .device import fingerprint
from .errors import ProfileError
from .latency import Clock, Speedup, Timing, measure, paired_speedup

if TYPE_CHECKING:
    from .counts import Counts, LayerCount, count

__all__ = [
    "Clock",
    "Counts",
    "LayerCount",
    "ProfileError",
    "Speedup",
    "Timing",
    "count",
    "fingerprint",
    "measure",
    "paired_speedup",
]

if not TYPE_CHECKING:  # hidden from the type checker, to which every misspelt name would exist

    def __getattr__(name: str) -> object:
        if name in ("Counts", "LayerCount", "count"):
            from . import counts

            return getattr(counts, name)
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
