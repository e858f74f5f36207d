from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from compressor.errors import ExportError
from compressor.exporting import Artifact
from compressor.exporting.artifact import appearing_whole, describe


def test_an_artifact_is_described_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")

    artifact = describe(tmp_path / "model.onnx", format="onnx", precision="fp32", opset=20)

    assert artifact.bytes == len(b"modelweights")
    assert artifact.sha256 == hashlib.sha256(b"modelweights").hexdigest()


def test_an_artifact_is_json_with_a_path_relative_to_its_run(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "run" / "m.onnx", "onnx", "fp32", 20, "ab", 3, ("a note",))

    assert json.loads(json.dumps(artifact.to_dict())) == {
        "path": (tmp_path / "run" / "m.onnx").as_posix(),
        "format": "onnx",
        "precision": "fp32",
        "opset": 20,
        "sha256": "ab",
        "bytes": 3,
        "notes": ["a note"],
    }
    assert artifact.to_dict(relative_to=tmp_path / "run")["path"] == "m.onnx"


def test_a_path_outside_the_run_stays_absolute(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "m.onnx", "onnx", "fp32", 20, "ab", 3)

    shown = artifact.to_dict(relative_to=tmp_path / "run")["path"]

    assert shown == (tmp_path / "m.onnx").resolve().as_posix()


def test_files_appear_only_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "m.onnx"

    with appearing_whole(path) as scratch:
        scratch.write_bytes(b"model")
        scratch.with_name("m.onnx.data").write_bytes(b"weights")
        assert not path.exists()

    assert path.read_bytes() == b"model"
    assert path.with_name("m.onnx.data").read_bytes() == b"weights"
    assert len(list(path.parent.iterdir())) == 2


def test_a_failing_block_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def fail() -> None:
        with appearing_whole(path) as scratch:
            scratch.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    unwritable = appearing_whole(tmp_path / "file" / "m.onnx")
    with pytest.raises(ExportError, match=r"cannot write `.*file/m\.onnx`") as caught, unwritable:
        pass

    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.hint
