from __future__ import annotations

from pathlib import Path

import pytest

from compressor.errors import ExportError
from compressor.exporting import Asked, compare, derived, open_openvino, to_onnx

from .networks import Residual, settled
from .test_int8 import IMAGES
from .test_onnx import BATCHES, EXAMPLE, function_of

pytest.importorskip("openvino", reason="openvino is not installed")


def test_the_two_files_are_the_network(tmp_path: Path) -> None:
    network = settled(Residual())
    source = to_onnx(network, EXAMPLE, tmp_path / "n.onnx").path
    artifact = derived("openvino", source, tmp_path / "n.xml", Asked())
    session = open_openvino(artifact.path, threads=1)

    # float32 as it is set; bfloat16, which OpenVINO would choose, is off by 1e-2.
    verdict = compare("ov", function_of(network), lambda x: session(input=x)["logits"], BATCHES)
    assert verdict.passed, verdict.detail
    assert {path.name for path in tmp_path.iterdir()} == {"n.onnx", "n.xml", "n.bin"}
    assert artifact.bytes == sum((tmp_path / name).stat().st_size for name in ("n.xml", "n.bin"))


def test_int8_is_that_of_the_onnx_file(tmp_path: Path) -> None:
    network = settled(Residual())
    source = to_onnx(network, EXAMPLE, tmp_path / "n.onnx").path
    artifact = derived("openvino-int8", source, tmp_path / "n.xml", Asked(batches=(IMAGES,)))
    session = open_openvino(artifact.path, threads=1)

    verdict = compare("ov", function_of(network), lambda x: session(input=x)["logits"], [IMAGES])
    assert verdict.cosine > 0.97
    assert (artifact.format, artifact.precision) == ("openvino-int8", "int8")


def test_a_file_that_is_no_model_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"junk")
    with pytest.raises(ExportError, match="OpenVINO refuses") as caught:
        derived("openvino", tmp_path / "n.onnx", tmp_path / "n.xml", Asked())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]
