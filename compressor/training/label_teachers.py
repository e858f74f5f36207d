"""Teachers that do not use the image: they compute logits from its label alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VirtualTeacher(nn.Module):
    """p(label) = ``correct``, (1 − ``correct``) / (K − 1) for each other class; Yuan et al. 2020, section 4.2.

    The released code applies the temperature to these probabilities as if they were logits, which makes them nearly
    uniform; here the logits are the logarithms of the probabilities, as in the formula.
    """

    shares: Tensor

    def __init__(self, classes: int, correct: float) -> None:
        super().__init__()
        shares = torch.full((classes, classes), (1 - correct) / max(1, classes - 1))
        self.register_buffer("shares", shares.fill_diagonal_(correct))

    def forward(self, labels: Tensor) -> Tensor:
        """Logits for labels (N,), or for label shares (N, K) of mixed images."""
        shares = self.shares[labels] if labels.ndim == 1 else labels.to(self.shares.dtype) @ self.shares
        return shares.log()


class Drawn(nn.Module):
    """Gives the logits of a random image of the same class, drawn again at every call.

    ``pools``: logits (classes, images, classes) of another network for images of each class.
    """

    pools: Tensor

    def __init__(self, pools: Tensor) -> None:
        super().__init__()
        self.register_buffer("pools", pools)

    def forward(self, labels: Tensor) -> Tensor:
        """Logits for labels (N,), or for label shares (N, K) of mixed images."""
        classes, images, _ = self.pools.shape
        drawn = torch.randint(images, (len(labels), classes), device=labels.device)
        if labels.ndim == 1:
            return self.pools[labels, drawn[:, 0]]
        probabilities = self.pools[torch.arange(classes, device=labels.device), drawn].softmax(dim=2)
        return torch.einsum("nk,nkc->nc", labels.to(probabilities.dtype), probabilities).log()
