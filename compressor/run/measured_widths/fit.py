"""Widths that meet limits which can only be measured: choose, build the real network, measure it, correct, repeat.

Blocks add up to a network only nearly. So the widths that a sum of blocks promises are built, exported and timed
beside the teacher; what the promise was wrong by is put right in all of it, and widths are chosen again, three times
at the most. All that were built are timed side by side, each time, and the closest is taken.
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
"""How far below and above what is allowed a measured cost may be (as a share of it) without another round."""
TOLERATED = {"latency": 0.03, "bytes": 0.0}
"""How far above what is allowed is still called met: time is never measured twice alike, bytes are."""


@dataclass(frozen=True)
class Round:
    """One choice of widths: what was promised for it, and what the network that was built costs. In ms and bytes."""

    allocation: Allocation
    file: Path
    predicted: Mapping[str, float]
    real: Real | None = None

    @property
    def measured(self) -> dict[str, float]:
        """What the network that was built costs; it must have been timed."""
        assert self.real is not None
        found = {"latency": self.real.latency_ms, "bytes": float(self.real.bytes)}
        return {name: found[name] for name in self.predicted}

    @property
    def contended(self) -> bool:
        """Whether other programs took the cores while it was timed."""
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
    """The widths chosen, every round, and (where time was asked for) the plain MACs allocation of the same MACs."""

    chosen: Round
    rounds: tuple[Round, ...]
    allowed: Mapping[str, float]
    teacher: Mapping[str, float]
    control: Round | None
    about: str
    budget: Budget

    @property
    def allocation(self) -> Allocation:
        """The plan, with what was measured as its cost."""
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
            f"the {self.budget.title_of(name)} is {self.chosen.measured[name] / limit - 1:+.1%} from what is allowed"
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
    """The budget with the step that the device works in, where time counts and that is the larger one."""
    if "latency" not in budget.needs:
        return budget
    return replace(budget, granule=max(budget.granule, bench.granule()))


def measured_costs(
    graph: ChannelGraph, budget: Budget, bench: Bench, moved: Callable[[float], None] = lambda done: None
) -> dict[str, Measured]:
    """The costs that the budget needs and that cannot be counted."""
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
    """The widths within the budget of which the real network comes closest to what is allowed."""

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
            break  # by what was learned it cannot be reached: the closest so far stays
        if rounds and allocation.plan.widths == rounds[-1].allocation.plan.widths:
            break  # another limit decides, or steps of channels are too coarse to come closer
        rounds = _timed(bench, [*rounds, built(f"round-{len(rounds) + 1}", allocation)])
        said(_heard(rounds[-1], allowed, budget))
        if min(_off(each, allowed) for each in rounds) <= 0:
            break
        asked = _corrected(budget, allowed, rounds)
    control: Round | None = None
    macs = rounds[-1].allocation.plan.removed("macs")
    if "latency" in costs and 0 < macs < 1:
        # What a plain share of MACs would have done: as many of them removed, by the usual threshold.
        plain = built("macs", allocate(graph, scores, budget.share_of("macs", macs)))
        *rounds, control = _timed(bench, [*rounds, plain])
    chosen = min(rounds, key=lambda each: (_breaks(each, allowed), _off(each, allowed)))
    return Fitted(chosen, tuple(rounds), allowed, _of_teacher(bench, costs), control, bench.about, budget)


def _timed(bench: Bench, rounds: Sequence[Round]) -> list[Round]:
    """All of them once more, side by side."""
    reals = bench.timed([each.file for each in rounds])
    return [replace(each, real=real) for each, real in zip(rounds, reals, strict=True)]


def _breaks(found: Round, allowed: Mapping[str, float]) -> bool:
    """Whether a limit is broken by more than is tolerated."""
    return any(found.measured[name] > limit * (1 + TOLERATED[name]) for name, limit in allowed.items())


def _off(found: Round, allowed: Mapping[str, float]) -> float:
    """How far the cost that is nearest to its limit, or beyond it, is out of the band that is good enough."""
    worst = max(found.measured[name] / limit - 1 for name, limit in allowed.items())
    over = OVER if not _breaks(found, allowed) else 0.0
    return max(worst - over, -worst - UNDER)


def _corrected(budget: Budget, allowed: Mapping[str, float], rounds: Sequence[Round]) -> Budget:
    """What to ask of the promise next, so that what is measured will be what is allowed.

    After one round: as much less as it was too much. After two: by the line through both, on a logarithmic scale, as
    long as that is not far from the first rule; where both were measured nearly alike, their line is mostly noise.
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
        f"{budget.title_of(name)} {found.measured[name] / limit:.1%} of what is allowed, "
        f"{found.predicted[name] / limit:.1%} promised"
        for name, limit in allowed.items()
    )
