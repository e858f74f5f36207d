"""Seeded random inputs, the same for both sides. No torch: a measuring process uses them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compressor.errors import ProfileError
from compressor.exporting import Session
from compressor.exporting.sessions import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def random_feed(session: Session, batch: int, seed: int) -> dict[str, Array]:
    """Generate normal numbers for every floating input, and zeros for all others, because they may be indices."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for spec in session.inputs:
        shape = [
            batch if number == 0 and not isinstance(size, int) else size
            for number, size in enumerate(spec.shape)
        ]
        if not all(isinstance(size, int) for size in shape):
            raise ProfileError(
                f"input `{spec.name}` of `{session.path}` has free axes besides the batch: {list(spec.shape)}",
                "export it with fixed sizes",
            )
        values = rng.standard_normal([int(size) for size in shape])
        feed[spec.name] = (
            values.astype(spec.dtype)
            if spec.dtype.startswith("float")
            else np.zeros(values.shape, spec.dtype)
        )
    return feed


def refuse_other_inputs(baseline: Session, candidate: Session) -> None:
    """Raise an error if the two files do not have the same inputs."""
    first, second = (sorted(map(_described, session.inputs)) for session in (baseline, candidate))
    if first != second:
        raise ProfileError(
            f"the two files have different inputs: {', '.join(first)} in `{baseline.path}` "
            f"and {', '.join(second)} in `{candidate.path}`",
            "compare files that were exported for the same inputs",
        )


def run_finite(session: Session, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Compute the outputs; NaN or infinity is an error, because speed and accuracy of such a file mean nothing."""
    outputs = session.run(feed)
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ProfileError(
                f"output `{name}` of `{session.path}` is not finite on random inputs", "export it again"
            )
    return outputs


def _described(spec: TensorSpec) -> str:
    """Describe an input, with a dot for a free axis, because its name has no meaning."""
    sizes = (str(size) if isinstance(size, int) else "·" for size in spec.shape)
    return f"{spec.name} {spec.dtype} [{', '.join(sizes)}]"
