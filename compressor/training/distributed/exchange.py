"""Exchange of values between processes during one batch, so that a run survives lack of memory in one process.

Between the first layer and the last gradient the processes exchange the statistics of batch norms. If one process runs
out of memory, the others wait for it in such an exchange, and it cannot know in which. So every exchange during a
batch has the same length: a process that had to stop keeps answering with zeros until the others have finished, and
all learn of it in the last exchange. Then all compute the batch again in smaller pieces.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compressor.training.distributed.world import World

COMPUTING, DONE, STOPPED = 0.0, 1.0, 2.0


class Exchange:
    """Exchange of vectors of one length. In every batch each process calls `rows` equally often, then `settle`."""

    def __init__(self, world: World, networks: Iterable[nn.Module], device: torch.device) -> None:
        self.world, self._device = world, device
        # All possible widths of a batch norm: those of its own tensors, or of the filters before it.
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
        """The values of every process, one row each; zeros from a process that had to stop."""
        return self._gathered(values, COMPUTING)[:, : len(values)]

    def settle(self, loss: Tensor | None) -> Tensor | None:
        """The loss of the whole batch, the sum over all processes, or None if some process had to stop.

        ``loss`` is None in a process that had to stop. Reading the result waits for the device: on a GPU once a batch.
        """
        if self.world.size == 1:
            return loss
        if loss is not None:
            rows = self._gathered(loss.detach().reshape(1), DONE)
            return None if bool((rows[:, -1] == STOPPED).any()) else rows[:, 0].sum().to(loss.dtype)
        # Answer the others' exchanges with zeros until none of them computes any more.
        while bool((self._gathered(torch.zeros(1, device=self._device), STOPPED)[:, -1] == COMPUTING).any()):
            pass
        return None

    def _gathered(self, values: Tensor, state: float) -> Tensor:
        """Values and state of all processes, one row each, in float64 so that counts and sums of squares are exact."""
        vector = torch.zeros(self._length, dtype=torch.float64, device=self._device)
        vector[: len(values)] = values
        vector[-1] = state
        return self.world.rows(vector)
