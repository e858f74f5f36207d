"""Which channels a run keeps: its scores, and the widths of student and assistants, chosen anew or taken up again."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.fitting import fit, measured_costs, on_its_granule
from compressor.graph.channels import ChannelGraph
from compressor.methods import Stage, stages
from compressor.recipe import Recipe
from compressor.rundir import RunFolder
from compressor.saliency.score import score
from compressor.saliency.scores import Scores
from compressor.steps import Step, Steps
from compressor.timing import Bench


@dataclass(frozen=True)
class Chosen:
    """The networks on the way, and how their widths came to be where they had to be measured."""

    path: tuple[Stage, ...]
    fit: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``plan.json``."""
        return {"schema": 1, "stages": [stage.to_dict() for stage in self.path], "fit": self.fit}


def scored(
    recipe: Recipe, teacher: nn.Module, graph: ChannelGraph, data: Data, device: torch.device
) -> Scores:
    """The scores of all units by the recipe's criterion, on as many training images as it asks for."""
    batches = data.train.batches(recipe.saliency.batch, shuffle=recipe.seed)
    chosen = islice(batches, recipe.saliency.batches)
    return score(teacher, graph, recipe.saliency, chosen, seed=recipe.seed, device=device)


def chosen_widths(
    recipe: Recipe,
    teacher: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    data: Data,
    steps: Steps,
    step: Step,
) -> Chosen:
    """The networks on the way; their widths by counting, or by timing real networks where time is what they cost."""
    budget = recipe.budget
    if not budget.needs:
        return Chosen(stages(graph, scores, budget, recipe.distil.assistants, between=recipe.distil.between))
    image = next(iter(data.test.batches(1))).images
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(copy.deepcopy(teacher).cpu(), image, Path(folder), recipe.export, recipe.profile)
        budget = on_its_granule(budget, bench)
        costs = measured_costs(
            graph,
            budget,
            bench,
            lambda done: steps.listener.moved(step, done / 2, f"timing blocks in {bench.about}"),
        )
        fitted = fit(
            teacher,
            graph,
            scores,
            budget,
            bench,
            costs,
            lambda text: steps.listener.moved(step, 0.75, text),
        )
    if fitted.chosen.contended:
        steps.warn("other programs took the processor while students were timed: widths may miss the latency")
    path = stages(
        graph,
        scores,
        budget,
        recipe.distil.assistants,
        between=recipe.distil.between,
        student=fitted.allocation,
        measured=costs,
    )
    return Chosen(path, fitted.to_dict())


def begun(run: RunFolder) -> Chosen | None:
    """The widths that a broken run had chosen: gradients and times may not repeat, so scores may differ now."""
    if not run.plan.exists():
        return None
    try:
        value = json.loads(run.plan.read_text(encoding="utf-8"))
        return Chosen(tuple(Stage.from_dict(stage) for stage in value["stages"]), value["fit"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"`{run.plan}` is damaged: {error}", "choose another --out") from error
