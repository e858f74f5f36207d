"""A whole check: read both sides, compare what is exact, measure what is not, and give one verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compressor.commands.check.exact import Finding, Limits, compare_exactly
from compressor.commands.check.parity import compare_outputs
from compressor.commands.check.same_machine import differs_from
from compressor.commands.check.sides import Side
from compressor.commands.check.slowdown import Measured, measure_slowdown, undecided
from compressor.errors import UsageError
from compressor.profiling import Reason, Rule, fingerprint
from compressor.profiling.regression import Outcome

SCHEMA = 1
EXIT_CODES: dict[Outcome, int] = {"PASS": 0, "INCONCLUSIVE": 3, "FAIL": 4}


@dataclass(frozen=True)
class Checked:
    """One finished check.

    ``measured`` is None where nobody asked for time. ``reasons``: why something else that was asked for could not be
    decided; ``notes``: what was not compared, and nobody had set a limit to.
    """

    baseline: Side
    candidate: Side
    findings: tuple[Finding, ...]
    measured: Measured | None
    reasons: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """FAIL if anything failed; INCONCLUSIVE if nothing did and something could not be decided."""
        slowdown = "PASS" if self.measured is None else self.measured.regression.outcome
        if slowdown == "FAIL" or not all(finding.passed for finding in self.findings):
            return "FAIL"
        return "INCONCLUSIVE" if self.reasons else slowdown

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
            "reasons": [reason.to_dict() for reason in self.reasons],
            "notes": [note.to_dict() for note in self.notes],
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
    any_device: bool = False,
    moved: Callable[[int, int], None] = lambda done, most: None,
) -> Checked:
    """Compare ``candidate`` with ``baseline``; with the scope ``exact`` nothing is timed."""
    for name, given in (("batch", batch), ("threads", threads)):
        if given < 1:
            raise UsageError(f"--{name} is {given}, expected at least 1")
    findings = compare_exactly(baseline, candidate, limits)
    findings += compare_outputs(baseline, candidate, limits.output_error, batch)
    measured: Measured | None = None
    gone = [
        Reason("artifact-missing", f"`{side.name}`: {side.missing}")
        for side in (baseline, candidate)
        if side.file is None
    ]
    if scope == "all":
        if gone:
            measured = undecided(rule, gone)
        else:
            elsewhere = [] if any_device else _elsewhere(baseline, candidate)
            measured = measure_slowdown(
                baseline, candidate, rule, batch=batch, threads=threads, invalid=elsewhere, moved=moved
            )
    unseen = tuple(Reason(reason.code, f"outputs not compared: {reason.text}") for reason in gone)
    asked = limits.output_error is not None
    return Checked(
        baseline, candidate, tuple(findings), measured, unseen if asked else (), () if asked else unseen
    )


def _elsewhere(*sides: Side) -> list[Reason]:
    here = fingerprint()
    told = (differs_from(side.name, side.device, here) for side in sides if side.device is not None)
    return [reason for reason in told if reason is not None]


def _named(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "file": None if side.file is None else str(side.file),
        "sha256": side.sha256,
        "accuracy": side.accuracy,
        "missing": side.missing,
        "device": None if side.device is None else dict(side.device),
    }
