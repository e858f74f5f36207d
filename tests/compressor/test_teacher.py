"""The built-in teacher of a run stays the one with which the run began."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.data import load_data
from compressor.errors import CompressError
from compressor.models.names import BUILTIN, ModelSource, build
from compressor.recipe import recipe_with
from compressor.run.teacher import KEPT, Teacher, keep_teacher, load_teacher

CPU = torch.device("cpu")
RECIPE = recipe_with({"budget.remove": 0.5})


def test_a_run_that_goes_on_has_the_built_in_teacher_that_it_had_whatever_the_cache_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another number of threads or processes the cache has another one, or none."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    data = load_data(RECIPE.data, RECIPE.seed)
    source = ModelSource(BUILTIN, len(data.classes))
    teacher = Teacher(build(source), source, "trained just now")
    folder = tmp_path / "checkpoints" / "teacher"
    keep_teacher(RECIPE, teacher, folder)
    again = load_teacher(RECIPE, data, device=CPU, progress=lambda name, now: None, checkpoints=folder)
    assert again.origin == "kept with this run"
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, teacher.network.state_dict()[name]), name

    (folder / KEPT).write_bytes(b"torn")
    with pytest.raises(CompressError, match=r"built-in.safetensors` is damaged"):
        load_teacher(RECIPE, data, device=CPU, progress=lambda name, now: None, checkpoints=folder)


def test_a_teacher_that_the_user_brings_is_not_kept(tmp_path: Path) -> None:
    recipe = recipe_with({"budget.remove": 0.5, "model.name": "resnet18", "model.weights": "random"})
    source = ModelSource(BUILTIN, 4)
    keep_teacher(recipe, Teacher(build(source), source, "random weights"), tmp_path)
    assert not list(tmp_path.iterdir())
