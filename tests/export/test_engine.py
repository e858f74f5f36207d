"""Engines: building with TensorRT-RTX (no GPU needed), and the checks before loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import NEEDS, Asked, EngineAsk, derived, open_engine, to_onnx
from compressor.exporting.engine import Place, Sidecar, cache_key, read_sidecar, sidecar_path, trusted_bytes

from .networks import DepthwiseWithGate, Residual, settled
from .test_int8 import IMAGES
from .test_onnx import EXAMPLE

HERE = Place("tensorrt", "11.4", "H100 sm_90", "580.1")
builds = pytest.mark.skipif(
    NEEDS["tensorrt"].missing, reason="neither tensorrt nor tensorrt-rtx is installed"
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    import hashlib

    path = tmp_path / "n.engine"
    path.write_bytes(b"an engine")
    sidecar = Sidecar(hashlib.sha256(b"an engine").hexdigest(), "0" * 64, HERE, {"tf32": False})
    sidecar_path(path).write_text(sidecar.to_json())
    return path


def test_an_engine_is_read_where_it_was_built(engine: Path) -> None:
    assert trusted_bytes(engine, HERE) == b"an engine"
    assert read_sidecar(engine).place == HERE


@pytest.mark.parametrize(
    "change", [{"device": "T4 sm_75"}, {"version": "10.16"}, {"driver": "1"}, {"library": "tensorrt_rtx"}]
)
def test_an_engine_of_another_place_is_refused_with_both_named(engine: Path, change: dict[str, str]) -> None:
    (other,) = change.values()
    with pytest.raises(ExportError, match=f"this machine has `{other}`") as caught:
        trusted_bytes(engine, replace(HERE, **change))
    assert "rebuild it here" in str(caught.value.hint)


def test_changed_bytes_are_refused(engine: Path) -> None:
    engine.write_bytes(b"another engine")
    with pytest.raises(ExportError, match="its SHA-256 is not the one"):
        trusted_bytes(engine, HERE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"place": 3}', '{"place": {}}', "[" * 5000, '{"place": {"device": 1}}']
)
def test_a_sidecar_that_is_none_is_refused(engine: Path, text: str) -> None:
    sidecar_path(engine).write_text(text)
    with pytest.raises(ExportError, match="is not a valid sidecar"):
        trusted_bytes(engine, HERE)


def test_fields_of_another_kind_are_refused(engine: Path) -> None:
    value = json.loads(sidecar_path(engine).read_text())
    value["place"]["device"] = ["any"]
    sidecar_path(engine).write_text(json.dumps(value))
    with pytest.raises(ExportError, match="is not a valid sidecar"):
        trusted_bytes(engine, HERE)


def test_an_engine_without_a_sidecar_is_refused(engine: Path) -> None:
    sidecar_path(engine).unlink()
    with pytest.raises(ExportError, match="is missing"):
        trusted_bytes(engine, HERE)


def test_whatever_changes_an_engine_changes_its_key() -> None:
    keys = {
        cache_key("a", HERE, {"tf32": False}),
        cache_key("b", HERE, {"tf32": False}),
        cache_key("a", HERE, {"tf32": True}),
        *(
            cache_key("a", replace(HERE, **{name: "x"}), {"tf32": False})
            for name in ("version", "device", "driver")
        ),
    }
    assert len(keys) == 6


@builds
@pytest.mark.parametrize("network", [Residual, DepthwiseWithGate])
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-fp16", "tensorrt-bf16", "tensorrt-int8"])
def test_an_engine_is_built_in_every_precision(network: type[nn.Module], name: str, tmp_path: Path) -> None:
    source = to_onnx(settled(network()), EXAMPLE, tmp_path / "n.onnx").path
    artifact = derived(name, source, tmp_path / "n.engine", Asked(batches=(IMAGES,)))

    assert artifact.bytes > 1000
    assert artifact.precision == {"tensorrt": "fp32"}.get(name, name.removeprefix("tensorrt-"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "n.onnx",
        "n.engine",
        "n.engine.json",
        "n.engine.log",
    }
    assert "built in" in (tmp_path / "n.engine.log").read_text()


@builds
def test_an_engine_is_built_of_int8_with_a_layer_in_float32(tmp_path: Path) -> None:
    source = to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path
    asked = Asked(batches=(IMAGES,), exclude=("conv2/Conv",))
    artifact = derived("tensorrt-int8", source, tmp_path / "n.engine", asked)
    assert any("conv2/Conv stays float32" in note for note in artifact.notes)


@builds
def test_an_engine_is_taken_from_the_cache_when_nothing_changed(tmp_path: Path) -> None:
    source = to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path
    ask = EngineAsk(cache=tmp_path / "cache")
    first = derived("tensorrt", source, tmp_path / "a.engine", Asked(engine=ask))
    second = derived("tensorrt", source, tmp_path / "b.engine", Asked(engine=ask))
    other = derived("tensorrt", source, tmp_path / "c.engine", Asked(engine=replace(ask, batches=(1, 2, 8))))

    assert first.notes == other.notes == ()
    assert "was built before" in second.notes[0]
    assert first.sha256 == second.sha256
    assert (tmp_path / "b.engine.json").read_text() == (tmp_path / "a.engine.json").read_text()


@builds
def test_a_refused_operator_is_named_with_its_layer_and_nothing_is_left(tmp_path: Path) -> None:
    source = to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path
    model = onnx.load(source)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Wobble", "nobody"
    onnx.save(model, source)

    with pytest.raises(ExportError, match=r"TensorRT refuses .*relu/Relu.*Wobble") as caught:
        derived("tensorrt", source, tmp_path / "n.engine", Asked())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


@builds
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_engine_is_not_run_without_a_gpu(tmp_path: Path) -> None:
    source = to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path
    derived("tensorrt", source, tmp_path / "n.engine", Asked())
    with pytest.raises(ExportError, match="no CUDA device"):
        open_engine(tmp_path / "n.engine")


@pytest.mark.gpu
@builds
def test_an_engine_answers_as_the_network_does(tmp_path: Path) -> None:
    network = settled(Residual()).eval()
    source = to_onnx(network, EXAMPLE, tmp_path / "n.onnx").path
    derived("tensorrt", source, tmp_path / "n.engine", Asked())
    found = open_engine(tmp_path / "n.engine")(input=IMAGES[:3])["logits"]
    with torch.no_grad():
        expected = network(torch.from_numpy(IMAGES[:3])).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
