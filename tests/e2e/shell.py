"""Running ``compress`` as a user's shell does, and the same with torch imported once for many commands."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COMPRESS = (sys.executable, "-m", "compressor")
PATIENCE_S = 120


@dataclass(frozen=True)
class Outcome:
    """What a command left behind in the terminal."""

    code: int | None
    out: str
    err: str

    @property
    def complaint(self) -> list[str]:
        """The lines on stderr that are no progress."""
        lines = self.err.splitlines()
        return [line for line in lines if not line.startswith("run folder: ") and " s  " not in line[:12]]


def environment(folder: Path) -> dict[str, str]:
    """One thread, a cache of its own, and a terminal that is none."""
    cache = {"COMPRESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | cache


def shell(folder: Path, *arguments: str, limit: Callable[[], None] | None = None) -> Outcome:
    """Run ``compress`` in ``folder``, in a process that starts from nothing; ``limit`` is called in it first."""
    done = subprocess.run(
        [*COMPRESS, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=limit,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def warm_shell(folder: Path, *arguments: str) -> Outcome:
    """The same in a process that is forked from one where torch is imported already.

    Importing it takes seconds, and dozens of commands run here. All else is real: ``main``, the working
    folder, both streams and the exit code.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.preloaded"])
    out, err = folder / ".stdout", folder / ".stderr"
    process = context.Process(target=_in_child, args=(folder, arguments, out, err))
    process.start()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
    outcome = Outcome(process.exitcode, out.read_text(), err.read_text())
    out.unlink()
    err.unlink()
    return outcome


def _in_child(folder: Path, arguments: tuple[str, ...], out: Path, err: Path) -> None:
    os.chdir(folder)
    os.environ.update(environment(folder))
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    sys.argv = ["compress", *arguments]
    sys.path[0] = str(folder)
    from compressor.cli import main

    main()
