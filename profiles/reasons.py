"""Reasons why a measurement is inconclusive: one code for programs, one sentence for people.

A code never changes its meaning; sentences contain the numbers and may change. ``NOTES`` are reported without effect
on the result: a data-centre GPU often works at its power limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

REASONS = {
    "undecided": "the tolerance lies within the confidence interval",
    "too-few-processes": "fewer processes finished than the first decision needs",
    "host-contended": "other programs used the cores",
    "throttled": "the processor or the GPU lowered its clocks to cool or to protect itself",
    "fingerprint-differs": "the baseline was written on another machine",
    "artifact-missing": "an artifact is missing, or is not the one that the baseline names",
}
NOTES = {"power-limited": "the GPU ran at its power limit, which is usual under load"}


@dataclass(frozen=True)
class Reason:
    """``code`` is a key of `REASONS` or `NOTES`; ``text`` is the sentence with the numbers."""

    code: str
    text: str

    def __post_init__(self) -> None:
        if self.code not in REASONS and self.code not in NOTES:
            raise ValueError(f"no reason is called `{self.code}`; known: {', '.join([*REASONS, *NOTES])}")

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)
