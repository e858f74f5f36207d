"""Sizes among an operator's arguments, for every row of RESIZED and any choice of channels: compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.pruning.cutting.program_sizes import RESIZED, resized
from compressor.pruning.cutting.program_write import program_of
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import plan_keeping
from tests.compressor.networks import Function, images, random_units

X = images(1)
aten = torch.ops.aten

# A function of the twelve channels of a stem; each uses an operator whose arguments hold a size that the cut changes.
FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "view": lambda self, x: x.view(-1, 3, 4, 64).sin().view(-1, 12, 8, 8),
    "_unsafe_view": lambda self, x: aten._unsafe_view(x, [len(x), 12, 64]).view(-1, 12, 8, 8),
    "reshape": lambda self, x: x.mT.reshape(-1, 12, 64).view(-1, 12, 8, 8),
    "expand": lambda self, x: x + x.mean((1, 2, 3), keepdim=True).expand(-1, 12, 8, 8),
    "split": lambda self, x: torch.cat([each.sin() for each in x.split(5, 1)][::-1], 1),
    "split_with_sizes": lambda self, x: torch.cat([each.cos() for each in x.split([2, 9, 1], 1)][::-1], 1),
    "slice": lambda self, x: torch.cat([x[:, 7:].sin(), x[:, 2:9], x[:, ::3], x[:, :4]], 1),
    "select": lambda self, x: x * x.select(1, 7)[:, None] + x.select(1, 11)[:, None],
    "convolution": lambda self, x: torch.cat([self.depthwise(x), self.blocks(x), self.pairs(x)], 1),
    "group_norm": lambda self, x: torch.cat([self.few(x), self.many(x), F.group_norm(x, 1)], 1),
    "layer_norm": lambda self, x: F.layer_norm(x.permute(0, 2, 3, 1), (12,)).permute(0, 3, 1, 2),
    "rms_norm": lambda self, x: F.rms_norm(x, (12, 8, 8)),
    "zeros": lambda self, x: torch.cat([x, torch.zeros(len(x), 4, 8, 8, device=x.device) + x[:, :4]], 1),
    "new_full": lambda self, x: x * x.new_full((12, 1, 1), 0.5) + torch.full((12, 8, 8), 2.0, device=x.device),
    "constant_pad_nd": lambda self, x: F.pad(x, (0, 0, 0, 0, 2, 3)) + self.wide(x),
    "roll": lambda self, x: torch.cat([x.roll(5, 1), x.roll((-2, 1), (1, 2)), x.roll(17, 1)], 1),
    "repeat": lambda self, x: x.repeat(1, 2, 1, 1),
    "pixel_shuffle": lambda self, x: F.pixel_shuffle(x, 2),
    "channel_shuffle": lambda self, x: F.channel_shuffle(x, 3),
    "a shuffle": lambda self, x: x.view(-1, 3, 2, 2, 8, 8).permute(0, 3, 1, 2, 4, 5).reshape(-1, 12, 8, 8),
    "glu": lambda self, x: F.glu(x, 1),
    "index": lambda self, x: x[:, [3, 1, 4, 1, 5, 9]],
    "unfold": lambda self, x: F.fold(F.unfold(x, 2, stride=2).tanh(), (8, 8), 2, stride=2),
}  # fmt: skip


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    parts = {
        "depthwise": nn.Conv2d(12, 24, 3, padding=1, groups=12),
        "blocks": nn.Conv2d(12, 8, 1, groups=4),
        "pairs": nn.Conv2d(12, 4, 1, groups=2),
        "few": nn.GroupNorm(3, 12),
        "many": nn.GroupNorm(6, 12),
        "wide": nn.Conv2d(12, 17, 1),
    }
    function = FUNCTIONS[name]
    network = Function(lambda self, x: function(self, self.stem(x)), stem=nn.Conv2d(3, 12, 1), **parts)
    width = network.eval()(X).shape[1]
    network.head = nn.Conv2d(width, 5, 1)
    network.function = lambda self, x: self.head(function(self, self.stem(x)))
    return network.double()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_choice_of_channels_gives_the_right_sizes(name: str) -> None:
    network = network_of(name)
    x = X.double()
    graph = trace(network, x)
    assert graph.groups

    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(st.integers(0, 2**16), st.sampled_from((0.2, 0.5, 0.8)))
    def cut_by(seed: int, share: float) -> None:
        plan = plan_keeping(graph, random_units(graph, seed, share))
        program = program_of(network, plan, inputs_of(x.double()))
        checks = check_cut(network, program, plan, x)
        assert all(check.passed for check in checks), checks

    cut_by()


def test_every_row_that_holds_a_size_is_looked_at_here() -> None:
    run = set()
    for name in FUNCTIONS:
        network = network_of(name)
        run |= {operation.operator for operation in walk(network, inputs_of(X)).recording.operations}
    assert set(RESIZED) - run <= {
        *("reshape", "_reshape_alias", "split", "unsafe_split"),  # torch 2.15 records others instead
        "index_select",  # in test_graph_rules.py
        *(
            "ones",
            "empty",
            "new_zeros",
            "new_ones",
            "new_empty",
        ),  # made as `zeros`, `full` and `new_full` are
    }


def test_what_is_not_cut_is_called_as_before() -> None:
    for name in FUNCTIONS:
        walked = walk(network_of(name), inputs_of(X))
        remaining = walked.remaining({})
        for operation in walked.recording.operations:
            operator, args = resized(operation, remaining)
            wide, narrow = numbers(operation.args), numbers(args)
            if operator == operation.operator and operator not in (
                "split",
                "slice",
                "roll",
                "view",
                "expand",
            ):
                assert narrow == wide, operator


def numbers(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, bool | int | float) else []


@given(st.integers(1, 12), st.integers(-20, 20), st.integers(0, 2**16))
def test_a_roll_of_what_remains_is_what_remains_of_a_roll(size: int, shift: int, seed: int) -> None:
    kept = np.random.default_rng(seed).random(size) < 0.5
    kept[0] = True
    network = Function(
        lambda self, x: self.head((self.table.expand(x.shape[0], size) * x[:, :1]).roll(shift, 1)),
        table=nn.Parameter(torch.randn(1, size)),
        head=nn.Linear(size, 3),
    )
    walked = walk(network, inputs_of(torch.randn(2, 2)))
    (roll,) = [each for each in walked.recording.operations if each.operator == "roll"]
    if size == 1:
        return
    slices = {"table": {1: tuple(np.flatnonzero(kept).tolist())}}
    _, (_, (new,), _) = resized(roll, walked.remaining(slices))
    values = np.arange(size)
    assert np.roll(values[kept], new).tolist() == [v for v in np.roll(values, shift) if kept[v]]
