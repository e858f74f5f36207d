"""Methods that compare layers: which ones, in which channels, for how long, and what is learnt by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods import method_named
from compressor.methods.layerwise.indistill import curriculum, indistill, shown_channels, warm_up_losses
from compressor.methods.layerwise.information_flow import flow_losses, without_answers
from compressor.methods.layerwise.layer_pairs import (
    compared_layers,
    label_information,
    nearest_in_order,
    nearest_mean_accuracy,
)
from compressor.methods.layerwise.teacher_channels import kept_by_plan, largest_filters, makers_of
from compressor.methods.stages import Stage
from compressor.pruning.cutting import cut
from compressor.pruning.widths.plan import Plan
from compressor.recipe.distilling import Distilling, LayerwiseRecipe

from .stripes import SCHEDULE, task_for

IMAGE = torch.zeros(1, 1, 8, 8)


class Residual(nn.Module):
    """A pooled block, and a stage of one block whose shortcut is a projection."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.inner = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.outer = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width))
        self.short = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.ReLU()
        self.mixed = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 1), nn.GroupNorm(1, 2 * width))
        self.head = nn.Linear(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.mixed(self.out(self.outer(self.inner(x)) + self.short(x)))
        return self.head(x.mean((2, 3)))


def residual() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


def test_the_convolutions_that_make_a_layer_are_found_by_changing_them() -> None:
    network = residual()
    assert makers_of(network, "stem", IMAGE) == (["stem.0"], 4)
    assert makers_of(network, "out", IMAGE) == (["outer.0", "short"], 8)
    assert makers_of(network, "inner", IMAGE) == (["inner.0"], 8)


def test_a_layer_whose_channels_are_mixed_after_their_convolution_is_refused() -> None:
    with pytest.raises(
        UsageError, match="no convolution of the teacher makes the 8 channels of layer `mixed`"
    ):
        largest_filters(residual(), "mixed", 4, IMAGE)


def test_the_largest_filters_are_those_of_all_convolutions_that_make_the_layer() -> None:
    network = residual()
    sizes = network.outer[0].weight.abs().sum((1, 2, 3)) + network.short.weight.abs().sum((1, 2, 3))
    assert largest_filters(network, "out", 3, IMAGE) == tuple(sorted(sizes.topk(3).indices.tolist()))
    with pytest.raises(
        UsageError, match="layer `stem` of the teacher has 4 channels, the student's layer has 5"
    ):
        largest_filters(network, "stem", 5, IMAGE)


def test_to_select_channels_after_norm_activation_and_pooling_is_to_slice_all_tensors_before() -> None:
    network = residual().double()
    block = network.stem
    # Whole numbers, because a kernel sums them exactly in any order.
    for tensor in (block[0].weight, block[0].bias):
        tensor.data = torch.randint(-9, 10, tensor.shape).double()
    for tensor in (block[1].weight, block[1].bias, block[1].running_mean, block[1].running_var):
        tensor.data = torch.rand_like(tensor) + 0.5
    kept = list(largest_filters(network, "stem", 2, IMAGE.double()))
    small = (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2))
        .double()
        .eval()
    )
    state = {
        name: tensor[kept] if tensor.dim() else tensor for name, tensor in block.state_dict().items()
    }  # convolution: weight, bias; norm: weight, bias, running mean and variance
    small.load_state_dict(state)
    images = torch.randint(-9, 10, (5, 1, 8, 8)).double()
    assert torch.equal(small(images), block(images)[:, kept])


