"""Record unreadable samples of a data set, and raise an error above a limit.

In a million pictures some are broken, and hours of training should not end at the first. But a disk
that failed must not count as a million broken pictures: above the limit it is an error.
"""

from __future__ import annotations

from threading import Lock

from compressor.data.split import Bad
from compressor.errors import CompressError

_SHOWN = 3
_IN_A_THOUSAND = 1


def allowed_of(least: int, samples: int) -> int:
    """How many of so many samples may be unreadable: ``least``, or one in a thousand of a large set; 0 stays 0."""
    return max(least, samples * _IN_A_THOUSAND // 1000) if least else 0


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
                "repair or remove the file",
            )
        if len(recorded) > self.limit:
            first = "; ".join(str(bad) for bad in recorded[:_SHOWN])
            raise CompressError(
                f"{len(recorded)} unreadable samples, expected at most {self.limit}: {first}; …",
                "repair or remove them; ten, or one in a thousand, may be unreadable",
            )

    @property
    def found(self) -> tuple[Bad, ...]:
        """All records, sorted by name, because the order in which threads add them does not repeat."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda bad: bad.name))
