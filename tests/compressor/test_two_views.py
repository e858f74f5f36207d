"""What the teacher sees of a sample where that is not what the student sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compressor.data import load_data
from compressor.data.in_memory import TensorSplit
from compressor.data.split import Batch, Data
from compressor.data.two_views import TwoViews
from compressor.errors import CompressError, UsageError
from compressor.recipe import DataRecipe
from compressor.training import Schedule, train
from tests.compressor.test_training_loop import state_of, toy_data, toy_network

GLYPHS = DataRecipe(classes=4, augment="trivialaugment")


def first(data: Data, shuffle: int | None = 3) -> Batch:
    return next(data.train.batches(16, shuffle=shuffle))


def test_both_views_show_the_same_samples_each_in_its_own_way() -> None:
    one = first(load_data(GLYPHS))
    other = first(load_data(replace(GLYPHS, augment="randaugment")))
    both = first(load_data(replace(GLYPHS, teacher_augment="randaugment")))
    assert torch.equal(both.index, one.index)
    assert torch.equal(both.images, one.images)
    assert both.theirs is not None
    assert torch.equal(both.theirs, other.images)


def test_a_teacher_that_sees_fixed_pixels_is_asked_once() -> None:
    data = load_data(replace(GLYPHS, teacher_augment="none"))
    assert not load_data(GLYPHS).train.fixed
    assert data.train.fixed
    assert first(data).theirs is None


def test_without_shuffling_both_see_the_stored_pictures() -> None:
    data = load_data(replace(GLYPHS, teacher_augment="randaugment"))
    assert not data.train.fixed
    assert first(data, shuffle=None).theirs is None


def test_an_augmentation_for_the_teacher_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown augment `randomaugment`"):
        load_data(replace(GLYPHS, teacher_augment="randomaugment"))


def test_sets_that_do_not_repeat_their_order_are_refused() -> None:
    class Restless(TensorSplit):
        def batches(self, size: int, **options: object):  # type: ignore[no-untyped-def]
            return super().batches(size, shuffle=7)

    split = load_data(GLYPHS).train
    assert isinstance(split, TensorSplit)
    views = TwoViews(split, Restless(split.images, split.labels, split.scaling, policy=split.policy))
    with pytest.raises(CompressError, match="got different samples"):
        next(views.batches(16, shuffle=3))


def test_the_teacher_is_shown_its_own_view_and_the_student_the_other() -> None:
    data = toy_data(fixed=False)

    class Black:
        """The same samples, all black."""

        fixed, labelled, bad = False, True, ()

        def __len__(self) -> int:
            return len(data.train)

        def batches(self, size: int, **options: object):  # type: ignore[no-untyped-def]
            for batch in data.train.batches(size, **options):
                yield replace(batch, images=torch.zeros_like(batch.images))

    schedule = Schedule(epochs=1, batch=16, warmup_epochs=0, teacher_weight=0.5, precision="fp32")
    two = replace(data, train=TwoViews(data.train, Black()))
    teacher = toy_network(seed=5).eval()
    found = train(toy_network(), two, schedule, teacher=teacher).network

    class Blind(nn.Module):
        """Says of every image what the teacher says of a black one."""

        def __init__(self) -> None:
            super().__init__()
            self.teacher = teacher

        def forward(self, images: Tensor) -> Tensor:
            return self.teacher(torch.zeros_like(images))

    expected = train(toy_network(), data, schedule, teacher=Blind()).network
    assert state_of(found) == state_of(expected)


def test_mixing_mixes_both_views_by_the_same_draw() -> None:
    data = toy_data(fixed=False)
    schedule = Schedule(epochs=1, batch=16, warmup_epochs=0, mix=("mixup=0.4",), precision="fp32")
    same = replace(data, train=TwoViews(data.train, data.train))
    teacher = toy_network(seed=5).eval()
    found = train(toy_network(), same, schedule, teacher=teacher).network
    expected = train(toy_network(), data, schedule, teacher=teacher).network
    assert state_of(found) == state_of(expected)
