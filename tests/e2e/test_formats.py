"""Other formats through the command line: written, proven, rejected, or refused with what to install."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from export.tensorrt import available
from tests.e2e.shell import shell, warm_shell

pytest.importorskip("openvino", reason="openvino is not installed")


def test_a_run_exports_in_the_formats_that_it_is_asked_for(folder: Path) -> None:
    (folder / "formats.toml").write_text(
        "[distil.schedule]\nbatch = 32\n[profile]\nsamples = 5\n"
        '[export]\nto = ["onnx", "onnx-fp16", "onnx-int8", "openvino"]\nmax_accuracy_drop = 20.0\n'
    )
    done = warm_shell(
        folder, "run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "formats.toml", "--ratio", "0.3",
        "--epochs", "2", "--assistants", "0", "--out", "runs/a", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    names = {row["path"]: row["precision"] for row in report["artifacts"]}
    assert names == {
        "teacher.onnx": "fp32", "student.onnx": "fp32", "student.fp16.onnx": "fp16",
        "student.int8.onnx": "int8", "student.xml": "fp32",
    }  # fmt: skip
    checked = {check["name"] for check in report["checks"]}
    for name in ("student.fp16.onnx", "student.int8.onnx", "student.xml"):
        assert {f"{name} equals PyTorch", f"{name} keeps the accuracy"} <= checked
    facts = {each.key for each in onnx.load(folder / "runs/a/student.onnx").metadata_props}
    assert {"teacher", "remove", "of", "plan"} <= facts


def test_a_run_is_exported_again_with_its_own_data(after_run: Path) -> None:
    done = warm_shell(
        after_run, "export", "runs/a", "--to", "onnx,onnx-int8-nvidia", "--max-accuracy-drop", "30", "--trust",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [row["format"] for row in result["artifacts"]] == ["onnx", "onnx-int8-nvidia"]
    assert any("keeps the accuracy" in check["name"] for check in result["checks"])


def test_a_file_that_fails_is_rejected_and_ends_with_4(after_run: Path) -> None:
    (after_run / "mypkg.py").write_text(
        (after_run / "mypkg.py").read_text().replace("def data(", "def other(") + BLIND_DATA
    )
    done = warm_shell(after_run, "export", "runs/a", "--to", "onnx-int8", "--out", "s.onnx", "--trust")

    assert done.code == 4
    assert "FAILED  s.onnx" in done.out
    assert not (after_run / "s.onnx").exists()
    assert (after_run / "s.onnx.rejected").exists()


BLIND_DATA = '''

def data():
    """Calibrated on a hundredth of the light, the file knows nothing of the day."""
    train, test = other()
    train.tensors = (train.tensors[0] * 0.01, train.tensors[1])
    return train, test
'''


def test_an_onnx_file_is_written_in_another_precision(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a/student.onnx", "--to", "onnx-fp16", "--json")
    assert done.code == 0, done.err
    assert (after_run / "student.fp16.onnx").exists()


def test_int8_without_images_says_what_to_give(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a/student.onnx", "--to", "onnx-int8")
    assert done.code == 2
    assert "`onnx-int8` needs images to calibrate on" in done.err
    assert "--data" in done.err


@pytest.mark.skipif(not available(), reason="neither tensorrt nor tensorrt-rtx is installed")
def test_an_engine_is_built_and_its_sidecar_too(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a", "--to", "tensorrt,tensorrt-fp16", "--trust")
    assert done.code == 0, done.err
    for name in ("student.engine", "student.fp16.engine"):
        written = next(line for line in done.out.splitlines() if line.endswith(f"/{name}"))
        assert (after_run / written).exists()
        assert (after_run / f"{written}.json").exists()
    assert "was not run here" in done.err or "passed  student.engine" in done.out


def test_tensorrt_by_name_where_there_is_none_says_what_to_install(after_run: Path) -> None:
    for name in (
        "tensorrt",
        "tensorrt_rtx",
    ):  # found before the installed ones, and broken as bindings alone are
        (after_run / f"{name}.py").write_text(
            "raise ImportError('libnvinfer.so: cannot open shared object file')"
        )
    (after_run / "sitecustomize.py").write_text("import sys; sys.path.insert(0, '.')")
    done = shell(after_run, "export", "runs/a", "--to", "tensorrt", "--trust")
    assert done.code == 2
    assert "`tensorrt` needs TensorRT, which is not installed" in done.err
    assert "pip install tensorrt" in done.err

    done = shell(after_run, "export", "runs/a", "--to", "all", "--trust", "--max-accuracy-drop", "30")
    assert done.code in (0, 4), done.err  # int8 of a tiny network may lose more
    assert done.err.count("no engine was built") == 1
    assert "compress export student.onnx --to tensorrt --out student.engine" in done.err
