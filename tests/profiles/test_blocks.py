"""Blocks that are read from a file can be built at other widths, and are timed beside a reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.profiling import Block, blocks_of, count_file, time_blocks
from compressor.profiling.block_times import REFERENCE
from compressor.profiling.blocks import side_by_side


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(shape, 0.01, np.float32), name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A strided convolution with SiLU, a depthwise one with Clip, pooling, and a linear layer; a free batch."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["p"], ["gate"]),
        helper.make_node("Mul", ["p", "gate"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"], group=8, dilations=[2, 2]),
        helper.make_node("Clip", ["r", "low", "high"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["t"]),
        helper.make_node("Flatten", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "c"], ["y"], transB=1),
    ]
    ends = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("low", 0), ("high", 6))
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [weights("a", 8, 3, 3, 3), weights("b", 8, 1, 3, 3), weights("c", 5, 8), *ends],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_a_block_is_a_product_with_the_activation_behind_it(file: Path) -> None:
    first, depthwise, linear = blocks_of(file, batch=2)

    assert first == Block("Conv", (16, 12), 8, 3, 1, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), ("SiLU",), 2)
    assert depthwise == Block("Conv", (8, 6), 8, 1, 8, (3, 3), (1, 1), (0, 0, 0, 0), (2, 2), ("Clip",), 2)
    assert linear == Block("Gemm", (1,), 5, 8, batch=2)


def test_a_block_knows_how_much_it_holds(file: Path) -> None:
    first, depthwise, linear = blocks_of(file)
    assert first is not None
    assert depthwise is not None
    assert linear is not None
    assert (first.weights, depthwise.weights, linear.weights) == (8 * 3 * 9, 8 * 9, 40)


def test_a_product_of_two_computed_things_is_no_block(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [x], [y])
    path = tmp_path / "square.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    assert blocks_of(path) == (None,)


def test_blocks_made_again_are_those_that_were_read(file: Path, tmp_path: Path) -> None:
    """Read, changed in width, written side by side, and read once more."""
    first, depthwise, linear = blocks_of(file)
    assert first is not None
    assert depthwise is not None
    assert linear is not None
    wanted = [first.at(4, 3, 1), depthwise.at(6, 1, 6), linear.at(5, 6, 1)]
    model, inputs = side_by_side(wanted)
    again = tmp_path / "again.onnx"
    again.write_bytes(model)

    assert list(blocks_of(again)) == wanted
    assert count_file(again).macs == 48 * 4 * 27 + 8 * 6 * 9 + 30
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: np.ones(shape, np.float32) for name, shape in inputs.items()})
    assert all(np.isfinite(output).all() for output in outputs)


def test_every_activation_of_the_table_can_be_written() -> None:
    from compressor.profiling.blocks import ACTIVATIONS

    block = Block("Conv", (4, 4), 4, 4, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    for kind in (*sorted(ACTIVATIONS), "SiLU"):
        model, _ = side_by_side([Block(**{**vars(block), "tail": (kind,)})])
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_every_block_is_timed_as_a_multiple_of_the_reference() -> None:
    wide, told = REFERENCE.at(256, 256, 1), []

    times = time_blocks([REFERENCE, wide, REFERENCE], rounds=5, moved=told.append)

    assert set(times.ratios) == {REFERENCE, wide}
    assert times.reference_ms > 0
    assert times.ratios[wide] > times.ratios[REFERENCE]  # sixteen times the work
    assert told[-1] == 1.0


def test_what_is_timed_can_be_made_of_the_file_of_blocks() -> None:
    """Convert a file to one whose wide block is narrow."""
    wide, narrow, fed = REFERENCE.at(256, 64, 1), REFERENCE.at(8, 64, 1), []

    def made(feed: Mapping[str, object], model: bytes) -> bytes:
        fed.append(set(feed))
        return side_by_side([REFERENCE, REFERENCE, narrow, REFERENCE])[0]

    assert time_blocks([wide], rounds=5).ratios[wide] > 1
    assert time_blocks([wide], rounds=5, made=made).ratios[wide] < 1
    assert fed == [{"x1x64x28x28"}]


def test_the_reference_is_timed_even_where_nothing_else_is_to_be() -> None:
    assert time_blocks([], rounds=5).reference_ms > 0
