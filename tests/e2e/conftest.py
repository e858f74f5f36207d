"""A user's folder with their package in it, and one finished run that several tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.shell import HERE, Outcome, shell

QUICK = """
[distil.schedule]
batch = 32
precision = "fp32"
[profile]
samples = 10
[export]
to = ["onnx"]
"""
RUN = ("run", "mypkg:teacher", "--data", "mypkg:data", "--recipe", "quick.toml", "--ratio", "0.5")


def user_folder(folder: Path) -> Path:
    """A folder with ``mypkg.py`` and a recipe for short trainings."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "mypkg.py", folder)
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return user_folder(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a user whose run ``runs/a`` is over, and what the command printed. Not to be changed."""
    home = user_folder(tmp_path_factory.mktemp("finished"))
    return home, shell(home, *RUN, "--epochs", "4", "--out", "runs/a", "--json")


@pytest.fixture
def after_run(finished: tuple[Path, Outcome], folder: Path) -> Path:
    """A folder of one's own with a copy of the finished run in it."""
    shutil.copytree(finished[0] / "runs", folder / "runs")
    return folder
