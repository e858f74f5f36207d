"""Costs of a choice of widths, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import compressor
from compressor.errors import CompressError
from compressor.profiling import count
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from tests.compressor.networks import Function, images


def small() -> nn.Sequential:
    """On 8 × 8: a 3 × 3 convolution to 6 × 6, a norm, a depthwise one to 4 × 4, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 5)
    )


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_costs_of_a_small_network_are_those_worked_out_by_hand(kept: int) -> None:
    costs = costs_of(trace(small(), images(1)))
    widths = np.array([kept])
    assert costs["macs"].of(widths) == 36 * 9 * 3 * kept + 16 * 9 * kept + 16 * kept * 5
    assert costs["params"].of(widths) == (27 * kept + kept) + 2 * kept + (9 * kept + kept) + (
        16 * kept * 5 + 5
    )
    assert costs["channels"].of(widths) == kept + kept + 5


def test_the_full_widths_cost_what_the_network_costs() -> None:
    network = small()
    graph = trace(network, images(1))
    counted = count(network, (images(),))
    assert costs_of(graph)["macs"].of(full_widths(graph)) == counted.macs
    assert costs_of(graph)["params"].of(full_widths(graph)) == counted.params


def test_products_of_two_activations_are_counted() -> None:
    network = Function(
        lambda self, x: self.out(self.read(x.flatten(2)) @ x.flatten(2).mT),
        read=nn.Linear(64, 64),
        out=nn.Linear(3, 5),
    )
    graph = trace(network, images(1))
    assert costs_of(graph)["macs"].of(full_widths(graph)) == count(network, (images(1),)).macs


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_transposed_convolutions_cost_what_they_cost(groups: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 16, 2, stride=2, groups=groups))
    graph = trace(network, images(1))
    costs, full = costs_of(graph), full_widths(graph)
    assert costs["macs"].of(full) == count(network, (images(1),)).macs
    assert costs["channels"].of(full) == 8 + 16


def test_parameters_that_are_never_used_are_counted() -> None:
    network = Function(lambda self, x: self.head(x), head=nn.Conv2d(3, 5, 1), unused=nn.Linear(7, 7))
    graph = trace(network, images(1))
    assert costs_of(graph)["params"].of(full_widths(graph)) == 20 + 56


def test_a_layer_used_twice_works_twice_and_is_stored_once() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)
    graph = trace(nn.Sequential(layer, layer), images(1))
    costs, full = costs_of(graph), full_widths(graph)
    assert costs["macs"].of(full) == 2 * 64 * 9
    assert costs["params"].of(full) == 9


def test_a_network_without_layers_costs_nothing() -> None:
    graph = trace(Function(lambda self, x: torch.relu(x)), images(1))
    assert {name: cost.of(full_widths(graph)) for name, cost in costs_of(graph).items()} == {
        "macs": 0,
        "params": 0,
        "channels": 0,
    }


class Slices(nn.Module):
    """Two convolutions whose weights are slices of one parameter, and two that read slices of another."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(24, 3, 5, 5)), nn.Parameter(torch.randn(4, 24, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        one, two = F.conv2d(x, self.w[:11], padding=2), F.conv2d(x, self.w[11:], padding=2)
        return F.conv2d(one, self.v[:, :11], padding=1) + F.conv2d(two.relu(), self.v[:, 11:], padding=1)


def test_layers_that_read_slices_of_a_parameter_cost_what_they_cost() -> None:
    network, x = Slices().eval(), torch.randn(1, 3, 16, 16)
    graph = trace(network, x)
    plan = compressor.plan(graph, compressor.score(network, graph, "l2"), remove=0.5, granule=1)
    student = compressor.cut(network, plan)
    compressor.check(network, student, plan, x)
    assert plan.costs["macs"] == (count(network, (x,)).macs, count(student, (x,)).macs)
    assert 0.4 < plan.removed("macs") < 0.6


def test_costs_are_those_of_one_sample_whatever_the_batch() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    costs = []
    for batch in (1, 2, 5):
        graph = trace(network, torch.randn(batch, 3, 8, 8))
        costs.append({name: cost.of(full_widths(graph)) for name, cost in costs_of(graph).items()})
    assert costs[0] == costs[1] == costs[2]


def test_a_cut_that_costs_something_else_than_its_plan_is_refused() -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)).eval(), torch.randn(1, 3, 8, 8)
    graph = trace(network, x)
    plan = compressor.plan(graph, compressor.score(network, graph, "l2"), remove=0.5, granule=1)
    wrong = dataclasses.replace(plan, costs={**plan.costs, "macs": (plan.costs["macs"][0], 7)})
    with pytest.raises(CompressError, match="and its plan says 7"):
        compressor.check(network, compressor.cut(network, plan), wrong, x)
