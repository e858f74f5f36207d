"""Values that a forward pass reads in Python are known if no input takes part in them: weights, buffers, constants."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import plan_keeping

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Reading(nn.Module):
    """Two convolutions, and a function in between that may read the network's own tensors."""

    def __init__(self, between: Callable[[Reading, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.between = between
        self.register_buffer("ready", torch.tensor(1))
        self.register_buffer("sizes", torch.tensor([4, 4]))
        self.register_buffer("scale", torch.tensor([0.5, 2.0]))
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def in_place(self: Reading, x: Tensor) -> Tensor:
    table = self.scale.clone()
    table[1:] = 5
    return x * float(table.sum())


READS: dict[str, Callable[[Reading, Tensor], Tensor]] = {
    "a flag": lambda self, x: x.relu() if self.ready else x.tanh(),
    "item()": lambda self, x: x * self.scale.max().item(),
    "float()": lambda self, x: x * float(self.scale.exp().sum()),
    "tolist()": lambda self, x: torch.cat(x.split(self.sizes.tolist(), 3), 3),
    "numpy()": lambda self, x: x * float(self.scale.numpy()[1]),
    "a comparison": lambda self, x: x.relu() if torch.equal(self.sizes, torch.tensor([4, 4])) else x,
    "a mask": lambda self, x: x[:, :, self.mask],
    "a number from a weight": lambda self, x: x / self.a.weight.abs().sum().item(),
    "positions": lambda self, x: x.index_select(2, torch.nonzero(self.mask)[:, 0]),
    "a copy written in place": in_place,
    "data": lambda self, x: x + self.b.weight.data.sum(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_network_that_reads_its_own_values_is_cut(read: Callable[[Reading, Tensor], Tensor]) -> None:
    network = Reading(read).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = trace(network, X)
    assert [group.units for group in graph.groups] == [16]
    plan = plan_keeping(graph, {"a": (0, 3, 5, 9)})
    student = cut(network, plan)
    assert all(check.passed for check in check_cut(network, student, plan, X))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "read",
    [
        lambda self, x: x.relu() if x.sum() > 0 else x,
        lambda self, x: x * (self.scale.sum() + x.mean()).item(),
    ],
)
def test_a_value_that_depends_on_the_input_is_refused(read: Callable[[Reading, Tensor], Tensor]) -> None:
    with pytest.raises(CompressError, match="depends on the values of its input"):
        trace(Reading(read).eval(), X)


@pytest.mark.parametrize("own", [False, True])
def test_a_view_that_an_input_is_written_into_makes_the_whole_unknown(own: bool) -> None:
    def between(self: Reading, x: Tensor) -> Tensor:
        table = self.scale if own else self.scale.clone()
        first = float(table.sum())  # known until here
        table[:1] = x.mean()
        return x * first * table.sum().item()

    with pytest.raises(CompressError, match="depends on the values of its input"):
        trace(Reading(between).eval(), X)


def test_a_tensor_of_values_has_the_type_of_the_network() -> None:
    network = Reading(lambda self, x: x * torch.masked_select(self.scale, self.scale > 1)).eval()
    graph = trace(network, X)
    student = cut(network, plan_keeping(graph, {"a": (0, 3, 5, 9)}))
    assert student(X).dtype == torch.float32
    assert all(
        check.passed for check in check_cut(network, student, plan_keeping(graph, {"a": (0, 3, 5, 9)}), X)
    )


def test_what_an_input_is_written_into_is_not_known() -> None:
    def between(self: Reading, x: Tensor) -> Tensor:
        table = torch.zeros(2)
        table[:1] = x.mean()
        return x * table.sum().item()

    with pytest.raises(CompressError, match="depends on the values of its input"):
        trace(Reading(between).eval(), X)
