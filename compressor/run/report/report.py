"""The report of a run as one value, the content of ``report.json``.

Its fields are documented in ``docs/report.md``; the schema number changes when a field changes its
meaning or is removed. Reading a report needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from compressor.errors import CompressError, UsageError

SCHEMA = 1
FAR = 0.1
"""A student that loses more than this (absolute) of its teacher's accuracy is far below it."""
CHANCE = 1.5
"""A student with at most this many times the accuracy of a random guess is no better than chance."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """One finished run. Every field is plain JSON."""

    request: Json
    model: Json
    data: Json
    saliency: Json
    cost: Mapping[str, Json]
    accuracy: Json
    latency: Sequence[Json]
    trainings: Sequence[Json]
    widths: Mapping[str, Sequence[int]]
    layers: Sequence[Json]
    not_cut: Sequence[Json]
    checks: Sequence[Json]
    proofs: Sequence[Json]
    artifacts: Sequence[Json]
    steps: Sequence[Json]
    environment: Json
    warnings: Sequence[str]
    folder: str
    fit: Json | None = None
    engines: Mapping[str, Sequence[Json]] = field(default_factory=dict)
    repairs: Sequence[Json] = ()
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check["passed"] for check in self.checks)

    @property
    def shortfall(self) -> str | None:
        """A sentence if the student is far below its teacher; else None."""
        teacher, student = self.accuracy["teacher"], self.accuracy["student"]
        by_chance = 1 / self.model["classes"]
        lost = teacher - student > FAR
        guesses = student <= CHANCE * by_chance < teacher
        if not lost and not guesses:
            return None
        level = (
            "no better than chance"
            if guesses
            else f"{(teacher - student) * 100:.1f} points below its teacher"
        )
        metric = self.accuracy["metric"]
        return f"the student is {level}: {metric} {student:.1%} against {teacher:.1%}"

    @property
    def remedies(self) -> str:
        """Advice for a student that is far below its teacher."""
        repaired = [row["images"] for row in self.repairs]
        images = f"more images for the repair (repair.images, now {max(repaired, default=0)})"
        return f"{images}, a smaller --ratio, or more --epochs"

    @property
    def verdict(self) -> str:
        """The result in a few words: the shortfall of the student, if any, and whether all checks passed."""
        checks = "all checks passed" if self.passed else "A CHECK FAILED"
        return checks if self.shortfall is None else f"{self.shortfall} ({checks})".replace("%", " %")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the schema first."""
        names = [each.name for each in fields(self)]
        return {name: getattr(self, name) for name in ["schema", *names[:-1]]}


def read_report(path: Path) -> Report:
    """The report in a file, or in a run folder."""
    file = path / "report.json" if path.is_dir() else path
    try:
        value = json.loads(file.read_text())
        schema = value["schema"]
    except OSError as error:
        begun = path.is_dir() and (path / "recipe.toml").exists()
        raise UsageError(
            f"no report in `{path}`: {error.strerror}",
            "the run is not finished: give its command again to continue" if begun else "give a run folder",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"`{file}` is not a report: {error}") from error
    if schema != SCHEMA:
        raise CompressError(f"`{file}` has schema {schema}, this version reads {SCHEMA}")
    try:
        return Report(**value)
    except TypeError as error:
        raise CompressError(f"`{file}` is not a report: {error}") from error


def compared(teacher: float, student: float) -> dict[str, float | None]:
    """A cost of both networks, and the share that is removed."""
    return {
        "teacher": teacher,
        "student": student,
        "removed": 1 - student / teacher if teacher else None,
    }
