"""Quantised alone, the node that causes the error is found, and the others change little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor.exporting import Asked, derived, open_session, sensitivities, to_onnx

IMAGES = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32)


class OneHarmful(nn.Module):
    """Its second convolution reads one channel a thousand times as large as the others; only the others matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.harmful = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 3, padding=1)
        with torch.no_grad():
            self.first.weight[0] *= 1000
            self.harmful.weight[:, 0] *= 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.harmful(self.first(x).relu()).relu()).mean((2, 3))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    plain = to_onnx(OneHarmful().eval(), torch.from_numpy(IMAGES[:1]), tmp_path / "n.onnx").path
    return plain, derived("onnx-int8", plain, tmp_path / "n.int8.onnx", Asked((IMAGES,))).path


HARMFUL = {"onnx-int8": ("harmful/Conv",), "onnx-int8-nvidia": ("Relu", "harmful/Conv")}
"""For NVIDIA the value is quantised on both sides of the relu."""


@pytest.mark.parametrize("flavour", HARMFUL)
def test_the_harmful_nodes_come_first_by_far(files: tuple[Path, Path], flavour: str, tmp_path: Path) -> None:
    plain, _ = files
    quantised = derived(flavour, plain, tmp_path / "m.onnx", Asked((IMAGES,))).path
    found = sensitivities(plain, quantised, IMAGES)
    expected = HARMFUL[flavour]
    assert set(list(found)[: len(expected)]) == set(expected)
    least, *_ = sorted(found[name] for name in expected)
    assert least > 1000 * max(error for name, error in found.items() if name not in expected)
    assert {"first/Conv", "last/Conv"} <= found.keys()


@pytest.mark.parametrize("flavour", HARMFUL)
def test_without_them_the_file_is_the_network_but_for_little(
    files: tuple[Path, Path], flavour: str, tmp_path: Path
) -> None:
    plain, _ = files
    answers = [
        open_session(
            derived(flavour, plain, tmp_path / "m.onnx", Asked((IMAGES,), exclude=exclude)).path,
            fused=flavour == "onnx-int8",
        ).answers(IMAGES)
        for exclude in ((), HARMFUL[flavour])
    ]
    expected = open_session(plain).answers(IMAGES)
    whole, spared = (float(np.square(answer - expected).sum()) for answer in answers)
    assert spared < whole / 1000


def test_a_spared_node_reads_float_values_and_weights_and_nothing_unused_is_left(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, _ = files
    asked = Asked((IMAGES,), exclude=HARMFUL["onnx-int8"])
    artifact = derived("onnx-int8", plain, tmp_path / "s.onnx", asked)
    graph = onnx.load(artifact.path).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    node = next(node for node in graph.node if node.name == "harmful/Conv")
    assert [makers.get(name) for name in node.input] == ["Relu", None, None]
    read = {name for node in graph.node for name in node.input} | {"logits"}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert all(read & set(node.output) for node in graph.node)
    assert [note for note in artifact.notes if "harmful/Conv stays float32" in note]


def test_the_files_are_left_as_they_were(files: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in files]
    sensitivities(*files, IMAGES)
    assert [path.read_bytes() for path in files] == before
