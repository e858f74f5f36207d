"""Runs whose widths are chosen by measuring, or within limits, from the command line to the report."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.e2e.shell import warm_shell

BASE = ("run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "quick.toml", "--epochs", "1")


def test_a_share_of_the_latency_is_promised_measured_and_compared_with_a_share_of_macs(folder: Path) -> None:
    """How close a busy machine comes is not tested; that everything is said is."""
    outcome = warm_shell(
        folder, *BASE, "--ratio", "0.1", "--set", "budget.of=latency", "--out", "runs/l", "--json"
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)

    assert report["request"] == {"remove": 0.1, "of": "latency", "limits": {}}
    fit = report["fit"]
    assert fit["allowed"]["latency"] == pytest.approx(0.9 * fit["teacher"]["latency"])
    assert 1 <= len(fit["rounds"]) <= 3
    chosen = fit["rounds"][fit["chosen"]]
    assert chosen["predicted"]["latency"] <= fit["teacher"]["latency"]
    assert chosen["measured"]["latency"] > 0
    assert fit["macs_control"]["macs_removed"] > 0
    assert fit["granule"] >= 8
    text = (folder / "runs/l/report.md").read_text()
    assert "Asked to remove 10.0 % of the latency" in text
    assert "Widths by measuring (onnxruntime on the CPU, batch 1, 1 thread)" in text
    kept = json.loads((folder / "runs/l/plan.json").read_text())
    assert kept["fit"] == fit  # a run that is continued does not measure again


def test_widths_can_be_chosen_by_the_time_in_int8(folder: Path) -> None:
    asked = (
        "--ratio",
        "0.05",
        "--set",
        "budget.of=latency-int8",
        "--to",
        "onnx,onnx-int8",
    )
    outcome = warm_shell(folder, *BASE, *asked, "--out", "runs/i", "--json")
    assert outcome.code in (0, 4), outcome.err  # a network that is hardly trained may not survive eight bits
    report = json.loads(outcome.out)

    assert report["request"]["of"] == "latency-int8"
    fit = report["fit"]
    text = (folder / "runs/i/report.md").read_text()
    assert "Asked to remove 5.0 % of the latency in INT8" in text
    assert "onnxruntime on the CPU in INT8, batch 1, 1 thread" in text
    reached = fit["rounds"][fit["chosen"]]["measured"]["latency"]
    assert f"latency in INT8 {reached:.3f} ms" in text
    assert any(row["file"].startswith("student.int8.onnx") for row in report["proofs"])


def test_limits_alone_are_a_request(folder: Path) -> None:
    outcome = warm_shell(
        folder,
        *BASE,
        "--max-params",
        "8000",
        "--max-macs",
        "600000",
        "--set",
        "distil.assistants=0",
        "--out",
        "runs/m",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)

    assert report["request"]["limits"] == {"max_macs": 600000.0, "max_params": 8000.0}
    assert report["cost"]["params"]["student"] <= 8000
    assert report["cost"]["macs"]["student"] <= 600000
    recipe = tomllib.loads((folder / "runs/m/recipe.toml").read_text())
    assert recipe["budget"]["remove"] == 0.0
    assert "Asked for at most 600,000 MACs" in (folder / "runs/m/report.md").read_text()


def test_time_in_a_runtime_that_is_not_measured_is_refused(folder: Path) -> None:
    (folder / "torch.toml").write_text('[profile]\nruntimes = ["pytorch"]\n')
    asked = ("--recipe", "torch.toml", "--ratio", "0.5", "--set", "budget.of=latency")
    outcome = warm_shell(folder, "run", "mypkg:teacher", "--data", "mypkg:data", *asked)
    assert outcome.code == 2
    assert "widths are chosen by time in onnxruntime" in outcome.err
