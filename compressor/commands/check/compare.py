"""Compare two sides: exact costs, outputs and measured time; combine them into one verdict."""

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
    """Result of one check.

    ``measured`` is None if time was not requested. ``reasons``: why another requested comparison is undecided;
    ``notes``: comparisons without a limit that were not possible.
    """

    baseline: Side
    candidate: Side
    findings: tuple[Finding, ...]
    measured: Measured | None
    reasons: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """FAIL if any comparison failed; INCONCLUSIVE if none failed and one is undecided; else PASS."""
        slowdown = "PASS" if self.measured is None else self.measured.regression.outcome
        if slowdown == "FAIL" or not all(finding.passed for finding in self.findings):
            return "FAIL"
        return "INCONCLUSIVE" if self.reasons else slowdown

    def exit_code(self, *, strict: bool) -> int:
        """Exit code 0, 3 or 4; with ``strict`` an inconclusive check counts as failed."""
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
    """Compare ``candidate`` with ``baseline``; with the scope ``exact`` time is not measured."""
    for name, value in (("batch", batch), ("threads", threads)):
        if value < 1:
            raise UsageError(f"--{name} is {value}, expected at least 1")
    findings = compare_exactly(baseline, candidate, limits)
    findings += compare_outputs(baseline, candidate, limits.output_error, batch)
    measured: Measured | None = None
    missing = [
        Reason("artifact-missing", f"`{side.name}`: {side.missing}")
        for side in (baseline, candidate)
        if side.file is None
    ]
    if scope == "all":
        if missing:
            measured = undecided(rule, missing)
        else:
            other_machine = [] if any_device else _other_machine(baseline, candidate)
            measured = measure_slowdown(
                baseline, candidate, rule, batch=batch, threads=threads, invalid=other_machine, moved=moved
            )
    not_compared = tuple(Reason(reason.code, f"outputs not compared: {reason.text}") for reason in missing)
    has_limit = limits.output_error is not None
    return Checked(
        baseline,
        candidate,
        tuple(findings),
        measured,
        not_compared if has_limit else (),
        () if has_limit else not_compared,
    )


def _other_machine(*sides: Side) -> list[Reason]:
    here = fingerprint()
    reasons = (differs_from(side.name, side.device, here) for side in sides if side.device is not None)
    return [reason for reason in reasons if reason is not None]


def _named(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "file": None if side.file is None else str(side.file),
        "sha256": side.sha256,
        "accuracy": side.accuracy,
        "missing": side.missing,
        "device": None if side.device is None else dict(side.device),
    }
