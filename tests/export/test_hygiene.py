from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor.exporting import Asked, compare, derived, open_session, to_onnx

from .networks import Residual, settled
from .test_onnx import EXAMPLE, function_of, operators_in


class NormFirst(nn.Module):
    """A norm whose only reader is a convolution; the norm's input has a second reader, as in MaxViT."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.conv(self.norm(x)).mean((2, 3)) + x.mean((1, 2, 3))[:, None]


class NormBeforeLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(x).mean((2, 3))))


class Capitals(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("B C H W, B D H W -> B C D", x, x).flatten(1)


@pytest.mark.parametrize(
    ("conv", "left"),
    [
        (nn.Conv2d(4, 6, 1), 0),
        (nn.Conv2d(4, 6, 3, bias=False), 0),
        (nn.Conv2d(4, 6, 3, groups=2), 0),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), 0),
        (nn.Conv2d(4, 6, 3, padding=1), 1),  # its padding is zero, and would have to be the shift
    ],
    ids=["pointwise", "no bias", "groups", "depthwise", "border"],
)
def test_a_norm_before_a_convolution_is_folded_where_its_border_allows(
    conv: nn.Conv2d, left: int, tmp_path: Path
) -> None:
    network = settled(NormFirst(conv))
    artifact = to_onnx(network, EXAMPLE, tmp_path / "n.onnx")

    assert operators_in(artifact.path).count("BatchNormalization") == left
    assert same(network, artifact.path)


def test_a_norm_before_a_linear_layer_is_folded(tmp_path: Path) -> None:
    network = settled(NormBeforeLinear())
    artifact = to_onnx(network, EXAMPLE, tmp_path / "n.onnx")

    assert "BatchNormalization" not in operators_in(artifact.path)
    assert same(network, artifact.path)


def test_an_einsum_is_spelled_in_small_letters(tmp_path: Path) -> None:
    artifact = to_onnx(Capitals(), EXAMPLE, tmp_path / "n.onnx")

    equations = [
        attribute.s.decode()
        for node in onnx.load(artifact.path).graph.node
        if node.op_type == "Einsum"
        for attribute in node.attribute
    ]
    assert all(re.fullmatch(r"[a-z,>-]+", equation) for equation in equations), equations
    assert same(Capitals(), artifact.path)


def test_nodes_values_and_weights_are_named_after_their_layers(tmp_path: Path) -> None:
    graph = onnx.load(to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path).graph

    assert [node.name for node in graph.node][:4] == ["conv1/Conv", "relu/Relu", "conv2/Conv", "Add"]
    assert graph.node[0].output == ["conv1/Conv:out"]
    assert graph.input[0].name == "input"
    assert graph.output[0].name == "logits"
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)


def test_every_weight_in_the_file_is_read(tmp_path: Path) -> None:
    network = settled(Residual())
    network.unused = nn.Linear(50, 50)
    graph = onnx.load(to_onnx(network, EXAMPLE, tmp_path / "n.onnx").path).graph

    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def test_height_and_width_can_be_free_too(tmp_path: Path) -> None:
    network = settled(Residual())
    artifact = to_onnx(network, EXAMPLE, tmp_path / "n.onnx", free_size=True)
    session = open_session(artifact.path, threads=1)

    assert session.inputs[0].shape == ("batch", 3, "height", "width")
    for size in ((1, 3, 12, 12), (3, 3, 16, 9)):
        assert same(network, artifact.path, size)


def same(network: nn.Module, path: Path, size: tuple[int, ...] = (3, 3, 12, 12)) -> bool:
    """True if network and file agree up to rounding in float32, with sums of a few dozen products."""
    session = open_session(path, threads=1)
    batches = [np.random.default_rng(0).normal(size=size).astype(np.float32)]
    run = function_of(network)
    return compare("n", run, lambda x: session(input=x)["logits"], batches, relative_tolerance=1e-5).passed


class Averages(nn.Module):
    """All ways to write an average over the image, and two operations that are none."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.conv, self.pool = way, nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        ways = {
            "pool": lambda: self.pool(x).flatten(1),
            "mean": lambda: x.mean((2, 3)),
            "mean, backwards": lambda: x.mean((-1, -2)),
            "kept": lambda: x * x.mean((2, 3), keepdim=True),
            "output": lambda: x.mean((2, 3), keepdim=True),
            "rows": lambda: x.mean(2),
            "channels": lambda: x.mean(1),
        }
        return ways[self.way]()


@pytest.mark.parametrize(
    ("way", "pools"),
    [
        ("pool", True), ("mean", True), ("mean, backwards", True), ("kept", True), ("output", True),
        ("rows", False), ("channels", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("free_size", [False, True])
def test_an_average_over_the_image_is_called_a_pool(
    way: str, pools: bool, free_size: bool, tmp_path: Path
) -> None:
    network = settled(Averages(way))
    path = to_onnx(network, EXAMPLE, tmp_path / "n.onnx", free_size=free_size).path

    assert operators_in(path).count("GlobalAveragePool") == pools
    assert operators_in(path).count("ReduceMean") == (not pools)
    assert same(network, path)
    assert onnx.load(path).graph.output[0].name == "logits"
    if way == "pool":
        names = [node.name for node in onnx.load(path).graph.node]
        assert "pool/GlobalAveragePool" in names


def test_in_int8_an_average_is_computed_in_8_bits(tmp_path: Path) -> None:
    """A mean would be computed in float32, between a dequantising and a quantising node."""
    images = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)
    path = to_onnx(settled(Averages("mean")), EXAMPLE, tmp_path / "n.onnx").path
    made = onnx.load(derived("onnx-int8", path, tmp_path / "q.onnx", Asked((images,))).path).graph.node

    pool = next(node for node in made if node.op_type == "GlobalAveragePool")
    before = next(node for node in made if pool.input[0] in node.output)
    after = [node.op_type for node in made if pool.output[0] in node.input]
    assert before.op_type == "DequantizeLinear"
    assert after == ["QuantizeLinear"]
