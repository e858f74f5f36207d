"""A run that is broken off goes on when the same command is given again, and ends with the same student."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import RUN
from tests.e2e.shell import COMPRESS, PATIENCE_S, Outcome, environment, shell, warm_shell

COMMAND = (*RUN, "--epochs", "4", "--out", "runs/b")


def broken_off(folder: Path, how: signal.Signals) -> Outcome:
    """The run, stopped by a signal as soon as there is a checkpoint."""
    begun = subprocess.Popen(
        [*COMPRESS, *COMMAND],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, ctrl-c is ignored, and so it would be in the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + PATIENCE_S
    while not (folder / "runs/b/checkpoints/assistant-1/000001-00000000.json").exists():
        assert begun.poll() is None, begun.communicate()[1]
        assert time.monotonic() < until, "no checkpoint appeared"
        time.sleep(0.01)
    begun.send_signal(how)
    out, err = begun.communicate(timeout=PATIENCE_S)
    assert not (folder / "runs/b/student").exists(), f"the run was over before it could be stopped:\n{err}"
    return Outcome(begun.returncode, out, err)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_broken_run_ends_with_the_student_of_an_unbroken_one(
    how: signal.Signals, finished: tuple[Path, Outcome], folder: Path
) -> None:
    stopped = broken_off(folder, how)
    if how == signal.SIGINT:
        assert stopped.code == 130
        assert stopped.complaint[-1] == (
            "stopped; the same command with `--out runs/b` goes on from the last checkpoint"
        )
    assert "Traceback" not in stopped.err
    assert stopped.out == ""

    continued = warm_shell(folder, *COMMAND, "--json")

    assert continued.code == 0, continued.err
    assert json.loads(continued.out)["trainings"][0]["resumed_from"] >= 1
    whole = finished[0] / "runs/a"
    for name in ("student/weights.safetensors", "student/plan.json", "student.onnx"):
        assert (folder / "runs/b" / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_when_there_is_room(
    folder: Path, finished: tuple[Path, Outcome]
) -> None:
    """A limit on the size of files stands in for the disk: the same call fails, with the same kind of error."""
    said = shell(
        folder,
        *COMMAND,
        limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)),
    )
    assert said.code == 1, said.err
    assert "cannot write `runs/b/checkpoints/" in said.err
    assert "Traceback" not in said.err
    assert not list((folder / "runs").rglob(".*")), "half-written files were left"

    continued = warm_shell(folder, *COMMAND)

    assert continued.code == 0, continued.err
    weights = "student/weights.safetensors"
    assert (folder / "runs/b" / weights).read_bytes() == (finished[0] / "runs/a" / weights).read_bytes()
