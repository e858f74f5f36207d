"""A student on disk: the same network back, bit for bit, whatever its form; and its plan, applied again."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import compressor
from compressor.artifacts.student import (
    Student,
    apply_plan,
    is_student,
    load_student,
    read_plan,
    same_bits,
    save_student,
)
from compressor.errors import CompressError, UsageError
from compressor.models.copying import named_tensors
from compressor.models.names import ModelSource, build
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import images, random_units, with_statistics

BROUGHT = '''
"""What a user brings: networks that are hard to put down and take up again."""

import torch
from torch import nn


class Fixed(nn.Module):
    """Its Python fixes sizes, so that its student is a program. Two layers share their weight."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).view(-1, 8, 64).mean(2)
        return self.head(torch.relu(self.second(torch.sigmoid(self.first(x)))))


class Keeper(nn.Module):
    """Tensors of every kind: buffers that no state dict has, one of them drawn, an attribute, and a lazy one."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.register_buffer("place", torch.arange(8.0).view(8, 1, 1), persistent=False)
        self.register_buffer("drawn", torch.rand(8, 1, 1), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.shift = torch.rand(8, 1, 1)
        self.several = [torch.rand(1)]
        self.lazy = None
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        if self.lazy is None:
            self.lazy = torch.full((1,), 0.5)
        x = torch.relu(self.conv(x) * self.place + self.drawn + self.shift * self.several[0])
        return self.head(x.mean((2, 3)) * self.lazy)


def fixed(num_classes=4):
    return Fixed(num_classes)


def keeper(num_classes=4):
    return Keeper(num_classes)


def tied(num_classes=5):
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    conv = nn.Conv2d(3, 6, 8).to(memory_format=torch.channels_last)
    return nn.Sequential(conv, nn.Flatten(), first, nn.ReLU(), second, nn.Linear(6, num_classes))


def wide(num_classes=5):
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.Conv2d(96, num_classes, 1))
'''
LOAD = """
import sys
import torch
from safetensors.torch import save_file
import compressor
from tests.compressor.networks import images
folder, side, trust, out = sys.argv[1:]
with torch.no_grad():
    save_file({"out": compressor.load(folder, trust=trust == "trust")(images(side=int(side)))}, out)
