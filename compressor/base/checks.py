"""The result of one comparison, and the end of a run whose comparison failed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from compressor.errors import CompressError


@dataclass(frozen=True)
class Check:
    """One equality: the distance of the two sides, and the distance that is allowed.

    ``network``, ``file`` and ``runtime`` are what was compared, where a report groups checks by them.
    """

    name: str
    passed: bool
    max_abs_error: float
    tolerance: float
    detail: str = ""
    network: str | None = None
    file: str | None = None
    runtime: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; JSON has no infinity, so that becomes null. Empty groups are left out."""
        groups = ("network", "file", "runtime")
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
            if value is not None or key not in groups
        }


def require(checks: Iterable[Check]) -> None:
    """Return if all passed; stop the run if one did not."""
    for check in checks:
        if not check.passed:
            raise CompressError(
                f"{check.name}: largest difference {check.max_abs_error:.3g}, rounding explains "
                f"{check.tolerance:.3g}" + (f" ({check.detail})" if check.detail else ""),
                "nothing was exported; please report the network, this must not happen",
            )
