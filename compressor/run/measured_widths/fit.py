"""Find widths that meet measured limits: choose widths, build the network, measure it, correct the limit, repeat.

The sum of block times is only an estimate of a network's time. So the network of the chosen widths is built, exported
and timed beside the teacher; the limit is corrected by the error of the estimate, and widths are chosen again, in at
most three rounds. In each round all built networks are timed side by side; the closest one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compressor.errors import UsageError
from compressor.pruning.cutting import cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import Allocation, allocate
from compressor.pruning.widths.latency_cost import FileBytes, Measured
from compressor.pruning.widths.limits import allowed_by
from compressor.recipe.budget import Budget
from compressor.run.measured_widths.bench import Bench, Real

ROUNDS = 3
UNDER, OVER = 0.015, 0.005
"""A measured cost this share below or above its limit needs no further round."""
TOLERATED = {"latency": 0.03, "bytes": 0.0}
"""A limit counts as met up to this share above it: measured times vary, bytes do not."""


@dataclass(frozen=True)
class Round:
    """One choice of widths: its predicted costs, and the measured costs of its network, in ms and bytes."""

    allocation: Allocation
    file: Path
    predicted: Mapping[str, float]
    real: Real | None = None

    @property
    def measured(self) -> dict[str, float]:
        """The measured costs of the network; it must have been timed."""
        assert self.real is not None
        found = {"latency": self.real.latency_ms, "bytes": float(self.real.bytes)}
        return {name: found[name] for name in self.predicted}

    @property
    def contended(self) -> bool:
        """True if other programs used the cores while it was timed."""
        return self.real is not None and self.real.contended

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "predicted": dict(self.predicted),
            "measured": dict(self.measured),
            "scores_kept": self.allocation.kept,
            "macs_removed": self.allocation.plan.removed("macs"),
            "contended": self.contended,
        }


@dataclass(frozen=True)
class Fitted:
    """The chosen widths, every round, and (if latency is limited) the widths that remove as many MACs by threshold."""

    chosen: Round
    rounds: tuple[Round, ...]
    allowed: Mapping[str, float]
    teacher: Mapping[str, float]
    control: Round | None
    about: str
    budget: Budget

    @property
    def allocation(self) -> Allocation:
        """The plan, with the measured costs."""
        allocation = self.chosen.allocation
        scales = {"latency": 1000, "bytes": 1}
        costs = {
            name: (round(self.teacher[name] * scales[name]), round(cost * scales[name]))
            for name, cost in self.chosen.measured.items()
        }
        plan = replace(allocation.plan, costs={**allocation.plan.costs, **costs})
        return replace(allocation, plan=plan, missed=self._missed() or allocation.missed)

    def _missed(self) -> str | None:
        reasons = [
            f"the {self.budget.title_of(name)} is {self.chosen.measured[name] / limit - 1:.1%} above its limit"
            for name, limit in self.allowed.items()
            if self.chosen.measured[name] > limit * (1 + TOLERATED[name])
        ]
        if not reasons:
            return None
        return f"after {len(self.rounds)} rounds of building and measuring, {' and '.join(reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; latency in milliseconds."""
        return {
            "about": self.about,
            "granule": self.budget.granule,
            "teacher": dict(self.teacher),
            "allowed": dict(self.allowed),
            "solver": self.chosen.allocation.solver,
            "gap": self.chosen.allocation.gap,
            "rounds": [each.to_dict() for each in self.rounds],
            "chosen": self.rounds.index(self.chosen),
            "macs_control": None if self.control is None else self.control.to_dict(),
        }


def on_its_granule(budget: Budget, bench: Bench) -> Budget:
    """The budget with the device's granule, if latency is limited and that granule is larger."""
    if "latency" not in budget.needs:
        return budget
    return replace(budget, granule=max(budget.granule, bench.granule()))


def measured_costs(
    graph: ChannelGraph, budget: Budget, bench: Bench, moved: Callable[[float], None] = lambda done: None
) -> dict[str, Measured]:
    """The costs that the budget needs and that have to be measured."""
    costs: dict[str, Measured] = {}
    if "latency" in budget.needs:
        costs["latency"] = bench.latency(graph, budget, moved)
    if "bytes" in budget.needs:
        params = costs_of(graph)["params"]
        beside = bench.file.stat().st_size - 4 * params.of(full_widths(graph))
        costs["bytes"] = FileBytes(params, beside)
    return costs


