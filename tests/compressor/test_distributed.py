"""Two processes train what one would: the same loss, gradients, statistics, channels and weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.base.torchrun import Launched, launched, patience
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from compressor.methods import method_named
from compressor.methods.cascade import joint_lesson
from compressor.recipe.distilling import Distilling
from compressor.training import Arithmetic, Schedule, Trained, accuracy, loop, train
from compressor.training.checkpoint import Place
from compressor.training.distributed.exchange import Exchange
from compressor.training.distributed.sync_batchnorm import synchronised
from compressor.training.distributed.world import here, join
from compressor.training.guides import answers_of

from .methods.stripes import stripes, task_for
from .pair import Pair, two_processes
from .test_training_loop import QUICK, Pixels, toy_data, toy_network

CPU = torch.device("cpu")
GENTLE = replace(QUICK, epochs=2, batch=33, learning_rate=0.01)
"""Batches of 33, so that pieces are unequal; a rate at which rounding does not grow."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with two_processes() as pair:
        yield pair


def plain_network(seed: int = 1) -> nn.Sequential:
    """Without dropout, which no two processes draw as one would."""
    network = toy_network(seed)
    network[7] = nn.Identity()
    return network


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], *, bits: bool = False) -> None:
    """In float32 the sums of a batch in two parts round otherwise: 1e-7 a step, grown over the steps."""
    rtol, atol = (0.0, 0.0) if bits else (1e-3, 1e-4)
    torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


# ---------------------------------------------------------------------- batch norms


def normed(sizes: tuple[int, ...], momentum: float | None) -> dict[str, Tensor]:
    """A step of two batch norms on this process's piece, by their sum over all pieces."""
    world = here()
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.BatchNorm2d(3, momentum=momentum), nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, affine=False)
    )
    network = network.double().train()
    images = torch.randn(sum(sizes), 3, 4, 2, dtype=torch.float64) * 3 + 7
    factors = torch.randn(sum(sizes), 5, 4, 2, dtype=torch.float64)
    whole = images.split(sizes) if world.size > 1 else [images]
    piece = whole[world.rank].clone().requires_grad_(True)
    factor = (factors.split(sizes) if world.size > 1 else [factors])[world.rank]
    with synchronised(Exchange(world, [network], CPU)):
        said = network(piece)
    (said * factor).sum().backward()
    world.total_gradients(list(network.parameters()))
    gradients = {f"gradient of {name}": p.grad for name, p in network.named_parameters()}
    return {"said": said.detach(), "of images": piece.grad, **gradients, **tensors(network)}


@pytest.mark.parametrize(("sizes", "momentum"), [((4, 3), 0.1), ((6, 1), 0.1), ((3, 3), None)])
def test_batch_norms_see_the_whole_batch_forward_backward_and_in_what_they_remember(
    pair: Pair, sizes: tuple[int, ...], momentum: float | None
) -> None:
    one = normed(sizes, momentum)
    both = pair(normed, sizes, momentum)
    for name in ("said", "of images"):
        found = torch.cat([each.pop(name) for each in both])
        torch.testing.assert_close(
            found, one.pop(name), rtol=1e-12, atol=1e-12
        )  # float64, other order of sums
    for each in both:
        torch.testing.assert_close(each, one, rtol=1e-12, atol=1e-12)


def test_a_norm_that_remembers_and_does_not_learn_is_left_alone(pair: Pair) -> None:
    assert all(pair(asleep))


def asleep() -> bool:
    norm, images = nn.BatchNorm2d(3).eval(), torch.randn(here().rank + 1, 3, 2, 2)
    expected = norm(images)
    with synchronised(Exchange(here(), [norm], CPU)):
        return torch.equal(norm(images), expected)


# ---------------------------------------------------------------------- trainings


def toy_training(fixed: bool, changes: dict[str, Any]) -> tuple[dict[str, Tensor], Trained]:
    teacher = toy_network(7)
    trained = train(plain_network(), toy_data(fixed=fixed), replace(GENTLE, **changes), teacher=teacher)
    return tensors(trained.network), trained


