"""What of a data set could not be read: counted, named, and borne up to a limit.

In a million pictures some are broken, and hours of training should not end at the first. Neither
should a disk that went away be taken for a million broken pictures: above the limit it is an error.
"""

from __future__ import annotations

from threading import Lock

from compressor.data.split import Bad
from compressor.errors import CompressError

_SHOWN = 3


class Damage:
    """What was bad in one half of a data set, each thing once; threads may add to it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: dict[str, Bad] = {}
        self._lock = Lock()

    def add(self, kind: str, name: str, reason: str) -> None:
        """Note it; above the limit, stop."""
        with self._lock:
            self._found.setdefault(name, Bad(name, reason))
            found = list(self._found.values())
        if self.limit == 0:
            raise CompressError(
                f"cannot read {kind} `{name}`: {reason}",
                "repair the file or take it away; `data.max_bad` in the recipe says how many may be passed over",
            )
        if len(found) > self.limit:
            shown = "; ".join(str(each) for each in found[:_SHOWN])
            raise CompressError(
                f"{len(found)} bad samples, data.max_bad is {self.limit}: {shown}; …",
                "repair them or take them away, or raise `data.max_bad` in the recipe",
            )

    @property
    def found(self) -> tuple[Bad, ...]:
        """All of it, by name: the order in which threads come across things does not repeat."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda bad: bad.name))
