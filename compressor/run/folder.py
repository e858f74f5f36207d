"""A run folder: the names of its files, and the check that it belongs to this recipe.

runs/NAME/
  recipe.toml          all settings; the same recipe continues the run, another is refused
  graph.json           channel groups, and the channels left whole, with the reason
  scores.safetensors   the score of every unit
  plan.json            the chosen widths, the requested costs and the costs reached
  checkpoints/NAME/    the two latest of every training, to continue after an interruption; the built-in teacher
  student/             plan.json + weights.safetensors
  teacher.onnx  student.onnx
  NAME/  NAME.onnx     the same of every other network that a method ships (ensemble)
  log.jsonl            one line per step, epoch and warning
  events/NAME/         the curves of every training, for TensorBoard
  report.json  report.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.files import write_atomic
from compressor.errors import CompressError, UsageError
from compressor.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class RunFolder:
    """The paths inside one run folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def graph(self) -> Path:
        return self.path / "graph.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.safetensors"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def student(self) -> Path:
        return self.path / "student"

    def beside(self, network: str) -> Path:
        """The folder of another network that ships."""
        return self.path / network

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def report_markdown(self) -> Path:
        return self.path / "report.md"

    def checkpoints(self, network: str) -> Path:
        """The checkpoints of one training."""
        return self.path / "checkpoints" / network

    def artifact(self, network: str, suffix: str) -> Path:
        """The exported file of the teacher or the student."""
        return self.path / f"{network}{suffix}"

    def note(self, entry: dict[str, Any]) -> None:
        """Add one line to the log."""
        try:
            with self.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise CompressError(f"cannot write `{self.log}`: {error.strerror}") from error


def open_run(path: Path, recipe: Recipe) -> RunFolder:
    """The folder for this recipe: a new one, or the folder of an earlier run of the same recipe.

    The folder of a run that failed before it trained or chose anything can be used by a corrected recipe.
    """
    folder = RunFolder(path)
    if folder.recipe.exists():
        begun = read_recipe(folder.recipe)
        worked = folder.plan.exists() or folder.checkpoints("teacher").parent.exists()
        if begun != recipe and not worked:
            write_atomic(folder.recipe, recipe.to_toml())
        elif begun != recipe:
            raise UsageError(
                f"run folder `{path}` belongs to another recipe: {_first_difference(begun, recipe)}",
                "choose another --out, or give the same options to continue it",
            )
        return folder
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"`{path}` exists and is not a run folder", "choose another --out; nothing was changed"
        )
    write_atomic(folder.recipe, recipe.to_toml())
    return folder


def free_name(root: Path, stem: str) -> Path:
    """The first of ``stem``, ``stem-2``, ``stem-3`` … that does not exist."""
    number = 1
    while (candidate := root / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return candidate


def _first_difference(begun: Recipe, asked: Recipe) -> str:
    before, now = _flat(begun.to_dict()), _flat(asked.to_dict())
    key = next(key for key in (*before, *now) if before.get(key) != now.get(key))
    return f"`{key}` is {before.get(key)!r} there and {now.get(key)!r} here"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, each in value.items():
        flat |= _flat(each, f"{prefix}{key}.") if isinstance(each, dict) else {f"{prefix}{key}": each}
    return flat
