"""Settings of a cut: the share of a cost to remove, limits, and the widths that are allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compressor.errors import UsageError, unknown_name
from compressor.recipe.setting import by_code, setting

COST_TITLES = {
    "macs": "MACs",
    "params": "parameters",
    "channels": "channels",
    "latency": "latency",
    "latency-int8": "latency in INT8",
}
"""Each cost by its name in recipes, and as people write it."""

TIMED_FILES = {"latency": "onnx", "latency-int8": "onnx-int8"}
"""The format whose time each kind of latency is."""

KEEP_AT_LEAST = 0.1
"""The share of each group that always stays, so that one threshold over all layers cannot empty any of them."""


def cost_of(of: str) -> str:
    """The cost that a budget's ``of`` counts: the latency of either file is ``latency``."""
    return "latency" if of in TIMED_FILES else of


def title_of(cost: str, of: str) -> str:
    """A cost as people write it, the latency with the file that a budget's ``of`` means."""
    return COST_TITLES[of] if cost == cost_of(of) else COST_TITLES.get(cost, cost)


@dataclass(frozen=True)
class Budget:
    """``remove`` is the share of the teacher's cost that goes; what stays is 1 - remove.

    ``keep``: patterns of module paths (``head.*``) that are not touched: a group that has a slot in one of them
    stays whole. ``granule``: widths are multiples of it where a layer is wide enough (four granules or more); a
    narrower layer uses the largest smaller power of two. ``whole_heads``: attention loses heads
    instead of width inside every head. ``max_macs`` and its like are limits of their own, beside ``remove``
    or (with ``remove`` at 0) instead of it; widths are then searched for so that they keep the highest scores in sum.
    With ``of = "latency-int8"`` every time is that of the INT8 file: in eight bits other widths are fast.

    ``keep_at_least`` (`KEEP_AT_LEAST`) is set by code that compares criteria, and is no key.
    """

    remove: float = setting(0.5, "Share of the teacher's cost to remove (--ratio)")
    of: str = setting("macs", "Cost that remove counts: macs, params, channels, latency or latency-int8")
    keep: tuple[str, ...] = setting((), 'Patterns of modules that are not touched, as in ["head.*"]')
    granule: int = setting(8, "Widths are multiples of this where a layer is wide enough")
    whole_heads: bool = setting(False, "Attention loses heads instead of width inside every head")
    max_macs: int | None = setting(None, "Most MACs that may stay")
    max_params: int | None = setting(None, "Most parameters that may stay")
    max_bytes: int | None = setting(None, "Most bytes of the ONNX file")
    max_latency_ms: float | None = setting(
        None, "Most milliseconds in ONNX Runtime (first batch, threads of profile)"
    )
    keep_at_least: float = by_code(KEEP_AT_LEAST)

    def __post_init__(self) -> None:
        if self.of not in COST_TITLES:
            raise unknown_name("cost", self.of, COST_TITLES)
        for name, limit in self.limits().items():
            if not 0 < limit < float("inf"):
                raise UsageError(f"budget.{name} is {limit:g}, expected more than 0")
        least = self.remove >= 0 if self.limits() else self.remove > 0
        if not (least and self.remove < 1):
            raise UsageError(
                f"cannot remove {self.remove:g} of the {COST_TITLES[self.of]}",
                "--ratio is the share of the teacher's cost to remove: above 0 and below 1, as in 0.7",
            )
        if self.granule < 1:
            raise UsageError(f"budget.granule is {self.granule}, expected at least 1")
        if not 0 <= self.keep_at_least <= 1:
            raise UsageError(f"budget.keep_at_least is {self.keep_at_least:g}, expected a share from 0 to 1")

    def limits(self) -> dict[str, float]:
        """The limits that are given, by their names."""
        names = ("max_macs", "max_params", "max_bytes", "max_latency_ms")
        return {name: float(limit) for name in names if (limit := getattr(self, name)) is not None}

    def share_of(self, cost: str, remove: float) -> Budget:
        """The same wishes with one share of one cost, and without limits."""
        return replace(
            self,
            of=cost,
            remove=remove,
            max_macs=None,
            max_params=None,
            max_bytes=None,
            max_latency_ms=None,
        )

    def title_of(self, cost: str) -> str:
        """A cost as people write it, the latency with the file that is meant."""
        return title_of(cost, self.of)

    @property
    def cost(self) -> str:
        """The cost that ``remove`` counts, whichever file is timed."""
        return cost_of(self.of)

    @property
    def timed_as(self) -> str:
        """The format whose time every latency is."""
        return TIMED_FILES.get(self.of, TIMED_FILES["latency"])

    @property
    def is_searched(self) -> bool:
        """True if widths are searched for within limits; for a share of a counted cost one threshold is enough."""
        return self.cost == "latency" or bool(self.limits())

    @property
    def needs(self) -> frozenset[str]:
        """The costs that have to be measured on files first."""
        timed = self.cost == "latency" or self.max_latency_ms is not None
        asked = {"latency": timed, "bytes": self.max_bytes is not None}
        return frozenset(name for name, wanted in asked.items() if wanted)
