"""What is asked of a cut: how much of which cost to remove, and which widths are allowed."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.errors import UsageError, unknown_name

COST_TITLES = {"macs": "MACs", "params": "parameters", "channels": "channels"}
"""Each cost by its name in recipes, and as people write it."""


@dataclass(frozen=True)
class Budget:
    """``remove`` is the share of the teacher's cost that goes; what stays is 1 - remove.

    ``granule``: widths are multiples of it where a layer is wide enough (four granules or more); a
    narrower layer uses the largest smaller power of two. ``keep_at_least``: the share of each group that
    always stays, so that one threshold over all layers cannot empty any of them. ``ignore``: patterns
    (as for file names) of groups that stay whole.
    """

    remove: float = 0.5
    of: str = "macs"
    granule: int = 8
    keep_at_least: float = 0.1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.of not in COST_TITLES:
            raise unknown_name("cost", self.of, COST_TITLES)
        if not 0 < self.remove < 1:
            raise UsageError(
                f"cannot remove {self.remove:g} of the {COST_TITLES[self.of]}",
                "--ratio is the share of the teacher's cost to remove: above 0 and below 1, as in 0.7",
            )
        if self.granule < 1:
            raise UsageError(f"budget.granule is {self.granule}, expected at least 1")
        if not 0 <= self.keep_at_least <= 1:
            raise UsageError(f"budget.keep_at_least is {self.keep_at_least:g}, expected a share from 0 to 1")
