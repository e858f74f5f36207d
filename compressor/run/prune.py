"""Cut the student from the teacher: scores, widths (chosen now, or read from an interrupted run), cut and proof."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.base.checks import require
from compressor.base.files import write_atomic, write_json
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.methods import Stage, stages
from compressor.methods.start import PROOF_IMAGES
from compressor.pruning.cutting import FORMS, cut, form_of
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.score import criterion_named, score
from compressor.pruning.scoring.scores import Scores
from compressor.recipe import Recipe
from compressor.run.folder import RunFolder
from compressor.run.measured_widths.bench import Bench
from compressor.run.measured_widths.fit import fit, measured_costs, on_its_granule
from compressor.run.state import Run
from compressor.run.steps import Step, Steps
from compressor.training import accuracy

SCORING_BATCHES, SCORING_BATCH = 8, 128
"""Batches and their images for criteria that read data: 1024 images, as docs/criteria.md compares criteria."""


@dataclass(frozen=True)
class Chosen:
    """The networks from teacher to student, and the search for their widths where latency was measured."""

    stages: tuple[Stage, ...]
    fit: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of ``plan.json``."""
        return {"schema": 1, "stages": [stage.to_dict() for stage in self.stages], "fit": self.fit}


def scored(
    recipe: Recipe, teacher: nn.Module, graph: ChannelGraph, data: Data, device: torch.device
) -> Scores:
    """The scores of all units by the recipe's criterion."""
    batches = data.train.batches(SCORING_BATCH, shuffle=recipe.seed)
    chosen = islice(batches, SCORING_BATCHES)
    return score(teacher, graph, recipe.saliency, chosen, seed=recipe.seed, device=device)


def chosen_widths(run: Run, scores: Scores, step: Step) -> Chosen:
    """The stages; their widths by counted costs, or by measuring real networks if latency or bytes are limited."""
    budget, distil, graph = run.recipe.budget, run.recipe.distil, run.graph
    if not budget.needs:
        return Chosen(stages(graph, scores, budget, distil.assistants, between=distil.between))
    steps = run.steps
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            copy.deepcopy(run.teacher.network).cpu(),
            run.images(1),
            Path(folder),
            run.recipe.export,
            run.recipe.profile,
            budget.timed_as,
        )
        budget = on_its_granule(budget, bench)
        costs = measured_costs(
            graph,
            budget,
            bench,
            lambda done: steps.listener.moved(step, done / 2, f"timing blocks in {bench.about}"),
        )
        fitted = fit(
            run.teacher.network,
            graph,
            scores,
            budget,
            bench,
            costs,
            lambda text: steps.listener.moved(step, 0.75, text),
        )
    if fitted.chosen.contended:
        steps.warn("other programs used the processor while students were timed: widths may miss the latency")
    path = stages(
        graph,
        scores,
        budget,
        distil.assistants,
        between=distil.between,
        student=fitted.allocation,
        measured=costs,
    )
    return Chosen(path, fitted.to_dict())


def begun(run: RunFolder) -> Chosen | None:
    """The widths that an interrupted run chose: scores and times may differ now, so they are not computed again."""
    if not run.plan.exists():
        return None
    try:
        value = json.loads(run.plan.read_text(encoding="utf-8"))
        return Chosen(tuple(Stage.from_dict(stage) for stage in value["stages"]), value["fit"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"`{run.plan}` is damaged: {error}", "choose another --out") from error


def prune(run: Run) -> Run:
    """Score the teacher's channels, choose widths, cut, and prove the cut."""
    recipe, world, steps, teacher = run.recipe, run.world, run.steps, run.teacher.network
    with steps.step(f"Score channels by {recipe.saliency.criterion}") as step:
        # In one process only: gradients and times may vary, and all processes must keep the same channels.
        scores = world.from_first(lambda: scored(recipe, teacher, run.graph, run.data, world.device))
        write_atomic(run.folder.scores, scores.to_bytes())
        _warn_of_scores(recipe, scores, steps)
        step.outcome = f"{sum(group.units for group in run.graph.groups)} units, {scores.backend}"

    with steps.step("Choose widths") as step:
        choice = world.from_first(lambda: begun(run.folder) or chosen_widths(run, scores, step))
        plan = choice.stages[-1].plan
        write_json(run.folder.plan, choice.to_dict())
        for stage in choice.stages:
            if stage.missed:
                steps.warn(f"{stage.name}: {stage.missed}")
        of = recipe.budget.cost if recipe.budget.remove else "macs"
        step.outcome = f"{plan.removed(of):.1%} of the {recipe.budget.title_of(of)} will go"

    with steps.step("Cut") as step:
        merely_cut = cut(teacher, plan)
        top1 = accuracy(merely_cut, run.data.test, device=world.device)
        step.outcome = f"top-1 {top1:.2%} before any training; the student is {FORMS[form_of(merely_cut)]}"

    with steps.step("Verify the cut") as step:
        checks = check_cut(teacher, merely_cut, plan, (run.images(PROOF_IMAGES),))
        require(checks)
        step.outcome = f"equal to the silenced teacher within {checks[1].max_abs_error:.1e}"
    origin = replace(
        run.origin,
        stages=choice.stages,
        scores=scores,
        fit=choice.fit,
        request=_request(recipe),
        about=_about(run),
    )
    return replace(run, origin=origin).proven(*checks, cut=top1)


def _warn_of_scores(recipe: Recipe, scores: Scores, steps: Steps) -> None:
    if criterion_named(recipe.saliency.criterion).by_teacher:
        steps.warn("the teacher has no teacher of its own, so its loss is that of the labels alone")
    if scores.fallback:
        steps.warn(f"scores were computed by {scores.backend}: {scores.fallback}")
    if scores.unscored:
        steps.warn(
            f"{recipe.saliency.criterion} cannot score {', '.join(scores.unscored)}: all units there get the same score"
        )


def _request(recipe: Recipe) -> dict[str, Any]:
    budget = recipe.budget
    return {"remove": budget.remove, "of": budget.of, "limits": budget.limits()}


def _about(run: Run) -> dict[str, str]:
    budget = run.recipe.budget
    return {
        "teacher": run.recipe.model.name,
        "remove": f"{budget.remove:g}",
        "of": budget.of,
        "plan": hashlib.sha256(run.folder.plan.read_bytes()).hexdigest(),
    }
