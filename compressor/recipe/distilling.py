"""What is asked of a distillation. Values only, without torch, so that a recipe can hold it and be read quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from compressor.errors import UsageError, unknown_name
from compressor.recipe.loss_terms import pairs_from, terms_of
from compressor.recipe.schedule import Schedule

METHOD_TITLES = {
    "steps": "one network after the other, each cut from and taught by the one before",
    "cascade": "all networks together while channels are chosen, then the student by one after the other",
    "multi-teacher": "as steps, but all larger networks teach the student at once",
    "ensemble": "all networks at once, each taught by what they say together",
    "kd": "the teacher teaches the student",
    "lightweight-teacher": "a small teacher that knows pictures of numbers, as many as there are classes",
    "teacher-free": "a made-up teacher that knows the labels",
    "teacher-free-self": "the student, trained by labels, teaches itself anew",
    "self": "the student, by its own middle and its answers to the batch before",
    "label-smoothing": "labels alone, smoothed",
    "finetune": "labels alone",
    "information-flow": "an auxiliary teacher, and then the student by how its layers arrange images",
    "indistill": "one layer after the other, then as the schedule says",
    "repair": "no training: layers are fitted to the teacher's",
    "cut-only": "no training, and nothing is fitted",
}
"""Each method by its name in recipes, and in words."""

WITHOUT_TEACHER = (
    "ensemble",
    "lightweight-teacher",
    "teacher-free",
    "teacher-free-self",
    "self",
    "label-smoothing",
    "finetune",
    "repair",
    "cut-only",
)
"""Those that ask no trained network; what they compare with, they make."""
IN_STEPS = ("steps", "multi-teacher")
TEACHER_NONE = "none"
"""The name of no teacher: the network that is cut need not know anything."""
LIGHTWEIGHT, LIGHTWEIGHT_EPOCHS = "lightweight", 4
"""The training of the small teacher that knows numbers."""
PROBES = ("probe-taught", "probe-alone")
"""The trainings of the probe, by the teacher and by labels alone."""
ENSEMBLE = "ensemble"
"""The training of several students at once, and what they say together."""
REPAIR = "repair"
UNTAUGHT = (REPAIR, "cut-only")
"""Methods that train nothing."""
CUTTING = (*IN_STEPS, "cascade", ENSEMBLE, *UNTAUGHT)
"""Methods that are about cuts from the teacher; all others also teach a student that is given."""

EIGHT_BITS = "student-int8"
"""The training of the student that computes as its INT8 file will."""

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
    ``between``: what each network between loses, instead of evenly spaced shares; there are as many then.
    ``probe``: epochs of training a student with and without its teacher first, to see whether it helps at all.
    ``digits``: the data set of ten digits of which ``lightweight-teacher`` makes numbers; drawn here by default.
    ``hints``: layers whose outputs the student should imitate, counted ``hint_weight`` times; none by default.
    ``losses``: others beside them, each a line of `terms`; not for networks that learn all at once.
    ``quantise_aware_epochs``: epochs in which the taught student learns on as its INT8 file will compute.
    ``layers``: which layers ``information-flow`` and ``indistill`` compare: ``auto`` (the last at each resolution, by
    name or from the end), ``information`` (paired by what they know of the labels), or STUDENT/TEACHER, with spaces.
    """

    method: str = "steps"
    teacher: str = ""
    teacher_weights: str = ""
    assistants: int = 1
    between: tuple[float, ...] = ()
    assistant_share: float = 0.5
    together_share: float = 0.4
    masks: str = "learned"
    masks_every: int = 20
    masks_share: float = 0.8
    score_travel: float = 1.0
    score_rule: str = "sgd"
    probe: int = 0
    digits: str = ""
    hints: tuple[str, ...] = ()
    hint_weight: float = 0.001
    losses: tuple[str, ...] = ()
    layers: str = "auto"
    shard_teacher: bool = False
    student: str = ""
    student_weights: str = ""
    auxiliary: str = ""
    quantise_aware_epochs: int = 0
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for kind, given, table in (
            ("method", self.method, METHOD_TITLES),
            ("masks", self.masks, MASKS),
            ("score_rule", self.score_rule, SCORE_RULES),
        ):
            if given not in table:
                raise unknown_name(kind, given, table)
        if self.teacher == TEACHER_NONE and self.method not in WITHOUT_TEACHER:
            raise UsageError(
                f"method `{self.method}` asks a teacher, and distil.teacher is `{TEACHER_NONE}`",
                f"without one there are {', '.join(WITHOUT_TEACHER)}",
            )
        if self.quantise_aware_epochs < 0:
            raise UsageError(
                f"distil.quantise_aware_epochs is {self.quantise_aware_epochs}, expected at least 0"
            )
        terms = terms_of(self.losses)
        if self.method == ENSEMBLE and (terms or self.hints):
            raise UsageError(
                "method `ensemble` trains several networks at once, and distil.losses and distil.hints compare two",
                "leave them out, or choose steps or kd",
            )
        if list(self.between) != sorted(set(self.between)) or not all(
            0 < share < 1 for share in self.between
        ):
            raise UsageError(
                f"distil.between is {list(self.between)}, expected shares that go, above 0 and below 1, the least first"
            )
        if self.probe < 0:
            raise UsageError(f"distil.probe is {self.probe}, expected epochs, at least 0")
        if self.probe and self.method in WITHOUT_TEACHER:
            raise UsageError(
                f"distil.probe asks whether a teacher helps, and method `{self.method}` has none"
            )
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
        rounded = {EIGHT_BITS: self.quantise_aware_epochs} if self.quantise_aware_epochs else {}
        return {**{name: self.probe for name in PROBES if self.probe}, **self._trainings(path), **rounded}

    def _trainings(self, path: Sequence[str]) -> dict[str, int]:
        if self.method in UNTAUGHT:
            return {}
        if self.method == "cascade":
            after = self.afterwards
            return {"together": self.together.epochs, **({"student": after.epochs} if after else {})}
        if self.method == ENSEMBLE:
            return {ENSEMBLE: self.schedule.epochs}
        if self.method == "lightweight-teacher":
            return {LIGHTWEIGHT: LIGHTWEIGHT_EPOCHS, "student": self.schedule.epochs}
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
