"""What processes tell each other while they compute one batch, so that memory which ends in one ends no run.

Between the first layer and the last gradient the processes exchange the statistics of batch norms. Where memory ends in
one process, the others would wait for it there, each at the same place but not one that it knows. So everything that
is exchanged during a batch has one length: a process that had to stop goes on answering with nothing in it, until the
others are through, and all of them learn of it in the last exchange. Then they compute the batch again in smaller
pieces, together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compressor.training.distributed.world import World

COMPUTING, DONE, STOPPED = 0.0, 1.0, 2.0


class Exchange:
    """The rule between calls: in every batch each process calls `rows` as often as every other, then `settle`."""

    def __init__(self, world: World, networks: Iterable[nn.Module], device: torch.device) -> None:
        self.world, self._device = world, device
        # Of anything that can be the width of a norm: its own tensors, or filters in front of it.
        widths = [
            max(tensor.shape)
            for network in networks
            for tensor in (*network.parameters(), *network.buffers())
            if tensor.ndim == 1
        ]
        widths += [
            tensor.shape[0] for network in networks for tensor in network.parameters() if tensor.ndim > 2
        ]
        self._length = 2 * max(widths, default=0) + 2

    def rows(self, values: Tensor) -> Tensor:
        """The values of every process, one row each; zeros from one that had to stop."""
        return self._told(values, COMPUTING)[:, : len(values)]

    def settle(self, loss: Tensor | None) -> Tensor | None:
        """The loss of the whole batch from those of all pieces, or nothing if some process had to stop.

        Looking at the answer waits for the device: on a GPU once a batch.
        """
        if self.world.size == 1:
            return loss
        if loss is not None:
            told = self._told(loss.detach().reshape(1), DONE)
            return None if bool((told[:, -1] == STOPPED).any()) else told[:, 0].sum().to(loss.dtype)
        while bool((self._told(torch.zeros(1, device=self._device), STOPPED)[:, -1] == COMPUTING).any()):
            pass
        return None

    def _told(self, values: Tensor, state: float) -> Tensor:
        """Float64, so that counts and sums of squares are not lost in it."""
        vector = torch.zeros(self._length, dtype=torch.float64, device=self._device)
        vector[: len(values)] = values
        vector[-1] = state
        return self.world.rows(vector)
