"""The state of a run, passed from step to step, and the origin of its student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from compressor.artifacts.profile import Profile
from compressor.artifacts.prove import Proof
from compressor.artifacts.write import Written
from compressor.base.checks import Check
from compressor.data.split import Data
from compressor.methods import Stage, Training
from compressor.models.names import ModelSource
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.plan import Plan
from compressor.recipe import Recipe
from compressor.run.folder import RunFolder
from compressor.run.steps import Steps
from compressor.run.teacher import Teacher
from compressor.training import Guide
from compressor.training.distributed.world import World

_LATER: Any = None
"""The value of a field before its step."""


@dataclass(frozen=True)
class Origin:
    """The origin of the student: cut from the teacher, or a network of the user's own.

    ``network`` is cut, or trained as it is; ``source`` builds its class and ``done`` is a cut from before this run.
    ``request``, ``form`` and ``about`` are entries of the report and of the files' metadata.
    """

    network: nn.Module
    source: ModelSource
    done: Plan
    stages: tuple[Stage, ...] = ()
    """The networks between teacher and student, largest first, and the student."""
    scores: Scores = field(default_factory=lambda: Scores("none", {}))
    fit: dict[str, Any] | None = None
    """The search for widths by measured latency or bytes, if there was one."""
    auxiliary: nn.Module | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    form: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        """True if the student is cut from the teacher."""
        return self.form is None


@dataclass(frozen=True)
class Run:
    """One run. Each step returns a copy with more fields set; a field is None before its step."""

    recipe: Recipe
    folder: RunFolder
    world: World
    steps: Steps
    formats: tuple[str, ...]
    formats_left_out: tuple[str, ...]
    fresh: bool = False

    checks: tuple[Check, ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Top-1 by name: teacher, cut, repaired, student, onnx."""

    # prepare
    data: Data = _LATER
    teacher: Teacher = _LATER
    guide: Guide = _LATER
    graph: ChannelGraph = _LATER
    # prepare and start
    origin: Origin = _LATER
    # teach
    trainings: tuple[Training, ...] = _LATER
    # ship
    networks: Mapping[str, nn.Module] = _LATER
    """The networks that have files: the teacher, the student, and others that the method ships."""
    written: tuple[Written, ...] = _LATER
    """Every file with the results of its runs, those of ``networks`` first and in that order."""
    proofs: tuple[Proof, ...] = _LATER
    # measure
    profile: Profile = _LATER

    @property
    def student(self) -> Training:
        """The training of the student, the last one."""
        return self.trainings[-1]

    @property
    def repair(self) -> Mapping[str, Any] | None:
        """The repair that the student began with, if it helped."""
        starts = [training.start for training in self.trainings if training.start.repair]
        return starts[-1].repair if starts and starts[-1].is_repaired else None

    def images(self, count: int) -> Tensor:
        """The first ``count`` test images."""
        return next(iter(self.data.test.batches(count))).images

    def proven(self, *checks: Check, **accuracy: float) -> Run:
        """A copy of the run with these checks and accuracies added."""
        return replace(self, checks=(*self.checks, *checks), accuracy={**self.accuracy, **accuracy})
