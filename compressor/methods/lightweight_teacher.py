"""Distillation from a lightweight teacher (Liu, Zhang, Wang 2020), which knows numbers and not the student's data.

It is trained in seconds on pictures of as many numbers as there are classes. For each image of class y the student's
target is that teacher's output for some picture of number y: a soft target that differs from image to image. A
discriminator learns to tell the student's outputs from those, and the student learns to deceive it. The paper names
neither network nor constants; those here are our own choice.
"""

from __future__ import annotations

import torch
from torch import nn

from compressor.data.number_pictures import load_numbers
from compressor.data.split import Data
from compressor.methods.start import begun
from compressor.methods.task import Task, Training, taught
from compressor.recipe.method_table import LIGHTWEIGHT, LIGHTWEIGHT_EPOCHS
from compressor.training import Guide, Schedule, Trained, train
from compressor.training.label_teachers import Drawn

IMAGES = 200
"""Pictures per class to train on; half as many are used for the answers."""
ADVERSARIAL = "adversarial=0.1"
SCHEDULE = Schedule(
    epochs=LIGHTWEIGHT_EPOCHS, batch=64, learning_rate=0.05, warmup_epochs=0.5, test_every=LIGHTWEIGHT_EPOCHS
)


def lightweight_teacher(task: Task) -> tuple[Training, ...]:
    """Train the student by the labels and a teacher of numbers."""
    start = begun(task)
    numbers = _numbers(task)
    small = train(
        lenet(len(numbers.classes)),
        numbers,
        SCHEDULE,
        seed=task.seed,
        device=task.device,
        checkpoints=task.checkpoints(LIGHTWEIGHT),
        progress=lambda now: task.progress(LIGHTWEIGHT, now),
    )
    guide = Guide(LIGHTWEIGHT, Drawn(answers(small, numbers)), small.accuracy, by_labels=True)
    trained = taught(task, task.student, start, task.distilling.schedule, (guide,), more=(ADVERSARIAL,))
    return (Training(task.student, guide.name, trained, start),)


def lenet(classes: int) -> nn.Module:
    """A network of the size of LeNet-5, about 60,000 parameters for ten classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 12, 5),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 5),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(600, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )


@torch.no_grad()
def answers(small: Trained, numbers: Data) -> torch.Tensor:
    """Logits of the teacher for pictures it was not trained on: (classes, images, classes)."""
    device = next(small.network.parameters()).device
    batches = list(numbers.test.batches(512))
    logits = torch.cat([small.network(batch.images.to(device)) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    return torch.stack([logits[labels == label] for label in range(len(numbers.classes))])


def _numbers(task: Task) -> Data:
    classes = len(task.data.classes)
    return load_numbers(classes, train=IMAGES * classes, test=IMAGES // 2 * classes, seed=task.seed)
