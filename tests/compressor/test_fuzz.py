"""Random networks and random cuts against an oracle that shares no code with the library.

The oracle is the teacher with zeros: every slice that a plan removes, of every tensor, is filled with zeros in a copy.
What reads a removed channel then multiplies it by zero, so that no activation between the two matters. Networks with
statistics over channels (layer norms) are not drawn, since a zero counts in them; ``test_proof.py`` has those.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.copying import named_tensors
from compressor.pruning.cutting import cut
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping

SIDE = 6
WIDTHS = (4, 6, 8)
Block = Callable[[Tensor], Tensor]


class Step(nn.Module):
    """One drawn operation on the list of tensors so far; the result is appended."""

    def __init__(self, kind: str, read: tuple[int, ...], widths: list[int], out: int) -> None:
        super().__init__()
        self.kind, self.read = kind, read
        wide = widths[read[0]]
        if kind in ("conv", "conv-norm"):
            self.conv = nn.Conv2d(wide, out, 3, padding=1, bias=kind == "conv")
            self.norm = nn.BatchNorm2d(out) if kind == "conv-norm" else nn.Identity()
        elif kind == "depthwise":
            self.conv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        elif kind == "gate":
            self.down, self.up = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        elif kind == "product":
            self.weight = nn.Parameter(torch.randn(wide, out))
        elif kind == "transposed":
            self.conv = nn.ConvTranspose2d(wide, out, 3, padding=1)
        self.wide = wide

    def forward(self, values: list[Tensor]) -> Tensor:
        x = values[self.read[0]]
        if self.kind in ("conv", "conv-norm"):
            return F.relu(self.norm(self.conv(x)))
        if self.kind in ("depthwise", "transposed"):
            return torch.tanh(self.conv(x))
        if self.kind == "gate":
            return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))
        if self.kind == "add":
            return x + values[self.read[1]]
        if self.kind == "concatenate":
            return torch.cat([x, values[self.read[1]]], 1)
        if self.kind == "product":
            return torch.einsum("bchw,cd->bdhw", x, self.weight)
        return FUNCTIONS[self.kind](x, self.wide)


def _written(x: Tensor, wide: int) -> Tensor:
    x = x.clone()
    x[:, 1::3] = x[:, 1::3].sigmoid()
    x[:, ::2].mul_(0.5)
    return x


FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "fixed view": lambda x, wide: x.view(len(x), wide, SIDE * SIDE).view(len(x), wide, SIDE, SIDE).sin(),
    "flat": lambda x, wide: x.flatten(1).view(len(x), wide, SIDE, SIDE),
    "last": lambda x, wide: F.hardtanh(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "halves": lambda x, wide: torch.cat([x[:, wide // 2 :], x[:, : wide // 2]], 1),
    "split": lambda x, wide: torch.cat([part * (n + 1) for n, part in enumerate(x.split(2, 1))], 1),
    "shuffle": lambda x, wide: x.view(len(x), 2, wide // 2, SIDE, SIDE).transpose(1, 2).reshape(x.shape),
    "written in place": _written,
    "padded": lambda x, wide: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1),
    "rolled": lambda x, wide: x.roll(1, 3),
    "gathered": lambda x, wide: x.index_select(2, torch.arange(SIDE - 1, -1, -1)),
    "unbound": lambda x, wide: torch.stack([row * 2 for row in x.unbind(2)], 2),
}
LAYERS = ("conv", "conv-norm", "depthwise", "gate", "product", "transposed", "add", "concatenate")


class Drawn(nn.Module):
    def __init__(self, steps: list[Step], wide: int) -> None:
        super().__init__()
        self.stem, self.steps = (
            nn.Conv2d(3, steps[0].wide if steps else wide, 3, padding=1),
            nn.ModuleList(steps),
        )
        self.head = nn.Conv2d(wide, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for step in self.steps:
            values.append(step(values))
        return self.head(values[-1])


@st.composite
def drawn(draw: st.DrawFn) -> tuple[nn.Module, int]:
    widths, steps = [draw(st.sampled_from(WIDTHS))], []
    first = widths[0]
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from((*LAYERS, *FUNCTIONS)))
        # Mostly the last value is read, so that networks are deep; sometimes an earlier one.
        at = draw(st.sampled_from((len(widths) - 1, len(widths) - 1, draw(st.integers(0, len(widths) - 1)))))
        read: tuple[int, ...] = (at,)
        out = widths[at]
        if kind in ("add", "concatenate"):
            fitting = [n for n, wide in enumerate(widths) if wide == out or kind == "concatenate"]
            read = (at, draw(st.sampled_from(fitting)))
            out = out if kind == "add" else out + widths[read[1]]
        elif kind in ("conv", "conv-norm", "product", "transposed"):
            out = draw(st.sampled_from(WIDTHS))
        steps.append(Step(kind, read, widths, out))
        widths.append(out)
    network = Drawn(steps, widths[-1])
    network.stem = nn.Conv2d(3, first, 3, padding=1)
    return network, draw(st.integers(0, 2**16))


def settled(network: nn.Module, seed: int) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.abs_().add_(0.5)
    return network.double().eval()


def with_zeros(network: nn.Module, plan: Plan) -> nn.Module:
    silent = copy.deepcopy(network)
    for name, axes in plan.slices.items():
        tensor = named_tensors(silent)[name]
        for axis, kept in axes.items():
            gone = [index for index in range(tensor.shape[axis]) if index not in kept]
            tensor.data.index_fill_(axis, torch.tensor(gone, dtype=torch.long), 0.0)
    return silent


def checked(network: nn.Module, seed: int) -> None:
    """Cut the network at random, and compare outputs, gradients, costs and training with the zeros."""
    settled(network, seed)
    random = np.random.default_rng(seed)
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    graph = trace(network, x)
    kept = {
        group.name: sorted(
            random.choice(group.units, random.integers(1, group.units + 1), replace=False).tolist()
        )
        for group in graph.groups
    }
    plan = plan_keeping(graph, kept)
    student, silent = cut(network, plan), with_zeros(network, plan)
    for images in (x, x[:1], torch.cat([x, x + 1])):
        torch.testing.assert_close(student(images), silent(images), rtol=1e-9, atol=1e-9)
    for each in (student, silent):
        each(x).square().sum().backward()
    own = dict(student.named_parameters())
    for name, parameter in silent.named_parameters():
        if parameter.grad is not None and name in own:
            expected = parameter.grad
            for axis, indices in plan.slices.get(name, {}).items():
                expected = expected.index_select(axis, torch.tensor(indices))
            assert own[name].grad is not None, name
            torch.testing.assert_close(own[name].grad, expected, rtol=1e-8, atol=1e-8)
    smaller, widths = trace(student, x), np.array([len(kept[group.name]) for group in graph.groups])
    for cost in ("macs", "params"):
        counted = costs_of(smaller)[cost].of(full_widths(smaller))
        planned = costs_of(graph)[cost].of(widths)
        # A program leaves out layers whose results nobody reads.
        assert counted == planned or (counted < planned and len(smaller.layers) < len(graph.layers)), cost


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn())
def test_a_random_cut_of_a_random_network_is_the_network_with_zeros(made: tuple[nn.Module, int]) -> None:
    checked(*made)


@pytest.mark.slow
def test_as_many_as_there_is_time_for() -> None:
    """FUZZ_MINUTES (10) of random networks, each time others."""
    until = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "10"))

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn())
    def some(made: tuple[nn.Module, int]) -> None:
        checked(*made)

    rounds: Any = some
    while time.monotonic() < until:
        rounds()
