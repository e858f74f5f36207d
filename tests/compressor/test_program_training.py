"""A program trains its network, or says that it cannot: never another one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KEPT = (0, 2, 3, 7, 11)


class Fixed(nn.Module):
    """A network with a size of a cut layer in its Python, so that its student is a program."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.a(x)).relu().view(len(x), 16, 64).view(len(x), 16, 8, 8)
        return self.b(self.between(x))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Custom(Fixed):
    def between(self, x: Tensor) -> Tensor:
        return Sign.apply(x)  # type: ignore[no-untyped-call,no-any-return]


class Noise(Fixed):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class OwnDropout(Fixed):
    def between(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5) if self.training else x


class Auxiliary(Fixed):
    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return (out, out.mean()) if self.training else out


class OtherForm(Fixed):
    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return [out] if self.training else out


class ReadsAWeight(Fixed):
    def between(self, x: Tensor) -> Tensor:
        return x * self.b.weight.abs().sum().item()


REFUSED = {
    ReadsAWeight: "reads the values of `b.weight`",
    Custom: "its own backward pass",
    Noise: "`randn_like`",
    OwnDropout: "`rand`",
    Auxiliary: "returns something else",
    OtherForm: "returns something else",
}


class Detached(Fixed):
    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.mean((2, 3), keepdim=True)
        return x * scale


class Frozen(Fixed):
    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


def student_of(network: nn.Module) -> tuple[Program, Plan]:
    graph = trace(network, X)
    plan = plan_keeping(graph, {"a": KEPT})
    student = cut(network, plan)
    assert isinstance(student, Program)
    assert all(check.passed for check in check_cut(network, student, plan, X))
    return student, plan


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_expressed_is_refused_for_training_only(kind: type[Fixed]) -> None:
    student, _ = student_of(kind().eval())
    assert student(X).shape == (4, 4, 8, 8)
    with pytest.raises(CompressError, match=f"cannot be trained: .*{REFUSED[kind]}") as caught:
        student.train()(X)
    assert "its own class can be kept" in str(caught.value.hint)
    with torch.no_grad():
        student.train()(X)  # looked at, not trained


def silenced_copy(network: nn.Module, plan: Plan) -> nn.Module:
    masked = copy.deepcopy(network)
    for name, axes in plan.slices.items():
        tensor = dict([*masked.named_parameters(), *masked.named_buffers()])[name]
        for axis, kept in axes.items():
            gone = [index for index in range(16) if index not in kept]
            tensor.data.index_fill_(axis, torch.tensor(gone), 0.0)
    return masked


@pytest.mark.parametrize("kind", [Fixed, Detached, Frozen], ids=lambda kind: kind.__name__)
def test_a_step_of_training_has_the_gradients_of_the_silenced_teacher(kind: type[Fixed]) -> None:
    network = kind().double().eval()
    student, plan = student_of(network)
    masked = silenced_copy(network, plan)
    for each in (student.train(), masked.train()):
        each(X.double()).square().sum().backward()
    own = dict(student.named_parameters())
    for name, parameter in masked.named_parameters():
        assert parameter.grad is not None
        expected = parameter.grad
        for axis, kept in plan.slices.get(name, {}).items():
            expected = expected.index_select(axis, torch.tensor(kept))
        assert torch.allclose(own[name].grad, expected, rtol=1e-9, atol=1e-9)  # type: ignore[arg-type]
    assert torch.allclose(
        student.eval()(X.double()), masked.eval()(X.double())
    )  # and the same running statistics


def test_stochastic_depth_of_another_name_is_switched() -> None:
    class BeitDropPath(nn.Module):
        drop_prob = 0.5

        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand(len(x), 1, 1, 1) > 0.5) * 2 if self.training else x

    class Deep(Fixed):
        def __init__(self) -> None:
            super().__init__()
            self.drop = BeitDropPath()

        def between(self, x: Tensor) -> Tensor:
            return self.drop(x)

    student, _ = student_of(Deep().eval())
    assert torch.equal(student(X), student(X))
    outputs = torch.stack([student.train()(X) for _ in range(8)])
    assert outputs.std(0).mean() > 0.01


def test_a_head_that_only_training_uses_is_cut_with_what_it_reads() -> None:
    network = torchvision.models.googlenet(
        weights=None, aux_logits=True, init_weights=False, num_classes=5
    ).eval()
    image = torch.randn(1, 3, 64, 64)
    graph = trace(network, image)
    plan = plan_keeping(graph, {group.name: range(group.units // 2) for group in graph.groups})
    student = cut(network, plan)
    assert type(student) is type(network)
    outputs = student.train()(torch.randn(2, 3, 64, 64))
    assert {tuple(output.shape) for output in outputs} == {(2, 5)}
    assert student.aux1.conv.conv.in_channels < network.aux1.conv.conv.in_channels
    outputs.aux_logits1.sum().backward()