def fit(
    teacher: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    bench: Bench,
    costs: Mapping[str, Measured],
    said: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """The widths within the budget whose real network comes closest to the limits."""

    def built(name: str, allocation: Allocation) -> Round:
        file = bench.written(cut(teacher, allocation.plan), name)
        widths = np.array([allocation.plan.widths[group.name][1] for group in graph.groups], dtype=np.int64)
        return Round(allocation, file, {each: cost.of(widths) for each, cost in costs.items()})

    limits = allowed_by(graph, budget, {**costs_of(graph), **costs})
    allowed = {name: limit.most for name, limit in limits.items() if name in costs}
    asked = budget
    rounds: list[Round] = []
    while len(rounds) < ROUNDS:
        try:
            allocation = allocate(graph, scores, asked, measured=costs)
        except UsageError:
            if not rounds:
                raise
            break  # the corrected limit cannot be reached: keep the closest so far
        if rounds and allocation.plan.widths == rounds[-1].allocation.plan.widths:
            break  # another limit decides, or the steps of widths are too coarse to come closer
        rounds = _timed(bench, [*rounds, built(f"round-{len(rounds) + 1}", allocation)])
        said(_heard(rounds[-1], allowed, budget))
        if min(_off(each, allowed) for each in rounds) <= 0:
            break
        asked = _corrected(budget, allowed, rounds)
    control: Round | None = None
    macs = rounds[-1].allocation.plan.removed("macs")
    if "latency" in costs and 0 < macs < 1:
        # As a control: remove as many MACs by the usual threshold, and measure that network too.
        plain = built("macs", allocate(graph, scores, budget.share_of("macs", macs)))
        *rounds, control = _timed(bench, [*rounds, plain])
    chosen = min(rounds, key=lambda each: (_breaks(each, allowed), _off(each, allowed)))
    return Fitted(chosen, tuple(rounds), allowed, _of_teacher(bench, costs), control, bench.about, budget)


def _timed(bench: Bench, rounds: Sequence[Round]) -> list[Round]:
    """Time all networks again, side by side."""
    reals = bench.timed([each.file for each in rounds])
    return [replace(each, real=real) for each, real in zip(rounds, reals, strict=True)]


def _breaks(found: Round, allowed: Mapping[str, float]) -> bool:
    """True if a limit is exceeded by more than the tolerance."""
    return any(found.measured[name] > limit * (1 + TOLERATED[name]) for name, limit in allowed.items())


def _off(found: Round, allowed: Mapping[str, float]) -> float:
    """Distance of the largest cost (relative to its limit) from the band that needs no further round; <= 0 inside."""
    worst = max(found.measured[name] / limit - 1 for name, limit in allowed.items())
    over = OVER if not _breaks(found, allowed) else 0.0
    return max(worst - over, -worst - UNDER)


def _corrected(budget: Budget, allowed: Mapping[str, float], rounds: Sequence[Round]) -> Budget:
    """The limits for the predicted costs of the next round, so that its measured costs meet the real limits.

    After one round: scaled by limit / measured. After two: by the line through both on a logarithmic scale, at most
    10 % away from the first rule; if both measured costs are nearly equal, the line is mostly noise and not used.
    """
    last = rounds[-1]
    ask: dict[str, float] = {}
    for name, limit in allowed.items():
        plain = last.predicted[name] * limit / last.measured[name]
        ask[name] = plain
        if len(rounds) > 1:
            before = rounds[-2]
            promised = math.log(last.predicted[name] / before.predicted[name])
            found = math.log(last.measured[name] / before.measured[name])
            if promised and found / promised > 0.2:
                step = math.log(limit / last.measured[name]) * promised / found
                ask[name] = min(1.1 * plain, max(plain / 1.1, last.predicted[name] * math.exp(step)))
    # A share of time becomes milliseconds: what the teacher takes was measured, and no correction moves it.
    share = 0.0 if budget.cost == "latency" else budget.remove
    limits: dict[str, Any] = {"max_latency_ms": ask.get("latency")}
    if "bytes" in ask:
        limits["max_bytes"] = max(1, int(ask["bytes"]))
    return replace(budget, remove=share, **limits)


def _of_teacher(bench: Bench, costs: Mapping[str, Measured]) -> dict[str, float]:
    whole = {"latency": bench.teacher_ms, "bytes": float(bench.file.stat().st_size)}
    return {name: whole[name] for name in costs}


def _heard(found: Round, allowed: Mapping[str, float], budget: Budget) -> str:
    return ", ".join(
        f"{budget.title_of(name)} {found.measured[name] / limit:.1%} of its limit, "
        f"{found.predicted[name] / limit:.1%} predicted"
        for name, limit in allowed.items()
    )
