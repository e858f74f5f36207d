"""Running an engine: with a stand-in that has the same names and rules, and on a GPU if there is one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compressor.errors import ExportError
from compressor.exporting import (
    NEEDS,
    Asked,
    derived,
    engine_layers,
    load_engine,
    open_engine,
    open_session,
    to_onnx,
)
from compressor.exporting.engine import sidecar_path
from compressor.exporting.engine_inspect import EngineLayer, described, timed
from compressor.exporting.extras import load_tensorrt

from . import stand_in
from .networks import Residual, of_one_batch, settled
from .test_engine import builds
from .test_int8 import IMAGES
from .test_onnx import EXAMPLE


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.install(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path


def engine_of(source: Path) -> Path:
    return derived("tensorrt", source, source.with_suffix(".engine"), Asked()).path


@builds
def test_the_stand_in_has_no_name_that_the_bindings_have_not() -> None:
    assert stand_in.names_of(load_tensorrt("test")) == set()


@pytest.mark.usefixtures("here")
def test_an_engine_answers_as_the_file_that_it_was_built_of(source: Path) -> None:
    session = open_engine(engine_of(source))
    assert session.batches == (2, 4)
    assert session.inputs[0].shape == ("batch", 3, 12, 12)
    for images in (IMAGES[:1], IMAGES[:3], IMAGES):  # padded, unchanged, split
        np.testing.assert_allclose(
            session.answers(images), open_session(source).answers(images), rtol=1e-5, atol=1e-6
        )


@pytest.mark.usefixtures("here")
def test_an_engine_of_one_batch_takes_that(source: Path) -> None:
    session = open_engine(engine_of(of_one_batch(source, 5)))
    assert session.batches == (5, 5)
    assert session.answers(IMAGES[:7]).shape == (7, 5)


@pytest.mark.usefixtures("here")
def test_outputs_keep_their_own_type(tmp_path: Path) -> None:
    node = helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"])],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "n.onnx",
    )
    values = np.eye(4, dtype=np.float32)[[2, 0, 3]]
    assert open_engine(engine_of(tmp_path / "n.onnx"))(x=values)["best"].tolist() == [2, 0, 3]


@pytest.mark.usefixtures("here")
def test_more_images_than_the_profile_allows_are_refused_in_a_line(source: Path) -> None:
    with pytest.raises(
        ExportError, match=r"`input` of shape \(5, 3, 12, 12\) is outside the engine's profile"
    ):
        open_engine(engine_of(source))(input=IMAGES[:5])


@pytest.mark.usefixtures("here")
def test_an_engine_that_the_library_refuses_says_where(source: Path) -> None:
    engine = engine_of(source)
    engine.write_bytes(b"for another GPU")
    told = json.loads(sidecar_path(engine).read_text())
    told["sha256"] = hashlib.sha256(b"for another GPU").hexdigest()
    sidecar_path(engine).write_text(json.dumps(told))
    with pytest.raises(ExportError, match="refuses it on stand-in"):
        load_engine(engine)


@pytest.mark.usefixtures("here")
def test_layers_are_told_with_their_nodes_kernels_and_times(source: Path) -> None:
    engine = load_engine(engine_of(source))
    layers = engine_layers(engine, {"input": IMAGES[:2]}, rounds=5)
    assert layers[0].nodes == ("conv1/Conv", "relu/Relu")
    assert layers[0].kind == "CaskConvolution"
    assert layers[0].formats == ("Float NCHW",)
    assert layers[0].kernel == "kernel_of_Conv"
    assert [layer.samples_ms for layer in layers] == [(0.5 + index,) * 5 for index in range(len(layers))]
    # Outputs before and after are the same: the profiler had a separate context.
    assert engine.context.profiler is None


def test_an_engine_without_details_has_names_alone() -> None:
    text = json.dumps({"Layers": ["conv1/Conv + relu/Relu", "Reformatting CopyNode for head"]})
    first, second = described(text)
    assert first == EngineLayer("conv1/Conv + relu/Relu", nodes=("conv1/Conv", "relu/Relu"))
    assert second.kind == ""
    assert described("{}") == ()


def test_a_layer_that_runs_twice_is_summed_and_one_that_was_not_described_is_kept() -> None:
    first, idle, other = timed(
        (EngineLayer("a"), EngineLayer("constant")), [[("a", 1.0), ("b", 5.0), ("a", 2.0)], [("a", 4.0)]]
    )
    assert (first.samples_ms, first.median_ms) == ((3.0, 4.0), 3.5)
    assert (idle.samples_ms, idle.median_ms) == ((), None)
    assert (other.name, other.samples_ms) == ("b", (5.0, 0.0))


@pytest.mark.gpu
@pytest.mark.skipif(NEEDS["tensorrt"].missing or not torch.cuda.is_available(), reason="no GPU with TensorRT")
def test_layers_of_an_engine_on_a_gpu_take_time(source: Path) -> None:
    layers = engine_layers(load_engine(engine_of(source)), {"input": IMAGES[:2]}, rounds=5)
    assert any(layer.median_ms for layer in layers)
    named = {node for layer in layers for node in layer.nodes}
    assert {"conv1/Conv", "conv2/Conv"} <= named
