"""Times by layer: fused nodes go to the layer of their product, and everything sums to the whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from compressor.exporting import to_onnx
from compressor.profiling.nodes import NodeTime, NodeTimes
from compressor.profiling.times_by_layer import gathered, layer_times


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.inner = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 1),
        )
        self.act, self.head = nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        return self.head(self.act(x + self.inner(x)).mean((2, 3)))


def test_fused_nodes_belong_to_the_layer_of_their_product(tmp_path: Path) -> None:
    path = to_onnx(Residual(), torch.rand(1, 3, 8, 8), tmp_path / "n.onnx").path
    found = layer_times(path, {"input": np.zeros((1, 3, 8, 8), np.float32)}, rounds=5)
    names = [layer.name for layer in found.layers]
    assert [name for name in names if name in ("stem", "inner", "head")] == ["stem", "inner", "head"]
    assert "norm" not in names
    assert sum(layer.median_ms for layer in found.layers) + found.not_attributed_ms == pytest.approx(
        found.total_ms
    )


def test_a_file_from_elsewhere_is_told_by_its_own_names() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="first"), helper.make_node("Neg", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", [], [])
    ran = (
        NodeTime("first", "Relu", (1,), (1.0, 3.0)),
        NodeTime("y", "Neg", (1,), (1.0, 1.0)),
        NodeTime("ReorderOutput", "ReorderOutput", (1,), (2.0, 2.0)),
        NodeTime("ReorderOutput_token_3", "ReorderOutput", (1,), (0.0, 4.0)),
    )
    found = gathered(NodeTimes(ran, (10.0, 14.0)), graph)
    assert [(layer.name, layer.median_ms) for layer in found.layers] == [
        ("first", 2.0), ("y", 1.0), ("(ReorderOutput)", 4.0),
    ]  # fmt: skip
    assert (found.not_attributed_ms, found.total_ms) == (5.0, 12.0)
