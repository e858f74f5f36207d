"""The sums as an operator: what torch asks of one, and inside a compiled program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.pruning.scoring.kernels import operator, reference


def pair() -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    weights = [torch.randn(4, 3, 3, 3), torch.randn(5, 4)]
    return weights, [torch.randn_like(weight) for weight in weights]


@pytest.mark.parametrize("moments", ["wg", "w2,abs_wg"])
def test_torch_finds_nothing_wrong_with_the_operator(moments: str) -> None:
    weights, gradients = pair()
    arguments = (weights, gradients, [0, 0, 1], [0, 1, 1], moments)
    outcome = torch.library.opcheck(operator.channel_sums, arguments)
    assert set(outcome.values()) == {"SUCCESS"}


def test_the_operator_gives_the_sums() -> None:
    weights, gradients = pair()
    found = torch.ops.compressor.channel_sums(weights, gradients, [1, 0], [0, 1], "wg,w2")
    for values, (number, axis) in zip(found, [(1, 0), (0, 1)], strict=True):
        expected = reference.weight_sums(weights[number], gradients[number], axis, ("wg", "w2"))
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)  # products are rounded in float32


def test_moments_of_weights_alone_need_no_gradients() -> None:
    weights, _ = pair()
    (found,) = torch.ops.compressor.channel_sums(weights, [], [1], [0], "w2")
    torch.testing.assert_close(found[0], weights[1].double().square().sum(1), rtol=1e-6, atol=0.0)


def test_a_compiled_program_contains_it_whole() -> None:
    layer = nn.Linear(6, 4)

    def scores(weight: Tensor, gradient: Tensor) -> Tensor:
        rows, columns = torch.ops.compressor.channel_sums([weight], [gradient], [0, 0], [0, 1], "wg")
        return torch.cat([rows, columns], 1).abs() * 2

    gradient = torch.randn_like(layer.weight)
    compiled = torch.compile(scores, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(layer.weight, gradient), scores(layer.weight, gradient))
