"""What a user brings: networks and data in a package of their own. Copied into a folder by the tests.

The networks are "trained" in milliseconds: fixed random features, and a head by least squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

CLASSES = 4


class Residual(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Blended(nn.Module):
    """A smooth absolute value, by an operator that has no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.xlog1py(x, x.abs())


class Samples(TensorDataset):
    """Labelled patterns in noise."""

    classes = tuple(f"pattern {number}" for number in range(CLASSES))

    def __init__(self, number: int, seed: int, channels: int = 3, side: int = 8) -> None:
        shape = (channels, side, side)
        patterns = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(number) % CLASSES
        super().__init__(patterns[labels] + 0.7 * noise, labels)


class Unreadable(Samples):
    """One sample cannot be read."""

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        if number == 7:
            raise OSError("image file is truncated")
        return super().__getitem__(number)


def data() -> tuple[Samples, Samples]:
    return Samples(512, 1), Samples(128, 2)


def small_data() -> tuple[Samples, Samples]:
    """One channel, 12 pixels a side."""
    return Samples(256, 1, 1, 12), Samples(64, 2, 1, 12)


def empty_test() -> tuple[Samples, Samples]:
    return Samples(64, 1), Samples(0, 2)


def unreadable() -> tuple[Samples, Samples]:
    return Unreadable(64, 1), Samples(64, 2)


def teacher(num_classes: int = CLASSES) -> nn.Module:
    """Convolutions, batch norms, a residual block, and a flatten before the head."""
    with seeded():
        stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        down = [nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        body = [Residual(32), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return fitted(nn.Sequential(*stem, *down, *body, nn.Linear(128, num_classes)), Samples(512, 1))


def without_norms(num_classes: int = CLASSES) -> nn.Module:
    """For small data: no batch norm anywhere, biases instead."""
    with seeded():
        body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU()]
        head = [nn.Flatten(), nn.Linear(24 * 25, num_classes)]
        return fitted(nn.Sequential(*body, *head), Samples(256, 1, 1, 12))


def unsupported(num_classes: int = CLASSES) -> nn.Module:
    """An operator without a rule between two convolutions that may be cut otherwise."""
    with seeded():
        body = [
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            Blended(),
        ]
        head = [nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return fitted(nn.Sequential(*body, *head, nn.Linear(96, num_classes)), Samples(512, 1))


@contextmanager
def seeded() -> Iterator[None]:
    """The same random weights each time, and no trace in the caller's random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def fitted(network: nn.Sequential, samples: Samples) -> nn.Sequential:
    """The head by least squares on the features of the others."""
    images, labels = samples.tensors
    head = network[-1]
    with torch.no_grad():
        features = network.eval()[:-1](images)
        features = torch.cat([features, torch.ones(len(images), 1)], 1)
        wanted = 8 * nn.functional.one_hot(labels % head.out_features, head.out_features).float()
        solution = torch.linalg.lstsq(features, wanted).solution
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])
    return network
