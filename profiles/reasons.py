"""Why a measurement decides nothing: one code for programs, one sentence for people.

A code never changes its meaning; sentences carry the numbers and may. ``NOTES`` are worth saying and decide nothing:
a data-centre GPU at its power limit is at work, not in trouble.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

REASONS = {
    "undecided": "the tolerance lies within the interval",
    "too-few-processes": "fewer processes ended well than the first look needs",
    "host-contended": "other programs took the cores",
    "throttled": "the processor or the GPU slowed itself down to cool or to save itself",
    "fingerprint-differs": "the baseline was written on another machine",
    "artifact-missing": "an artifact is gone, or is not the one that the baseline names",
}
NOTES = {"power-limited": "the GPU ran at its power limit, which is usual under load"}


@dataclass(frozen=True)
class Reason:
    """``code`` is a key of `REASONS` or `NOTES`; ``text`` says what was found."""

    code: str
    text: str

    def __post_init__(self) -> None:
        if self.code not in REASONS and self.code not in NOTES:
            raise ValueError(f"no reason is called `{self.code}`; known: {', '.join([*REASONS, *NOTES])}")

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)
