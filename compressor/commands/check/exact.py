"""First tier of a check: exact costs, which do not depend on a machine's load, compared with ``<=``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from compressor.commands.check.sides import Side
from compressor.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Limits on the extra cost of a candidate.

    ``growth``: share by which MACs, parameters, bytes and operators may grow. ``bytes``: largest size of the file.
    ``accuracy_drop``: in points; with None it is checked only if the accuracy of both sides is known.
    ``output_error``: largest difference of outputs, as a share of the baseline's largest; None is no limit.
    """

    growth: float = 0.01
    bytes: int | None = None
    accuracy_drop: float | None = None
    granule: int = 8
    output_error: float | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("max-growth", self.growth),
            ("max-accuracy-drop", self.accuracy_drop),
            ("max-output-error", self.output_error),
        ):
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"--{name} is {value:g}, expected at least 0")
        for name, number in (("max-bytes", self.bytes), ("granule", self.granule)):
            if number is not None and number < 1:
                raise UsageError(f"--{name} is {number}, expected at least 1")


@dataclass(frozen=True)
class Finding:
    """One comparison: the numbers of both sides and the largest that is allowed; None is no limit."""

    name: str
    passed: bool
    baseline: float
    candidate: float
    limit: float | None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


USUAL_DROP = 0.5
"""Default limit on lost accuracy, in points."""


def compare_exactly(baseline: Side, candidate: Side, limits: Limits) -> list[Finding]:
    """Compare the costs that are known from the files, and the accuracy if both sides have it."""
    findings = [
        _not_more(title, before, after, before * (1 + limits.growth))
        for title, before, after in (
            ("MACs", baseline.macs, candidate.macs),
            ("parameters", baseline.params, candidate.params),
            ("file bytes", baseline.bytes, candidate.bytes),
        )
    ]
    if limits.bytes is not None:
        findings.append(_not_more("file bytes at most", baseline.bytes, candidate.bytes, limits.bytes))
    findings.append(
        _not_more(
            "operators",
            baseline.nodes,
            candidate.nodes,
            baseline.nodes * (1 + limits.growth),
            _differences(baseline, candidate),
        )
    )
    off_granule = [_off_granule(side, limits.granule) for side in (baseline, candidate)]
    widths = ", ".join(str(width) for width in sorted(set(off_granule[1]))[:8])
    findings.append(
        _not_more(
            f"layers off the granule of {limits.granule}",
            len(off_granule[0]),
            len(off_granule[1]),
            len(off_granule[0]),
            f"widths {widths}" if widths else "",
        )
    )
    accuracy = _accuracy(baseline, candidate, limits.accuracy_drop)
    return findings if accuracy is None else [*findings, accuracy]


def _not_more(name: str, before: float, after: float, limit: float, detail: str = "") -> Finding:
    return Finding(name, after <= limit, before, after, limit, detail)


def _off_granule(side: Side, granule: int) -> list[int]:
    """Widths that are no multiple of the granule, of layers at least four times as wide as it."""
    return [width for width in side.widths if width >= 4 * granule and width % granule]


def _differences(baseline: Side, candidate: Side) -> str:
    kinds = sorted({*baseline.operators, *candidate.operators})
    pairs = ((kind, baseline.operators.get(kind, 0), candidate.operators.get(kind, 0)) for kind in kinds)
    return ", ".join(f"{kind} {before} → {after}" for kind, before, after in pairs if before != after)


def _accuracy(baseline: Side, candidate: Side, drop: float | None) -> Finding | None:
    known = [side for side in (baseline, candidate) if side.accuracy is not None]
    if len(known) < 2:
        if drop is not None:
            unknown = next(side for side in (baseline, candidate) if side.accuracy is None)
            raise UsageError(
                f"the accuracy of `{unknown.name}` is not known",
                "give a run folder or a baseline saved from one; a file alone has no accuracy",
            )
        return None
    allowed = USUAL_DROP if drop is None else drop
    before, after = (100 * float(side.accuracy or 0) for side in (baseline, candidate))
    lost = before - after
    return Finding("top-1 lost, points", lost <= allowed + 1e-9, before, after, allowed, f"{lost:+.2f} lost")
