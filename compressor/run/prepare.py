"""First step of a run: check the request, load data and teacher, and trace the teacher's channel graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from compressor.artifacts.student import is_student
from compressor.base.files import write_json
from compressor.data import load_data
from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.models.names import builder_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import criterion_named
from compressor.recipe import Recipe
from compressor.recipe.distilling import TEACHER_NONE
from compressor.recipe.loss_terms import terms_of
from compressor.run.given_student import given_student
from compressor.run.progress import training_progress, warn_of_unsupported
from compressor.run.state import Origin, Run
from compressor.run.teacher import RANDOM, check_teacher, load_guide, load_teacher, model_named
from compressor.training import accuracy
from compressor.training.comparisons import check_layers
from compressor.training.distributed.world import World
from compressor.training.refusals import check_enough, check_sense


def completed(recipe: Recipe) -> Recipe:
    """The recipe with the one default that depends on another setting: without a teacher, random weights."""
    if recipe.distil.teacher == TEACHER_NONE and not recipe.model.weights:
        return replace(recipe, model=replace(recipe.model, weights=RANDOM))
    return recipe


def check_request(recipe: Recipe, world: World) -> None:
    """Before data is read, refuse unknown names, missing weights, and an unavailable device or kernel."""
    criterion_named(recipe.saliency.criterion)
    check_teacher(recipe.model)
    for text in (recipe.distil.student, recipe.distil.layerwise.auxiliary):
        name = model_named(text, recipe.model.trust).name
        if name and not is_student(Path(name)):
            builder_of(name)


def prepare(run: Run) -> Run:
    """Load the data, the teacher and the guide, and trace the teacher."""
    recipe, world, steps, device = run.recipe, run.world, run.steps, run.world.device
    with steps.step("Build teacher and data") as step:
        data = world.first_then_others(lambda: load_data(recipe.data, recipe.seed))
        world.agree("data", [data.name, data.classes, data.shape, len(data.train), len(data.test)])
        _check_data(recipe, data, world)
        teacher = load_teacher(
            recipe,
            data,
            device=device,
            progress=training_progress(steps, step, {"teacher": 1}, run.folder),
            checkpoints=run.folder.checkpoints("teacher"),
            fresh=run.fresh,
        )
        if teacher.warning:
            steps.warn(teacher.warning)
        top1 = accuracy(teacher.network, data.test, device=device)
        guide = load_guide(recipe, data, teacher, top1, device)
        if recipe.distil.student:
            origin = given_student(recipe, data, teacher.network)
        else:
            origin = Origin(teacher.network, teacher.source, teacher.done)
        image = torch.zeros(1, *data.shape)
        teaches = recipe.distil.asks_teacher
        check_layers(
            terms_of(recipe.distil.losses), origin.network, guide.network if teaches else None, image
        )
        step.outcome = f"{teacher.origin}; {len(data.classes)} classes, top-1 {top1:.2%}"

    with steps.step("Trace the channel graph") as step:
        graph = trace(teacher.network, image, whole_heads=recipe.budget.whole_heads)
        world.agree("channel groups", graph.to_dict())
        write_json(run.folder.graph, graph.to_dict())
        warn_of_unsupported(graph, steps)
        step.outcome = f"{len(graph.groups)} groups to cut, {len(graph.frozen)} left whole"
    run = replace(run, data=data, teacher=teacher, guide=guide, origin=origin, graph=graph)
    return run.proven(teacher=top1)


def _check_data(recipe: Recipe, data: Data, world: World) -> None:
    """Before any training, refuse settings that this data does not allow."""
    criterion = criterion_named(recipe.saliency.criterion)
    if not recipe.distil.student and criterion.needs_labels and not data.train.labelled:
        raise UsageError(
            f"criterion `{recipe.saliency.criterion}` needs labels, and `{recipe.data.unlabelled}` has none",
            "choose a criterion without labels: lamp, l2 or hrank",
        )
    if recipe.distil.trains:
        taught = recipe.distil.asks_teacher
        check_sense(data, recipe.distil.schedule, taught=taught, losses=recipe.distil.losses)
        check_enough(data, recipe.distil.schedule, world.size)
