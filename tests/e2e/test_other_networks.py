"""Networks, data and requests of other kinds than the usual one, each through a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.conftest import RUN
from tests.e2e.shell import warm_shell


def test_a_network_without_batch_norm_on_data_of_another_size_without_assistants(folder: Path) -> None:
    report = run(
        folder,
        "mypkg:without_norms",
        "mypkg:small_data",
        "--set",
        "distil.assistants=0",
        "--set",
        "budget.of=params",
    )
    assert report["data"]["shape"] == [1, 12, 12]
    assert report["request"]["of"] == "params"
    assert report["cost"]["params"]["removed"] >= 0.5
    assert [row["network"] for row in report["trainings"]] == ["student"]
    assert not any("batch statistics" in check["name"] for check in report["checks"])
    assert all(check["passed"] for check in report["checks"])


def test_an_operator_without_a_rule_is_told_and_what_it_touches_stays_whole(folder: Path) -> None:
    report = run(
        folder,
        "mypkg:unsupported",
        "mypkg:data",
        "--method",
        "steps",
        "--set",
        "distil.assistants=2",
        "--set",
        "budget.of=channels",
    )
    assert any("no rule for `special_xlog1py` (in 4 (mypkg.py:" in warning for warning in report["warnings"])
    reasons = {row["name"]: row["reason"] for row in report["not_cut"]}
    assert "special_xlog1py" in reasons["2"]
    assert set(report["widths"]) == {"0", "5"}
    assert report["cost"]["channels"]["student"] < report["cost"]["channels"]["teacher"]
    names = [row["network"] for row in report["trainings"]]
    assert names == ["assistant-1", "assistant-2", "student"]
    removed = [row["macs_removed"] for row in report["trainings"]]
    assert removed == sorted(removed)
    assert all(check["passed"] for check in report["checks"])


def test_a_file_that_is_not_the_network_fails_the_run_and_the_report_says_so(folder: Path) -> None:
    (folder / "strict.py").write_text(
        "from compressor.exporting import verdict\n"
        "from mypkg import teacher\n"
        "verdict.TOLERANCES['fp32'] = verdict.Tolerance(0.0)\n"
    )
    command = ("run", "strict:teacher", *RUN[2:], "--epochs", "1", "--out", "runs/strict")
    shown = warm_shell(folder, *command)
    assert shown.code == 4, shown.err
    assert "FAILED  student.onnx equals PyTorch in ONNX Runtime" in shown.out
    assert "A CHECK FAILED" in (folder / "runs/strict/report.md").read_text().splitlines()[0]
    report = json.loads((folder / "runs/strict/report.json").read_text())
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    assert failed
    assert all("onnx" in name for name in failed)
    assert warm_shell(folder, *command).code == 4  # shown again, it is no better
    assert warm_shell(folder, "report", "runs/strict", "--json").code == 4


def run(folder: Path, model: str, data: str, *options: str) -> dict[str, Any]:
    """A whole run that ends well, and its report."""
    shown = warm_shell(
        folder, "run", model, "--data", data, "--recipe", "quick.toml",
        "--ratio", "0.5", "--epochs", "1", "--out", "runs/x", "--json", *options,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    return json.loads(shown.out)


def test_a_cascade_chooses_other_channels_and_ends_in_a_proven_file(folder: Path) -> None:
    report = run(folder, "mypkg:teacher", "mypkg:data", "--method", "cascade", "--epochs", "2")
    assert [row["network"] for row in report["trainings"]] == ["together", "student"]
    assert report["trainings"][1]["teacher"].startswith("assistant-1")
    assert all(check["passed"] for check in report["checks"])
    assert any("together from assistant-1: cut equals" in check["name"] for check in report["checks"])
    assert report["cost"]["macs"]["student"] <= 0.51 * report["cost"]["macs"]["teacher"]


def test_an_ensemble_hands_out_every_network_proven_and_exported(folder: Path) -> None:
    report = run(
        folder, "mypkg:teacher", "mypkg:data", "--method", "ensemble", "--set", "distil.between=[0.2, 0.35]"
    )
    rows = {row["network"]: row for row in report["trainings"]}
    assert list(rows) == ["assistant-1", "assistant-2", "student"]
    removed = [row["macs_removed"] for row in rows.values()]
    assert removed == sorted(removed)
    assert removed[0] >= 0.2
    files = {artifact["path"] for artifact in report["artifacts"]}
    assert files == {"teacher.onnx", "student.onnx", "assistant-1.onnx", "assistant-2.onnx"}
    names = [check["name"] for check in report["checks"]]
    assert "assistant-2.onnx equals PyTorch in ONNX Runtime" in names
    (run_folder,) = (path.parent for path in folder.glob("runs/*/assistant-1/plan.json"))
    assert (run_folder / "weights.safetensors").exists()


def test_no_trained_teacher_is_needed_where_none_is_asked(folder: Path) -> None:
    report = run(
        folder, "mypkg:teacher", "mypkg:data", "--method", "lightweight-teacher", "--teacher", "none"
    )
    (row,) = report["trainings"]
    assert row["teacher"] == "lightweight"
    assert report["model"]["origin"] == "random weights"


def test_a_network_is_repaired_and_nothing_more(folder: Path) -> None:
    report = run(folder, "mypkg:teacher", "mypkg:data", "--method", "repair")
    (row,) = report["repairs"]
    assert row["helped"]
    assert row["output_error"]["after"] < row["output_error"]["before"]
    right = report["accuracy"]
    assert right["cut"] <= right["repaired"] == right["student"]
    assert report["trainings"][0]["epochs"] == 0
    (plan,) = folder.glob("runs/*/student/plan.json")
    assert json.loads(plan.read_text())["about"]["repaired"] == f"{row['images']} images"
    (text,) = folder.glob("runs/*/report.md")
    assert "| layer | error before the repair | after |" in text.read_text()
    shown = warm_shell(folder, "report", str(plan.parents[1]))
    assert "student, repaired" in shown.out
    assert "student, distilled" not in shown.out
