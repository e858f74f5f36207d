"""How a run comes to its student: scores, widths that are chosen anew or taken up again, the cut and its proof."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.files import write_atomic, write_json
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.methods import Stage, stages
from compressor.pruning.cutting import FORMS, cut, form_of
from compressor.pruning.cutting.proof import Check, check_cut, require
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.score import criterion_named, score
from compressor.pruning.scoring.scores import Scores
from compressor.recipe import Recipe
from compressor.run.folder import RunFolder
from compressor.run.measured_widths.bench import Bench
from compressor.run.measured_widths.fit import fit, measured_costs, on_its_granule
from compressor.run.steps import Step, Steps
from compressor.training import accuracy
from compressor.training.distributed.world import World


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
        plain = copy.deepcopy(teacher).cpu()
        bench = Bench(plain, image, Path(folder), recipe.export, recipe.profile, budget.latency_of)
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


@dataclass(frozen=True)
class Way:
    """The networks on the way; for a student that is cut also scores, proof, and how often it is right at first."""

    choice: Chosen
    scores: Scores = field(default_factory=lambda: Scores("none", {}))
    checks: tuple[Check, ...] = ()
    cut: float = 0.0


def cut_away(
    recipe: Recipe,
    teacher: nn.Module,
    graph: ChannelGraph,
    data: Data,
    device: torch.device,
    run: RunFolder,
    world: World,
    steps: Steps,
) -> Way:
    """Score, choose widths, cut and prove."""
    with steps.step(f"Score channels by {recipe.saliency.criterion}") as step:
        # By one process: gradients and times may not repeat, and all must keep the same channels.
        scores = world.from_first(lambda: scored(recipe, teacher, graph, data, device))
        write_atomic(run.scores, scores.to_bytes())
        if criterion_named(recipe.saliency.criterion).by_teacher:
            steps.warn("the teacher has no teacher of its own, so its loss is that of the labels alone")
        if scores.fallback:
            steps.warn(f"scores were computed by {scores.backend}: {scores.fallback}")
        if scores.unscored:
            steps.warn(
                f"{recipe.saliency.criterion} sees nothing in {', '.join(scores.unscored)}: all units alike"
            )
        step.outcome = f"{sum(group.units for group in graph.groups)} units, {scores.backend}"

    with steps.step("Choose widths") as step:
        choice = world.from_first(
            lambda: begun(run) or chosen_widths(recipe, teacher, graph, scores, data, steps, step)
        )
        path, plan = choice.path, choice.path[-1].plan
        write_json(run.plan, choice.to_dict())
        for stage in path:
            if stage.missed:
                steps.warn(f"{stage.name}: {stage.missed}")
        of = recipe.budget.of if recipe.budget.remove else "macs"
        step.outcome = f"{plan.removed(of):.1%} of the {recipe.budget.title_of(of)} will go"

    with steps.step("Cut") as step:
        merely_cut = cut(teacher, plan)
        right = accuracy(merely_cut, data.test, device=device)
        step.outcome = f"top-1 {right:.2%} before any training; the student is {FORMS[form_of(merely_cut)]}"

    with steps.step("Verify the cut") as step:
        real = next(iter(data.test.batches(4))).images
        checks = check_cut(teacher, merely_cut, plan, (real,))
        require(checks)
        step.outcome = f"equal to the silenced teacher within {checks[1].max_abs_error:.1e}"
    return Way(choice, scores, tuple(checks), right)
