"""Nodes between products count for the next product that reads their result."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compressor.exporting import to_onnx
from compressor.profiling import count_file, lies_between


class Gated(nn.Module):
    """A stem, a residual sum, a gate on the channels, a concatenation and a head with a softmax behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.inside = nn.Conv2d(4, 4, 1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.joint = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.stem(x))
        x = torch.nn.functional.hardswish(x + torch.relu(self.inside(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.relu(self.joint(torch.cat([x, -x], 1)))
        return torch.softmax(self.head(x.mean((2, 3))), -1)


def test_each_node_counts_for_the_first_product_that_reads_what_it_makes(tmp_path: Path) -> None:
    path = to_onnx(Gated().eval(), torch.zeros(1, 3, 6, 6), tmp_path / "n.onnx").path
    names = [layer.name.partition("/")[0] for layer in count_file(path).layers]

    lies = lies_between(path)
    found = dict(zip(names, lies.before, strict=True))

    plane = 6 * 6
    assert found["stem"] == 0
    assert found["inside"] == 0  # SiLU belongs to the stem
    assert len(lies.in_blocks) == 2 + 3  # its two nodes; two ReLUs and the sigmoid behind the gate's product
    # The sum, its activation, which ONNX Runtime splits before it runs, and the mean by the size of its input.
    assert found["gate"] == 4 * plane + 4 * plane + 4 * plane
    assert (
        found["joint"] == 4 * plane + 4 * plane + 8 * plane
    )  # the gate's product, the negative, the two together
    assert found["head"] == 5 * plane + 5  # the mean and its new shape; nothing reads the softmax
