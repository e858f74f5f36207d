"""Schedule of a training: epochs, rates, losses; and the learning rate of every step.

Values only, without torch, so that a recipe can hold a schedule and be read quickly. What is
deliberately not here: the device, the seed and the folder, which belong to a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressor.errors import UsageError, unknown_name
from compressor.recipe.optimizer_text import optimizer_of
from compressor.recipe.setting import by_code, setting

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MIXINGS = ("mixup", "cutmix")
ANNEALINGS = ("cosine", "constant")
TEST_EVERY = 3
"""Epochs between tests; the last epoch is always tested. A curve needs few points, and tests take time."""

NO_ANSWERS = "none"
"""The ``teacher_loss`` of a student that does not follow what its teacher says, only what losses beside compare."""


@dataclass(frozen=True)
class Schedule:
    """One training: linear warm-up, then a cosine down to zero; SGD with Nesterov momentum by default.

    ``optimizer`` is a name of `torch.optim`, in any case of letters, with settings of its own (`optimizer_of`).
    ``teacher_weight`` is the share of the loss given to the teacher, the rest goes to the
    labels; without a teacher the labels have it all. With ``teacher_loss = "none"`` the teacher's share stays empty.
    ``mix``: mixup and cutmix with their alphas; with both, each step draws one. ``clip_norm``
    bounds the norm of the whole gradient. ``compile``: the network through `torch.compile`; a teacher that is asked
    live too, or on a CPU through ONNX Runtime. That costs minutes before the first step.

    ``annealing`` (``constant`` keeps the rate after its warm-up), ``label_smoothing`` (the share of the labels that is
    spread over all classes) and ``test_every`` (epochs; the last is always tested) are set by methods, and are no keys.
    """

    epochs: int = setting(6, "Epochs of every network that is taught")
    batch: int = setting(128, "Images of a step")
    optimizer: str = setting("sgd", 'Optimizer of torch.optim, as in "sgd, momentum=0.8"')
    learning_rate: float = setting(0.1, "Peak of the learning rate")
    weight_decay: float = setting(5e-4, "Weight decay")
    warmup_epochs: float = setting(0.5, "Epochs of linear warm-up")
    teacher_loss: str = setting("kd", "Loss by the teacher: kd, dkd, dist, ofa, comparative or none")
    temperature: float = setting(2.0, "Temperature of the softmax in that loss")
    teacher_weight: float = setting(
        0.9, "Share of the loss given to the teacher; the rest goes to the labels"
    )
    mix: tuple[str, ...] = setting((), 'Mixed images, with alphas, as in ["mixup=0.2", "cutmix=1.0"]')
    clip_norm: float | None = setting(None, "Bound of the gradient's norm")
    precision: str = setting("auto", "auto, fp32, bf16 or fp16")
    compile: bool = setting(False, "Train through torch.compile")
    annealing: str = by_code("cosine")
    label_smoothing: float = by_code(0.0)
    test_every: int = by_code(TEST_EVERY)

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _need("batch", self.batch, self.batch >= 1, "at least 1")
        _need("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0")
        optimizer_of(self.optimizer)
        _need("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        _need(
            "warmup_epochs",
            self.warmup_epochs,
            0 <= self.warmup_epochs < self.epochs,
            f"at least 0 and below epochs ({self.epochs})",
        )
        if self.annealing not in ANNEALINGS:
            raise unknown_name("annealing", self.annealing, ANNEALINGS)
        _need("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        _need("temperature", self.temperature, 0 < self.temperature < math.inf, "above 0")
        _need("teacher_weight", self.teacher_weight, 0 <= self.teacher_weight <= 1, "in [0, 1]")
        self.alphas()
        _need("test_every", self.test_every, self.test_every >= 1, "at least 1")
        if self.clip_norm is not None:
            _need("clip_norm", self.clip_norm, 0 < self.clip_norm < math.inf, "above 0")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def alphas(self) -> dict[str, float]:
        """Each way of mixing that is asked for, in the order of `MIXINGS`, with its alpha."""
        found: dict[str, float] = {}
        for text in self.mix:
            name, _, alpha = (part.strip() for part in text.partition("="))
            if name not in MIXINGS:
                raise unknown_name("way of mixing", name, MIXINGS)
            try:
                found[name] = float(alpha)
            except ValueError:
                found[name] = math.nan
            if not 0 < found[name] < math.inf:
                raise UsageError(f"`mix` has `{text}`, expected an alpha above 0", f"as in {name}=0.2")
        if len(found) < len(self.mix):
            raise UsageError(f"`mix` is {list(self.mix)}, expected each way of mixing once")
        return {name: found[name] for name in MIXINGS if name in found}

    def tests_after(self, epoch: int) -> bool:
        """True if the network is tested after ``epoch`` (from 1)."""
        return epoch % self.test_every == 0 or epoch == self.epochs

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The rate of ``step`` (from 0) in a training of ``steps``, all epochs together.

        Warm-up of w steps: peak · (step + 1) / w, so the first step already learns something.
        After it: peak · (1 + cos(π · (step − w) / (steps − w))) / 2, or the peak to the end.
        """
        warmup = round(steps * self.warmup_epochs / self.epochs)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.annealing == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def _need(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"`{name}` is {value}, expected {expected}")
