"""The networks between teacher and student: evenly spaced, nested, each taught by the one before."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.artifacts.student import same_bits
from compressor.data.split import Data
from compressor.methods import Stage, Task, Training, method_named, stages
from compressor.methods.cascade import joint_lesson
from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.pruning.widths.plan import Plan
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import CascadeRecipe, Distilling
from compressor.recipe.method_table import METHODS
from compressor.training import Guide, Progress, accuracy, train

from .stripes import SCHEDULE, task_for


def test_assistants_are_evenly_spaced_and_contain_the_student(teacher: nn.Module) -> None:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    path = stages(graph, score(teacher, graph, "l2"), Budget(0.6, granule=1), assistants=2)
    assert [stage.name for stage in path] == ["assistant-1", "assistant-2", "student"]
    for stage, share in zip(path, (0.2, 0.4, 0.6), strict=True):
        assert share - 0.01 <= stage.plan.removed("macs") < share + 0.1
    for larger, smaller in pairwise(path):
        for tensor, axes in larger.plan.slices.items():
            for axis, kept in axes.items():
                assert set(smaller.plan.slices[tensor][axis]) <= set(kept)


@pytest.fixture(autouse=True)
def _masks_that_move_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_lesson, "MASKS_EVERY", 3)
    monkeypatch.setattr(joint_lesson, "SCORE_TRAVEL", 3.0)


def done(task: Task) -> tuple[Training, ...]:
    return method_named(task.distilling.method)(task)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_the_table_names_a_function(method: str) -> None:
    assert callable(method_named(method))


def test_in_steps_each_network_is_cut_from_the_one_that_teaches_it(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    seen: list[str] = []
    asked = Distilling("steps", schedule=SCHEDULE)
    task = task_for(teacher, data, tmp_path, asked, lambda name, now: seen.append(name))
    trainings = done(task)
    assert [(training.stage.name, training.teacher) for training in trainings] == [
        ("assistant-1", "teacher"),
        ("student", "assistant-1"),
    ]
    assert list(dict.fromkeys(seen)) == ["assistant-1", "student"]
    student = trainings[-1].trained.network
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    assert shapes == {name: t.shape for name, t in cut(teacher, task.student.plan).state_dict().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_the_student_that_was_planned_or_another_within_the_budget(
    teacher: nn.Module, data: Data, tmp_path: Path, method: str
) -> None:
    # Layers of a teacher that was never trained say nothing: what is left for the labels must be enough.
    schedule = replace(SCHEDULE, epochs=8) if METHODS[method].compares_layers else SCHEDULE
    told: list[str] = []
    asked = Distilling(method, schedule=schedule)
    task = task_for(teacher, data, tmp_path, asked, lambda name, now: told.append(name))
    trainings = done(task)
    last = trainings[-1]
    assert last.stage.name == "student"
    assert 0.59 <= last.stage.plan.removed("macs") <= 0.65
    network, proof = last.trained.network, cut(teacher, last.stage.plan)
    assert [t.shape for t in network.state_dict().values()] == [t.shape for t in proof.state_dict().values()]
    assert all(check.passed for training in trainings for check in training.start.checks)
    assert any(training.start.checks for training in trainings)
    assert last.trained.accuracy == accuracy(network, data.test)
    assert list(dict.fromkeys(told)) == list(asked.trainings([stage.name for stage in task.path]))
    if asked.trains:
        assert last.trained.accuracy > 0.9


@pytest.mark.parametrize(
    ("method", "training", "step"),
    [
        ("steps", "assistant-1", 3),
        ("steps", "student", 6),
        ("cascade", "together", 2),
        ("cascade", "together", 3),
        ("cascade", "together", 7),
        ("cascade", "student", 5),
        ("ensemble", "ensemble", 5),
        ("lightweight-teacher", "student", 5),
        ("self", "student", 5),
        ("information-flow", "student", 5),
        ("indistill", "warm-up", 3),
        ("indistill", "student", 5),
    ],
)
def test_a_broken_run_goes_on_and_ends_with_the_same_student(
    teacher: nn.Module, data: Data, tmp_path: Path, method: str, training: str, step: int
) -> None:
    asked = Distilling(method, assistants=1, schedule=SCHEDULE)

    def killed(name: str, now: Progress) -> None:
        if name == training and (now.epoch - 1) * now.steps + now.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(task_for(teacher, data, tmp_path / "broken", asked, killed))
    continued = done(task_for(teacher, data, tmp_path / "broken", asked))
    unbroken = done(task_for(teacher, data, tmp_path / "unbroken", asked))
    assert same_bits(continued[-1].trained.network, unbroken[-1].trained.network)
    assert continued[-1].stage == unbroken[-1].stage
    assert any(each.trained.resumed_from for each in continued)


def test_a_student_that_beats_its_teacher_is_taught_by_the_next(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    guides = [Guide("weak", teacher, 0.1), Guide("fair", teacher, 0.3), Guide("strong", teacher, 1.0)]
    trained = train(teacher, data, SCHEDULE, guides=guides)
    assert trained.accuracy > 0.3
    assert [epoch.teacher for epoch in trained.history] == ["weak", "strong", "strong", "strong"]


def test_labels_are_not_smoothed_for_the_one_control_and_are_for_the_other(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    losses = {}
    for method in ("finetune", "label-smoothing"):
        schedule = replace(SCHEDULE, epochs=1, learning_rate=1e-9)
        task = task_for(teacher, data, tmp_path / method, Distilling(method, schedule=schedule))
        losses[method] = done(task)[-1].trained.history[0].loss
    student = cut(teacher, task.student.plan)
    assert losses["finetune"] != losses["label-smoothing"]
    assert student is not teacher


def test_assistants_none_leave_the_whole_network_and_the_teacher_as_guides(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling("cascade", assistants=0, schedule=SCHEDULE)
    trainings = done(task_for(teacher, data, tmp_path, asked))
    assert trainings[0].teacher == "whole"
    assert trainings[1].teacher.split(" → ")[0] == "whole"


def test_a_cascade_without_epochs_for_the_student_alone_ends_after_the_first_stage(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling("cascade", cascade=CascadeRecipe(1.0), schedule=SCHEDULE)
    (only,) = done(task_for(teacher, data, tmp_path, asked))
    assert only.stage.name == "student"
    assert only.start.checks


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.own_student])
def test_a_student_that_is_given_is_taught_as_it_is(
    teacher: nn.Module, data: Data, tmp_path: Path, method: str
) -> None:
    """One of another class, with other names and widths; nothing is cut or proved."""
    torch.manual_seed(1)
    student, auxiliary = (
        nn.Sequential(
            nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 2),
        )
        for width in (5, 10)
    )
    asked = Distilling(method, student="named", schedule=replace(SCHEDULE, epochs=16))
    path = (Stage("auxiliary", Plan({})), Stage("student", Plan({})))
    task = replace(task_for(teacher, data, tmp_path, asked), path=path, given=student, auxiliary=auxiliary)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    trainings = done(task)
    last = trainings[-1]
    assert last.stage.name == "student"
    assert last.trained.accuracy > 0.9
    assert last.trained.network[0][0].weight.shape == (5, 1, 3, 3)
    assert not any(training.start.checks for training in trainings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
