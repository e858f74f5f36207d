"""Per-node times come from whole runs, one sample a run, and the remaining time is reported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import ProfileError
from compressor.profiling.nodes import node_times


def two_convolutions() -> bytes:
    """Two convolutions of 32 channels, with an activation between them that is fused."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((32, 32, 3, 3)).astype("f4"), name) for name in "ab"
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 16, 16])
    last = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 32, 16, 16])
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["p"], ["y"]),
        helper.make_node("Conv", ["y", "b"], ["z"], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [last], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


FEED = {"x": np.zeros((1, 32, 16, 16), np.float32)}


def test_every_round_gives_every_node_one_sample() -> None:
    times = node_times(two_convolutions(), FEED, rounds=7)

    assert len(times.runs_ms) == 7
    assert {len(node.samples_ms) for node in times.nodes} == {7}
    assert [node.op for node in times.nodes].count("Conv") == 2


def test_a_budget_ends_the_rounds_but_five_always_run() -> None:
    times = node_times(two_convolutions(), FEED, rounds=1000, budget_s=0.0)

    assert len(times.runs_ms) == 5


def test_a_fused_activation_is_no_node_of_its_own() -> None:
    shapes = {node.op: node.output_shape for node in node_times(two_convolutions(), FEED, rounds=1).nodes}

    assert "Relu" not in shapes
    assert shapes["Conv"] == (1, 32, 16, 16)


def test_a_file_that_cannot_run_is_named(tmp_path: object) -> None:
    with pytest.raises(ProfileError, match="cannot time the nodes of a model in memory"):
        node_times(b"no model", FEED)
