"""A student on disk: the same bits back, and a clear word for everything that is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.budget.plan import Plan, plan_keeping
from compressor.cutting import cut
from compressor.errors import CompressError, UsageError
from compressor.graph.trace import trace
from compressor.models import ModelSource, build
from compressor.student import Student, is_student, load_student, read_plan, same_bits, save_student
from tests.compressor.networks import images, random_units, with_statistics

SHAPE = (3, 32, 32)


def student_of(source: ModelSource, side: int = 32) -> Student:
    torch.manual_seed(0)
    network = with_statistics(build(source))
    graph = trace(network, images(1, side=side))
    plan = plan_keeping(graph, random_units(graph, 0))
    return Student(cut(network, plan), source, plan, (3, side, side), {"criterion": "l1", "top1": 0.5})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_student(student_of(ModelSource("glyphnet", 5)), tmp_path / "student")
    return tmp_path / "student"


def rewrite(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**value, **changes}))


def test_the_same_student_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    saved.network.train()(images(side=32))  # statistics and counters have moved
    save_student(saved, tmp_path / "student")
    torch.manual_seed(99)
    loaded = load_student(tmp_path / "student")
    assert same_bits(saved.network, loaded.network)
    assert (loaded.source, loaded.plan, loaded.input_shape) == (saved.source, saved.plan, SHAPE)
    assert loaded.about == saved.about
    assert not loaded.network.training
    inputs = images(side=32)
    assert torch.equal(saved.network.eval()(inputs), loaded.network(inputs))


def test_a_torchvision_student_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = student_of(ModelSource("squeezenet1_1", 4), side=64)
    save_student(saved, tmp_path / "student")
    assert same_bits(saved.network, load_student(tmp_path / "student").network)


def test_the_folder_holds_json_and_safetensors_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "weights.safetensors"]
    json.loads((folder / "plan.json").read_text())
    assert load_file(folder / "weights.safetensors")
    assert is_student(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["student"]


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "stale").touch()
    save_student(student_of(ModelSource("glyphnet", 7)), folder)
    assert load_student(folder).source.classes == 7
    assert not (folder / "stale").exists()


TIED = """
from torch import nn

def make(num_classes=5):
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    conv = nn.Conv2d(3, 6, 8).to(memory_format=__import__("torch").channels_last)
    return nn.Sequential(conv, nn.Flatten(), first, nn.ReLU(), second, nn.Linear(6, num_classes))
"""


def test_tied_and_oddly_laid_out_weights_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tied_for_the_student.py").write_text(TIED)
    monkeypatch.chdir(tmp_path)
    saved = student_of(ModelSource("tied_for_the_student:make", 4), side=8)
    save_student(saved, tmp_path / "student")
    loaded = load_student(tmp_path / "student").network
    assert isinstance(loaded, nn.Sequential)
    assert loaded[2].weight is loaded[4].weight
    assert same_bits(saved.network, loaded)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"plan"', "\x00"])
def test_a_plan_that_is_no_plan_is_damaged(folder: Path, text: str) -> None:
    (folder / "plan.json").write_text(text)
    with pytest.raises(CompressError, match=r"plan.json` is damaged: "):
        load_student(folder)


@pytest.mark.parametrize("key", ["model", "input_shape", "about", "slices", "blocks", "widths", "costs"])
def test_a_missing_entry_is_named(folder: Path, key: str) -> None:
    value = json.loads((folder / "plan.json").read_text())
    del value[key]
    (folder / "plan.json").write_text(json.dumps(value))
    with pytest.raises(CompressError, match=f"plan.json` is damaged: KeyError: '{key}'"):
        load_student(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"nom": "glyphnet"}},
        {"model": None},
        {"slices": {"stem.0.weight": {"0": 7}}},
        {"slices": {"stem.0.weight": {"0": ["one"]}}},
        {"slices": {"stem.0.weight": {"0": [0.5]}}},
        {"slices": {"stem.0.weight": {"first": [0]}}},
        {"slices": []},
    ],
)
def test_an_entry_of_the_wrong_kind_is_damage(folder: Path, change: dict[str, Any]) -> None:
    rewrite(folder, **change)
    with pytest.raises(CompressError, match=r"plan.json` is damaged: "):
        load_student(folder)


def test_a_plan_of_a_later_schema_says_so(folder: Path) -> None:
    rewrite(folder, schema=2)
    with pytest.raises(CompressError, match="has schema 2, this version reads 1"):
        read_plan(folder)


def test_indices_that_do_not_exist_name_the_tensor(folder: Path) -> None:
    rewrite(folder, slices={"stem.0.weight": {"0": [0, 9999]}})
    with pytest.raises(CompressError, match=r"cannot cut `stem.0.weight`: .* the plan keeps index 9999"):
        load_student(folder)


def test_a_missing_tensor_is_named_with_its_shape(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    shape = tuple(weights.pop("head.weight").shape)
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CompressError) as caught:
        load_student(folder)
    assert f"has no tensor `head.weight`, expected one of shape {shape}" in str(caught.value)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    width = weights["head.weight"].shape[1]
    weights["head.weight"] = torch.zeros(9, width)
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CompressError) as caught:
        load_student(folder)
    assert f"`head.weight` has shape (9, {width}), the network expects (5, {width})" in str(caught.value)


def test_a_folder_without_its_files_is_no_student(tmp_path: Path) -> None:
    assert not is_student(tmp_path)
    with pytest.raises(
        UsageError, match=r"is no student folder: it needs plan\.json and weights\.safetensors"
    ):
        load_student(tmp_path)


def test_one_bit_makes_two_networks_different() -> None:
    one, other = student_of(ModelSource("glyphnet", 5)), student_of(ModelSource("glyphnet", 5))
    assert same_bits(one.network, other.network)
    with torch.no_grad():
        other.network.head.bias[0] = torch.nextafter(other.network.head.bias[0], torch.tensor(9.0))
    assert not same_bits(one.network, other.network)
    assert not same_bits(one.network, cut(one.network, Plan({"head.weight": {0: (0,)}})))
    assert not same_bits(one.network, nn.Linear(2, 2))
