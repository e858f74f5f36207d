"""Other formats through the command line: written, proven, rejected, or refused with what to install."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from compressor.exporting import NEEDS
from tests.e2e.shell import shell, warm_shell

pytest.importorskip("openvino", reason="openvino is not installed")


def test_a_run_exports_in_the_formats_that_it_is_asked_for(folder: Path) -> None:
    (folder / "formats.toml").write_text(
        "[distil.schedule]\nbatch = 32\n[profile]\nsamples = 5\n"
        '[export]\nto = ["onnx", "onnx-fp16", "onnx-int8", "openvino"]\nmax_accuracy_drop = 20.0\n'
    )
    done = warm_shell(
        folder, "run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "formats.toml", "--ratio", "0.3",
        "--epochs", "2", "--set", "distil.assistants=0", "--out", "runs/a", "--json",
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
        where = "OpenVINO" if name.endswith("xml") else "ONNX Runtime"
        assert {f"{name} equals PyTorch in {where}", f"{name} keeps the accuracy in {where}"} <= checked
    first, *others = report["proofs"]
    assert (first["file"], first["runtime"], first["accuracy"]) == (
        "student",
        "PyTorch",
        report["accuracy"]["student"],
    )
    ran = {(row["file"], row["runtime"]) for row in others}
    assert ran == {
        *((name, "ONNX Runtime") for name in names if name.endswith("onnx")),
        *((name, "OpenVINO") for name in names if name != "teacher.onnx"),
    }
    assert all(row["passed"] and row["cosine"] > 0.9 and row["agreement"] > 0.9 for row in others)
    facts = {each.key for each in onnx.load(folder / "runs/a/student.onnx").metadata_props}
    assert {"teacher", "remove", "of", "plan"} <= facts


def test_a_student_learns_on_for_eight_bits(folder: Path) -> None:
    done = warm_shell(
        folder, "run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "quick.toml", "--ratio", "0.3",
        "--epochs", "2", "--method", "kd", "--set", "distil.quantise_aware_epochs=1", "--out", "runs/a", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    (told,) = [warning for warning in report["warnings"] if "in simulated INT8" in warning]
    assert "quantisation-aware training, 1 epochs" in told
    (row,) = report["trainings"]
    assert row["epochs"] == 3
    assert row["accuracy"] == report["accuracy"]["student"] == report["accuracy"]["onnx"]
    assert (folder / "runs/a/checkpoints/student-int8").is_dir()


def test_a_run_builds_an_engine_if_it_can_and_says_once_if_it_cannot(folder: Path) -> None:
    recipe = (folder / "quick.toml").read_text().replace('to = ["onnx"]', "")
    (folder / "usual.toml").write_text(recipe)
    done = warm_shell(
        folder, "run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "usual.toml", "--ratio", "0.3",
        "--epochs", "2", "--set", "distil.assistants=0", "--out", "runs/a", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    formats = [row["format"] for row in report["artifacts"]]
    if NEEDS["tensorrt"].missing:
        assert formats == ["onnx", "onnx"]
        (told,) = [warning for warning in report["warnings"] if "TensorRT" in warning]
        assert "--to tensorrt" in told
    else:
        assert formats == ["onnx", "onnx", "tensorrt"]
        (row,) = [row for row in report["proofs"] if row["format"] == "tensorrt"]
        assert row["passed"] or "not run here" in row["detail"]


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


def test_a_network_becomes_a_program_for_executorch_and_a_file_does_not(after_run: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    done = warm_shell(after_run, "export", "runs/a", "--to", "executorch", "--trust", "--json")
    assert done.code == 0, done.err
    (row,) = [row for row in json.loads(done.out)["proofs"] if row["format"] == "executorch"]
    assert row["passed"]
    assert row["runtime"] == "ExecuTorch"

    refused = warm_shell(after_run, "export", "runs/a/student.onnx", "--to", "executorch")
    assert refused.code == 2
    assert "`executorch` is made from a network, and `runs/a/student.onnx` is a file" in refused.err


def test_an_onnx_file_takes_any_size_if_asked(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a", "--free-size", "--out", "free.onnx", "--trust")
    assert done.code == 0, done.err
    shape = onnx.load(after_run / "free.onnx").graph.input[0].type.tensor_type.shape
    assert [axis.dim_param for axis in shape.dim] == ["batch", "", "height", "width"]


def test_int8_without_images_says_what_to_give(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a/student.onnx", "--to", "onnx-int8")
    assert done.code == 2
    assert "`onnx-int8` needs images to calibrate on" in done.err
    assert "--data" in done.err


@pytest.mark.skipif(NEEDS["tensorrt"].missing, reason="neither tensorrt nor tensorrt-rtx is installed")
def test_an_engine_is_built_and_its_sidecar_too(after_run: Path) -> None:
    done = warm_shell(after_run, "export", "runs/a", "--to", "tensorrt,tensorrt-fp16", "--trust")
    assert done.code == 0, done.err
    for name in ("student.engine", "student.fp16.engine"):
        written = next(line for line in done.out.splitlines() if line.endswith(f"/{name}"))
        assert (after_run / written).exists()
        assert (after_run / f"{written}.json").exists()
    shown = next(line for line in done.out.splitlines() if line.startswith("student.engine"))
    assert "not run" in shown or "passed" in shown
    assert ("not run here" in done.err) == ("not run" in shown)


def without_tensorrt(folder: Path) -> None:
    """Modules that are found before the installed ones, and broken as bindings alone are."""
    for name in ("tensorrt", "tensorrt_rtx"):
        (folder / f"{name}.py").write_text(
            "raise ImportError('libnvinfer.so: cannot open shared object file')"
        )
    (folder / "sitecustomize.py").write_text("import sys; sys.path.insert(0, '.')")


def test_tensorrt_by_name_where_there_is_none_says_what_to_install(after_run: Path) -> None:
    without_tensorrt(after_run)
    done = shell(after_run, "export", "runs/a", "--to", "tensorrt", "--trust")
    assert done.code == 2
    assert "`tensorrt` needs TensorRT, which is not installed" in done.err
    assert "pip install tensorrt" in done.err


@pytest.mark.slow
def test_of_all_formats_those_that_cannot_be_written_are_told_once(after_run: Path) -> None:
    without_tensorrt(after_run)
    done = shell(after_run, "export", "runs/a", "--to", "all", "--trust", "--max-accuracy-drop", "30")
    assert done.code in (0, 4), done.err  # int8 of a tiny network may lose more
    assert done.err.count("no engine was built") == 1
    assert "compress export student.onnx --to tensorrt --out student.engine" in done.err
