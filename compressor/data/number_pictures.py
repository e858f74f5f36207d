"""Simple data set with any number of classes: each picture shows the number of its class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from compressor.data.in_memory import TensorSplit
from compressor.data.scaling import Scaling
from compressor.data.split import Data

SIDE = 32
_SCALING = Scaling((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_INK = 0.8  # the share of the picture's width that a number fills

# Variation between pictures of one number; each is the limit of a uniform range.
_TURN = math.radians(8)
_SCALE = 0.15
_SHIFT = 0.12
_NOISE = 0.1


def load_numbers(classes: int, *, train: int, test: int, seed: int = 0) -> Data:
    """Data set whose class c (of ``classes``) shows the number c, padded with zeros to equal length.

    Numbers are drawn in Pillow's built-in font.
    """
    places = len(str(classes - 1))
    names = tuple(f"{number:0{places}}" for number in range(classes))
    random = Generator().manual_seed(seed)
    halves = []
    for count in (train, test):
        labels = torch.arange(count) % classes
        pixels = (_drawn(names, labels, random).clamp(0, 1) * 255).round().to(torch.uint8)
        halves.append(TensorSplit(pixels.expand(-1, 3, -1, -1).contiguous(), labels, _SCALING))
    return Data("numbers", names, (3, SIDE, SIDE), halves[0], halves[1])


def _drawn(names: tuple[str, ...], labels: Tensor, random: Generator) -> Tensor:
    """Pictures (N, 1, SIDE, SIDE), values 0 to 1, one per label: turned, scaled and shifted a little, with noise."""
    masks = torch.stack([_mask(name) for name in names])[labels]
    count = len(labels)
    turn, scale, right, down = (_between(reach, count, random) for reach in (_TURN, _SCALE, _SHIFT, _SHIFT))
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    rows = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(rows, [count, 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(masks, grid, align_corners=False)
    return moved + _NOISE * torch.randn(moved.shape, generator=random)


def _mask(name: str) -> Tensor:
    """The number upright in the middle (1, SIDE, SIDE): 1 is ink."""
    image = Image.new("L", (SIDE, SIDE))
    draw, size = ImageDraw.Draw(image), SIDE
    while draw.textlength(name, font=ImageFont.load_default(size=size)) > _INK * SIDE and size > 6:
        size -= 1
    draw.text((SIDE / 2, SIDE / 2), name, fill=255, font=ImageFont.load_default(size=size), anchor="mm")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE) / 255


def _between(reach: float, count: int, random: Generator) -> Tensor:
    return (torch.rand(count, generator=random) * 2 - 1) * reach
