"""What is asked of a cut: how much of which cost to remove, and which widths are allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compressor.errors import UsageError, unknown_name
from compressor.recipe.setting import setting

COST_TITLES = {"macs": "MACs", "params": "parameters", "channels": "channels", "latency": "latency"}
"""Each cost by its name in recipes, and as people write it."""

TIMED_FILES = {"onnx": "", "onnx-int8": " in INT8"}
"""The formats whose time can be asked for, and what the latency is then called beyond its name."""


def title_of(cost: str, latency_of: str) -> str:
    """A cost as people write it, the latency with the file that is meant."""
    return COST_TITLES.get(cost, cost) + (TIMED_FILES[latency_of] if cost == "latency" else "")


@dataclass(frozen=True)
class Budget:
    """``remove`` is the share of the teacher's cost that goes; what stays is 1 - remove.

    ``keep``: patterns of module paths (``head.*``) that are not touched: a group that has a slot in one of them
    stays whole. ``granule``: widths are multiples of it where a layer is wide enough (four granules or more); a
    narrower layer uses the largest smaller power of two; ``granules`` sets another one for some modules
    (``layer4.*=16``). ``keep_at_least``: the share of each group that always stays, so that one threshold over all
    layers cannot empty any of them; ``least_width``: the channels that do. ``whole_heads``: attention loses heads
    instead of width inside every head. ``max_macs`` and its like are limits of their own, beside ``remove``
    or (with ``remove`` at 0) instead of it; widths are then searched for so that they keep the highest scores in sum.
    ``latency_of``: the file whose time is meant (`TIMED_FILES`): in eight bits other widths are fast.
    """

    remove: float = setting(0.5, "Share of the teacher's cost to remove (--ratio)")
    of: str = setting("macs", "Cost that remove counts: macs, params, channels or latency")
    keep: tuple[str, ...] = setting((), 'Patterns of modules that are not touched, as in ["head.*"]')
    granule: int = setting(8, "Widths are multiples of this where a layer is wide enough")
    granules: tuple[str, ...] = setting((), 'Other granules for some modules, as in ["layer4.*=16"]')
    keep_at_least: float = setting(0.1, "Share of the channels of each group that always stays")
    least_width: int = setting(1, "Channels of each group that always stay")
    whole_heads: bool = setting(False, "Attention loses heads instead of width inside every head")
    max_macs: int | None = setting(None, "Most MACs that may stay")
    max_params: int | None = setting(None, "Most parameters that may stay")
    max_bytes: int | None = setting(None, "Most bytes of the ONNX file")
    max_latency_ms: float | None = setting(
        None, "Most milliseconds in ONNX Runtime (first batch, threads of profile)"
    )
    latency_of: str = setting("onnx", "File whose time is meant: onnx or onnx-int8")

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
        for name in ("granule", "least_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"budget.{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.keep_at_least <= 1:
            raise UsageError(f"budget.keep_at_least is {self.keep_at_least:g}, expected a share from 0 to 1")
        if self.latency_of not in TIMED_FILES:
            raise unknown_name("timed file", self.latency_of, TIMED_FILES)
        if self.latency_of != "onnx" and "latency" not in self.needs:
            raise UsageError(
                f"budget.latency_of is {self.latency_of}, and no time is asked for",
                "add --set budget.of=latency, or --max-latency-ms",
            )
        self.granule_patterns()

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
            latency_of="onnx",
        )

    def title_of(self, cost: str) -> str:
        """A cost as people write it, the latency with the file that is meant."""
        return title_of(cost, self.latency_of)

    @property
    def is_searched(self) -> bool:
        """Whether widths are searched for within limits; a counted share alone is a matter of one threshold."""
        return self.of == "latency" or bool(self.limits())

    @property
    def needs(self) -> frozenset[str]:
        """The costs that have to be measured on files first."""
        timed = self.of == "latency" or self.max_latency_ms is not None
        asked = {"latency": timed, "bytes": self.max_bytes is not None}
        return frozenset(name for name, wanted in asked.items() if wanted)

    def granule_patterns(self) -> list[tuple[str, int]]:
        """Patterns of modules with a granule of their own, in the order given."""
        pairs = []
        for text in self.granules:
            pattern, equals, number = text.rpartition("=")
            if not pattern or not equals or not number.isdigit() or int(number) < 1:
                raise UsageError(f"budget.granules has `{text}`", "a pattern and a number, as in layer4.*=16")
            pairs.append((pattern, int(number)))
        return pairs
