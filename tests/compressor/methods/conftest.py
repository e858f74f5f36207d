"""A small teacher and its data."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from compressor.data.split import Data
from compressor.training import course, train

from .stripes import SCHEDULE, stripes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "CHECKPOINT_S", 0.0)


@pytest.fixture
def data() -> Data:
    return Data("stripes", ("vertical", "horizontal"), (1, 8, 8), stripes(128, 0), stripes(64, 1))


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    data = Data("stripes", ("vertical", "horizontal"), (1, 8, 8), stripes(128, 0), stripes(64, 1))
    return train(network, data, SCHEDULE).network


@pytest.fixture
def teacher(trained: nn.Module) -> nn.Module:
    """A teacher that knows its data, a copy for each test."""
    return copy.deepcopy(trained)
