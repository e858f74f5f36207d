"""Compare the outputs of two callables on real batches, to find if they compute the same function.

It handles arrays and callables only, so both can be anything: a module, a session, an engine.
Accuracy is not considered: a wrong network and its exact copy are equal here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from compressor.errors import ExportError

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = Array | Mapping[str, Array]


@dataclass(frozen=True)
class Tolerance:
    """Allowed error of an artifact, as a share of the largest output, and the least cosine of all outputs."""

    relative: float
    cosine: float = -1.0


TOLERANCES = {
    # A sum of a few thousand products in another order.
    "fp32": Tolerance(1e-4),
    # 11 bits of mantissa a layer, some fifty layers, errors of random sign.
    "fp16": Tolerance(2e-2, 0.999),
    # 8 bits.
    "bf16": Tolerance(1e-1, 0.99),
    # 256 values a tensor: single outputs may move far, the direction may not; accuracy is checked separately.
    "int8": Tolerance(0.5, 0.97),
}


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison; ``detail`` is one sentence for a report."""

    name: str
    passed: bool
    max_abs_error: float
    tolerance: float
    samples: int
    agreement: float
    """Share of samples whose largest output (axis 1) is at the same index in both."""
    detail: str
    mean_abs_error: float = math.nan
    cosine: float = math.nan
    """Cosine over all samples; of several named outputs the smallest."""

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values; JSON has no infinity, so that becomes null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def compare(
    name: str,
    reference: Callable[[Array], Outputs],
    candidate: Callable[[Array], Outputs],
    batches: Iterable[Array],
    *,
    relative_tolerance: float = 1e-4,
    least_cosine: float = -1.0,
) -> Verdict:
    """Feed every batch to both; passed means max|d| <= relative_tolerance * max|reference|, for every output,
    and a cosine of at least ``least_cosine``.

    The scale is the reference's largest magnitude over all batches, because float rounding
    grows with the numbers: an untrained resnet152 has logits near 1e10, and a correct export
    is off by 3500. There is no lower bound such as 1 on the scale: outputs near 1e-5 would
    then pass whatever the candidate computes.

    The largest output may change its index only in a near tie, and no rule is needed for that:
    within the tolerance, two outputs can swap only if they differ by at most twice the tolerance.
    Of several named outputs the worst is reported, and top-1 is compared for the first.
    """
    sums: dict[str, _Sums] = {}
    samples = places = agreeing = 0
    for index, batch in enumerate(batches):
        expected, actual = _named(reference(batch)), _named(candidate(batch))
        samples += len(batch)
        mismatch = _mismatch(expected, actual)
        if mismatch:
            detail = f"batch {index}: {mismatch}"
            return Verdict(name, False, math.inf, 0.0, samples, 0.0, detail)
        for key in expected:
            sums.setdefault(key, _Sums()).add(expected[key], actual[key])
        first = next(iter(expected))
        same = _top(expected[first]) == _top(actual[first])
        agreeing, places = agreeing + int(same.sum()), places + same.size
    if not places:
        raise ExportError(f"cannot compare `{name}`: there are no samples to compare on")

    worst = max(sums, key=lambda key: sums[key].excess(relative_tolerance))
    error, scale = sums[worst].error, sums[worst].scale
    tolerance, agreement = relative_tolerance * scale, agreeing / places
    cosine = min(output.cosine for output in sums.values())
    passed = error <= tolerance and cosine >= least_cosine
    relation = "within" if error <= tolerance else "outside"
    location = f" in `{worst}`" if len(sums) > 1 else ""
    direction = "" if cosine >= least_cosine else f"; cosine {cosine:.5f}, below {least_cosine:g}"
    detail = (
        f"largest difference{location} {error:.3g}, {relation} {tolerance:.3g} "
        f"({relative_tolerance:g} of the largest output {scale:.3g}){direction}; "
        f"top-1 equal on {agreement:.2%} of {samples} samples"
    )
    mean = sums[worst].total / max(sums[worst].count, 1)
    return Verdict(name, passed, error, tolerance, samples, agreement, detail, mean, cosine)


@dataclass
class _Sums:
    """Sums over the batches for one output."""

    error: float = 0.0
    scale: float = 0.0
    total: float = 0.0
    count: int = 0
    product: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)

    def add(self, expected: Array, actual: Array) -> None:
        if not expected.size:
            return
        difference = np.abs(expected - actual)
        self.error = max(self.error, float(difference.max()))
        self.scale = max(self.scale, float(np.abs(expected).max()))
        self.total, self.count = self.total + float(difference.sum()), self.count + difference.size
        self.product += float((expected * actual).sum())
        self.squares = (
            self.squares[0] + float((expected**2).sum()),
            self.squares[1] + float((actual**2).sum()),
        )

    @property
    def cosine(self) -> float:
        """Cosine of the two outputs; 1 if both are zero everywhere, because they are equal."""
        length = math.sqrt(self.squares[0]) * math.sqrt(self.squares[1])
        return self.product / length if length else float(self.squares[0] == self.squares[1])

    def excess(self, relative: float) -> float:
        return self.error / (relative * self.scale) if relative * self.scale else self.error


def _named(output: Outputs) -> dict[str, Array]:
    named = output if isinstance(output, Mapping) else {"": output}
    return {name: _values(array) for name, array in named.items()}


def _mismatch(expected: dict[str, Array], actual: dict[str, Array]) -> str | None:
    if list(expected) != list(actual):
        return f"the candidate returns {', '.join(actual)}, the reference {', '.join(expected)}"
    for name in expected:
        if mismatch := _array_mismatch(expected[name], actual[name]):
            return f"`{name}`: {mismatch}" if name else mismatch
    return None


def _values(output: Array) -> Array:
    """Convert to float64, so that the difference is not rounded again."""
    return np.atleast_1d(np.asarray(output, dtype=np.float64))


def _array_mismatch(expected: Array, actual: Array) -> str | None:
    if expected.shape != actual.shape:
        return f"the candidate's shape is {actual.shape}, the reference's is {expected.shape}"
    for side, values in (("reference", expected), ("candidate", actual)):
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            return f"{bad} of {values.size} outputs of the {side} are NaN or infinite"
    return None


def _top(values: Array) -> Array:
    if values.ndim < 2:  # one number a sample: there is no index of the largest
        return np.zeros(len(values), dtype=np.int64)
    return values.argmax(axis=1)
