"""Teachers that never see the image: they know its label, and answer as if they were a little less than sure."""

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


class Drawn(nn.Module):
    """Answers with what was said of some image of the same class, another one every time.

    ``pools``: logits (classes, images, classes), those that another network gave to images of each class.
    """

    pools: Tensor

    def __init__(self, pools: Tensor) -> None:
        super().__init__()
        self.register_buffer("pools", pools)

    def forward(self, labels: Tensor) -> Tensor:
        """Logits for labels (N,), or for shares of labels (N, K) where images were mixed."""
        classes, images, _ = self.pools.shape
        drawn = torch.randint(images, (len(labels), classes), device=labels.device)
        if labels.ndim == 1:
            return self.pools[labels, drawn[:, 0]]
        told = self.pools[torch.arange(classes, device=labels.device), drawn].softmax(dim=2)
        return torch.einsum("nk,nkc->nc", labels.to(told.dtype), told).log()
