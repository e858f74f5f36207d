from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import to_onnx
from compressor.exporting.divergence import between_files, first_difference, from_pytorch

from .networks import Residual, settled
from .test_onnx import EXAMPLE

IMAGE = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    """A network, its file, and a copy of the file in which the second convolution is wrong."""
    network = settled(Residual()).eval()
    path = to_onnx(network, EXAMPLE, tmp_path / "good.onnx").path
    model = onnx.load(path)
    weight = next(entry for entry in model.graph.initializer if entry.name == "conv2.weight")
    values = onnx.numpy_helper.to_array(weight) * 1.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "bad.onnx")
    return network, path, tmp_path / "bad.onnx"


def test_two_files_that_agree_have_no_first_difference(pair: tuple[nn.Module, Path, Path]) -> None:
    assert between_files(pair[1], pair[1], IMAGE.numpy(), 1e-4) is None


def test_the_wrong_layer_of_a_file_is_named(pair: tuple[nn.Module, Path, Path]) -> None:
    found = between_files(pair[1], pair[2], IMAGE.numpy(), 1e-4)

    assert found is not None
    assert found.name == "conv2/Conv:out"
    assert "first differs at `conv2/Conv:out`" in str(found)


def test_a_file_that_is_its_network_has_no_first_difference(pair: tuple[nn.Module, Path, Path]) -> None:
    assert from_pytorch(pair[0], pair[1], IMAGE, 1e-4) is None


def test_the_layer_where_a_file_leaves_its_network_is_named(pair: tuple[nn.Module, Path, Path]) -> None:
    found = from_pytorch(pair[0], pair[2], IMAGE, 1e-4)

    assert found is not None
    assert found.name == "bn2"  # which is folded into the convolution before it


def test_the_first_of_many_is_found_in_few_looks() -> None:
    looks: list[str] = []

    def values(name: str) -> tuple[np.ndarray, np.ndarray]:
        looks.append(name)
        return np.ones(1), np.ones(1) * (2 if int(name) >= 700 else 1)

    found = first_difference([str(index) for index in range(1000)], values, 0.1)
    assert found is not None
    assert found.name == "700"
    assert len(looks) <= 10


def test_a_value_that_is_not_finite_differs() -> None:
    found = first_difference(["a"], lambda _: (np.ones(1), np.array([np.nan])), 0.1)
    assert found is not None
    assert found.relative_error == float("inf")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ExportError, match="cannot open"):
        between_files(tmp_path / "junk.onnx", tmp_path / "junk.onnx", IMAGE.numpy(), 0.1)
