"""What both sides are fed: seeded random arrays, the same for both. No torch: a measuring process uses it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compressor.errors import ProfileError
from compressor.exporting import Session
from compressor.exporting.sessions import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def random_feed(session: Session, batch: int, seed: int) -> dict[str, Array]:
    """Normal numbers for every floating input, zeros for all others, which may be indices into anything."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for given in session.inputs:
        shape = [
            batch if number == 0 and not isinstance(size, int) else size
            for number, size in enumerate(given.shape)
        ]
        if not all(isinstance(size, int) for size in shape):
            raise ProfileError(
                f"input `{given.name}` of `{session.path}` has free axes besides the batch: {list(given.shape)}",
                "export with fixed sizes",
            )
        values = rng.standard_normal([int(size) for size in shape])
        feed[given.name] = (
            values.astype(given.dtype)
            if given.dtype.startswith("float")
            else np.zeros(values.shape, given.dtype)
        )
    return feed


def refuse_other_inputs(baseline: Session, candidate: Session) -> None:
    """Two files that take different things cannot be compared at all."""
    first, second = (sorted(map(_described, session.inputs)) for session in (baseline, candidate))
    if first != second:
        raise ProfileError(
            f"the two take different inputs: {', '.join(first)} in `{baseline.path}` "
            f"and {', '.join(second)} in `{candidate.path}`",
            "compare files that were exported for the same inputs",
        )


def run_finite(session: Session, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs; an infinity or a NaN is an error: nothing can be said of the speed or the worth of such a file."""
    outputs = session.run(feed)
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ProfileError(
                f"output `{name}` of `{session.path}` is not finite on random inputs", "export it again"
            )
    return outputs


def _described(given: TensorSpec) -> str:
    """With a dot for a free axis, whose name means nothing."""
    sizes = (str(size) if isinstance(size, int) else "·" for size in given.shape)
    return f"{given.name} {given.dtype} [{', '.join(sizes)}]"
