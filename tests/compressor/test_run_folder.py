"""A run folder belongs to one recipe, and to nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.errors import CompressError, UsageError
from compressor.recipe import Recipe, read_recipe, recipe_with
from compressor.run.folder import RunFolder, free_name, open_run


def test_a_new_folder_is_made_with_its_recipe(tmp_path: Path) -> None:
    recipe = recipe_with({"budget.remove": 0.7})
    folder = open_run(tmp_path / "runs" / "one", recipe)
    assert read_recipe(folder.recipe) == recipe
    assert [path.name for path in folder.path.iterdir()] == ["recipe.toml"]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert open_run(tmp_path, Recipe()).recipe.exists()


def test_the_same_recipe_continues(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", Recipe())
    (folder.path / "plan.json").write_text("{}")
    before = folder.recipe.stat().st_mtime_ns
    assert open_run(tmp_path / "run", Recipe()) == folder
    assert folder.plan.read_text() == "{}"
    assert folder.recipe.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"budget.remove": 0.7}, "`budget.remove` is 0.5 there and 0.7 here"),
        ({"seed": 1, "budget.remove": 0.7}, "`seed` is 0 there and 1 here"),
        ({"data.size": 64}, "`data.size` is None there and 64 here"),
        ({"distil.schedule.epochs": 1}, "`distil.schedule.epochs` is 6 there and 1 here"),
    ],
)
def test_another_recipe_is_refused_and_the_first_difference_named(
    tmp_path: Path, changes: dict[str, object], difference: str
) -> None:
    folder = open_run(tmp_path / "run", Recipe())
    folder.plan.write_text("{}")
    with pytest.raises(UsageError, match="belongs to another recipe") as caught:
        open_run(tmp_path / "run", recipe_with(changes))
    assert str(caught.value).endswith(difference)
    assert read_recipe(tmp_path / "run" / "recipe.toml") == Recipe()


def test_a_folder_of_somebody_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="exists and is not a run folder") as caught:
        open_run(tmp_path, Recipe())
    assert "nothing was changed" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not a run folder"):
        open_run(tmp_path / "run", Recipe())
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CompressError, match="cannot write"):
        open_run(tmp_path / "file" / "run", Recipe())


def test_the_paths_are_those_of_the_description(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = {
        path.relative_to(tmp_path).as_posix()
        for path in (
            folder.recipe, folder.graph, folder.scores, folder.plan, folder.student, folder.log, folder.report,
            folder.report_markdown, folder.checkpoints("student"), folder.artifact("student", ".onnx"),
        )
    }  # fmt: skip
    assert names == {
        "recipe.toml", "graph.json", "scores.safetensors", "plan.json", "student", "log.jsonl", "report.json",
        "report.md", "checkpoints/student", "student.onnx",
    }  # fmt: skip


def test_the_log_grows_by_one_line_of_json_a_note(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.note({"step": "Trace", "text": "a\nb"})
    folder.note({"step": "Cut"})
    lines = folder.log.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["Trace", "Cut"]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"cannot write `.*log.jsonl`"):
        RunFolder(tmp_path / "absent").note({})


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    assert free_name(tmp_path, "run").name == "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").touch()
    assert free_name(tmp_path, "run").name == "run-3"


def test_a_run_that_failed_before_any_work_is_taken_over_by_a_corrected_recipe(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", Recipe())
    corrected = recipe_with({"seed": 1})
    assert open_run(tmp_path / "run", corrected) == folder
    assert read_recipe(folder.recipe) == corrected


def test_checkpoints_are_work_that_another_recipe_may_not_touch(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", Recipe())
    folder.checkpoints("teacher").mkdir(parents=True)
    with pytest.raises(UsageError, match="belongs to another recipe"):
        open_run(tmp_path / "run", recipe_with({"seed": 1}))
    assert folder.checkpoints("teacher").exists()
