"""Several students at once, taught by what they say together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods import method_named, stages
from compressor.methods.ensemble import AtOnce
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.training import Arithmetic, accuracy
from compressor.training.losses import cross_entropy, kd

from .stripes import CPU, SCHEDULE, task_for


def test_the_loss_is_that_of_each_beside_the_mean_of_all_and_of_the_mean(
    teacher: nn.Module, data: Data
) -> None:
    schedule = replace(SCHEDULE, teacher_weight=0.25, temperature=3.0)
    networks = {"one": teacher, "two": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))}
    lesson = AtOnce(networks, schedule, Arithmetic.on(CPU, "fp32"))
    batch = next(data.train.batches(16))
    found = lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
    said = [network(batch.images) for network in lesson.networks.values()]
    together = (said[0] + said[1]) / 2
    each = [
        0.25 * kd(one, together.detach(), temperature=3.0) + 0.75 * cross_entropy(one, batch.labels)
        for one in said
    ]
    expected = (sum(each) + cross_entropy(together, batch.labels)) / 2
    torch.testing.assert_close(found, expected.detach())
    assert all(p.grad is not None for _, p in (*lesson.decayed, *lesson.kept))


def test_every_network_is_handed_out_with_the_share_that_was_asked_for(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling("ensemble", between=(0.2, 0.5), schedule=SCHEDULE)
    task = task_for(teacher, data, tmp_path, asked)
    path = stages(task.graph, task.scores, task.budget, 1, between=asked.between)
    trainings = method_named("ensemble")(replace(task, path=path))
    assert [(each.stage.name, each.ships) for each in trainings] == [
        ("assistant-1", True),
        ("assistant-2", True),
        ("student", False),
    ]
    for training, share in zip(trainings, (0.2, 0.5, 0.6), strict=True):
        assert share - 0.01 <= training.stage.plan.removed("macs") < share + 0.1
        assert training.trained.accuracy == accuracy(training.trained.network, data.test) > 0.9


def test_what_a_network_between_loses_is_less_than_what_the_student_loses(teacher: nn.Module) -> None:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    with pytest.raises(UsageError, match=r"distil.between has 0.7, and the student loses 0.6 of the macs"):
        stages(graph, score(teacher, graph, "l2"), Budget(0.6, granule=1), 1, between=(0.2, 0.7))
    for between in ((0.5, 0.2), (0.2, 0.2), (0.0, 0.4), (1.0,)):
        with pytest.raises(UsageError, match=r"distil.between is \["):
            Distilling(between=between)


def test_losses_between_two_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="method `ensemble` trains several networks at once"):
        Distilling("ensemble", losses=("pkt",))


def test_without_a_teacher_a_method_that_asks_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"method `kd` asks a teacher, and distil\.teacher is `none`"):
        Distilling("kd", teacher="none")
    assert Distilling("lightweight-teacher", teacher="none").teacher == "none"
