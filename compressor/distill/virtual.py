"""A teacher that is made up: it knows the label, and is a little less than sure of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VirtualTeacher(nn.Module):
    """p(label) = ``correct``, (1 − ``correct``) / (K − 1) for each other class; Yuan et al. 2020, section 4.2.

    Their code softens these probabilities as if they were logits, which leaves next to nothing of them; here the
    logits are their logarithms, as the formula has it.
    """

    shares: Tensor

    def __init__(self, classes: int, correct: float) -> None:
        super().__init__()
        shares = torch.full((classes, classes), (1 - correct) / max(1, classes - 1))
        self.register_buffer("shares", shares.fill_diagonal_(correct))

    def forward(self, labels: Tensor) -> Tensor:
        """Its logits for labels (N,), or for shares of labels (N, K) where images were mixed."""
        shares = self.shares[labels] if labels.ndim == 1 else labels.to(self.shares.dtype) @ self.shares
        return shares.log()
