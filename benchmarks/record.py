"""Results of a benchmark: figures, where and how they were measured, and every sample behind them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.profiling import fingerprint


def write_figures(path: Path | None, figures: Mapping[str, float], samples: Any) -> None:
    """Print the figures; write them to ``path`` if one is given."""
    for name, value in figures.items():
        print(f"{name:<24} {value:.6g}")
    if path is not None:
        keep(path, figures, samples)
        print(f"written to {path}")


def keep(path: Path, figures: Mapping[str, float], samples: Any) -> None:
    """Write it at once or not at all: a run that is stopped keeps what it had."""
    record = {
        "figures": dict(figures),
        "environment": fingerprint(),
        "command": " ".join(["python", *sys.argv]),
        "samples": samples,
    }
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(record, indent=2) + "\n")
    beside.replace(path)
