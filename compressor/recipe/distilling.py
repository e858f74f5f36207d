"""The section ``[distil]`` of a recipe: the method, its networks, its schedule, and one section for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from compressor.errors import UsageError, unknown_name
from compressor.recipe.loss_terms import pairs_from, terms_of
from compressor.recipe.method_table import ENSEMBLE, METHODS, MethodRow
from compressor.recipe.schedule import Schedule
from compressor.recipe.setting import setting

TEACHER_NONE = "none"
"""The name of no teacher: the network that is cut need not know anything."""
EIGHT_BITS = "student-int8"
"""The training of the student that computes as its INT8 file will."""
ASSISTANT_SHARE = 0.5
"""Of the student's epochs an assistant is trained as many: it has more channels, and need not be finished to teach."""
PAIRINGS = ("auto", "information")
"""Ways to pair layers of student and teacher that are not named."""


@dataclass(frozen=True)
class CascadeRecipe:
    """Section ``[distil.cascade]``: ``share`` is the share of the epochs in which all networks learn together."""

    share: float = setting(0.4, "Share of the epochs in which all networks learn together")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"distil.cascade.share is {self.share:g}, expected above 0, at most 1")


@dataclass(frozen=True)
class LayerwiseRecipe:
    """Section ``[distil.layerwise]``, for ``information-flow`` and ``indistill``.

    ``layers``: which are compared: ``auto`` (the last at each resolution, by name or from the end), ``information``
    (paired by what they know of the labels), or STUDENT/TEACHER, with spaces. ``auxiliary``: the network between
    the teacher and a student of its own for ``information-flow``, as NAME or NAME=WEIGHTS; by default that student
    twice as wide.
    """

    layers: str = setting("auto", "Layers that are compared: auto, information, or STUDENT/TEACHER pairs")
    auxiliary: str = setting(
        "",
        "Network between for a student of your own; empty: it, twice as wide",
    )

    def __post_init__(self) -> None:
        if self.layers not in PAIRINGS and not pairs_from(self.layers, "distil.layerwise.layers"):
            raise UsageError(
                "distil.layerwise.layers names no layer", "auto, information, or as in layer2/stage3 layer3"
            )


