"""Record unreadable samples of a data set, and raise an error above a limit.

In a million pictures some are broken, and hours of training should not end at the first. But a disk
that failed must not count as a million broken pictures: above the limit it is an error.
"""

from __future__ import annotations

from threading import Lock

from compressor.data.split import Bad
from compressor.errors import CompressError

_SHOWN = 3


class Damage:
    """The unreadable samples of one half of a data set, each once; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: dict[str, Bad] = {}
        self._lock = Lock()

    def add(self, kind: str, name: str, reason: str) -> None:
        """Record one; raise an error above the limit."""
        with self._lock:
            self._found.setdefault(name, Bad(name, reason))
            recorded = list(self._found.values())
        if self.limit == 0:
            raise CompressError(
                f"cannot read {kind} `{name}`: {reason}",
                "repair or remove the file, or set `data.max_bad` in the recipe to the number that may be skipped",
            )
        if len(recorded) > self.limit:
            first = "; ".join(str(bad) for bad in recorded[:_SHOWN])
            raise CompressError(
                f"{len(recorded)} unreadable samples, data.max_bad is {self.limit}: {first}; …",
                "repair or remove them, or set `data.max_bad` higher in the recipe",
            )

    @property
    def found(self) -> tuple[Bad, ...]:
        """All records, sorted by name, because the order in which threads add them does not repeat."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda bad: bad.name))
