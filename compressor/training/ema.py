"""Moving average of a network's weights, which is often more accurate than the last weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """Averaged copy of a network: after every step ``average += (1 − decay) · (network − average)``.

    Running statistics are averaged like weights, so that they fit the averaged network. The decay starts
    lower, (1 + n) / (10 + n) after n steps: the first weights are the worst and must lose their influence soon.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Update the average after step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, current in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)
