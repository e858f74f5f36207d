"""The recipes that ship: each is read, says what to expect, and runs, shortened, to its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from compressor.api import compress
from compressor.models.names import ModelSource, build
from compressor.profiling import count
from compressor.pruning.graph.trace import trace
from compressor.recipe import DataRecipe, read_recipe

SHORT = ("cascade", "ensemble", "lightweight-teacher", "multi-teacher", "repair", "steps", "teacher-free")
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def few() -> tuple[TensorDataset, TensorDataset]:
    """Noise in the shape of CIFAR-10, to train on and to test."""
    images, labels = torch.rand(40, 3, 32, 32), torch.arange(40) % 10
    return TensorDataset(images[:20], labels[:20]), TensorDataset(images[20:], labels[20:])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_run_and_what_to_expect(path: Path) -> None:
    head = path.read_text().split("\n[", 1)[0]
    for word in ("command:", "machine:", "expect:"):
        assert f"# {word}" in head
    assert f"compress run --recipe recipes/{path.name}" in head


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem not in SHORT)) for path in RECIPES],
    ids=lambda path: path.stem,
)
def test_a_recipe_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    short = dataclasses.replace(
        recipe,
        data=DataRecipe("tests.test_recipes:few", classes=10),
        model=dataclasses.replace(recipe.model, weights="random"),
        distil=dataclasses.replace(
            recipe.distil,
            schedule=dataclasses.replace(recipe.distil.schedule, epochs=2, batch=10, warmup_epochs=0),
        ),
        profile=dataclasses.replace(recipe.profile, samples=3),
    )
    report = compress(short, tmp_path / "run")
    assert report.cost["macs"]["removed"] >= recipe.budget.remove
    assert all(check["passed"] for check in report.checks)


def test_the_vgg16_of_the_recipes_is_the_one_of_the_papers() -> None:
    network = build(ModelSource("recipes.vgg16_bn:VGG16", 10))
    image = torch.zeros(1, 3, 32, 32)
    counts = count(network, (image,))
    assert counts.macs == 313_463_808  # 313 M in the paper
    assert sum(p.numel() for n, p in network.named_parameters() if p.ndim > 1) == 14_977_728  # 14.98 M
    assert not trace(network, image).unsupported
