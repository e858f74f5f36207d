"""What is asked of a distillation. Values only, without torch, so that a recipe can hold it and be read quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from compressor.distill.schedule import Schedule
from compressor.distill.terms import pairs_from, terms_of
from compressor.errors import UsageError, unknown_name

METHOD_TITLES = {
    "steps": "one network after the other, each cut from and taught by the one before",
    "cascade": "all networks together while channels are chosen, then the student by one after the other",
    "multi-teacher": "as steps, but all larger networks teach the student at once",
    "kd": "the teacher teaches the student",
    "teacher-free": "a made-up teacher that knows the labels",
    "teacher-free-self": "the student, trained by labels, teaches itself anew",
    "label-smoothing": "labels alone, smoothed",
    "finetune": "labels alone",
    "information-flow": "an auxiliary teacher, and then the student by how its layers arrange images",
    "indistill": "one layer after the other, then as the schedule says",
    "cut-only": "no training",
}
"""Each method by its name in recipes, and in words."""

WITHOUT_TEACHER = ("teacher-free", "teacher-free-self", "label-smoothing", "finetune", "cut-only")
IN_STEPS = ("steps", "multi-teacher")
CUTTING = (*IN_STEPS, "cascade", "cut-only")
"""Methods that are about cuts from the teacher; all others also teach a student that is given."""

MATCHINGS = ("auto", "information")
"""How layers of student and teacher are paired for ``LAYERWISE`` methods, if they are not named."""
LAYERWISE = ("information-flow", "indistill")

WARM_UP = 12
"""The epochs that ``indistill`` spends on three layers, if there are that many."""

MASKS = {
    "learned": "moved by the gradients of each network's teacher",
    "scored": "as the criterion chose them",
}
SCORE_RULES = {
    "sgd": "one step size for all channels",
    "rmsprop": "each channel by the size of its own gradients",
}


@dataclass(frozen=True)
class Distilling:
    """How the student is taught: the method, its assistants and the schedule.

    ``teacher``: another, stronger network that teaches at the top instead of the one that is cut, by name, with
    ``teacher_weights``. ``shard_teacher``: each of several processes holds a part of it while it teaches.
    ``student``: a network that is taught in place of one cut from the teacher, by name, with ``student_weights``
    (none: random); ``auxiliary``: the network between for ``information-flow``, else that student twice as wide.
    ``assistants``: how many networks stand between. For ``steps`` each is trained for ``assistant_share`` of the
    student's epochs: it has more channels, so it learns faster, and it need not be finished to teach. For
    ``cascade``, ``together_share`` of the epochs train all networks at once, with ``masks`` learned or as scored;
    learned ones may change every ``masks_every`` steps for the first ``masks_share`` of that time. ``score_travel``
    is how far a channel's place among all (0 the least, 1 the most important) may move if its gradient always says
    the same; ``score_rule`` how gradients become steps.
    ``hints``: layers whose outputs the student should imitate, counted ``hint_weight`` times; none by default.
    ``losses``: others beside them, each a line of `terms`; not for networks that learn all at once.
    ``layers``: which layers ``information-flow`` and ``indistill`` compare: ``auto`` (the last at each resolution, by
    name or from the end), ``information`` (paired by what they know of the labels), or STUDENT/TEACHER, with spaces.
    """

    method: str = "steps"
    teacher: str = ""
    teacher_weights: str = ""
    assistants: int = 1
    assistant_share: float = 0.5
    together_share: float = 0.4
    masks: str = "learned"
    masks_every: int = 20
    masks_share: float = 0.8
    score_travel: float = 1.0
    score_rule: str = "sgd"
    hints: tuple[str, ...] = ()
    hint_weight: float = 0.001
    losses: tuple[str, ...] = ()
    layers: str = "auto"
    shard_teacher: bool = False
    student: str = ""
    student_weights: str = ""
    auxiliary: str = ""
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for kind, given, table in (
            ("method", self.method, METHOD_TITLES),
            ("masks", self.masks, MASKS),
            ("score_rule", self.score_rule, SCORE_RULES),
        ):
            if given not in table:
                raise unknown_name(kind, given, table)
        if self.losses and self.method in WITHOUT_TEACHER:
            raise UsageError(
                f"distil.losses compare with a teacher, and method `{self.method}` has none",
                "choose steps, kd or cascade, or leave them out",
            )
        terms_of(self.losses)
        if self.method == "multi-teacher" and (
            self.losses or self.hints or self.schedule.teacher_loss != "kd"
        ):
            raise UsageError(
                "method `multi-teacher` follows each teacher by `kd` alone",
                "leave distil.losses, distil.hints and distil.schedule.teacher_loss out, or choose steps",
            )
        if self.layers not in MATCHINGS and not pairs_from(self.layers, "distil.layers"):
            raise UsageError(
                "distil.layers names no layer", "auto, information, or as in layer2/stage3 layer3"
            )
        if self.layers != "auto" and self.method not in LAYERWISE:
            raise UsageError(
                f"distil.layers is `{self.layers}`, and method `{self.method}` compares no layers",
                f"choose {' or '.join(LAYERWISE)}; losses name theirs, as in pkt=1, layers=layer3",
            )
        if self.student and self.method in CUTTING:
            raise UsageError(
                f"method `{self.method}` cuts its student from the teacher, and `{self.student}` is given",
                f"choose {', '.join(name for name in METHOD_TITLES if name not in CUTTING)}",
            )
        if self.student_weights and not self.student:
            raise UsageError("distil.student_weights are given, and distil.student is not")
        if self.auxiliary and not (self.student and self.method == "information-flow"):
            raise UsageError(
                f"distil.auxiliary is `{self.auxiliary}`, and only method `information-flow` with a given student "
                "has a network between",
                "name distil.student, or leave it out: an assistant is cut from the teacher",
            )
        if self.method == "information-flow" and not self.student and self.assistants == 0:
            raise UsageError(
                "method `information-flow` teaches through an auxiliary network, and distil.assistants is 0",
                "use at least 1, or choose kd",
            )
        if self.assistants < 0:
            raise UsageError(f"distil.assistants is {self.assistants}, expected at least 0")
        if self.masks_every < 1:
            raise UsageError(f"distil.masks_every is {self.masks_every}, expected at least 1")
        for name in ("assistant_share", "together_share", "masks_share"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UsageError(f"distil.{name} is {value:g}, expected above 0, at most 1")
        for name in ("score_travel", "hint_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"distil.{name} is {getattr(self, name):g}, expected at least 0")

    def trainings(self, path: Sequence[str]) -> dict[str, int]:
        """The trainings of this method by name, for these networks, and the epochs of each.

        Those of a warm-up are an estimate: how many layers there are is known when it begins.
        """
        if self.method == "cascade":
            after = self.afterwards
            return {"together": self.together.epochs, **({"student": after.epochs} if after else {})}
        if self.method == "teacher-free-self":
            return {"itself": self.schedule.epochs, "student": self.schedule.epochs}
        if self.method == "indistill" and self.schedule.epochs > 1:
            warm_up = min(WARM_UP, self.schedule.epochs // 2)
            return {"warm-up": warm_up, "student": self.schedule.epochs - warm_up}
        if self.method == "information-flow":
            return {name: self.schedule_of(name).epochs for name in path[-2:]}
        if self.method in IN_STEPS:
            return {name: self.schedule_of(name).epochs for name in path}
        return {"student": self.schedule.epochs}

    def schedule_of(self, network: str) -> Schedule:
        """The schedule of one network of ``steps``."""
        return self.schedule if network == "student" else _shortened(self.schedule, self.assistant_share)

    def part_of(self, epochs: int) -> Schedule:
        """The schedule with so many of its epochs."""
        return _shortened(self.schedule, epochs / self.schedule.epochs)

    @property
    def together(self) -> Schedule:
        """The schedule of the time that all networks train at once."""
        return _shortened(self.schedule, self.together_share)

    @property
    def afterwards(self) -> Schedule | None:
        """The schedule of the student after that; none if no epochs are left."""
        left = self.schedule.epochs - self.together.epochs
        return _shortened(self.schedule, left / self.schedule.epochs) if left else None


def _shortened(schedule: Schedule, share: float) -> Schedule:
    epochs = max(1, round(schedule.epochs * share))
    return replace(schedule, epochs=epochs, warmup_epochs=schedule.warmup_epochs * epochs / schedule.epochs)
