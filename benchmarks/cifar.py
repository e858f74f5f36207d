"""CIFAR-10 and a trained ResNet-56, from a folder that holds both.

``cifar10/{train,test}/CLASS.webp`` are mosaics of 32 x 32 tiles, ``resnet56-cifar10.safetensors`` the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from compressor.data.in_memory import Augment, TensorSplit
from compressor.data.scaling import IMAGENET, Scaling
from compressor.data.split import Data


def resnet56(folder: Path) -> nn.Module:
    """The network with its weights, in evaluation mode."""
    network = ResNet56()
    network.load_state_dict(load_file(folder / "resnet56-cifar10.safetensors"))
    return network.eval()


def cifar10(
    folder: Path,
    train_each: int,
    test_each: int,
    augment: Augment | None = None,
    scaling: Scaling = IMAGENET,
) -> Data:
    """So many images of each class, those to train on changed at random by ``augment``."""
    classes = tuple(sorted(path.stem for path in (folder / "cifar10/test").glob("*.webp")))
    train, test = (
        tiles([folder / "cifar10" / half / f"{name}.webp" for name in classes], each, more, scaling)
        for half, each, more in (("train", train_each, augment), ("test", test_each, None))
    )
    return Data("cifar10", classes, (3, 32, 32), train, test)


def tiles(
    mosaics: Sequence[Path], each: int, augment: Augment | None = None, scaling: Scaling = IMAGENET
) -> TensorSplit:
    """The first images of every mosaic, a class for each."""
    images = []
    for path in mosaics:
        mosaic = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
        grid = mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
        images.append(grid.reshape(-1, 3, 32, 32)[:each])
    labels = torch.arange(len(images)).repeat_interleave(each)
    return TensorSplit(torch.from_numpy(np.concatenate(images)), labels, scaling, augment)


class Block(nn.Module):
    """Two convolutions and a shortcut that skips pixels and pads channels with nothing (option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.more = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=outputs // inputs, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, momentum=None)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(inner + x)


class ResNet56(nn.Module):
    """He et al. 2016 for CIFAR: three stages of nine blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16, momentum=None)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(8)))
            for inputs, outputs in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class SmallCnn(nn.Module):
    """Three blocks of convolution, norm, activation and pooling without padding, and two linear layers.

    CNN1 of Passalis et al. 2020 is 8-16-32 wide with 64 hidden, its auxiliary twice as wide in everything.
    """

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))
            for inputs, outputs in ((3, 8 * times), (8 * times, 16 * times), (16 * times, 32 * times))
        )
        self.hidden = nn.Sequential(nn.Linear(128 * times, 64 * times), nn.ReLU())
        self.head = nn.Linear(64 * times, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return self.head(self.hidden(x.flatten(1)))
