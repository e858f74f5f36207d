from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import Artifact, Asked, compare, derived, open_session, to_onnx
from compressor.exporting.int8 import quantised_on
from compressor.profiling import Block, node_times
from compressor.profiling.block_times import REFERENCE
from compressor.profiling.blocks import side_by_side

from .networks import DepthwiseWithGate, Residual, settled
from .test_onnx import EXAMPLE, function_of

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 12, 12)).astype(np.float32)
FLAVOURS = ["onnx-int8", "onnx-int8-nvidia"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    network = settled(Residual())
    return network, to_onnx(network, EXAMPLE, tmp_path_factory.mktemp("int8") / "n.onnx").path


def quantised(path: Path, name: str, folder: Path, **asked: object) -> Artifact:
    return derived(name, path, folder / f"{name}.onnx", Asked(**{"batches": (IMAGES,), **asked}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FLAVOURS)
def test_both_flavours_answer_as_the_network_does(
    name: str, source: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    artifact = quantised(source[1], name, tmp_path)
    session = open_session(artifact.path, threads=1, fused=name == "onnx-int8")

    verdict = compare(
        name, function_of(source[0]), lambda x: session(input=x)["logits"], [IMAGES], relative_tolerance=0.5
    )
    assert verdict.cosine > 0.97, verdict.detail  # a few layers, each with 256 values
    assert artifact.precision == "int8"


def test_weights_are_quantised_by_channel(source: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model = onnx.load(quantised(source[1], "onnx-int8", tmp_path).path)

    scales = [t for t in model.graph.initializer if t.name.startswith("conv1.weight") and "scale" in t.name]
    assert scales
    assert {tuple(scale.dims) for scale in scales} == {(8,)}


@pytest.mark.parametrize(("bits", "most"), [(7, 64), (8, 127)])
def test_two_products_of_a_cpu_file_fit_into_16_bits_unless_8_are_asked_for(
    bits: int, most: int, source: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    artifact = quantised(source[1], "onnx-int8", tmp_path, weight_bits=bits)
    model = onnx.load(artifact.path)
    weights = [t for t in model.graph.initializer if t.name.endswith("weight_quantized")]
    largest = [int(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max()) for t in weights]
    assert len(largest) == 3
    assert set(largest) == {most}
    assert (255 * most * 2 < 2**15) == (bits == 7)
    assert any("weights have 8 bits" in note for note in artifact.notes) == (bits == 8)


def test_a_cpu_file_is_on_this_processor_what_it_says(source: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """Fails on a processor without VNNI if weights have 8 bits: sums are clipped there."""
    bright = np.abs(IMAGES) * 4
    path = quantised(source[1], "onnx-int8", tmp_path, batches=(bright,)).path
    fused, as_written = (open_session(path, fused=fused).answers(bright) for fused in (True, False))
    assert np.abs(fused - as_written).max() < 0.02 * np.abs(as_written).max()


def test_the_flavour_for_nvidia_has_no_zero_point_and_no_int32_bias(
    source: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    model = onnx.load(quantised(source[1], "onnx-int8-nvidia", tmp_path).path)

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert onnx.TensorProto.INT32 not in {tensor.data_type for tensor in weights.values()}
    points = [
        onnx.numpy_helper.to_array(weights[node.input[2]])
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert points
    assert not any(point.any() for point in points)


def test_a_model_in_memory_with_several_inputs_runs_in_eight_bits_under_its_names() -> None:
    blocks = [REFERENCE, REFERENCE.at(32, 16, 1), Block("Gemm", (1,), 10, 64)]
    model, inputs = side_by_side(blocks)
    feed = {name: np.ones(shape, np.float32) for name, shape in inputs.items()}

    nodes = node_times(quantised_on(feed, model), feed, rounds=1).nodes

    ran = {node.name.split("_")[0]: node.op for node in nodes if node.op in ("QLinearConv", "QGemm")}
    assert ran == {"b0": "QLinearConv", "b1": "QLinearConv", "b2": "QGemm"}


def test_a_node_can_stay_in_float32(source: tuple[nn.Module, Path], tmp_path: Path) -> None:
    artifact = quantised(source[1], "onnx-int8", tmp_path, exclude=("conv2/Conv",))

    names = {tensor.name for tensor in onnx.load(artifact.path).graph.initializer}
    assert "conv2.weight/float" in names
    assert "conv1.weight_quantized" in names
    assert artifact.notes == ("conv2/Conv stays float32: it lost accuracy in int8",)


def test_written_twice_it_is_the_same_bytes(source: tuple[nn.Module, Path], tmp_path: Path) -> None:
    first, second = (quantised(source[1], "onnx-int8", tmp_path / str(index)) for index in (1, 2))
    assert first.sha256 == second.sha256


def test_the_file_says_how_it_was_calibrated(tmp_path: Path) -> None:
    path = to_onnx(settled(DepthwiseWithGate()), EXAMPLE, tmp_path / "n.onnx", metadata={"teacher": "t"}).path
    facts = {
        each.key: each.value for each in onnx.load(quantised(path, "onnx-int8", tmp_path).path).metadata_props
    }

    assert facts["calibration"] == "minmax, 16 images"
    assert facts["quantised_for"] == "cpu"
    assert facts["teacher"] == "t"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"batches": ()}, "the calibration set is empty"),
        ({"batches": (IMAGES[:0],)}, "the calibration set is empty"),
        ({"batches": (IMAGES, np.full_like(IMAGES, np.inf))}, "calibration batch 1: .* NaN or infinite"),
        ({"batches": (IMAGES[:, :2],)}, "cannot quantise"),
        ({"exclude": ("conv9/Conv",)}, "no such node"),
        ({"weight_bits": 4}, "weights of 4 bits"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_and_nothing_is_left(
    asked: dict[str, object], words: str, source: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        quantised(source[1], "onnx-int8", tmp_path, **asked)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