@pytest.mark.parametrize(
    ("fixed", "changes"),
    [
        (True, {}),
        (False, {"clip_norm": 0.5}),
        (True, {"optimizer": "adamw", "learning_rate": 0.001}),
    ],
    ids=["answers-kept", "clipped", "adamw"],
)
def test_two_processes_train_the_student_of_one(pair: Pair, fixed: bool, changes: dict[str, Any]) -> None:
    one, alone = toy_training(fixed, changes)
    (first, told), (second, _) = pair(toy_training, fixed, changes)
    assert_same(first, second, bits=True)
    assert_same(first, one)
    assert [epoch.loss for epoch in told.history] == pytest.approx(
        [epoch.loss for epoch in alone.history], rel=1e-4
    )
    assert told.accuracy == pytest.approx(alone.accuracy, abs=0.02)  # of 80 images, one may lie at the border


def beside_training(losses: tuple[str, ...]) -> dict[str, Tensor]:
    given: dict[str, Any] = {"teacher": toy_network(7), "losses": losses}
    return tensors(train(plain_network(), toy_data(), GENTLE, **given).network)


def test_losses_that_look_at_one_image_at_a_time_are_those_of_one_process(pair: Pair) -> None:
    losses = (
        "fitnet=0.1",
        "multi-head=0.5",
        "adversarial=0.1",
        "kd++=0.1",
        "attention=1",
        "ofa=0.1, layers=1",
    )
    one = beside_training(losses)
    first, second = pair(beside_training, losses)
    assert_same(first, second, bits=True)
    assert_same(first, one)


def sixteen_at_once() -> tuple[dict[str, Tensor], Trained]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Place", lambda micro, losses: Place(16, losses))
        return toy_training(True, {})


def test_the_pieces_of_two_processes_are_of_the_same_number(pair: Pair) -> None:
    """17 and 16 images, 16 at once: two parts in both, though one of them would be enough for the second."""
    (first, _), (second, _) = pair(sixteen_at_once)
    assert_same(first, second, bits=True)


def cascade() -> tuple[dict[str, tuple[int, int]], dict[str, Tensor]]:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norms[0], nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), norms[1], nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    ).eval()  # fmt: skip
    data = Data("stripes", ("vertical", "horizontal"), (1, 8, 8), stripes(128, 0), stripes(64, 1))
    schedule = Schedule(epochs=4, batch=15, learning_rate=0.02, precision="fp32", warmup_epochs=0.5)
    asked = Distilling("cascade", schedule=schedule)
    joint_lesson.MASKS_EVERY, joint_lesson.SCORE_TRAVEL = 2, 8.0
    with tempfile.TemporaryDirectory() as folder:
        task = task_for(teacher, data, Path(folder), asked)
        last = method_named("cascade")(task)[-1]
    same = last.stage.plan.slices == task.student.plan.slices
    assert not same, "no channel was exchanged, so this shows nothing"
    return last.stage.plan.widths, tensors(last.trained.network)


def test_two_processes_choose_the_channels_that_one_chooses(pair: Pair) -> None:
    widths, one = cascade()
    (found, first), (again, second) = pair(cascade)
    assert found == again == widths
    assert_same(first, second, bits=True)
    assert_same(first, one)


class Noting(nn.Module):
    """Notes what a random layer draws in training, and the first pixel that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.zeros(4)), []

    def __deepcopy__(self, memo: Any) -> nn.Module:
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.append((torch.rand(4).tolist(), images[0, 0, 0, 0].item()))
        return images[:, 0, :1, :4].flatten(1) * self.scale


class Ordered(Pixels):
    """The first image of every piece is black, and the one that is mixed into it, the last, is white."""

    def batches(self, size: int, **options: Any) -> Any:
        for batch in super().batches(size, **options):
            batch.images[0] = 0
            yield batch


def noted() -> list[tuple[list[float], float]]:
    images, labels = torch.ones(16, 1, 4, 4), torch.arange(16) % 4
    data = Data("m", ("a", "b", "c", "d"), (1, 4, 4), Ordered(images, labels), Pixels(images, labels))
    network = Noting()
    train(network, data, Schedule(epochs=1, batch=8, mix=("mixup=1.0",), precision="fp32", warmup_epochs=0))
    return network.seen


def test_layers_draw_otherwise_in_each_process_and_mixtures_are_drawn_alike(pair: Pair) -> None:
    first, second = pair(noted)
    assert len(first) == len(second) == 2
    for (drawn, shown), (other, also) in zip(first, second, strict=True):
        assert drawn != other
        assert shown == also
        assert 0 < shown < 1


# ---------------------------------------------------------------------- trouble


class Short(nn.Module):
    """A network for which memory ends once, in one process, in its second layer."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.inner, self.rank, self.calls = plain_network(), rank, 0

    def forward(self, images: Tensor) -> Tensor:
        images = self.inner[:3](images)
        self.calls += self.training
        if here().rank == self.rank and here().size > 1 and self.calls == 3:
            raise MemoryError
        return self.inner[3:](images)


