"""The methods by which a student is taught: one row each. A new one is a row and its function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.recipe.distilling import Distilling

    Trainings = Callable[[Distilling, Sequence[str]], Mapping[str, int]]

ENSEMBLE = "ensemble"
LIGHTWEIGHT, LIGHTWEIGHT_EPOCHS = "lightweight", 4
TOGETHER = "together"
WARM_UP, WARM_UP_EPOCHS = "warm-up", 12
"""`indistill` spends as many epochs on three layers, if the schedule has twice as many."""


def _student(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    return {"student": distil.schedule.epochs}


def _nothing(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    return {}


def _every_network(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    return {name: distil.schedule_of(name).epochs for name in names}


def _last_two(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    return _every_network(distil, names[-2:])


def _cascade(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    after = distil.after_cascade
    return {TOGETHER: distil.in_cascade.epochs, **({"student": after.epochs} if after else {})}


def _warm_up(distil: Distilling, names: Sequence[str]) -> Mapping[str, int]:
    epochs = distil.schedule.epochs
    warm_up = min(WARM_UP_EPOCHS, epochs // 2)
    return {WARM_UP: warm_up, "student": epochs - warm_up} if warm_up else {"student": epochs}


@dataclass(frozen=True)
class MethodRow:
    """One method.

    ``function``: where it stands in `compressor.methods`. ``asks_teacher``: it learns from a trained network.
    ``own_student``: it also teaches a student that is not cut from the teacher. ``compares_layers``: it reads
    ``distil.layerwise``. ``trainings``: the epochs of each training by name, from the names of the networks.
    """

    title: str
    function: str
    asks_teacher: bool = True
    own_student: bool = True
    compares_layers: bool = False
    trainings: Trainings = _student

    @property
    def trains(self) -> bool:
        """False for methods that only cut."""
        return self.trainings is not _nothing


METHODS: dict[str, MethodRow] = {
    "steps": MethodRow(
        "one network after the other, each cut from and taught by the one before",
        "plain:steps",
        own_student=False,
        trainings=_every_network,
    ),
    "cascade": MethodRow(
        "all networks together while channels are chosen, then the student by one after the other",
        "cascade.cascade:cascade",
        own_student=False,
        trainings=_cascade,
    ),
    "multi-teacher": MethodRow(
        "as steps, but all larger networks teach the student at once",
        "plain:multi_teacher",
        own_student=False,
        trainings=_every_network,
    ),
    ENSEMBLE: MethodRow(
        "all networks at once, each taught by the mean of their outputs",
        "ensemble:ensemble",
        asks_teacher=False,
        own_student=False,
        trainings=lambda distil, names: {ENSEMBLE: distil.schedule.epochs},
    ),
    "kd": MethodRow("the teacher teaches the student", "plain:kd"),
    "lightweight-teacher": MethodRow(
        "a small teacher that knows pictures of numbers, as many as there are classes",
        "lightweight_teacher:lightweight_teacher",
        asks_teacher=False,
        trainings=lambda distil, names: {LIGHTWEIGHT: LIGHTWEIGHT_EPOCHS, "student": distil.schedule.epochs},
    ),
    "teacher-free": MethodRow(
        "a made-up teacher that knows the labels", "teacher_free:teacher_free", asks_teacher=False
    ),
    "teacher-free-self": MethodRow(
        "the student, trained by labels, teaches itself anew",
        "teacher_free:teacher_free_self",
        asks_teacher=False,
        trainings=lambda distil, names: {"itself": distil.schedule.epochs, "student": distil.schedule.epochs},
    ),
    "self": MethodRow(
        "the student, by its own middle and its outputs for the batch before",
        "plain:itself",
        asks_teacher=False,
    ),
    "label-smoothing": MethodRow("labels alone, smoothed", "plain:label_smoothing", asks_teacher=False),
    "finetune": MethodRow("labels alone", "plain:finetune", asks_teacher=False),
    "information-flow": MethodRow(
        "an auxiliary teacher, and then the student by how its layers arrange images",
        "layerwise.information_flow:information_flow",
        compares_layers=True,
        trainings=_last_two,
    ),
    "indistill": MethodRow(
        "one layer after the other, then as the schedule says",
        "layerwise.indistill:indistill",
        compares_layers=True,
        trainings=_warm_up,
    ),
    "repair": MethodRow(
        "no training: layers are fitted to the teacher's",
        "plain:repair",
        asks_teacher=False,
        own_student=False,
        trainings=_nothing,
    ),
    "cut-only": MethodRow(
        "no training, and nothing is fitted",
        "plain:cut_only",
        asks_teacher=False,
        own_student=False,
        trainings=_nothing,
    ),
}
"""Each method by the name that a recipe gives (``distil.method``)."""
