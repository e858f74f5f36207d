"""Built-in data set of coloured glyphs, rendered by this module without a download.

Each glyph is drawn once in Pillow's built-in font as a large mask. A sample is that mask turned,
scaled, stretched, sheared and shifted at random, in a random colour over a gradient, with a piece
of another glyph at its edge and noise on top. Samples are rendered many at a time, so the whole
default set takes about a second on one core.

The same arguments give the same pixels on the same machine; on another a pixel may differ by one
step, because sampling a mask is float arithmetic. There is no augmentation by default, so that a
teacher's logits for a sample stay valid for the whole training and are computed once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, features
from torch import Generator, Tensor

from compressor.data.augment import DEFAULT, Policy, policy_named
from compressor.data.in_memory import TensorSplit
from compressor.data.scaling import Scaling, chosen_scaling
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError

# Ordered so that the first N make a fair task for every N: the last ones differ from another glyph
# only in size, or less (O and 0, l and I, x and X).
GLYPHS = "ABDEFGHJKLMNPQRTUYabdefghqrt23456789" + "CSVWXZIimnjyO1kl0opsuvwxzc"
CLASSES = 36
TRAIN = 8_000
TEST = 6_000  # large, because the compared accuracies differ by about half a point
SIZE = 24

_SCALING = Scaling((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_MASTER = 48  # pixels of a mask's side; a capital letter takes 21 of them, the rest is room to turn

# Difficulty: each is the limit of a uniform range; positions count from the middle, with the edge at 1.
_TURN = math.radians(25)
_SHEAR = 0.3
_STRETCH = 0.2
_SCALE = (0.65, 1.05)
_SHIFT = 0.2
_NOISE = 0.12
_CONTRAST = 0.25  # the least difference in brightness between a glyph and its background
_CLUTTERED = 0.7  # the share of samples with a piece of another glyph
_CLUTTER_AWAY = 1.1


def load_glyphs(
    *,
    classes: int | None = None,
    train: int = TRAIN,
    test: int = TEST,
    size: int | None = None,
    normalise: tuple[tuple[float, ...], ...] = (),
    augment: str = DEFAULT,
    seed: int = 0,
) -> Data:
    """Render ``train`` and ``test`` samples of the first ``classes`` glyphs, ``size`` pixels wide and high.

    The halves come from two streams of random numbers that no other seed uses.
    """
    classes = CLASSES if classes is None else classes
    size = SIZE if size is None else size
    if not 2 <= classes <= len(GLYPHS):
        raise UsageError(f"glyphs: {classes} classes, expected 2 to {len(GLYPHS)}")
    if size < 8:
        raise UsageError(f"glyphs: a size of {size} pixels, expected at least 8")
    if train < 1 or test < 1:
        raise UsageError(
            f"glyphs: {train} training samples and {test} test samples, expected at least 1 each"
        )
    masks = _masks(classes)
    scaling = chosen_scaling(_SCALING, normalise)

    def half(count: int, stream: int, policy: Policy | None) -> TensorSplit:
        labels = torch.arange(count) % classes
        images = torch.empty(count, 3, size, size, dtype=torch.uint8)
        random = Generator().manual_seed((2 * seed + stream) % 2**63)
        # In pieces that fit into the processor's cache: twice as fast as all at once.
        for piece, piece_labels in zip(images.split(256), labels.split(256), strict=True):
            piece.copy_(_render(masks, piece_labels, size, random))
        return TensorSplit(images, labels, scaling, policy=policy)

    return Data(
        "glyphs",
        tuple(GLYPHS[:classes]),
        (3, size, size),
        half(train, 0, policy_named(augment)),
        half(test, 1, None),
    )


def _masks(classes: int) -> Tensor:
    """Each glyph upright in the middle of a square (classes, 1, _MASTER, _MASTER): 1 is ink."""
    if not features.check("freetype2"):
        raise CompressError(
            "cannot draw glyphs: this Pillow was built without FreeType",
            "python -m pip install --force-reinstall pillow",
        )
    font = ImageFont.load_default(size=0.6 * _MASTER)
    drawn = []
    for glyph in GLYPHS[:classes]:
        image = Image.new("L", (_MASTER, _MASTER))
        middle = (_MASTER / 2, _MASTER / 2)
        ImageDraw.Draw(image).text(middle, glyph, fill=255, font=font, anchor="mm")
        drawn.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8))
    return torch.stack(drawn).view(classes, 1, _MASTER, _MASTER) / 255


def _render(masks: Tensor, labels: Tensor, size: int, random: Generator) -> Tensor:
    """One sample for each label: uint8 (N, 3, size, size)."""
    count = len(labels)
    ink = _draw(masks[labels], _placement(count, random), size)

    others = torch.randint(len(masks), (count,), generator=random)
    piece = _draw(masks[others], _placement(count, random, away=_CLUTTER_AWAY), size)
    piece *= torch.rand(count, 1, 1, 1, generator=random) < _CLUTTERED

    background = _gradient(count, size, random)
    image = torch.lerp(background, torch.rand(count, 3, 1, 1, generator=random), piece)
    image = torch.lerp(image, _visible_colour(background, random), ink)

    strength = _NOISE * torch.rand(count, 1, 1, 1, generator=random)
    image += strength * torch.randn(count, 3, size, size, generator=random)
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _placement(count: int, random: Generator, *, away: float = 0.0) -> Tensor:
    """Affine maps (N, 2, 3) from a position in the sample to one in the mask, both in [-1, 1].

    ``away`` moves each glyph that far from the middle, in a random direction.
    """
    turn = _between(-_TURN, _TURN, count, random)
    shear = _between(-_SHEAR, _SHEAR, count, random)
    scale = _between(*_SCALE, count, random)
    stretch = 1 + _between(-_STRETCH, _STRETCH, count, random)
    direction = _between(-math.pi, math.pi, count, random)
    shift = torch.stack([_between(-_SHIFT, _SHIFT, count, random) for _ in "xy"], dim=1)
    shift += away * torch.stack([direction.cos(), direction.sin()], dim=1)

    rotation = _matrices(turn.cos(), -turn.sin(), turn.sin(), turn.cos())
    skew = _matrices(stretch, shear, torch.zeros(count), 1 / stretch)
    # A capital letter fills 0.43 of its mask; at scale 1 it must fill three quarters of the sample.
    linear = rotation @ skew * (0.43 / 0.75 / scale).view(-1, 1, 1)
    return torch.cat([linear, -linear @ shift.unsqueeze(2)], dim=2)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)


def _draw(masks: Tensor, placement: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(placement, [len(masks), 1, size, size], align_corners=False)
    return F.grid_sample(masks, grid, mode="bilinear", align_corners=False)


def _gradient(count: int, size: int, random: Generator) -> Tensor:
    """Backgrounds (N, 3, size, size): a linear gradient between two similar colours, in a random direction."""
    start = torch.rand(count, 3, 1, 1, generator=random)
    change = 0.6 * (torch.rand(count, 3, 1, 1, generator=random) - 0.5)
    direction = _between(-math.pi, math.pi, count, random).view(-1, 1, 1, 1)
    line = torch.linspace(-0.5, 0.5, size)
    along = direction.cos() * line + direction.sin() * line.view(-1, 1) + 0.5
    return (start + along * change).clamp(0, 1)


def _visible_colour(background: Tensor, random: Generator) -> Tensor:
    """A colour for each sample that differs in brightness from the mean of its background."""
    count = len(background)
    brightness = background.mean(dim=(1, 2, 3))
    lighter = torch.rand(count, generator=random) < 1 - brightness  # more often on dark backgrounds
    room = torch.where(lighter, 1 - brightness, brightness)
    step = _CONTRAST + torch.rand(count, generator=random) * (room - _CONTRAST).clamp(min=0)
    target = torch.where(lighter, brightness + step, brightness - step)
    colour = 0.6 * torch.rand(count, 3, generator=random)
    colour += (target - colour.mean(dim=1)).unsqueeze(1)
    return colour.clamp(0, 1).view(-1, 3, 1, 1)


def _between(low: float, high: float, count: int, random: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=random)
