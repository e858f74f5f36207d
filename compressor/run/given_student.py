"""A student that is given, not cut from the teacher: its network, what it costs, and who stands between.

Nothing is scored, planned or proved for it; all that follows a training (export, checks, measurements, report) is the
same. An auxiliary teacher, where the method has one, is named, or it is the student's own class twice as wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.artifacts.student import is_student
from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods import Stage
from compressor.models.names import ModelSource, builder_of
from compressor.models.weights import PRETRAINED
from compressor.pruning.cutting.widen import twice_as_wide
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan
from compressor.recipe import ModelRecipe, Recipe
from compressor.recipe.distilling import Distilling
from compressor.run.teacher import build_model, outputs_of

FORM = "a network of its own, not cut from the teacher"
AUXILIARY = "auxiliary"
"""The name of the network between."""


@dataclass(frozen=True)
class Given:
    """The student as it begins, how its class is built, the cut it has had already, and the network between."""

    network: nn.Module
    source: ModelSource
    done: Plan
    path: tuple[Stage, ...]
    auxiliary: nn.Module | None = None

    @property
    def plan(self) -> Plan:
        """Nothing is cut; what the student costs beside the teacher."""
        return self.path[-1].plan


def check_given(asked: Distilling) -> None:
    """Fail at once, before data is read, if a student or a network between cannot be built."""
    for name in (asked.student, asked.auxiliary):
        if name and not is_student(Path(name)):
            builder_of(name)


def load_given(recipe: Recipe, data: Data, teacher: nn.Module) -> Given | None:
    """The student that the recipe names, if it names one."""
    asked, image = recipe.distil, torch.zeros(1, *data.shape)
    if not asked.student:
        return None
    network, source, done = _built(asked.student, asked.student_weights, data, recipe, "student")
    before, graph = trace(teacher, image), trace(network, image)
    student = Stage("student", _costs(before, graph))
    if asked.method != "information-flow":
        return Given(network, source, done, (student,))
    auxiliary = _auxiliary(recipe, data, network, graph, image)
    between = Stage(AUXILIARY, _costs(before, trace(auxiliary, image)))
    return Given(network, source, done, (between, student), auxiliary)


def _auxiliary(
    recipe: Recipe, data: Data, student: nn.Module, graph: ChannelGraph, image: Tensor
) -> nn.Module:
    if not recipe.distil.auxiliary:
        return twice_as_wide(student, graph, image, recipe.seed)
    return _built(recipe.distil.auxiliary, "", data, recipe, "auxiliary network")[0]


def _built(
    name: str, weights: str, data: Data, recipe: Recipe, whose: str
) -> tuple[nn.Module, ModelSource, Plan]:
    classes = None if weights == PRETRAINED else len(data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        found = build_model(ModelRecipe(name, weights, recipe.model.trust), classes)
    outputs = outputs_of(found[0], data, whose)
    if outputs != len(data.classes):
        raise UsageError(
            f"the {whose} `{name}` tells {outputs} classes apart, the teacher `{recipe.model.name}` "
            f"{len(data.classes)}",
            "a teacher and its student must answer with the same classes",
        )
    return found


def _costs(teacher: ChannelGraph, student: ChannelGraph) -> Plan:
    before, after = (
        {name: cost.of(full_widths(graph)) for name, cost in costs_of(graph).items()}
        for graph in (teacher, student)
    )
    return Plan({}, costs={name: (before[name], after[name]) for name in before})
