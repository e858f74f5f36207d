"""Options of an export, beyond the network or file that a format is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class EngineAsk:
    """Options of TensorRT's build. ``batches``: the smallest, the usual and the largest size of a dynamic batch."""

    batches: tuple[int, int, int] = (1, 1, 8)
    cache: Path | None = None
    """Folder in which timing caches and engines are kept; None keeps nothing."""


@dataclass(frozen=True)
class Asked:
    """Options of one export.

    ``batches``: images to calibrate on. ``exclude``: nodes that stay float32 in INT8. ``weight_bits``: of INT8 on a
    CPU, 7 or 8 (`int8`). ``opset``: None is the exporter's own. ``metadata``: facts to write into the file.
    ``free_size``: height and width are free as well as the batch.
    """

    batches: tuple[Array, ...] = ()
    weight_bits: int = 7
    exclude: tuple[str, ...] = ()
    engine: EngineAsk = field(default_factory=EngineAsk)
    opset: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    free_size: bool = False
