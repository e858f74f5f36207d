"""Whether two callables compute the same function, on real batches.

It knows arrays and callables only, so anything can stand on either side: a module, a session,
an engine. It does not know accuracy: a wrong network and its faithful copy are equal here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import ExportError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Verdict:
    """What a comparison found; ``detail`` is one sentence that can stand in a report."""

    name: str
    passed: bool
    max_abs_error: float
    tolerance: float
    samples: int
    agreement: float
    """The share of samples whose largest output (axis 1) is at the same place in both."""
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values; JSON has no infinity, so that becomes null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def compare(
    name: str,
    reference: Callable[[Array], Array],
    candidate: Callable[[Array], Array],
    batches: Iterable[Array],
    *,
    relative_tolerance: float = 1e-4,
) -> Verdict:
    """Feed every batch to both; passed means max|d| <= relative_tolerance * max|reference|.

    The scale is the reference's largest magnitude over all batches, because float rounding
    grows with the numbers: an untrained resnet152 has logits near 1e10, and a correct export
    is off by 3500. There is no lower bound such as 1 on the scale: outputs near 1e-5 would
    then pass whatever the candidate computes.

    The largest output may change place only in a near tie, and no rule is needed for that:
    within the tolerance, two outputs can swap only if they lie within twice the tolerance.
    """
    error = scale = 0.0
    samples = places = agreeing = 0
    for index, batch in enumerate(batches):
        expected, found = _values(reference(batch)), _values(candidate(batch))
        samples += len(batch)
        broken = _broken(expected, found)
        if broken:
            detail = f"batch {index}: {broken}"
            return Verdict(name, False, math.inf, 0.0, samples, 0.0, detail)
        if expected.size:
            error = max(error, float(np.abs(expected - found).max()))
            scale = max(scale, float(np.abs(expected).max()))
        same = _top(expected) == _top(found)
        agreeing, places = agreeing + int(same.sum()), places + same.size
    if not places:
        raise ExportError(f"cannot compare `{name}`: there are no samples to compare on")

    tolerance, agreement = relative_tolerance * scale, agreeing / places
    passed = error <= tolerance
    relation = "within" if passed else "outside"
    detail = (
        f"largest difference {error:.3g}, {relation} {tolerance:.3g} "
        f"({relative_tolerance:g} of the largest output {scale:.3g}); "
        f"top-1 equal on {agreement:.2%} of {samples} samples"
    )
    return Verdict(name, passed, error, tolerance, samples, agreement, detail)


def _values(output: Array) -> Array:
    """In float64, so that the difference itself rounds nothing."""
    return np.atleast_1d(np.asarray(output, dtype=np.float64))


def _broken(expected: Array, found: Array) -> str | None:
    if expected.shape != found.shape:
        return f"the candidate's shape is {found.shape}, the reference's is {expected.shape}"
    for who, values in (("reference", expected), ("candidate", found)):
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            return f"{bad} of {values.size} outputs of the {who} are NaN or infinite"
    return None


def _top(values: Array) -> Array:
    if values.ndim < 2:  # one number a sample: there is nothing to be the largest of
        return np.zeros(len(values), dtype=np.int64)
    return values.argmax(axis=1)
