"""Each criterion against a case worked out by hand, and against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.data.split import Batch
from compressor.graph.trace import trace
from compressor.saliency.criteria import CRITERIA, bn_scale, magnitude, taylor
from compressor.saliency.score import score
from tests.compressor.networks import images, with_statistics

VALUE = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.0, 0.5]])
GRADIENT = torch.tensor([[0.5, 1.0, 1.0], [1.0, 7.0, 2.0]])


@pytest.mark.parametrize(
    ("power", "axis", "expected"),
    [(1, 0, [6.0, 4.5]), (1, 1, [5.0, 2.0, 3.5]), (2, 0, [14.0, 16.25]), (2, 1, [17.0, 4.0, 9.25])],
)
def test_magnitude_sums_over_all_other_axes(power: int, axis: int, expected: list[float]) -> None:
    assert magnitude(power)("", VALUE, None, axis).tolist() == expected


def test_magnitude_has_no_say_on_biases_and_norms() -> None:
    assert magnitude(1)("batch_norm.weight", VALUE[0], None, 0) is None


def test_the_scale_of_a_batch_norm_counts_by_its_size_and_nothing_else_does() -> None:
    assert bn_scale("batch_norm.weight", VALUE[0], None, 0).tolist() == [1.0, 2.0, 3.0]
    assert bn_scale("", VALUE, None, 0) is None


def test_taylor_is_the_size_of_the_sum_of_weight_times_gradient() -> None:
    # Rows: 0.5 - 2 + 3 = 1.5 and -4 + 0 + 1 = -3; columns: -3.5, -2 and 4.
    assert taylor("", VALUE, GRADIENT, 0).tolist() == [1.5, 3.0]
    assert taylor("", VALUE, GRADIENT, 1).tolist() == [3.5, 2.0, 4.0]
    assert taylor("", VALUE[0], GRADIENT[0], 0).tolist() == [0.5, 2.0, 3.0]


def test_taylor_has_no_say_on_a_weight_that_is_not_used() -> None:
    assert taylor("", VALUE, None, 0) is None


def test_every_criterion_says_how_it_is_made_comparable() -> None:
    assert list(CRITERIA) == ["l1", "l2", "bn-scale", "taylor"]
    assert all(each.normalise in ("none", "mean") for each in CRITERIA.values())
    assert [name for name, each in CRITERIA.items() if each.needs_gradients] == ["taylor"]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)]
    return with_statistics(nn.Sequential(*layers)).double()


def test_taylor_is_the_derivative_of_the_loss_by_a_gate_on_every_slot() -> None:
    """Scale one slot of one unit by ``1 + t``: the loss changes by ``sum w * dL/dw`` per unit of ``t``."""
    network = small()
    batches = [
        Batch(images(4, seed=seed).double(), torch.tensor([0, 1, 2, 3]), torch.arange(4)) for seed in (1, 2)
    ]
    found = score(network, trace(network, images(1).double()), "taylor", batches).of("0")
    gates = {
        name: torch.zeros(6, dtype=torch.float64, requires_grad=True) for name in ("w", "b", "s", "h", "c")
    }
    expected = torch.zeros(6, dtype=torch.float64)
    conv, norm, head = network[0], network[1], network[4]
    for batch in batches:
        one = {name: 1 + gate for name, gate in gates.items()}
        x = F.conv2d(batch.images, conv.weight * one["w"][:, None, None, None], conv.bias * one["b"])
        scale, shift = norm.weight * one["s"], norm.bias * one["h"]
        x = F.batch_norm(x, norm.running_mean, norm.running_var, scale, shift, eps=norm.eps)
        columns = head.weight * one["c"].repeat_interleave(36)
        # The score sums over each *index* of an axis before it takes the size, and a unit has 36 columns.
        loss = F.cross_entropy(F.linear(x.relu().flatten(1), columns, head.bias), batch.labels)
        *own, _ = torch.autograd.grad(loss, [*gates.values()], retain_graph=True)
        (by_column,) = torch.autograd.grad(loss, [columns])
        through_columns = (by_column * columns).sum(0).view(6, 36).abs().sum(1)
        expected += sum(each.abs() for each in own) + through_columns
    expected = (expected / expected.mean()).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-10, atol=0)
