"""A student that is given: a whole run with nothing cut, and requests that make no sense."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

import compressor
from compressor.api import compress, run_name
from compressor.data import load_data
from compressor.errors import UsageError
from compressor.profiling import count
from compressor.recipe import ModelRecipe, Recipe, read_recipe, recipe_with
from compressor.run.folder import open_run
from compressor.run.given_student import given_student
from compressor.run.report.screen import print_report
from compressor.run.teacher import model_named
from tests.compressor.test_comparisons import Staged
from tests.test_tiny import colours, untrained

HERE = "tests.compressor.test_given_student"


def pair() -> tuple[TensorDataset, TensorDataset]:
    return colours(96, 1), colours(64, 2)


def small() -> nn.Module:
    return Staged(4)


def between() -> nn.Module:
    return Staged(6)


def three() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def recipe(**changes: Any) -> Recipe:
    return recipe_with(
        {
            "model.name": "tests.test_tiny:untrained",
            "model.weights": "random",
            "data.name": f"{HERE}:pair",
            "data.classes": 4,
            "distil.student": f"{HERE}:small",
            "distil.schedule.epochs": 3,
            "distil.schedule.batch": 32,
            "profile.samples": 3,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )


@pytest.mark.parametrize(
    "method", ["kd", "information-flow", pytest.param("indistill", marks=pytest.mark.slow)]
)
def test_a_given_student_is_taught_exported_measured_and_comes_back(method: str, tmp_path: Path) -> None:
    asked = recipe(distil__method=method)
    report = compress(asked, tmp_path / "run")
    assert report.passed, report.checks
    student = compressor.load(tmp_path / "run/student", trust=True)
    assert isinstance(student, Staged)
    image = torch.zeros(1, 3, 8, 8)
    for name, network in (("teacher", untrained()), ("student", student)):
        assert report.cost["macs"][name] == count(network, (image,)).macs
    assert set(report.accuracy) == {"metric", "teacher", "student", "onnx"}
    assert (report.widths, report.layers, report.saliency) == ({}, [], {})
    names = {"information-flow": ["auxiliary", "student"], "indistill": ["warm-up", "student"]}
    assert [row["network"] for row in report.trainings] == names.get(method, ["student"])
    shown = Console(file=StringIO(), width=200)
    print_report(report, shown)
    assert f"The student is your own network `{HERE}:small`" in shown.file.getvalue()
    assert "not cut from the teacher" in shown.file.getvalue()
    assert open_run(tmp_path / "run", asked).path == tmp_path / "run"  # its recipe reads back as it was


def test_the_network_between_has_twice_the_channels_or_is_named(tmp_path: Path) -> None:
    macs = {}
    for name, more in (("twice", {}), ("named", {"distil__layerwise__auxiliary": f"{HERE}:between"})):
        report = compress(recipe(distil__method="information-flow", **more), tmp_path / name)
        macs[name] = round((1 - report.trainings[0]["macs_removed"]) * report.cost["macs"]["teacher"])
    image = torch.zeros(1, 3, 8, 8)
    assert macs == {"twice": count(Staged(8), (image,)).macs, "named": count(between(), (image,)).macs}


def test_another_number_of_classes_is_one_line_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the student `.*three` has 3 outputs, the teacher `.*` 4"):
        compress(recipe(distil__method="kd", distil__student=f"{HERE}:three"), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"distil.method": "steps"},
            "method `steps` cuts its student from the teacher, and `resnet18` is given",
        ),
        ({"budget.remove": 0.5}, "budget.remove is given, and so is the student `resnet18`"),
        ({"budget.max_macs": 5}, "budget.max_macs is given, and so is the student `resnet18`"),
        (
            {"distil.layerwise.auxiliary": "resnet34"},
            "distil.layerwise.auxiliary is `resnet34`, and only method `information-flow`",
        ),
    ],
)
def test_what_makes_no_sense_with_a_given_student_is_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        recipe_with({"distil.student": "resnet18", "distil.method": "kd", **changes})


@pytest.mark.parametrize("key", ["student", "layerwise__auxiliary"])
def test_a_name_that_nobody_knows_is_refused_before_data_is_read(key: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model `resnet1`"):
        compress(
            recipe(**{"distil__method": "information-flow", f"distil__{key}": "resnet1"}), tmp_path / "run"
        )


def test_a_name_carries_the_weights_of_its_network(tmp_path: Path) -> None:
    assert model_named("resnet18", trust=True) == ModelRecipe("resnet18", "", True)
    assert model_named("timm:a.b=runs/x=1/w.pt", trust=False) == ModelRecipe("timm:a.b", "runs/x=1/w.pt")
    (tmp_path / "lr=1").mkdir()
    assert model_named(str(tmp_path / "lr=1"), trust=False).name == str(tmp_path / "lr=1")
    for text in ("resnet18=", "=w.pt"):
        with pytest.raises(UsageError, match="is not NAME=WEIGHTS"):
            model_named(text, trust=False)


def test_a_student_begins_with_the_weights_that_its_name_carries(tmp_path: Path) -> None:
    weights = {name: tensor + 1 for name, tensor in small().state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    asked = recipe(distil__method="kd", distil__student=f"{HERE}:small={tmp_path / 'w.safetensors'}")
    origin = given_student(asked, load_data(asked.data, 0), untrained())
    assert torch.equal(origin.network.state_dict()["head.weight"], weights["head.weight"])
    assert run_name(asked).endswith("small")


def test_a_recipe_with_a_given_student_survives_its_file(tmp_path: Path) -> None:
    asked = recipe(distil__method="kd")
    (tmp_path / "recipe.toml").write_text(asked.to_toml())
    assert read_recipe(tmp_path / "recipe.toml") == asked


def test_the_run_is_named_after_the_student() -> None:
    assert (
        run_name(recipe_with({"distil.student": "resnet18", "distil.method": "kd"}))
        == "glyphnet-glyphs-resnet18"
    )
