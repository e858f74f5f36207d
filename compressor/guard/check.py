"""A whole check: read both sides, compare what is exact, measure what is not, and give one verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compressor.guard.exact import Finding, Limits, compare_exactly
from compressor.guard.measured import Measured, measure_slowdown, undecided
from compressor.guard.sides import Side
from profiles import Rule
from profiles.regression import Outcome

SCHEMA = 1
EXIT_CODES: dict[Outcome, int] = {"PASS": 0, "INCONCLUSIVE": 3, "FAIL": 4}


@dataclass(frozen=True)
class Checked:
    """One finished check. ``measured`` is None where nobody asked for time."""

    baseline: Side
    candidate: Side
    findings: tuple[Finding, ...]
    measured: Measured | None

    @property
    def outcome(self) -> Outcome:
        """FAIL if anything failed; INCONCLUSIVE if only the time could not be decided."""
        if not all(finding.passed for finding in self.findings):
            return "FAIL"
        return "PASS" if self.measured is None else self.measured.regression.outcome

    def exit_code(self, *, strict: bool) -> int:
        """0, 3 or 4; with ``strict`` what could not be decided counts as failed."""
        code = EXIT_CODES[self.outcome]
        return EXIT_CODES["FAIL"] if strict and code else code

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, raw samples included."""
        return {
            "schema": SCHEMA,
            "outcome": self.outcome,
            "baseline": _named(self.baseline),
            "candidate": _named(self.candidate),
            "exact": [finding.to_dict() for finding in self.findings],
            "latency": None if self.measured is None else self.measured.regression.to_dict(),
            "launches": [] if self.measured is None else list(self.measured.launches),
            "device": None if self.measured is None else self.measured.device,
        }


Scope = Literal["all", "exact"]


def check_sides(
    baseline: Side,
    candidate: Side,
    limits: Limits,
    rule: Rule,
    *,
    scope: Scope = "all",
    batch: int = 1,
    threads: int = 1,
    moved: Callable[[int, int], None] = lambda done, most: None,
) -> Checked:
    """Compare ``candidate`` with ``baseline``; with the scope ``exact`` nothing is run."""
    findings = tuple(compare_exactly(baseline, candidate, limits))
    measured: Measured | None = None
    if scope == "all":
        gone = next((side for side in (baseline, candidate) if side.file is None), None)
        if gone is not None:
            measured = undecided(rule, f"`{gone.name}`: {gone.missing}")
        else:
            measured = measure_slowdown(baseline, candidate, rule, batch=batch, threads=threads, moved=moved)
    return Checked(baseline, candidate, findings, measured)


def _named(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "file": None if side.file is None else str(side.file),
        "sha256": side.sha256,
        "accuracy": side.accuracy,
        "missing": side.missing,
    }
