"""What is asked of a cut: how much of which cost to remove, and which widths are allowed."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.errors import UsageError, unknown_name

COST_TITLES = {"macs": "MACs", "params": "parameters", "channels": "channels"}
"""Each cost by its name in recipes, and as people write it."""


@dataclass(frozen=True)
class Budget:
    """``remove`` is the share of the teacher's cost that goes; what stays is 1 - remove.

    ``keep``: patterns of module paths (``head.*``) that are not touched: a group that has a slot in one of them
    stays whole. ``granule``: widths are multiples of it where a layer is wide enough (four granules or more); a
    narrower layer uses the largest smaller power of two; ``granules`` sets another one for some modules
    (``layer4.*=16``). ``keep_at_least``: the share of each group that always stays, so that one threshold over all
    layers cannot empty any of them; ``least_width``: the channels that do. ``whole_heads``: attention loses heads
    instead of width inside every head.
    """

    remove: float = 0.5
    of: str = "macs"
    keep: tuple[str, ...] = ()
    granule: int = 8
    granules: tuple[str, ...] = ()
    keep_at_least: float = 0.1
    least_width: int = 1
    whole_heads: bool = False

    def __post_init__(self) -> None:
        if self.of not in COST_TITLES:
            raise unknown_name("cost", self.of, COST_TITLES)
        if not 0 < self.remove < 1:
            raise UsageError(
                f"cannot remove {self.remove:g} of the {COST_TITLES[self.of]}",
                "--ratio is the share of the teacher's cost to remove: above 0 and below 1, as in 0.7",
            )
        for name in ("granule", "least_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"budget.{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.keep_at_least <= 1:
            raise UsageError(f"budget.keep_at_least is {self.keep_at_least:g}, expected a share from 0 to 1")
        self.granule_patterns()

    def granule_patterns(self) -> list[tuple[str, int]]:
        """Patterns of modules with a granule of their own, in the order given."""
        pairs = []
        for text in self.granules:
            pattern, equals, number = text.rpartition("=")
            if not pattern or not equals or not number.isdigit() or int(number) < 1:
                raise UsageError(f"budget.granules has `{text}`", "a pattern and a number, as in layer4.*=16")
            pairs.append((pattern, int(number)))
        return pairs
