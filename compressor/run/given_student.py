"""A user's own student (not cut from the teacher), and an optional auxiliary network between.

Nothing is scored, planned or proved for it; everything after its training (export, checks, measurements, report) is the
same. The auxiliary network is named by the recipe, or it is the student's own class at twice the width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods import Stage
from compressor.models.names import ModelSource
from compressor.models.weights import PRETRAINED
from compressor.pruning.cutting.widen import twice_as_wide
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan
from compressor.recipe import ModelRecipe, Recipe
from compressor.run.state import Origin
from compressor.run.teacher import build_model, model_named, outputs_of

FORM = "a network of its own, not cut from the teacher"
AUXILIARY = "auxiliary"
"""The name of the auxiliary network."""


def given_student(recipe: Recipe, data: Data, teacher: nn.Module) -> Origin:
    """The student that the recipe names, and the auxiliary network if the method needs one."""
    distil, image = recipe.distil, torch.zeros(1, *data.shape)
    named = model_named(distil.student, recipe.model.trust)
    network, source, done = _built(named, data, recipe, "student")
    before, graph = trace(teacher, image), trace(network, image)
    stages, auxiliary = [Stage("student", _costs(before, graph))], None
    if distil.method == "information-flow":
        auxiliary = _auxiliary(recipe, data, network, graph, image)
        stages.insert(0, Stage(AUXILIARY, _costs(before, trace(auxiliary, image))))
    return Origin(
        network,
        source,
        done,
        tuple(stages),
        auxiliary=auxiliary,
        request={"remove": 0.0, "of": recipe.budget.of, "limits": {}, "student": named.name},
        form=FORM,
        about={"teacher": recipe.model.name},
    )


def _auxiliary(
    recipe: Recipe, data: Data, student: nn.Module, graph: ChannelGraph, image: Tensor
) -> nn.Module:
    if not recipe.distil.layerwise.auxiliary:
        return twice_as_wide(student, graph, image, recipe.seed)
    named = model_named(recipe.distil.layerwise.auxiliary, recipe.model.trust)
    return _built(named, data, recipe, "auxiliary network")[0]


def _built(model: ModelRecipe, data: Data, recipe: Recipe, whose: str) -> tuple[nn.Module, ModelSource, Plan]:
    classes = None if model.weights == PRETRAINED else len(data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        found = build_model(model, classes)
    outputs = outputs_of(found[0], data, whose)
    if outputs != len(data.classes):
        raise UsageError(
            f"the {whose} `{model.name}` has {outputs} outputs, the teacher `{recipe.model.name}` "
            f"{len(data.classes)}",
            "a teacher and its student must have the same classes",
        )
    return found


def _costs(teacher: ChannelGraph, student: ChannelGraph) -> Plan:
    before, after = (
        {name: cost.of(full_widths(graph)) for name, cost in costs_of(graph).items()}
        for graph in (teacher, student)
    )
    return Plan({}, costs={name: (before[name], after[name]) for name in before})
