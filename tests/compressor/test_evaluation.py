"""`compress evaluate`: choice of network and data, and the result."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import compressor
from compressor.cli import cli
from compressor.commands.evaluation import evaluate, print_evaluation
from compressor.commands.retrieval import evaluate_retrieval
from compressor.data import load_data
from compressor.errors import UsageError
from compressor.recipe import DataRecipe, ModelRecipe, recipe_with
from compressor.training import accuracy
from tests.test_tiny import colours, untrained

DATA = DataRecipe("tests.compressor.test_evaluation:pair", classes=4)
MODEL = ModelRecipe("tests.test_tiny:untrained", "random")


def pair() -> tuple[TensorDataset, TensorDataset]:
    return colours(64, 1), colours(32, 2)


def saved(folder: Path) -> nn.Module:
    """A student folder with half of the network."""
    network, image = untrained().eval(), torch.zeros(1, 3, 8, 8)
    graph = compressor.trace(network, image)
    plan = compressor.plan(graph, compressor.score(network, graph, "l2"), remove=0.5, granule=1)
    student = compressor.cut(network, plan)
    compressor.save(student, folder, plan=plan, model=MODEL.name, image=image)
    return student


def test_a_student_is_judged_as_the_functions_judge_it(tmp_path: Path) -> None:
    student, data = saved(tmp_path / "student"), load_data(DATA, 0)
    found = evaluate(ModelRecipe(str(tmp_path / "student"), trust=True), DATA, device="cpu", retrieval=True)
    assert found.accuracy == accuracy(student, data.test)
    assert found.retrieval == evaluate_retrieval(student, data)
    shown = Console(file=StringIO(), width=100)
    print_evaluation(found, shown)
    first, head, euclidean, cosine = shown.file.getvalue().splitlines()
    assert first.startswith(f"top-1 {found.accuracy:.2%}".replace("%", " %"))
    assert head.split() == "retrieval by embedding mAP mAP, 11 points of the first 100".split()
    assert (euclidean.split()[0], cosine.split()[0]) == ("euclidean", "cosine")


def test_a_run_folder_brings_its_data_and_seed(tmp_path: Path) -> None:
    saved(tmp_path / "student")
    recipe = recipe_with({"data.name": DATA.name, "data.classes": 4, "seed": 3})
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    found = evaluate(ModelRecipe(str(tmp_path), trust=True), None)
    assert (found.data, found.images, found.retrieval) == (DATA.name, 32, {})


def test_the_command_prints_json_for_programs() -> None:
    done = CliRunner().invoke(
        cli,
        [
            "evaluate",
            MODEL.name,
            "--weights",
            "random",
            "--data",
            DATA.name,
            "--classes",
            "4",
            "--retrieval",
            "--layer",
            "stem",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["data"] == {"name": DATA.name, "test": 32}
    assert found["retrieval"]["layer"] == "stem"
    assert set(found["retrieval"]["cosine"]) == {"map", "map_11", "precision_100"}


@pytest.mark.parametrize(
    ("model", "data", "more", "reason"),
    [
        (MODEL, None, {}, "no data given to evaluate on"),
        (MODEL, DATA, {"layer": "stem"}, "layer `stem` is used for retrieval only"),
        (MODEL, DATA, {"retrieval": True, "layer": "root"}, "the network has no layer `root`"),
        (ModelRecipe("resnet18"), DATA, {}, "`resnet18` has no weights"),
        (ModelRecipe("student.onnx"), DATA, {}, "is an ONNX file"),
        (ModelRecipe("tests.compressor.test_evaluation:three"), DATA, {}, "has 3 outputs, .* has 4 classes"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    model: ModelRecipe, data: DataRecipe | None, more: dict[str, object], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        evaluate(model, data, **more)


def three() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def test_where_data_lies_is_no_use_without_its_name() -> None:
    done = CliRunner().invoke(cli, ["evaluate", MODEL.name, "--size", "8"])
    assert isinstance(done.exception, UsageError)