"""


def student_of(source: ModelSource, side: int = 32, seed: int = 0) -> Student:
    torch.manual_seed(seed)
    network = with_statistics(build(source))
    graph = trace(network, images(1, side=side))
    plan = plan_keeping(graph, random_units(graph, seed))
    return Student(cut(network, plan), source, plan, (3, side, side), {"criterion": "l1", "top1": 0.5})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_student(student_of(ModelSource("glyphnet", 5)), tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user, with their package in it, where they are."""
    (tmp_path / "brought.py").write_text(BROUGHT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("brought", None)
    importlib.invalidate_caches()
    return tmp_path


def elsewhere(folder: Path, side: int, trust: str, cwd: Path) -> Tensor:
    """What a student in a folder answers in a process of its own."""
    out = cwd / "answer.safetensors"
    root = Path(__file__).parents[2]
    program = f"import sys; sys.path[:0] = ['', {str(root)!r}]\n{LOAD}"
    subprocess.run(
        [sys.executable, "-c", program, str(folder), str(side), trust, str(out)],
        cwd=cwd,
        check=True,
        timeout=120,
    )
    return load_file(out)["out"]


def answer(network: nn.Module, side: int) -> Tensor:
    with torch.no_grad():
        return network.eval()(images(side=side))


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit: also where a number is none, and with the sign of zero."""
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def test_the_same_student_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    saved.network.train()(images(side=32))  # statistics and counters have moved
    save_student(saved, tmp_path / "student")
    torch.manual_seed(99)
    loaded = load_student(tmp_path / "student")
    assert same_bits(saved.network, loaded.network)
    assert (loaded.source, loaded.plan, loaded.input_shape) == (saved.source, saved.plan, (3, 32, 32))
    assert loaded.about == saved.about
    assert not loaded.network.training
    assert same(answer(saved.network, 32), answer(loaded.network, 32))


def test_a_torchvision_student_answers_with_the_same_bits_in_another_process(tmp_path: Path) -> None:
    saved = student_of(ModelSource("squeezenet1_1", 4), side=64)
    save_student(saved, tmp_path / "student")
    assert same_bits(saved.network, load_student(tmp_path / "student").network)
    assert same(elsewhere(tmp_path / "student", 64, "", tmp_path), answer(saved.network, 64))


def test_a_users_student_answers_with_the_same_bits_in_another_process(home: Path) -> None:
    saved = student_of(ModelSource("brought:keeper", 4), side=8)
    save_student(saved, home / "student")
    assert same(elsewhere(home / "student", 8, "trust", home), answer(saved.network, 8))


def test_a_program_needs_neither_its_class_nor_trust(home: Path, tmp_path_factory: Any) -> None:
    saved = student_of(ModelSource("brought:fixed", 4), side=8)
    assert form_of(saved.network) == "program"
    save_student(saved, home / "student")
    far = tmp_path_factory.mktemp("far")
    shutil.move(home / "student", far / "student")
    (home / "brought.py").unlink()
    assert same(elsewhere(far / "student", 8, "", far), answer(saved.network, 8))
    loaded = load_student(far / "student").network
    assert form_of(loaded) == "program"
    assert same_bits(saved.network, loaded)
    assert [name for name, _ in loaded.named_parameters()] == [
        name for name, _ in saved.network.named_parameters()
    ]


def test_a_loaded_program_learns_and_frozen_weights_stay_frozen(home: Path) -> None:
    saved = student_of(ModelSource("brought:fixed", 4), side=8)
    saved.network.get_parameter("head.bias").requires_grad_(False)
    save_student(saved, home / "student")
    loaded = load_student(home / "student").network.train()
    loaded(images()).square().sum().backward()
    assert [name for name, weight in loaded.named_parameters() if weight.grad is None] == ["head.bias"]
    assert not same(loaded.get_buffer("norm.running_mean"), saved.network.get_buffer("norm.running_mean"))


def test_a_program_is_cut_and_saved_again_without_the_code_that_it_once_came_from(home: Path) -> None:
    first = student_of(ModelSource("brought:fixed", 4), side=8)
    save_student(first, home / "student")
    (home / "brought.py").unlink()
    sys.modules.pop("brought")
    loaded = load_student(home / "student")
    graph = trace(loaded.network, images(1))
    plan = plan_keeping(graph, random_units(graph, 1, 0.7))
    smaller = cut(loaded.network, plan)
    again = Student(smaller, loaded.source, plan.after(loaded.plan), (3, 8, 8), {})
    save_student(again, home / "again")
    back = load_student(home / "again")
    assert same(answer(smaller, 8), answer(back.network, 8))
    assert back.source.tensors == loaded.source.tensors
    assert back.plan.earlier == loaded.plan


@pytest.mark.parametrize("name", ["tied", "fixed"])
def test_tied_weights_stay_tied(home: Path, name: str) -> None:
    saved = student_of(ModelSource(f"brought:{name}", 4), side=8)
    save_student(saved, home / "student")
    loaded = load_student(home / "student", trust=True).network
    assert same_bits(saved.network, loaded)
    stored = load_file(home / "student" / "weights.safetensors")
    assert stored.keys() == named_tensors(loaded).keys()  # each once
    assert len(list(loaded.parameters())) == len(list(saved.network.parameters()))
    with torch.no_grad():
        for network in (loaded, saved.network):
            next(w for n, w in network.named_parameters() if n in ("2.weight", "first.weight")).mul_(0.5)
    assert same(answer(loaded, 8), answer(saved.network, 8))  # both layers have changed


def test_tensors_that_no_state_dict_has_come_back_too(home: Path) -> None:
    saved = student_of(ModelSource("brought:keeper", 4), side=8)
    assert form_of(saved.network) == "module"
    answer(saved.network, 8)  # fills the lazy one
    saved.network.lazy.mul_(3)
    save_student(saved, home / "student")
    torch.manual_seed(99)
    loaded = load_student(home / "student", trust=True).network
    ours, theirs = named_tensors(saved.network), named_tensors(loaded)
    assert {"place", "drawn", "shift", "several.0", "lazy", "count"} <= ours.keys() == theirs.keys()
    assert all(same(ours[name].detach(), theirs[name].detach()) for name in ours)
    assert loaded.place.shape == saved.network.conv.bias[:, None, None].shape
    assert "drawn" not in loaded.state_dict()
    assert same(answer(loaded, 8), answer(saved.network, 8))


def test_weights_keep_their_order_in_memory_and_so_the_bits_of_the_answer(home: Path) -> None:
    saved = student_of(ModelSource("brought:wide", 4), side=16)
    saved.network.to(memory_format=torch.channels_last)
    save_student(saved, home / "student")
    loaded = load_student(home / "student", trust=True).network
    ours, theirs = saved.network.state_dict(), loaded.state_dict()
    assert {name: tensor.stride() for name, tensor in ours.items()} == {
        name: tensor.stride() for name, tensor in theirs.items()
    }
    assert same(answer(loaded, 16), answer(saved.network, 16))


def test_precision_and_strange_numbers_come_back(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    saved.network.bfloat16()
    with torch.no_grad():
        saved.network.head.bias[:3] = torch.tensor([float("nan"), float("inf"), -0.0])
    save_student(saved, tmp_path / "student")
    loaded = load_student(tmp_path / "student").network
    assert loaded.head.bias.dtype == torch.bfloat16
    assert same_bits(saved.network, loaded)


def test_saving_and_loading_leave_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    before = torch.get_rng_state()
    save_student(saved, tmp_path / "student")
    load_student(tmp_path / "student")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_folder_holds_json_and_safetensors_and_nothing_else(folder: Path, home: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "weights.safetensors"]
    json.loads((folder / "plan.json").read_text())
    assert load_file(folder / "weights.safetensors")
    assert is_student(folder)
    save_student(student_of(ModelSource("brought:fixed", 4), side=8), home / "fixed")
    assert sorted(path.name for path in (home / "fixed").iterdir()) == [
        "plan.json",
        "program.json",
        "weights.safetensors",
    ]
    assert "aten.reshape.default" in (home / "fixed" / "program.json").read_text()


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "stale").touch()
    save_student(student_of(ModelSource("glyphnet", 7)), folder)
    assert load_student(folder).source.classes == 7
    assert not (folder / "stale").exists()


def test_a_student_that_its_source_does_not_give_is_not_saved(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    other = Student(saved.network, ModelSource("glyphnet", 6), saved.plan, saved.input_shape, {})
    with pytest.raises(CompressError, match=r"`head.weight` has shape \(5, \d+\), expected \(6, \d+\)"):
        save_student(other, tmp_path / "student")
    whole = Student(saved.network, saved.source, Plan({}), saved.input_shape, {})
    with pytest.raises(CompressError, match="the student does not fit"):
        save_student(whole, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_what_json_has_no_words_for_is_not_saved(tmp_path: Path) -> None:
    saved = student_of(ModelSource("glyphnet", 5))
    for about in ({"when": {1, 2}}, {"loss": float("nan")}):
        other = Student(saved.network, saved.source, saved.plan, saved.input_shape, about)
        with pytest.raises(CompressError, match="cannot write the student"):
            save_student(other, tmp_path / "student")


def test_a_folder_without_its_files_is_no_student(tmp_path: Path) -> None:
    assert not is_student(tmp_path)
    with pytest.raises(
        UsageError, match=r"is not a student folder: it needs plan\.json and weights\.safetensors"
    ):
        load_student(tmp_path)


def test_a_teacher_that_is_built_differently_today_is_named_by_its_first_tensor(home: Path) -> None:
    save_student(student_of(ModelSource("brought:wide", 4), side=16), home / "student")
    (home / "brought.py").write_text(BROUGHT.replace("64, 96, 3", "64, 80, 3").replace("(96,", "(80,"))
    sys.modules.pop("brought")
    importlib.invalidate_caches()
    with pytest.raises(
        CompressError, match=r"`2.weight` has shape \(80, 64, 3, 3\), expected \(96, 64, 3, 3\)"
    ):
        load_student(home / "student", trust=True)


@pytest.mark.parametrize(("name", "side"), [("glyphnet", 32), ("brought:fixed", 8)])
def test_a_plan_alone_cuts_its_teacher_again(home: Path, name: str, side: int) -> None:
    source = ModelSource(name, 4)
    saved = student_of(source, side)
    save_student(saved, home / "student")
    shutil.copy(home / "student" / "plan.json", home / "alone.json")
    torch.manual_seed(7)
    teacher = with_statistics(build(source))
    expected = cut(teacher, saved.plan)
    for path in (home / "alone.json", home / "student", str(home / "student" / "plan.json")):
        applied = compressor.apply(teacher, path)
        assert form_of(applied) == form_of(saved.network)
        assert same_bits(applied, expected)
        assert same(answer(applied, side), answer(expected, side))


def test_a_wrong_teacher_is_told_by_its_first_tensor_that_differs(folder: Path) -> None:
    with pytest.raises(CompressError) as caught:
        apply_plan(build(ModelSource("glyphnet", 6)), folder)
    width = build(ModelSource("glyphnet", 6)).head.weight.shape[1]
    assert f"`head.weight` has shape (6, {width}), expected (5, {width})" in str(caught.value)
    assert "the plan is for `glyphnet`, classes: 5" in str(caught.value.hint)
    teacher = build(ModelSource("glyphnet", 5))
    with pytest.raises(CompressError, match="is float64, expected float32"):
        apply_plan(build(ModelSource("glyphnet", 5)).double(), folder)
    with pytest.raises(CompressError, match=r"has no tensor `stem.0.weight`, expected float32 of shape"):
        apply_plan(nn.Linear(2, 2), folder)
    teacher.more = nn.Linear(2, 2)
    with pytest.raises(
        CompressError, match=r"has an unexpected tensor `more.weight`, float32 of shape \(2, 2\)"
    ):
        apply_plan(teacher, folder)


def test_the_teacher_given_is_not_changed_by_applying_a_plan(folder: Path) -> None:
    teacher = build(ModelSource("glyphnet", 5))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    applied = apply_plan(teacher, folder)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert applied.head.weight.shape == load_student(folder).network.head.weight.shape


def test_a_plan_says_what_its_teacher_looked_like(folder: Path) -> None:
    file = read_plan(folder)
    assert file.teacher["head.bias"] == ("float32", (5,))
    assert file == read_plan(folder / "plan.json")
    assert list(file.teacher) == [
        *dict(build(file.source).named_parameters()),
        *dict(build(file.source).named_buffers()),
    ]


def test_one_bit_makes_two_networks_different(tmp_path: Path) -> None:
    one, other = student_of(ModelSource("glyphnet", 5)), student_of(ModelSource("glyphnet", 5))
    assert same_bits(one.network, other.network)
    with torch.no_grad():
        other.network.head.bias[0] = torch.nextafter(other.network.head.bias[0], torch.tensor(9.0))
    assert not same_bits(one.network, other.network)
    assert not same_bits(one.network, cut(one.network, Plan({"head.weight": {0: (0,)}})))
    assert not same_bits(one.network, nn.Linear(2, 2))
    zero, minus = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(zero.weight, 0.0)
    nn.init.constant_(minus.weight, -0.0)
    assert not same_bits(zero, minus)
    assert not same_bits(zero, nn.Linear(1, 1, bias=False).double())


def test_weights_of_another_student_are_noticed(folder: Path, tmp_path: Path) -> None:
    save_student(student_of(ModelSource("glyphnet", 5), seed=1), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", folder)
    with pytest.raises(CompressError, match=r"it does not have the hash in plan\.json"):
        load_student(folder)
    weights = load_file(folder / "weights.safetensors")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CompressError, match=r"weights\.safetensors` is damaged"):
        load_student(folder)