def short_of_memory(rank: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    network = nn.Sequential(Short(rank), nn.BatchNorm1d(4))
    trained = train(network, toy_data(), replace(GENTLE, epochs=1, batch=32))
    return tensors(trained.network), trained.warnings


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_ends_in_one_process_makes_the_pieces_of_both_smaller(pair: Pair, rank: int) -> None:
    (first, warned), (second, also) = pair(short_of_memory, rank)
    assert_same(first, second, bits=True)
    assert warned == also
    assert "8 images at once from here on, in the same batches of 32" in warned[0]


def broken_images() -> None:
    data = toy_data()
    images = data.train.images.clone()
    images[5] = torch.inf
    train(toy_network(), replace(data, train=replace(data.train, images=images)), QUICK)


def test_a_loss_that_is_not_finite_ends_both_with_the_place_that_one_of_them_saw(pair: Pair) -> None:
    first, second = pair(broken_images)
    assert isinstance(first, CompressError)
    assert str(first) == str(second)
    assert "its images are not finite" in str(first)


def disagreeing() -> None:
    here().agree("data", ["a", here().rank])


def few_images() -> None:
    train(toy_network(), toy_data(), replace(QUICK, batch=1))


def failing_at_first() -> str:
    return here().from_first(lambda: f"{here().size} {here().rank}")


def test_what_must_be_alike_and_is_not_is_one_line(pair: Pair) -> None:
    for error in pair(disagreeing):
        assert str(error) == "data: process 1 differs from process 0"
    for error in pair(few_images):
        assert isinstance(error, UsageError)
        assert str(error) == "a batch has 1 images, expected at least 2, one for each process"
    assert pair(failing_at_first) == ["1 0", "1 0"], "the first computes alone"


# ---------------------------------------------------------------------- answers


def judged() -> tuple[float, Tensor]:
    data, network = toy_data(), toy_network(7).eval()
    arithmetic = Arithmetic.on(CPU, "fp32")
    answers = answers_of(network, data.train, replace(QUICK, batch=93), arithmetic, [].append)
    index = torch.arange(len(data.train))
    return accuracy(network, data.test, batch=27), answers(data.train.images, index)


def test_each_process_asks_for_its_piece_and_all_know_the_answers(pair: Pair) -> None:
    right, told = judged()
    for found, table in pair(judged):
        assert found == right
        torch.testing.assert_close(table, told, rtol=1e-5, atol=1e-5)  # float32, other batches


# ---------------------------------------------------------------------- one process, and bad input


def test_one_process_joins_nothing() -> None:
    with join(CPU, Launched()) as world:
        assert world.size == 1
        assert not torch.distributed.is_initialized()
        with synchronised(Exchange(world, [], CPU)) as nothing:
            assert nothing is None
    assert isinstance(synchronised(Exchange(here(), [], CPU)), nullcontext)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is `x`, expected a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2, expected RANK from 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "MASTER_PORT is not set"),
    ],
)
def test_an_environment_that_makes_no_sense_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        launched(environment)


def test_patience_is_a_number_of_seconds() -> None:
    assert patience({}) == 60
    assert patience({"COMPRESS_PATIENCE_S": "600"}) == 600
    for text in ("soon", "0", "inf", "nan"):
        with pytest.raises(UsageError, match=f"COMPRESS_PATIENCE_S is `{text}`"):
            patience({"COMPRESS_PATIENCE_S": text})


def test_devices_that_cannot_be_shared_are_refused_before_anything_is_opened() -> None:
    two = Launched(1, 2, 1)
    for device, message in (
        ("mps", "expected cuda or cpu"),
        ("cuda:0", "is 1 GPU, expected 2, one for each process"),
    ):
        with pytest.raises(UsageError, match=message), join(torch.device(device), two):
            pass
