"""The moving average of a network's weights, which is often better than the last of them."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A copy of a network that follows it: after every step ``average += (1 − decay) · (network − average)``.

    Running statistics are averaged like weights, so that they stay those of the averaged network. The decay starts
    lower, (1 + n) / (10 + n) after n steps: the first weights are the worst and must not stay for long.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """After ``step`` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)