def test_a_student_that_was_cut_is_shown_its_very_channels(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    task = task_for(teacher, data, tmp_path, Distilling("indistill", schedule=SCHEDULE))
    student = cut(teacher, task.student.plan)
    kept = task.student.plan.slices["3.weight"][0]
    assert len(kept) < 16
    assert shown_channels(task, student, [("5", "5")]) == {"5": kept}
    assert kept_by_plan(teacher, "5", Plan({}), IMAGE) == tuple(range(16))
    # Right after the cut of a first layer nothing that it reads is missing: they agree.
    (first,) = shown_channels(task, student, [("2", "2")]).values()
    images = data.test.images
    torch.testing.assert_close(student[:3](images), teacher[:3](images)[:, first])


def test_a_layer_has_three_epochs_the_next_four_and_fewer_where_the_main_loss_needs_half() -> None:
    assert curriculum(3, 30) == (3, 4, 5)
    assert curriculum(3, 12) == (3, 4, 5)
    assert curriculum(3, 6) == (2, 2, 2)
    assert curriculum(3, 1) == (0, 1, 0)
    assert curriculum(3, 0) == (0, 0, 0)
    assert warm_up_losses([("a", "b"), ("c", "d"), ("e", "f")], (3, 0, 5)) == (
        "same-channels=1, layers=a/b, start=0, until=3",
        "same-channels=1, layers=e/f, start=3, until=8",
    )


def test_a_short_schedule_keeps_half_for_the_main_loss_and_says_so(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling(
        "indistill", schedule=replace(SCHEDULE, epochs=5, warmup_epochs=1), layerwise=LayerwiseRecipe("2 5")
    )
    task = task_for(teacher, data, tmp_path, asked)
    warm_up, main = indistill(task)
    assert (warm_up.trained.epochs, main.trained.epochs) == (2, 3)
    assert warm_up.trained.warnings == (
        "its 2 layers have 1, 1 epochs instead of 7 together: half of all 5 epochs are kept for the main training",
    )
    head = warm_up.start.network[8].weight
    assert torch.equal(warm_up.trained.network[8].weight, head)  # nothing but layers was learnt by
    assert not torch.equal(main.trained.network[8].weight, head)


def test_a_single_epoch_is_for_the_main_loss(teacher: nn.Module, data: Data, tmp_path: Path) -> None:
    asked = Distilling("indistill", schedule=replace(SCHEDULE, epochs=1))
    (only,) = indistill(task_for(teacher, data, tmp_path, asked))
    assert only.stage.name == "student"
    assert list(asked.trainings(["student"])) == ["student"]


def test_a_warm_up_that_has_all_its_epochs_says_nothing(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling("indistill", schedule=replace(SCHEDULE, epochs=6))
    warm_up, main = indistill(task_for(teacher, data, tmp_path, asked))
    assert (warm_up.trained.epochs, main.trained.epochs) == (3, 3)
    assert warm_up.trained.warnings == ()


def test_each_layer_inside_counts_a_hundred_times_less_and_less_and_the_embedding_once() -> None:
    assert flow_losses([("a", "b"), ("c", "c")]) == (
        "pkt=100, decay=0.7, layers=a/b, form=code",
        "pkt=100, decay=0.7, layers=c/c, form=code",
        "pkt=1, layers=embedding, form=code",
    )


def test_information_flow_teaches_the_last_assistant_and_then_the_student(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked = Distilling("information-flow", assistants=2, schedule=SCHEDULE)
    first, second = method_named("information-flow")(task_for(teacher, data, tmp_path, asked))
    assert [(each.stage.name, each.teacher) for each in (first, second)] == [
        ("assistant-2", "teacher"),
        ("student", "assistant-2"),
    ]


def test_the_student_follows_labels_alone_beside_unless_the_schedule_says_none() -> None:
    assert (without_answers(SCHEDULE).teacher_loss, without_answers(SCHEDULE).teacher_weight) == ("none", 0.0)
    alone = replace(SCHEDULE, teacher_loss="none", teacher_weight=1.0)
    assert without_answers(alone) == alone


def test_information_flow_without_anybody_between_is_refused(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"distil\.assistants is 0"):
        Distilling("information-flow", assistants=0)
    task = task_for(teacher, data, tmp_path, Distilling("information-flow", schedule=SCHEDULE))
    with pytest.raises(UsageError, match="needs an assistant between teacher and student"):
        method_named("information-flow")(replace(task, path=(Stage("student", Plan({})),)))


def test_layers_are_matched_by_the_nearest_information_and_never_back() -> None:
    assert nearest_in_order([0.3, 0.5, 0.9], [0.1, 0.3, 0.5, 0.9]) == [1, 2, 3]
    assert nearest_in_order([0.3, 0.5], [0.5, 0.3, 0.9]) == [1, 2]
    assert nearest_in_order([0.6, 0.2, 0.9], [0.2, 0.6]) == [
        0,
        0,
        1,
    ]  # 0.6 to 1 would leave 0.2 nowhere to go
    assert nearest_in_order([], [0.5]) == []


def test_a_layer_that_knows_the_label_is_told_from_one_that_does_not() -> None:
    labels = torch.arange(40) % 2
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 3, generator=random, dtype=torch.float64)
    assert nearest_mean_accuracy(noise + 10 * labels[:, None], labels, 2) == 1
    assert nearest_mean_accuracy(noise, labels, 2) < 0.7
    # A class of one image: the others' mean is all there is.
    assert (
        nearest_mean_accuracy(torch.tensor([[0.0], [0.1], [5.0]]).double(), torch.tensor([0, 0, 1]), 3)
        == 2 / 3
    )


def test_what_layers_know_grows_towards_the_end_of_a_trained_network(data: Data) -> None:
    class Tells(nn.Module):
        """The first layer looks at single pixels, the second at lines: only it can tell."""

        def __init__(self) -> None:
            super().__init__()
            self.pixel, self.lines = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, (1, 2), stride=2)
            self.lines.weight.data = torch.tensor([[[[1.0, -1.0]]], [[[-1.0, 1.0]]]])

        def forward(self, x: Tensor) -> Tensor:
            return self.lines(self.pixel(x)).relu().mean((2, 3))

    before, after = label_information(Tells().eval(), ["pixel", "lines"], data, 0)
    assert before < 0.7 < 0.95 < after


def test_pairs_are_named_or_found(teacher: nn.Module, data: Data, tmp_path: Path) -> None:
    def pairs(layers: str) -> list[tuple[str, str]]:
        asked = Distilling("indistill", layerwise=LayerwiseRecipe(layers), schedule=SCHEDULE)
        task = task_for(teacher, data, tmp_path, asked)
        return compared_layers(task, cut(teacher, task.student.plan), teacher)

    assert pairs("auto") == [("5", "5")]
    assert pairs("information") == [("5", "5")]
    assert pairs("2/1 5") == [("2", "1"), ("5", "5")]
    with pytest.raises(UsageError, match="method `indistill`: the teacher has no layer `none`"):
        pairs("2/none")


def test_what_makes_no_sense_is_one_line() -> None:
    with pytest.raises(UsageError, match="method `kd` compares no layers"):
        Distilling("kd", layerwise=LayerwiseRecipe("layer3"))
    with pytest.raises(
        UsageError, match=r"distil\.layerwise\.layers: `/a` is not STUDENT_LAYER/TEACHER_LAYER"
    ):
        LayerwiseRecipe("/a")
    with pytest.raises(UsageError, match=r"distil\.layerwise\.layers names no layer"):
        LayerwiseRecipe(" ")
