"""One whole run through the command line, and everything that can be done with what it leaves."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import compressor
from tests.e2e.conftest import RUN
from tests.e2e.shell import Outcome, environment, warm_shell

FILES = """
    checkpoints/TRAINING/EPOCH-STEP.json
    checkpoints/TRAINING/EPOCH-STEP.safetensors
    checkpoints/TRAINING/repaired-HASH.safetensors
    events/TRAINING/events.out.tfevents.SECONDS
    graph.json
    log.jsonl
    plan.json
    recipe.toml
    report.json
    report.md
    scores.safetensors
    student/plan.json
    student/weights.safetensors
    student.onnx
    teacher.onnx
""".split()

STEPS = [
    "Build teacher and data",
    "Trace the channel graph",
    "Score channels by lamp",
    "Choose widths",
    "Cut",
    "Verify the cut",
    "Repair and distil",
    "Save and export",
    "Verify the artifact",
    "Profile",
]

Run = tuple[Path, Outcome]


@pytest.fixture
def report(finished: Run) -> dict[str, Any]:
    return json.loads(finished[1].out)


def test_a_run_ends_well_and_talks_on_stderr_only(finished: Run) -> None:
    _, outcome = finished
    assert outcome.code == 0, outcome.err
    assert outcome.out.lstrip().startswith("{")
    done = re.findall(r"^ *\d+\.\d\d s  (.*?)(?:  .*)?$", outcome.err, re.MULTILINE)
    assert done == [*STEPS, "Report"]  # which cannot stand in the file that it writes
    assert "Traceback" not in outcome.err
    assert all(line.startswith("warning: ") for line in outcome.complaint), outcome.complaint


def test_the_json_on_stdout_is_the_report_in_the_folder(finished: Run, report: dict[str, Any]) -> None:
    assert report == json.loads((finished[0] / "runs/a/report.json").read_text())


def test_the_report_has_every_promised_field(report: dict[str, Any]) -> None:
    assert report["schema"] == 1
    assert report["request"] == {"remove": 0.5, "of": "macs", "limits": {}}
    assert report["fit"] is None  # nothing was chosen by measuring
    for cost in ("macs", "params", "channels", "bytes", "latency_ms"):
        figures = report["cost"][cost]
        assert figures["removed"] == pytest.approx(1 - figures["student"] / figures["teacher"])
    assert set(report["accuracy"]) == {"metric", "teacher", "cut", "repaired", "student", "onnx"}
    for check in report["checks"]:
        assert {"name", "passed", "max_abs_error", "tolerance"} <= set(check)
    for artifact in report["artifacts"]:
        assert {"path", "format", "precision", "opset", "sha256"} <= set(artifact)
    assert [step["name"] for step in report["steps"]] == STEPS
    assert all(step["seconds"] >= 0 for step in report["steps"])
    assert {"cpu", "device", "precision"} <= set(report["environment"])
    assert all(isinstance(warning, str) for warning in report["warnings"])


def test_the_figures_of_the_report_are_plausible(report: dict[str, Any]) -> None:
    accuracy = report["accuracy"]
    assert accuracy["teacher"] > 0.95
    assert accuracy["student"] > 0.8  # four patterns: a student that learned nothing has 0.25
    assert accuracy["onnx"] == accuracy["student"]
    removed = report["cost"]["macs"]["removed"]
    assert 0.5 <= removed <= 0.51 or any(f"instead of {0.5:.1%}" in line for line in report["warnings"])
    assert report["cost"]["params"]["student"] < report["cost"]["params"]["teacher"]
    assert all(check["passed"] for check in report["checks"])
    checked = {check["name"] for check in report["checks"]}
    assert checked >= {
        "cut equals silenced teacher",
        "cut equals silenced teacher, on batch statistics",
        "planned cost equals counted cost",
        "student loads back bit for bit",
        *(f"{who}.onnx equals PyTorch in ONNX Runtime" for who in ("teacher", "student")),
    }


def test_the_run_folder_has_the_documented_files_and_nothing_else(finished: Run) -> None:
    run = finished[0] / "runs/a"
    found = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    names = {re.sub(r"/[\w-]+/\d{6}-\d{8}\.", "/TRAINING/EPOCH-STEP.", name) for name in found}
    names = {re.sub(r"/[\w-]+/repaired-\w{16}\.", "/TRAINING/repaired-HASH.", name) for name in names}
    names = {
        re.sub(r"/[\w-]+/(events\.out\.tfevents)\.\d+$", r"/TRAINING/\1.SECONDS", name) for name in names
    }
    assert sorted(names) == sorted(FILES)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"assistant-1", "student"}


def test_nothing_in_the_run_folder_is_a_pickle(finished: Run) -> None:
    for path in (finished[0] / "runs/a").rglob("*"):
        # A pickle of protocol 2 or later, or a zip as torch.save writes it.
        assert path.is_dir() or path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


def test_the_report_vouches_for_the_bytes_of_the_files(finished: Run, report: dict[str, Any]) -> None:
    for artifact in report["artifacts"]:
        content = (finished[0] / "runs/a" / artifact["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        assert len(content) == artifact["bytes"]


def test_report_shows_one_screen_with_every_figure(finished: Run) -> None:
    shown = warm_shell(finished[0], "report", "runs/a")
    assert shown.code == 0
    assert shown.err == ""
    for words in ("teacher", "merely cut", "distilled", "from the ONNX file", "MACs", "parameters", "channels",
                  "ONNX file, bytes", "PyTorch, ms", "ONNX Runtime, ms", "Asked to remove 50.0 %",
                  "passed  cut equals silenced teacher", "run folder: runs/a"):  # fmt: skip
        assert words in shown.out
    assert "\x1b" not in shown.out  # no colours into a file
    assert len(shown.out.splitlines()) <= 48


def test_report_as_markdown_is_the_file_in_the_folder(finished: Run) -> None:
    shown = warm_shell(finished[0], "report", "runs/a", "--markdown")
    assert shown.out == (finished[0] / "runs/a/report.md").read_text()
    assert "all checks passed" in shown.out.splitlines()[0]


def test_report_as_json_is_the_file_in_the_folder(finished: Run, report: dict[str, Any]) -> None:
    assert json.loads(warm_shell(finished[0], "report", "runs/a", "--json").out) == report


def test_profile_compares_two_files(finished: Run) -> None:
    files = ("runs/a/teacher.onnx", "runs/a/student.onnx")
    shown = warm_shell(finished[0], "profile", *files, "--samples", "5", "--json")
    assert shown.code == 0, shown.err
    profile = json.loads(shown.out)
    (row,) = profile["latency"]
    assert row["runtime"] == "onnxruntime"
    assert {"teacher", "student", "speedup"} <= set(row)
    sizes = {who: (finished[0] / f"runs/a/{who}.onnx").stat().st_size for who in ("teacher", "student")}
    assert profile["file_bytes"] == sizes


def test_profile_of_a_student_folder_counts_what_the_report_counts(
    finished: Run, report: dict[str, Any]
) -> None:
    shown = warm_shell(finished[0], "profile", "runs/a/student", "--samples", "5", "--trust", "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["counts"]["teacher"]["macs"] == report["cost"]["macs"]["student"]


def test_export_of_a_run_writes_the_student_and_compares(after_run: Path) -> None:
    shown = warm_shell(after_run, "export", "runs/a", "--out", "x.onnx", "--trust", "--json")
    assert shown.code == 0, shown.err
    result = json.loads(shown.out)
    assert all(check["passed"] for check in result["checks"])
    assert hashlib.sha256((after_run / "x.onnx").read_bytes()).hexdigest() == result["artifacts"][0]["sha256"]


def test_export_without_a_place_leaves_the_files_of_the_run_as_reported(after_run: Path) -> None:
    before = contents(after_run / "runs/a")
    shown = warm_shell(after_run, "export", "runs/a", "--trust")
    assert shown.code == 0, shown.err
    assert (after_run / shown.out.splitlines()[-1]).is_file()
    after = contents(after_run / "runs/a")
    assert {name: after[name] for name in before} == before


def test_an_operator_set_that_cannot_be_written_is_an_error(after_run: Path) -> None:
    shown = warm_shell(after_run, "export", "runs/a", "--out", "y.onnx", "--opset", "99", "--trust")
    assert shown.code == 1
    assert "cannot write opset 99" in shown.err
    assert not (after_run / "y.onnx").exists()


def test_a_student_loads_in_a_fresh_process_as_the_onnx_file_answers(finished: Run) -> None:
    program = (
        "import compressor, torch, mypkg\n"
        "network = compressor.load('runs/a/student', trust=True)\n"
        "images, labels = mypkg.data()[1].tensors\n"
        "with torch.no_grad(): right = (network(images).argmax(1) == labels).float().mean().item()\n"
        "print(right, sum(p.numel() for p in network.parameters()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=finished[0],
        env=environment(finished[0]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    right, params = done.stdout.split()
    report = json.loads(finished[1].out)
    assert float(right) == report["accuracy"]["onnx"]
    assert int(params) == report["cost"]["params"]["student"]


def test_a_student_can_be_compressed_again(after_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads((after_run / "runs/a/report.json").read_text())
    shown = warm_shell(
        after_run, "run", "runs/a/student", "--data", "mypkg:data", "--recipe", "quick.toml",
        "--ratio", "0.3", "--epochs", "1", "--set", "distil.assistants=0", "--out", "runs/again", "--trust", "--json",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    report = json.loads(shown.out)
    assert report["cost"]["macs"]["teacher"] == first["cost"]["macs"]["student"]
    assert report["accuracy"]["teacher"] == first["accuracy"]["student"]
    monkeypatch.chdir(after_run)  # the user's package is found from their folder
    monkeypatch.syspath_prepend(after_run)
    twice = compressor.load("runs/again/student", trust=True)
    assert twice(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert sum(p.numel() for p in twice.parameters()) == report["cost"]["params"]["student"]


def test_a_finished_run_is_shown_again_and_changes_no_file(finished: Run) -> None:
    before = contents(finished[0] / "runs/a")
    shown = warm_shell(finished[0], *RUN, "--epochs", "4", "--out", "runs/a", "--json")
    assert shown.code == 0
    assert json.loads(shown.out) == json.loads(finished[1].out)
    assert " s  " not in shown.err  # no step was done
    assert contents(finished[0] / "runs/a") == before


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and the time it was written."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
