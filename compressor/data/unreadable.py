"""Record unreadable samples of a data set, and raise an error above a limit.

In a million pictures some are broken, and hours of training should not end at the first. But a disk
that failed must not count as a million broken pictures: above the limit it is an error.
"""

from __future__ import annotations

from threading import Lock

from compressor.data.split import Bad
from compressor.errors import CompressError

LEAST_ALLOWED = 10
"""A small data set may have a few damaged files, of which 0.1 % would allow none."""
ALLOWED_IN = 1000
"""One sample in so many may be unreadable: too few to change an accuracy that is compared to within 0.1 points."""

_SHOWN = 3


def limit_of(samples: int) -> int:
    """The number of unreadable samples that half a data set of this size may have."""
    return max(LEAST_ALLOWED, samples // ALLOWED_IN)


class Damage:
    """The unreadable samples of one half of a data set, each once; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: dict[str, Bad] = {}
        self._lock = Lock()

    def add(self, name: str, reason: str) -> None:
        """Record one; raise an error above the limit."""
        with self._lock:
            self._found.setdefault(name, Bad(name, reason))
            recorded = list(self._found.values())
        if len(recorded) > self.limit:
            first = "; ".join(str(bad) for bad in recorded[:_SHOWN])
            raise CompressError(
                f"more than {self.limit} samples are unreadable: {first}; …",
                f"repair or remove them; the larger of {LEAST_ALLOWED} and 0.1 % of a half may be unreadable",
            )

    @property
    def found(self) -> tuple[Bad, ...]:
        """All records, sorted by name, because the order in which threads add them does not repeat."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda bad: bad.name))
