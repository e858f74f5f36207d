from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import ExportError
from compressor.exporting import (
    NEEDS,
    TOLERANCES,
    Artifact,
    Asked,
    compare,
    derived,
    open_openvino,
    open_session,
    to_onnx,
)

from .networks import DepthwiseWithGate, FlattenAndLinear, Residual, settled
from .test_onnx import BATCHES, EXAMPLE, function_of


class Loud(nn.Module):
    """A layer whose values overflow float16, and a layer after it that scales them down."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = nn.Conv2d(3, 4, 3)
        self.loud = nn.Conv2d(4, 4, 1)
        self.calm = nn.Conv2d(4, 5, 1)
        nn.init.constant_(self.loud.weight, 1e5)
        nn.init.constant_(self.calm.weight, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.calm(self.loud(torch.relu(self.quiet(x)))).mean((2, 3))


def written(network: nn.Module, name: str, folder: Path) -> tuple[Path, Artifact]:
    source = to_onnx(network, EXAMPLE, folder / "n.onnx").path
    return source, derived(name, source, folder / f"n.{name}.onnx", Asked(batches=(BATCHES[1],)))


@pytest.mark.parametrize("network", [Residual, DepthwiseWithGate, FlattenAndLinear])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_the_network_within_its_tolerance(
    network: type[nn.Module], precision: str, tmp_path: Path
) -> None:
    module = settled(network())
    source, artifact = written(module, f"onnx-{precision}", tmp_path)
    # ONNX Runtime has no bfloat16 convolution on a CPU.
    if precision == "bf16" and NEEDS["openvino"].missing:
        pytest.skip("openvino is not installed, and ONNX Runtime has no bfloat16 convolution on a CPU")
    session = (open_openvino if precision == "bf16" else open_session)(artifact.path, threads=1)

    verdict = compare(
        precision,
        function_of(module),
        lambda batch: session(input=batch)["logits"],
        BATCHES,
        relative_tolerance=TOLERANCES[precision].relative,
        least_cosine=TOLERANCES[precision].cosine,
    )
    assert verdict.passed, verdict.detail
    assert (artifact.format, artifact.precision) == (f"onnx-{precision}", precision)
    assert artifact.bytes < source.stat().st_size
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == ["float32", "float32"]


def test_the_file_is_typed_throughout(tmp_path: Path) -> None:
    model = onnx.load(written(settled(Residual()), "onnx-fp16", tmp_path)[1].path)

    weights = {tensor.data_type for tensor in model.graph.initializer if tensor.name.startswith("conv")}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert [node.op_type for node in model.graph.node].count("Cast") == 2  # the input and the logits


def test_a_layer_that_would_overflow_stays_in_float32_and_is_named(tmp_path: Path) -> None:
    network = Loud().eval()
    _, artifact = written(network, "onnx-fp16", tmp_path)

    assert [note.split(":")[0] for note in artifact.notes] == [
        "loud/Conv stays float32", "calm/Conv stays float32"
    ]  # fmt: skip
    assert "float16 ends at 65504" in artifact.notes[0]
    session = open_session(artifact.path, threads=1)
    verdict = compare(
        "loud", function_of(network), lambda x: session(input=x)["logits"], BATCHES, relative_tolerance=2e-2
    )
    assert verdict.passed, verdict.detail


def test_bfloat16_has_the_range_and_keeps_no_layer(tmp_path: Path) -> None:
    assert written(Loud(), "onnx-bf16", tmp_path)[1].notes == ()


def test_written_twice_it_is_the_same_bytes(tmp_path: Path) -> None:
    source, first = written(settled(Residual()), "onnx-fp16", tmp_path)
    again = derived("onnx-fp16", source, tmp_path / "again.onnx", Asked(batches=(BATCHES[1],)))
    assert first.sha256 == again.sha256


def test_an_old_operator_set_has_no_bfloat16(tmp_path: Path) -> None:
    source = to_onnx(nn.Linear(3, 3), torch.zeros(1, 3), tmp_path / "n.onnx", opset=18).path
    with pytest.raises(ExportError, match="has opset 18"):
        derived("onnx-bf16", source, tmp_path / "h.onnx", Asked())
    assert not (tmp_path / "h.onnx").exists()


def test_images_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = to_onnx(nn.Linear(3, 3), torch.zeros(1, 3), tmp_path / "n.onnx").path
    with pytest.raises(ExportError, match="calibration batch 0: 1 of 3 values are NaN"):
        derived("onnx-fp16", source, tmp_path / "h.onnx", Asked((np.array([[1, np.nan, 1]], np.float32),)))
