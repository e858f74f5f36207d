"""The shell lines that we give people for their CI, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compressor.check.files import network

ROOT = Path(__file__).parents[1]


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """One line in bash, with our own `compress` first on the path."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    script = tools / "compress"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m compressor "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lines_of_the_action() -> list[str]:
    return re.findall(r"^ +run: (.+)$", (ROOT / "action.yml").read_text(), re.MULTILINE)


def lines_for_gitlab() -> list[str]:
    page = (ROOT / "docs/ci.md").read_text()
    block = page.partition("## GitLab")[2].partition("```yaml")[2].partition("```")[0]
    return re.findall(r"^ +- (.+)$", block, re.MULTILINE)


pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


def test_the_action_installs_itself_and_checks(tmp_path: Path) -> None:
    install, check = lines_of_the_action()
    assert install == '"$PYTHON" -m pip install --quiet "$ACTION_PATH"'
    network(tmp_path / "model.onnx")
    sides = {"BASELINE": "model.onnx", "CANDIDATE": "model.onnx"}
    quick = "--max-slowdown 50% --processes 3"
    done = shell(check, tmp_path, **sides, OPTIONS=quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("PASS: model.onnx against model.onnx")
    assert (tmp_path / "compress-check.xml").read_text().count("<testcase") == 8
    network(tmp_path / "larger.onnx", layers=5)
    summary = tmp_path / "summary.md"
    done = shell(
        check,
        tmp_path,
        BASELINE="model.onnx",
        CANDIDATE="larger.onnx",
        OPTIONS="--exact-only",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(summary),
    )
    assert done.returncode == 4
    assert "::error title=compress check::MACs" in done.stderr
    assert "| FAILED | MACs |" in summary.read_text()


def test_the_lines_for_gitlab_run(tmp_path: Path) -> None:
    install, check = lines_for_gitlab()
    assert install == "python3 -m pip install compress-to-edge"
    (tmp_path / "build").mkdir()
    network(tmp_path / "build" / "model.onnx")
    saved = shell("compress check build/model.onnx --save baseline.json", tmp_path)
    assert saved.returncode == 0, saved.stderr
    # As on a hosted runner: the processor is not the one on which the baseline was written.
    baseline = tmp_path / "baseline.json"
    value = json.loads(baseline.read_text())
    value["device"]["cpu"] = "Another Processor"
    baseline.write_text(json.dumps(value))
    done = shell(check, tmp_path)
    assert "fingerprint-differs" not in done.stdout
    assert done.returncode in (0, 3), done.stdout + done.stderr  # a busy machine may not be able to tell
    assert (tmp_path / "compress-check.xml").exists()
