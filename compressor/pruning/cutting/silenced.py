"""The reference of a cut: the teacher at full width, whose removed channels are silenced where they are read.

The teacher's recording is run again on its own weights. Where an operator sums over channels (convolutions, products)
the removed ones are zero in what it reads. Where it takes statistics over channels (norms over the width, softmax,
means) silence is not the reference, since a zero still counts; there it is given the remaining channels only, and
its result is put back at full width. Everything else runs as recorded, removed channels and all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.pruning.cutting.program_sizes import resized
from compressor.pruning.graph.labelled import Remaining, Walk
from compressor.pruning.graph.recording.operation import Operation, tensors_in
from compressor.pruning.graph.recording.replay import replay, substituted

SUMS_OVER = {
    "convolution": {0: 1, 1: 1},
    "linear": {0: -1, 1: 1},
    **{product: {0: -1, 1: -2} for product in ("matmul", "bmm", "mm")},
}
"""Operators that sum over a dimension: of which arguments, and over which of theirs."""

OVER_CHANNELS = frozenset(
    """addmm baddbmm mv dot vdot addmv attention layer_norm rms_norm group_norm instance_norm _softmax _log_softmax
    mean sum prod amax amin var std var_mean std_mean linalg_vector_norm norm logsumexp max min
    lstm gru rnn_tanh rnn_relu _weight_norm_interface batch_norm _trilinear""".split()
)
"""Operators that are given the remaining channels only, wherever channels are removed from what they read."""


CHANNEL_BY_CHANNEL = ("batch_norm", "instance_norm")
"""Of these, the ones that take the statistics of dimension 1 index by index, where nothing is to be left out."""


def silenced(
    walked: Walk,
    slices: Mapping[str, Mapping[int, tuple[int, ...]]],
    tensors: Mapping[str, Tensor],
    inputs: list[Tensor],
    *,
    batch_statistics: bool | Collection[str] = False,
    constants: Mapping[int, Tensor] | None = None,
) -> list[Tensor]:
    """The outputs of the full network with everything outside ``slices`` silenced.

    ``constants``: for some operations what removed channels say to them instead of nothing (see ``folding.py``).
    """
    silencing = _Silencing(walked.remaining(slices), constants or {})
    return replay(walked.recording, tensors, inputs, silencing, batch_statistics=batch_statistics)


@dataclass(frozen=True)
class _Silencing:
    remaining: Remaining
    constants: Mapping[int, Tensor]

    def __call__(
        self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if operation.operator in SUMS_OVER:
            heard = list(args)
            constants = self.constants.get(number)
            for place, dim in SUMS_OVER[operation.operator].items():
                if place == 1 and constants is not None:
                    continue  # its columns are what the constants are multiplied by
                meta = operation.args[place]
                if place == 1 and operation.operator == "convolution" and operation.args[6]:
                    dim = 0  # transposed
                kept = self.remaining.kept(meta, dim % meta.dim())
                if kept is not None and not kept.all():
                    heard[place] = _heard(args[place], kept, dim, constants)
            return operation.function(*heard, **kwargs)
        if operation.operator in OVER_CHANNELS and self._narrower(operation):
            return self._on_what_remains(operation, args, kwargs)
        return operation.function(*args, **kwargs)

    def _narrower(self, operation: Operation) -> bool:
        if operation.operator in CHANNEL_BY_CHANNEL:
            return any(dim != 1 for dim in self.remaining.kept_along(operation.args[0]))
        return any(self.remaining.touches(tensor) for tensor in tensors_in(operation.args))

    def _on_what_remains(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = zip(tensors_in(operation.args), tensors_in(args), strict=True)
        narrow = {id(meta): self._taken(meta, real) for meta, real in given}
        _, called = resized(operation, self.remaining)
        if operation.operator == "batch_norm":
            called = (*called[:5], args[5], *called[6:])
        results = tensors_in(operation.function(*substituted(called, narrow), **kwargs))
        return [self._put_back(meta, result) for meta, result in zip(operation.outputs, results, strict=True)]

    def _taken(self, meta: Tensor, real: Tensor) -> Tensor:
        for dim, kept in self.remaining.kept_along(meta).items():
            real = real.index_select(dim, torch.from_numpy(np.flatnonzero(kept)))
        return real

    def _put_back(self, meta: Tensor, narrow: Tensor) -> Tensor:
        for dim, kept in self.remaining.kept_along(meta).items():
            shape = list(narrow.shape)
            shape[dim] = len(kept)
            # No number: whatever still hears a removed channel shows it.
            wide = narrow.new_full(shape, math.nan) if narrow.is_floating_point() else narrow.new_zeros(shape)
            narrow = wide.index_copy(dim, torch.from_numpy(np.flatnonzero(kept)), narrow)
        return narrow


def _heard(x: Tensor, kept: Any, dim: int, constants: Tensor | None) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    instead = x.new_zeros(()) if constants is None else constants.view(shape)
    # Not a product with zeros: what is removed may be infinite.
    return torch.where(torch.from_numpy(kept).view(shape), x, instead)
