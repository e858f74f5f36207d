"""The inputs that a layer multiplies by its weights, as rows of a matrix: one row per position of an image.

A layer computes Y = X Wᵀ + b, block by block where it has groups: X has (blocks, rows, unknowns), Y (blocks, rows,
outputs). For a convolution the unknowns of a row are the input window of a position; for a transposed one the same
window of its input, spread out with zeros between.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation

POSITIONS = 400
"""Largest number of positions used per image: neighbours are nearly equal (docs/repair.md)."""
ROWS = 200
"""Largest number of positions used of all images together, for each unknown of a layer."""


def positions_for(unknowns: int, images: int) -> int:
    """The number of positions used of each image, for a layer with this many unknowns."""
    return min(POSITIONS, -(-ROWS * unknowns // images))


class Positions:
    """The positions used of some images, the same ones in a layer's input and in its output.

    Chosen by the number of the layer and the ``numbers`` of the images, so that they do not depend on how the images
    are put into batches.
    """

    def __init__(self, layer: int, numbers: Tensor, most: int) -> None:
        self._layer, self._numbers, self._most = layer, numbers, most

    def of(self, x: Tensor, dims: int) -> Tensor:
        """(N, C, *positions, *more) -> (rows, C, *more), with ``dims`` dimensions of positions."""
        space = x.shape[2 : 2 + dims]
        x = x.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, x.dim()))
        count = prod(space)
        if count <= self._most:
            return x.flatten(0, dims)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self._layer))
        # Each image continues in that order where the image before it ended.
        chosen = order[(self._numbers.view(-1, 1) * self._most + torch.arange(self._most)) % count].to(
            x.device
        )
        image = torch.arange(len(x), device=x.device).view(-1, 1).expand_as(chosen)
        return x[(image, *torch.unravel_index(chosen, space))].flatten(0, 1)


class Multiplication:
    """A convolution or a linear layer: its weight as a matrix, its input and output as rows."""

    def __init__(self, operation: Operation, args: tuple[Any, ...], weight: Tensor) -> None:
        self._kernel: tuple[int, ...] = ()
        self._transposed, self.blocks = False, 1
        if operation.operator == "linear":
            self.outputs, self.unknowns = weight.shape
            return
        _, _, _, stride, padding, dilation, self._transposed, more, self.blocks = args
        self._kernel = tuple(weight.shape[2:])
        dims = len(self._kernel)
        self._stride, self._padding, self._dilation, self._more = (
            _several(value, dims) for value in (stride, padding, dilation, more)
        )
        first, second = weight.shape[:2]
        inputs = first // self.blocks if self._transposed else second
        self.outputs = second if self._transposed else first // self.blocks
        self.unknowns = inputs * prod(self._kernel)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (blocks, outputs, unknowns)."""
        if self._transposed:
            by_block = weight.unflatten(0, (self.blocks, -1)).movedim(2, 1)
            weight = by_block.flip(tuple(range(-len(self._kernel), 0)))
        return weight.reshape(self.blocks, self.outputs, self.unknowns)

    def weight(self, matrix: Tensor) -> Tensor:
        """The matrix in the shape of the layer's weight."""
        if self._transposed:
            by_block = matrix.reshape(self.blocks, self.outputs, -1, *self._kernel)
            return by_block.flip(tuple(range(-len(self._kernel), 0))).movedim(1, 2).flatten(0, 1)
        return matrix.reshape(self.blocks * self.outputs, -1, *self._kernel)

    def read(self, x: Tensor, positions: Positions) -> Tensor:
        """The layer's input as (blocks, rows, unknowns)."""
        if not self._kernel:
            return positions.of(_as_maps(x), 1).unsqueeze(0)
        rows = positions.of(self._windows(x), len(self._kernel))
        return rows.reshape(len(rows), self.blocks, self.unknowns).movedim(1, 0)

    def given(self, y: Tensor, positions: Positions) -> Tensor:
        """The layer's output, or any tensor of that shape, as (blocks, rows, outputs)."""
        rows = positions.of(y, len(self._kernel)) if self._kernel else positions.of(_as_maps(y), 1)
        return rows.reshape(len(rows), self.blocks, self.outputs).movedim(1, 0)

    def row_bytes(self) -> int:
        """The memory of one row in float32, all blocks together."""
        return 4 * self.blocks * (self.unknowns + 3 * self.outputs)

    def _windows(self, x: Tensor) -> Tensor:
        """(N, C, *positions, *kernel), a view of the padded input."""
        steps, sides = self._stride, [(size, size) for size in self._padding]
        if self._transposed:
            x, steps = _spread(x, steps), [1] * len(steps)
            reach = [d * (k - 1) for d, k in zip(self._dilation, self._kernel, strict=True)]
            around = zip(reach, self._padding, self._more, strict=True)
            sides = [(far - pad, far - pad + more) for far, pad, more in around]
        x = F.pad(x, [side for pair in reversed(sides) for side in pair])
        for axis, size in enumerate(self._kernel):
            dilation = self._dilation[axis]
            x = x.unfold(2 + axis, dilation * (size - 1) + 1, steps[axis])[..., ::dilation]
        return x


def _as_maps(x: Tensor) -> Tensor:
    """(N, *positions, C) -> (N, C, positions)."""
    return x.reshape(len(x), -1, x.shape[-1]).movedim(-1, 1)


def _several(value: Any, dims: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dims if len(values) == 1 else values


def _spread(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Put zeros between the values, as a transposed convolution with this stride does."""
    space = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], steps, strict=True)]
    wide = x.new_zeros((*x.shape[:2], *space))
    wide[(slice(None), slice(None), *(slice(None, None, step) for step in steps))] = x
    return wide
