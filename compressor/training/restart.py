"""The start of a training: a network that is nearly as good as its teacher must not end worse than it began.

A student that was repaired knows most of what it is to learn, and a learning rate for a network that knows nothing
destroys that: after few steps it may end farther from its teacher than it began. Then it begins again at a lower
rate; and if that does not help, it is handed out as it began. Both are told.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.recipe.schedule import Schedule
from compressor.training.checkpoint import Moving
from compressor.training.distributed.world import here
from compressor.training.evaluate import in_eval_mode
from compressor.training.lesson import Lesson
from compressor.training.precision import Arithmetic

WATCHED = 256
"""Training images, without augmentation, on which the loss before and after is compared."""
SLACK = 0.02
"""By so much, in nats and as a share, the loss may be larger at the end: noise, or a network that was perfect."""
LOWER = 5
"""So many times lower is the rate of the next attempt."""
AGAIN = 2
"""Number of times that a training begins again."""


class Beginning:
    """The weights at the start of a training, and their loss on a few images.

    Made before any checkpoint is read, so that a training that goes on compares with the same.
    """

    def __init__(
        self, lesson: Lesson, data: Data, schedule: Schedule, arithmetic: Arithmetic, seed: int
    ) -> None:
        self._lesson, self._schedule = lesson, schedule
        batch = next(iter(data.train.plain.batches(min(WATCHED, len(data.train)), shuffle=seed)))
        self._images, self._labels = arithmetic.images(batch.images), batch.labels.to(arithmetic.device)
        self._loss = self._of(lesson.network)
        self._after: float | None = None
        self._state: dict[str, Tensor] = {}
        if self._loss is not None:
            self._state = {name: tensor.detach().cpu().clone() for name, tensor in lesson.state().items()}

    def was_better_than(self, network: nn.Module) -> bool:
        """True if the network has a larger loss now. All processes say the same."""
        after = self._after = self._of(network)
        # A comparison with NaN is false, so that a network that yields NaN was better before.
        good = self._loss is None or after is None or after <= self._loss * (1 + SLACK) + SLACK
        return not here().gathered(good)[0]

    def take_up_again(self, moving: Moving) -> bool:
        """Go back to the start and on at a lower rate (True); or, after some times, stay there and be done (False)."""
        place, epochs = moving.place, self._schedule.epochs
        rate = self._schedule.learning_rate * place.rate
        told = f"at a learning rate of {rate:.3g} the loss on {len(self._images)} training images went from "
        told += f"{self._loss:.3g} to {self._after:.3g}"
        self._lesson.restore(self._state)
        moving.optimizer.state.clear()
        place.history.clear()
        place.losses.zero_()
        place.step, place.seconds, place.back = 0, 0.0, None
        if len(place.again) < AGAIN:
            place.rate /= LOWER
            place.epoch = 0
            place.again.append(f"{told}: it was trained again at {rate / LOWER:.3g}")
            return True
        place.epoch = epochs
        place.again.append(f"{told}: it is handed out as it began; more epochs would help, or more images")
        return False

    @torch.no_grad()
    def _of(self, network: nn.Module) -> float | None:
        with in_eval_mode(network):
            loss = self._lesson.watched(network, self._images, self._labels)
        return None if loss is None else float(loss)
