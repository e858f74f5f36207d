"""Whether two callables compute the same function, on real batches.

It knows arrays and callables only, so anything can stand on either side: a module, a session,
an engine. It does not know accuracy: a wrong network and its faithful copy are equal here.
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
    """How far an artifact may be off: a share of the largest output, and the least cosine of all outputs."""

    relative: float
    cosine: float = -1.0


TOLERANCES = {
    # A sum of a few thousand products in another order.
    "fp32": Tolerance(1e-4),
    # 11 bits of mantissa a layer, some fifty layers, errors of random sign.
    "fp16": Tolerance(2e-2, 0.999),
    # 8 bits.
    "bf16": Tolerance(1e-1, 0.99),
    # 256 values a tensor: single outputs may move far; the direction may not, and the accuracy is asked on its own.
    "int8": Tolerance(0.5, 0.97),
}


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
    mean_abs_error: float = math.nan
    cosine: float = math.nan
    """Of all outputs at once, of the output that is worst."""

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
    """Feed every batch to both; passed means max|d| <= relative_tolerance * max|reference|, for every output.

    The scale is the reference's largest magnitude over all batches, because float rounding
    grows with the numbers: an untrained resnet152 has logits near 1e10, and a correct export
    is off by 3500. There is no lower bound such as 1 on the scale: outputs near 1e-5 would
    then pass whatever the candidate computes.

    The largest output may change place only in a near tie, and no rule is needed for that:
    within the tolerance, two outputs can swap only if they lie within twice the tolerance.
    Of several named outputs the worst is told, and the first is the one whose top-1 is compared.
    """
    sums: dict[str, _Sums] = {}
    samples = places = agreeing = 0
    for index, batch in enumerate(batches):
        expected, found = _named(reference(batch)), _named(candidate(batch))
        samples += len(batch)
        broken = _unlike(expected, found)
        if broken:
            detail = f"batch {index}: {broken}"
            return Verdict(name, False, math.inf, 0.0, samples, 0.0, detail)
        for key in expected:
            sums.setdefault(key, _Sums()).add(expected[key], found[key])
        first = next(iter(expected))
        same = _top(expected[first]) == _top(found[first])
        agreeing, places = agreeing + int(same.sum()), places + same.size
    if not places:
        raise ExportError(f"cannot compare `{name}`: there are no samples to compare on")

    worst = max(sums, key=lambda key: sums[key].excess(relative_tolerance))
    error, scale = sums[worst].error, sums[worst].scale
    tolerance, agreement = relative_tolerance * scale, agreeing / places
    cosine = min(each.cosine for each in sums.values())
    passed = error <= tolerance and cosine >= least_cosine
    relation = "within" if error <= tolerance else "outside"
    where = f" in `{worst}`" if len(sums) > 1 else ""
    direction = "" if cosine >= least_cosine else f"; cosine {cosine:.5f}, below {least_cosine:g}"
    detail = (
        f"largest difference{where} {error:.3g}, {relation} {tolerance:.3g} "
        f"({relative_tolerance:g} of the largest output {scale:.3g}){direction}; "
        f"top-1 equal on {agreement:.2%} of {samples} samples"
    )
    mean = sums[worst].total / max(sums[worst].count, 1)
    return Verdict(name, passed, error, tolerance, samples, agreement, detail, mean, cosine)


@dataclass
class _Sums:
    """What is added up over the batches for one output."""

    error: float = 0.0
    scale: float = 0.0
    total: float = 0.0
    count: int = 0
    product: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)

    def add(self, expected: Array, found: Array) -> None:
        if not expected.size:
            return
        apart = np.abs(expected - found)
        self.error = max(self.error, float(apart.max()))
        self.scale = max(self.scale, float(np.abs(expected).max()))
        self.total, self.count = self.total + float(apart.sum()), self.count + apart.size
        self.product += float((expected * found).sum())
        self.squares = (
            self.squares[0] + float((expected**2).sum()),
            self.squares[1] + float((found**2).sum()),
        )

    @property
    def cosine(self) -> float:
        """One for two that are zero everywhere: they are the same."""
        length = math.sqrt(self.squares[0]) * math.sqrt(self.squares[1])
        return self.product / length if length else float(self.squares[0] == self.squares[1])

    def excess(self, relative: float) -> float:
        return self.error / (relative * self.scale) if relative * self.scale else self.error


def _named(output: Outputs) -> dict[str, Array]:
    named = output if isinstance(output, Mapping) else {"": output}
    return {name: _values(array) for name, array in named.items()}


def _unlike(expected: dict[str, Array], found: dict[str, Array]) -> str | None:
    if list(expected) != list(found):
        return f"the candidate returns {', '.join(found)}, the reference {', '.join(expected)}"
    for name in expected:
        if broken := _broken(expected[name], found[name]):
            return f"`{name}`: {broken}" if name else broken
    return None


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
