"""What a removed channel says at rest goes into the bias of its reader, wherever that is the same everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.errors import CompressError
from compressor.pruning.cutting import check_cut, cut
from compressor.pruning.cutting.folding import fold_constants
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import PooledHead, convolution, images, random_units, with_statistics


def resting_network(reader: nn.Module) -> nn.Sequential:
    """Channels whose norm has a bias of its own, so that they speak even if nothing comes in."""
    torch.manual_seed(0)
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), reader))
    nn.init.normal_(network[1].bias, mean=1.0)
    return network.double()


def cut_to(network: nn.Module, kept: tuple[int, ...]) -> tuple[nn.Module, Plan]:
    plan = plan_keeping(trace(network, images(1)), {"0": kept})
    return cut(network, plan), plan


def test_the_bias_of_a_norm_goes_through_the_activation_into_the_readers_bias() -> None:
    network = resting_network(nn.Conv2d(6, 5, 1))
    student, plan = cut_to(network, (0, 2, 3))
    folded = fold_constants(network, student, plan)
    gone = [1, 4, 5]
    # By hand: with its weight at zero a norm gives its bias; a 1 x 1 convolution adds that, weighted, everywhere.
    says = network[1].bias[gone].relu()
    expected = network[3].bias + network[3].weight[:, gone, 0, 0] @ says
    torch.testing.assert_close(folded[3].bias, expected, rtol=1e-12, atol=0)  # float64, another order of sums
    assert torch.equal(folded[3].weight, student[3].weight)
    assert torch.equal(student[3].bias, network[3].bias)


def test_without_a_bias_the_mean_of_the_norm_behind_takes_it() -> None:
    network = resting_network(nn.Sequential(nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5)).eval())
    student, plan = cut_to(network, (1, 2))
    folded = fold_constants(network, student, plan)
    gone = [0, 3, 4, 5]
    moved = network[3][0].weight[:, gone, 0, 0] @ network[1].bias[gone].relu()
    torch.testing.assert_close(
        folded[3][1].running_mean, network[3][1].running_mean - moved, rtol=1e-12, atol=1e-12
    )
    assert all(check.passed for check in check_cut(network, folded, plan, images(), folded=True))


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(6, 5, 3, padding=1),
        nn.Conv2d(6, 5, 1, bias=False),
        nn.ConvTranspose2d(6, 5, 2, stride=2),
    ],
    ids=["padding", "nowhere to go", "transposed"],
)
def test_where_it_would_not_be_exact_nothing_is_folded(reader: nn.Module) -> None:
    network = resting_network(reader)
    student, plan = cut_to(network, (0, 5))
    folded = fold_constants(network, student, plan)
    pairs = zip(folded.state_dict().values(), student.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("seed", range(4))
def test_a_folded_student_is_the_teacher_with_those_channels_at_rest(seed: int) -> None:
    torch.manual_seed(seed)
    network = with_statistics(
        nn.Sequential(
            convolution(3, 12, True),
            nn.SiLU(),
            convolution(12, 8, True, kernel=1),
            nn.Sigmoid(),
            PooledHead(8),
        ),
        seed,
    ).double()
    graph = trace(network, images(1))
    plan = plan_keeping(graph, random_units(graph, seed))
    student = cut(network, plan)
    folded = fold_constants(network, student, plan)
    assert all(check.passed for check in check_cut(network, folded, plan, images(), folded=True))
    assert not all(check.passed for check in check_cut(network, student, plan, images(), folded=True))
    x = images(8).double()
    with torch.no_grad():
        assert (folded(x) - network(x)).norm() < (student(x) - network(x)).norm()


def test_neither_network_is_changed_and_plans_of_several_steps_are_refused() -> None:
    network = resting_network(nn.Conv2d(6, 5, 1))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    student, plan = cut_to(network, (0, 1, 2, 3))
    small = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    fold_constants(network, student, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(tensor, small[name]) for name, tensor in student.state_dict().items())
    further = plan_keeping(trace(student, images(1)), {"0": (0, 1)}).after(plan)
    with pytest.raises(CompressError, match="right after one cut"):
        fold_constants(network, cut(network, further), further)
