"""The built-in teacher: a small residual network for the built-in glyphs.

With it a whole run needs no download and no GPU. It is a real ResNet of basic blocks, with the two
structures that make channel removal hard: identity shortcuts, which tie many layers to one set of
channels, and projections, which end that tie. Its size was chosen by measurement: large enough to
lose most of its accuracy when 70 % of its MACs are cut without training, small enough to be trained
on two CPU cores in well under a minute.

There are no pretrained weights: a run trains it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.errors import UsageError


class Block(nn.Module):
    """``relu(conv-bn-relu-conv-bn(x) + shortcut(x))``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class GlyphNet(nn.Module):
    """Stem, three stages at halving resolution, global average pool, linear head."""

    def __init__(
        self,
        classes: int,
        *,
        channels: int = 3,
        widths: tuple[int, int, int] = (24, 48, 96),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        if classes < 2 or channels < 1 or blocks < 1 or min(widths) < 1:
            raise UsageError(
                f"cannot build a glyph network of {classes} classes, {channels} channels, "
                f"widths {widths}, {blocks} blocks a stage",
                "at least 2 classes, and 1 of everything else",
            )
        first, second, third = widths
        # Stride 2 in the stem: at full resolution, stem and first stage would be three quarters of the cost.
        self.stem = nn.Sequential(_conv(channels, first, 2), nn.BatchNorm2d(first), nn.ReLU())
        self.stage1 = _stage(first, first, blocks, stride=1)
        self.stage2 = _stage(first, second, blocks, stride=2)
        self.stage3 = _stage(second, third, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(torch.flatten(self.pool(x), 1))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _conv(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
