"""Runs that torchrun starts with two processes: one folder, one report, and an end when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import RUN
from tests.e2e.shell import PATIENCE_S, Outcome, environment, warm_shell

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "-m", "compressor", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process_of(launcher: int, rank: int) -> int:
    """The number of the process that torchrun started with this rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process with rank {rank} among {children}")


def test_two_processes_make_one_run_with_the_widths_that_one_would_choose(
    finished: tuple[Path, Outcome], folder: Path
) -> None:
    """It is taught by another one with the same weights, so the student is the same."""
    begun = started(folder, *RUN, "--teacher", "mypkg:teacher", "--epochs", "4", "--json")
    out, err = begun.communicate(timeout=PATIENCE_S)
    assert begun.returncode == 0, err
    report, alone = json.loads(out), json.loads(finished[1].out)
    assert [path.name for path in (folder / "runs").iterdir()] == [Path(report["folder"]).name]
    assert err.count("run folder: ") == err.count(" s  Repair and distil") == 1
    assert report["widths"] == alone["widths"]
    assert all(check["passed"] for check in report["checks"])
    # Later epochs of this lively training grow what rounding began; the first still shows that batches were the same.
    first, other = report["trainings"][0], alone["trainings"][0]
    assert first["losses"][0] == pytest.approx(other["losses"][0], rel=1e-3)
    log = [json.loads(line) for line in (folder / report["folder"] / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "step" in entry].count("Repair and distil") == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
def test_a_process_that_dies_ends_the_run_with_a_line_and_one_process_can_go_on(folder: Path) -> None:
    command = (*RUN, "--epochs", "4", "--out", "runs/b")
    begun = started(folder, *command)
    until = time.monotonic() + PATIENCE_S
    while not (folder / "runs/b/checkpoints/assistant-1/000001-00000000.json").exists():
        assert begun.poll() is None, begun.communicate()[1]
        assert time.monotonic() < until, "no checkpoint appeared"
        time.sleep(0.01)
    os.kill(process_of(begun.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    _, err = begun.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - killed < 60
    assert begun.returncode == 1
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert len(lines) == 2, err
    assert lines[0].startswith(
        "error: process 1 of 0 to 1 ended without an error message, in `Repair and distil`, assistant-1: epoch "
    )
    assert lines[1].startswith(
        "hint: run the same command again: it resumes from the last checkpoint, also with another number"
    )
    assert "[rank" not in err, "a traceback of ours"
    assert not (folder / "runs/b/student").exists()

    continued = warm_shell(folder, *command, "--json")

    assert continued.code == 0, continued.err
    assert json.loads(continued.out)["trainings"][0]["resumed_from"] >= 1