@dataclass(frozen=True)
class Distilling:
    """Settings of the teaching.

    ``teacher``: a stronger network that teaches in place of the one that is cut, as NAME or NAME=WEIGHTS (a file or
    ``pretrained``). ``student``: a network that is taught in place of one cut from the teacher, in the same way
    (without weights: random). ``assistants``: the number of networks between; ``between``: the shares that they lose,
    in place of evenly spaced ones. ``losses``: losses beside the teacher's outputs, each a line of `loss_terms`.
    ``quantise_aware_epochs``: epochs after the training in which the student computes as its INT8 file will.
    """

    method: str = setting("steps", "Method by which the student is taught (docs/distilling.md)")
    teacher: str = setting("", "Stronger network that teaches: NAME, NAME=FILE, NAME=pretrained, or `none`")
    student: str = setting(
        "", "Network taught in place of a cut one, in the same way; NAME alone: random weights"
    )
    assistants: int = setting(1, "Number of networks between teacher and student")
    between: tuple[float, ...] = setting((), "Shares that they lose, as in [0.3, 0.5]; empty: evenly spaced")
    losses: tuple[str, ...] = setting((), 'More losses by the teacher, as in ["pkt=100, decay=0.7"]')
    quantise_aware_epochs: int = setting(0, "Epochs afterwards, computing as the INT8 file will")
    schedule: Schedule = field(default_factory=Schedule)
    cascade: CascadeRecipe = field(default_factory=CascadeRecipe)
    layerwise: LayerwiseRecipe = field(default_factory=LayerwiseRecipe)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        for name in ("assistants", "quantise_aware_epochs"):
            if getattr(self, name) < 0:
                raise UsageError(f"distil.{name} is {getattr(self, name)}, expected at least 0")
        shares = list(self.between)
        if shares != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise UsageError(
                f"distil.between is {shares}, expected shares that go, above 0 and below 1, the least first"
            )
        terms_of(self.losses)
        for refused in (
            self._refused_teacher,
            self._refused_losses,
            self._refused_layers,
            self._refused_student,
        ):
            refused()

    @property
    def row(self) -> MethodRow:
        """The method."""
        return METHODS[self.method]

    @property
    def asks_teacher(self) -> bool:
        """True if the method learns from a trained network."""
        return self.row.asks_teacher

    @property
    def trains(self) -> bool:
        """False if the student is only cut."""
        return self.row.trains

    def _refused_teacher(self) -> None:
        if self.teacher == TEACHER_NONE and self.asks_teacher:
            without = ", ".join(name for name, row in METHODS.items() if not row.asks_teacher)
            raise UsageError(
                f"method `{self.method}` asks a teacher, and distil.teacher is `{TEACHER_NONE}`",
                f"without one there are {without}",
            )

    def _refused_losses(self) -> None:
        if self.method == ENSEMBLE and self.losses:
            raise UsageError(
                "method `ensemble` trains several networks at once, and distil.losses compare two",
                "leave them out, or choose steps or kd",
            )
        if self.method == "multi-teacher" and (self.losses or self.schedule.teacher_loss != "kd"):
            raise UsageError(
                "method `multi-teacher` follows each teacher by `kd` alone",
                "leave distil.losses and distil.schedule.teacher_loss out, or choose steps",
            )

    def _refused_layers(self) -> None:
        if self.layerwise.layers != "auto" and not self.row.compares_layers:
            comparing = " or ".join(name for name, row in METHODS.items() if row.compares_layers)
            raise UsageError(
                f"distil.layerwise.layers is `{self.layerwise.layers}`, and method `{self.method}` compares no layers",
                f"choose {comparing}; losses name theirs, as in pkt=1, layers=layer3",
            )
        if self.method == "information-flow" and not self.student and self.assistants == 0:
            raise UsageError(
                "method `information-flow` teaches through an auxiliary network, and distil.assistants is 0",
                "use at least 1, or choose kd",
            )

    def _refused_student(self) -> None:
        if self.student and not self.row.own_student:
            teaching = ", ".join(name for name, row in METHODS.items() if row.own_student)
            raise UsageError(
                f"method `{self.method}` cuts its student from the teacher, and `{self.student}` is given",
                f"choose {teaching}",
            )
        auxiliary = self.layerwise.auxiliary
        if auxiliary and not (self.student and self.method == "information-flow"):
            raise UsageError(
                f"distil.layerwise.auxiliary is `{auxiliary}`, and only method `information-flow` with a given "
                "student has a network between",
                "name distil.student, or leave it out: an assistant is cut from the teacher",
            )

    def trainings(self, names: Sequence[str]) -> dict[str, int]:
        """The trainings of this method by name, for these networks, and the epochs of each.

        Those of a warm-up are an estimate: how many layers there are is known when it begins.
        """
        rounded = {EIGHT_BITS: self.quantise_aware_epochs} if self.quantise_aware_epochs else {}
        return {**self.row.trainings(self, names), **rounded}

    def schedule_of(self, network: str) -> Schedule:
        """The schedule of one network of ``steps``."""
        return self.schedule if network == "student" else _shortened(self.schedule, ASSISTANT_SHARE)

    def part_of(self, epochs: int) -> Schedule:
        """The schedule with so many of its epochs."""
        return _shortened(self.schedule, epochs / self.schedule.epochs)

    @property
    def in_cascade(self) -> Schedule:
        """The schedule of the time in which all networks of a cascade learn together."""
        return _shortened(self.schedule, self.cascade.share)

    @property
    def after_cascade(self) -> Schedule | None:
        """The schedule of the student after that; none if no epochs are left."""
        left = self.schedule.epochs - self.in_cascade.epochs
        return _shortened(self.schedule, left / self.schedule.epochs) if left else None


def _shortened(schedule: Schedule, share: float) -> Schedule:
    epochs = max(1, round(schedule.epochs * share))
    return replace(schedule, epochs=epochs, warmup_epochs=schedule.warmup_epochs * epochs / schedule.epochs)
