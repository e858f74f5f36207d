"""When is the sliced module the teacher rewritten? What is accepted, what is refused; and the rewritten steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import CompressError
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.cutting.program_steps import rewritten, same_as
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.cutting.sliced import sliced
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.recording.record import record
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import Function, images, proven, with_statistics

X = images(1)


def network_of(
    function: Callable[[Any, Tensor], Tensor], width: int = 8, read: int | None = None
) -> nn.Module:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: self.head(function(self, self.stem(x))),
        stem=nn.Conv2d(3, width, 1),
        head=nn.Conv2d(read or width, 5, 1),
    )
    return with_statistics(network)


def keeping(network: nn.Module, kept: tuple[int, ...]) -> Plan:
    """The plan that keeps these channels of the stem and lets what reads them follow."""
    graph = trace(network, X)
    chosen = {}
    for group in graph.groups:
        owned = group.produces[0].indices
        chosen[group.name] = tuple(u for u in range(group.units) if set(owned[u].tolist()) <= set(kept))
    return plan_keeping(graph, {name: units for name, units in chosen.items() if units})


def is_same(network: nn.Module, student: nn.Module, plan: Plan) -> bool:
    return same_as(walk(network, inputs_of(X)), plan.slices, record(student, inputs_of(X)))


# --- Accepted: Python that follows its tensors.

FOLLOWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a relu": lambda self, x: x.relu(),
    "a view by its own shape": lambda self, x: x.view(x.shape[0], x.shape[1], -1).sin().view(x.shape),
    "a chunk": lambda self, x: torch.cat([each.sin() for each in x.chunk(2, 1)], 1),
    "a split by half of its size": lambda self, x: torch.cat(x.split(x.shape[1] // 2, 1)[::-1], 1),
    "a shuffle by its own shape": lambda self, x: (
        x.view(len(x), 2, x.shape[1] // 2, 8, 8).transpose(1, 2).reshape(x.shape)
    ),
    "a norm by its own shape": lambda self, x: F.layer_norm(x, x.shape[1:]),
    "a size that does not change": lambda self, x: x / x.shape[-1],
}


@pytest.mark.parametrize("function", FOLLOWS.values(), ids=FOLLOWS)
def test_python_that_follows_its_tensors_is_accepted(function: Callable[[Any, Tensor], Tensor]) -> None:
    network = network_of(function)
    plan = keeping(network, (0, 2, 4, 6))  # two of each half
    student = sliced(network, plan)
    assert student.stem.out_channels == 4
    assert is_same(network, student, plan)
    assert form_of(cut(network, plan)) == "module"
    assert proven(check_cut(network, student, plan, images()))


# --- Refused: the sliced module would not run, or would run something else.

FIXES: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "a number from a size": (lambda self, x: x / x.shape[1] ** 0.5, (0, 2, 4, 6)),
    "a number that counts channels": (lambda self, x: x.sum(1, keepdim=True) / x.shape[1] + x, (0, 2, 4, 6)),
    "a slice at a fixed place": (lambda self, x: torch.cat([x[:, :4].sin(), x[:, 4:]], 1), (0, 1, 4, 5, 6)),
    "a slice whose place is reached": (
        lambda self, x: torch.cat([x[:, :3].sin(), x[:, 3:]], 1),
        (0, 1, 3, 5),
    ),
    "a split that still sums up": (
        lambda self, x: torch.cat([p.sin() for p in x.split(4, 1)][::-1], 1),
        (0, 1, 2, 4),
    ),
    "a chunk of unequal parts": (
        lambda self, x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0].sin()], 1),
        (0, 1, 2, 4),
    ),
    "a shuffle of a fixed depth": (
        lambda self, x: x.view(len(x), -1, 4, 8, 8).transpose(1, 2).reshape(len(x), -1, 8, 8),
        (0, 1, 4, 5),
    ),
    "a shuffle of unequal parts": (
        lambda self, x: x.view(len(x), 2, -1, 8, 8).transpose(1, 2).reshape(len(x), -1, 8, 8),
        (0, 1, 2, 4),
    ),
    "a roll by a fixed step": (lambda self, x: x.roll(3, 1), (0, 1, 2, 4)),
    "a choice by a size": (lambda self, x: x.sin() if x.shape[1] == 8 else x.cos(), (0, 1, 2, 4)),
    "one operator more": (lambda self, x: x.sin() if x.shape[1] == 8 else x.sin() + 0, (0, 1, 2, 4)),
    "another order of operands": (
        lambda self, x: x - x.sin() if x.shape[1] == 8 else x.sin() - x,
        (0, 1, 2, 4),
    ),
    "another option": (
        lambda self, x: F.gelu(x, approximate="none" if x.shape[1] == 8 else "tanh"),
        (0, 1, 2, 4),
    ),
    "a view of a fixed size": (lambda self, x: x.view(-1, 8, 64).view(-1, 8, 8, 8), (0, 1, 2, 4)),
    "a view of a fixed size that fits another way": (
        lambda self, x: x.reshape(-1, 8, 8, 8).sin().reshape(len(x), -1, 8, 8),
        (0, 1, 2, 4),
    ),
    "zeros of a fixed size": (lambda self, x: x + torch.zeros(8, 1, 1, device=x.device), (0, 1, 2, 4)),
    "a pad of a fixed size": (lambda self, x: F.pad(x, (0, 0, 0, 0, 0, 8 - x.shape[1])), (0, 1, 2, 4)),
}


@pytest.mark.parametrize(("function", "kept"), FIXES.values(), ids=FIXES)
def test_a_module_that_would_run_something_else_is_refused_and_its_program_is_right(
    function: Callable[[Any, Tensor], Tensor], kept: tuple[int, ...]
) -> None:
    network = network_of(function)
    plan = keeping(network, kept)
    assert plan.slices
    student = sliced(network, plan)
    with suppress(CompressError):  # it does not run at all, which cut() takes for a no
        assert not is_same(network, student, plan)
    program = cut(network, plan)
    assert form_of(program) == "program"
    assert proven(check_cut(network, program, plan, images()))


def test_a_module_that_was_sliced_by_another_plan_is_refused() -> None:
    network = network_of(FOLLOWS["a relu"])
    plan = keeping(network, (0, 2, 4, 6))
    assert not is_same(network, sliced(network, keeping(network, (0, 2, 4))), plan)
    assert not is_same(network, network, plan)


def test_a_module_that_reads_another_tensor_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x * (self.one if x.shape[1] == 8 else self.two)

    network = network_of(forward)
    network.one, network.two = (nn.Parameter(torch.randn(8, 1, 1)) for _ in range(2))
    plan = keeping(network, (0, 2, 4))
    student = sliced(network, plan)
    student.two = nn.Parameter(student.one.detach().clone())
    assert not is_same(network, student, plan)


def test_answers_in_another_order_are_refused() -> None:
    network = Function(
        lambda self, x: (lambda a, b: (a, b) if x.shape[1] == 3 and self.stem.out_channels == 8 else (b, a))(
            self.head(self.stem(x)), self.tail(self.stem(x))
        ),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
        tail=nn.Conv2d(8, 5, 1),
    )
    plan = keeping(network, (0, 2, 4))
    assert not is_same(network, sliced(network, plan), plan)
    assert proven(check_cut(network, cut(network, plan), plan, images()))


# --- The rewritten steps.


def steps_of(network: nn.Module, plan: Plan) -> list[tuple[str, tuple[Any, ...]]]:
    return [(step.operator, step.args) for step in rewritten(walk(network, inputs_of(X)), plan.slices)]


def test_sizes_are_rewritten_and_nothing_else() -> None:
    network = network_of(
        lambda self, x: x.view(-1, 2, 4, 8, 8).sin().flatten(1, 2).view(1, 8, 64).view(-1, 8, 8, 8)
    )
    plan = keeping(network, (0, 2, 4, 6))
    shapes = [args[1] for operator, args in steps_of(network, plan) if operator == "view"]
    assert shapes == [[1, 2, 2, 8, 8], [1, 4, 8, 8], [1, 4, 64], [1, 4, 8, 8]]


def test_a_slice_of_what_remains_starts_and_ends_elsewhere() -> None:
    network = network_of(lambda self, x: torch.cat([x[:, 2:6], x[:, :2], x[:, 6:]], 1))
    plan = keeping(network, (0, 2, 5, 7))
    assert [args[1:4] for operator, args in steps_of(network, plan) if operator == "slice"] == [
        (1, 1, 3),
        (1, 0, 1),
        (1, 3, 4),
    ]


def test_a_stride_over_what_remains_becomes_a_lookup() -> None:
    network = network_of(lambda self, x: x[:, ::2], read=4)
    plan = keeping(network, (0, 1, 2, 4, 6))
    assert ("index_select", [0, 2, 3, 4]) in [(op, args[-1]) for op, args in steps_of(network, plan)]
    assert proven(check_cut(network, cut(network, plan), plan, images()))


def test_a_part_that_is_empty_after_the_cut_is_left_empty_and_right() -> None:
    network = network_of(lambda self, x: torch.cat([p.sin() for p in x.split([2, 4, 2], 1)], 1))
    plan = keeping(network, (0, 1, 7))
    assert [args[1] for operator, args in steps_of(network, plan) if operator == "split_with_sizes"] == [
        [2, 0, 1]
    ]
    assert proven(check_cut(network, cut(network, plan), plan, images()))


def test_operators_that_nobody_reads_are_left_out() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x.cos().exp()
        return x.view(-1, 8, 8, 8)

    network = network_of(forward)
    plan = keeping(network, (0, 2, 4))
    assert [operator for operator, _ in steps_of(network, plan)] == ["convolution", "view", "convolution"]


def test_operators_in_place_stay_where_they_are() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = x.view(-1, 8, 64)
        x.mul_(2).add_(1)
        return y.view(-1, 8, 8, 8)

    network = network_of(forward)
    plan = keeping(network, (0, 2, 4))
    assert [operator for operator, _ in steps_of(network, plan)][:4] == [
        "convolution",
        "view",
        "mul_",
        "add_",
    ]
    assert proven(check_cut(network, cut(network, plan), plan, images()))


def test_what_was_copied_before_a_change_in_place_is_shuffled_as_it_was() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        shuffled = x.view(-1, 2, 4, 8, 8).transpose(1, 2).contiguous()
        x.mul_(2)
        return shuffled.view(-1, 8, 8, 8) + 0.1 * x.sum(1, keepdim=True)

    network = network_of(forward)
    plan = keeping(network, (0, 1, 2, 4))
    assert proven(check_cut(network, cut(network, plan), plan, images()))
