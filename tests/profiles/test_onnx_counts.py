"""The cost of a file is the cost of the network in it, counted in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision import models

from compressor.errors import ProfileError
from compressor.exporting import to_onnx
from compressor.profiling import count, count_file


def exported(network: nn.Module, image: torch.Tensor, folder: Path) -> Path:
    path = folder / "network.onnx"
    to_onnx(network.eval(), image, path, opset=None, metadata={})
    return path


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet18", "shufflenet_v2_x0_5", "swin_t")
        ),
    ],
)
def test_a_published_network_and_its_file_cost_the_same(name: str, tmp_path: Path) -> None:
    network, image = models.get_model(name), torch.rand(1, 3, 64, 64)
    found = count_file(exported(network, image, tmp_path))
    assert found.macs == count(network, (image,)).macs
    assert found.flops == 2 * found.macs
    assert found.bytes == (tmp_path / "network.onnx").stat().st_size


class Kinds(nn.Module):
    """Every kind of product that an exporter writes."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.up = nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.again, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(x)).flatten(2).transpose(1, 2)
        x = x @ x.transpose(1, 2) @ x
        return self.head(self.again(x)[0][:, -1])


def test_every_kind_of_product_is_counted(tmp_path: Path) -> None:
    found = count_file(exported(Kinds(), torch.rand(1, 4, 5, 5), tmp_path))
    # 8 maps of 3 × 3 from 2 × 9; 6 of 6 × 6: each of 8 × 9 numbers goes to 3 × 4; twice 36² × 6; 36 steps; the head.
    parts = [8 * 9 * 18, 8 * 9 * 3 * 4, 2 * 36 * 36 * 6, 36 * 4 * 5 * (6 + 5), 5 * 3]
    assert sorted(layer.macs for layer in found.layers) == sorted(
        [*parts[:2], 36 * 36 * 6, 36 * 36 * 6, *parts[3:]]
    )
    assert found.macs == sum(parts)
    assert {"Conv", "ConvTranspose", "LSTM"} <= found.operators.keys()
    assert {layer.width for layer in found.layers if layer.kind in ("Conv", "ConvTranspose")} == {8, 6}


def written(
    folder: Path, nodes: list[onnx.NodeProto], shape: list[int | str], **constants: np.ndarray
) -> Path:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [given], [out], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "written.onnx"
    onnx.save(model, path)
    return path


def test_free_axes_behind_the_batch_must_be_told(tmp_path: Path) -> None:
    weight = np.zeros((8, 3, 3, 3), np.float32)
    path = written(
        tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"])], ["n", 3, "height", "width"], w=weight
    )
    with pytest.raises(ProfileError, match="axis 2 of its input `x` is free \\(`height`\\)"):
        count_file(path)
    assert count_file(path, side=(10, 12)).macs == 8 * 8 * 10 * 27


def test_a_product_inside_a_branch_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)]
    path = written(tmp_path, nodes, [1, 4], w=np.zeros((4, 4), np.float32), yes=np.array(True))
    with pytest.raises(ProfileError, match="it has 0 products, of which 1 ran"):
        count_file(path)


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"no onnx", "it is no ONNX file")])
def test_what_is_no_file_or_no_onnx_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProfileError, match=message):
        count_file(path)
