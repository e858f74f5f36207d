"""Results of a training: progress (`Progress`), one epoch (`Epoch`), the end result (`Trained`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from compressor.training.precision import Precision


@dataclass(frozen=True)
class Progress:
    """Progress of a training. ``accuracy`` is set after a tested epoch, once its checkpoint is on disk."""

    epoch: int  # from 1, like `step`
    epochs: int
    step: int
    steps: int  # of one epoch
    loss: float
    images_per_second: float
    accuracy: float | None = None
    left_s: float = 0.0  # seconds until the end of the training, at this speed
    over: bool = False  # the epoch is finished, with its test and its checkpoint

    @property
    def done(self) -> float:
        """The share of the whole training that is done."""
        return (self.epoch - 1 + self.step / self.steps) / self.epochs


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean loss over its steps, and the accuracy on the test set if it was tested."""

    loss: float
    accuracy: float | None
    images_per_second: float
    seconds: float  # of training, without the test
    teacher: str | None = None


@dataclass(frozen=True)
class Trained:
    """A trained network and the history of its training.

    ``network`` has the LAST weights. Returning those of the best epoch would mean choosing by
    test accuracy, and the reported accuracy would then be too high.
    """

    network: nn.Module
    history: tuple[Epoch, ...]
    resumed_from: int | None  # number of steps done in the checkpoint that was resumed
    precision: Precision
    warnings: tuple[str, ...] = ()
    before: float | None = None  # accuracy of the network if nothing was trained

    @property
    def epochs(self) -> int:
        return len(self.history)

    @property
    def accuracy(self) -> float:
        return self._tested[-1]

    @property
    def best_accuracy(self) -> float:
        return max(self._tested)

    @property
    def _tested(self) -> list[float]:
        tested = [epoch.accuracy for epoch in self.history if epoch.accuracy is not None]
        return tested if self.before is None else [self.before, *tested]

    @property
    def images_per_second(self) -> float:
        images = sum(epoch.images_per_second * epoch.seconds for epoch in self.history)
        return images / (sum(epoch.seconds for epoch in self.history) or 1.0)
