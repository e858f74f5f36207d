"""Plans of the student and of the assistants between teacher and student.

One set of scores gives nested plans: the student's inside the last assistant's inside the first's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.errors import UsageError
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import Allocation, allocate
from compressor.pruning.widths.plan import Plan
from compressor.pruning.widths.solver.solve import Costing
from compressor.recipe.budget import Budget


@dataclass(frozen=True)
class Stage:
    """A network to train: its name, its plan from the teacher, and the reason where it misses its share (``missed``).

    ``remove``: the cost and the share of it to remove, so that other scores can choose widths again; None where widths
    were chosen by measurements, and only the channels may change.
    """

    name: str
    plan: Plan
    missed: str | None = None
    remove: tuple[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "missed": self.missed,
            "remove": self.remove and list(self.remove),
            **self.plan.to_dict(),
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Stage:
        """The stage that ``to_dict`` wrote."""
        asked = value["remove"]
        return Stage(
            value["name"], Plan.from_dict(value), value["missed"], asked and (str(asked[0]), float(asked[1]))
        )


def stages(
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    assistants: int,
    *,
    between: Sequence[float] = (),
    student: Allocation | None = None,
    measured: Mapping[str, Costing] | None = None,
) -> tuple[Stage, ...]:
    """The assistants, largest first, and the student; assistants remove evenly spaced shares, or those of ``between``.

    ``student``: its widths, if they were chosen already. With limits and no share, the assistants' shares are of the
    MACs that the student loses.
    """
    fixed = budget.is_searched
    student = student or allocate(graph, scores, budget, measured=measured)
    of, remove = (budget.cost, budget.remove) if budget.remove else ("macs", student.plan.removed("macs"))
    if of in (measured or {}):
        # The measured share of the student may differ from the sum of its blocks; assistants are chosen by that sum.
        remove = min(remove, _promised(graph, student.plan, (measured or {})[of]))
    result = [Stage("student", student.plan, student.missed, None if fixed else (of, remove))]
    evenly = [remove * number / (assistants + 1) for number in range(1, assistants + 1)]
    for number, share in reversed(list(enumerate(between or evenly, start=1))):
        if not share:
            continue  # nothing is removed: the teacher itself
        if share >= remove:
            raise UsageError(
                f"distil.between has {share:g}, and the student loses {remove:g} of the {of}",
                "give shares below the student's: assistants lose less than the student",
            )
        less = budget.share_of(of, share)
        assistant = allocate(graph, scores, less, containing=result[0].plan, measured=measured)
        searched = less.is_searched
        result.insert(
            0,
            Stage(f"assistant-{number}", assistant.plan, assistant.missed, None if searched else (of, share)),
        )
    return tuple(result)


def _promised(graph: ChannelGraph, plan: Plan, cost: Costing) -> float:
    """The share of a cost that a plan removes."""
    before, after = (
        np.array([plan.widths[group.name][side] for group in graph.groups], dtype=np.int64) for side in (0, 1)
    )
    return max(0.0, 1 - cost.of(after) / cost.of(before))
