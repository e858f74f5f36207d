"""The proof must be able to fail: every way in which a cut could be wrong is made here on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.plan import Plan, plan_keeping
from compressor.cutting import cut
from compressor.errors import CompressError
from compressor.graph.trace import trace
from compressor.proof import Check, check_cut, require
from tests.compressor.networks import FlattenHead, Function, convolution, images, proven, with_statistics


def flattening() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(nn.Sequential(convolution(3, 8, True), nn.Sigmoid(), FlattenHead(8, 2, 6, True)))


def cut_in_half(network: nn.Module) -> tuple[nn.Module, Plan]:
    graph = trace(network, images(1))
    plan = plan_keeping(graph, {group.name: tuple(range(0, group.units, 2)) for group in graph.groups})
    return cut(network, plan), plan


def test_an_untouched_student_passes() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    assert proven(check_cut(network, student, plan, (images(),)))


def test_one_weight_changed_by_a_millionth_is_found() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    with torch.no_grad():
        student[0][0].weight[1, 0, 1, 1] += 1e-6
    assert not all(check.passed for check in check_cut(network, student, plan, (images(),)))


def test_every_single_tensor_of_the_student_is_covered() -> None:
    network = flattening()
    for name in dict(cut_in_half(network)[0].named_parameters()):
        student, plan = cut_in_half(network)
        with torch.no_grad():
            student.get_parameter(name).mul_(1.001).add_(1e-4)
        checks = check_cut(network, student, plan, (images(),))
        assert not all(check.passed for check in checks), name


def test_two_kept_channels_in_the_wrong_order_are_found() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    with torch.no_grad():
        student[0][0].weight[[0, 1]] = student[0][0].weight[[1, 0]].clone()
    assert not any(check.passed for check in check_cut(network, student, plan, (images(),)))


def test_the_wrong_columns_behind_a_flatten_are_found() -> None:
    network = flattening()
    _, plan = cut_in_half(network)
    kept = plan.slices["2.hidden.weight"][1]
    # What a rule without the spread over positions would keep: the first columns, in one piece.
    naive = {**plan.slices, "2.hidden.weight": {**plan.slices["2.hidden.weight"], 1: tuple(range(len(kept)))}}
    student = cut(network, dataclasses.replace(plan, slices=naive))
    assert not any(check.passed for check in check_cut(network, student, plan, (images(),)))


def test_a_norm_left_with_the_statistics_of_other_channels_is_found() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    student[0][1].running_mean.copy_(network[0][1].running_mean[1::2])
    as_used, on_batch_statistics = check_cut(network, student, plan, (images(),))
    assert not as_used.passed
    assert on_batch_statistics.passed  # there the stored statistics are not read


def test_a_mistake_hidden_by_a_faded_signal_is_found_on_batch_statistics() -> None:
    network = flattening()
    network[2].norm.running_var.fill_(1e30)
    student, plan = cut_in_half(network)
    with torch.no_grad():
        student[0][0].weight[0] *= 2
    as_used, on_batch_statistics = check_cut(network, student, plan, (images(),))
    assert as_used.passed
    assert not on_batch_statistics.passed


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_in_any_output_fails(place: int) -> None:
    def forward(self: Function, x: Tensor) -> list[Tensor]:
        good = self.head(self.stem(x))
        return [good * float("nan") if i == place else good for i in range(2)]

    network = Function(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 5, 1)).eval()
    student, plan = cut_in_half(network)
    (check,) = check_cut(network, student, plan, (images(),))
    assert not check.passed


def test_outputs_that_are_all_zero_are_said_to_prove_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    student, plan = cut_in_half(network)
    (check,) = check_cut(network, student, plan, (images(),))
    assert check.detail == "all outputs are zero, which proves nothing"


def test_outputs_of_another_shape_fail_and_the_shapes_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    student, plan = cut_in_half(network)
    student[1] = nn.Conv2d(4, 3, 1)
    (check,) = check_cut(network, student, plan, (images(4),))
    assert not check.passed
    assert check.detail == "its outputs have the shapes (4, 3, 8, 8)"


def test_a_size_fixed_in_python_is_explained() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x).mean((2, 3)).view(-1, 512)),
        stem=nn.Conv2d(3, 512, 1),
        head=nn.Linear(512, 5),
    ).eval()
    student, plan = cut_in_half(network)
    with pytest.raises(CompressError, match="the cut network does not run") as caught:
        check_cut(network, student, plan, (images(),))
    assert "fixes a size in Python; name the layer in budget.ignore" in str(caught.value.hint)


def test_a_network_that_insists_on_single_precision_is_explained() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x.float())), stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 5, 1)
    ).eval()
    student, plan = cut_in_half(network)
    with pytest.raises(CompressError, match="the network does not run in float64"):
        check_cut(network, student, plan, (images(),))


def test_integer_inputs_stay_integers() -> None:
    network = Function(
        lambda self, x: self.head(self.body(self.words(x).mean(1))),
        words=nn.Embedding(10, 6),
        body=nn.Linear(6, 8),
        head=nn.Linear(8, 5),
    ).eval()
    tokens = torch.arange(8).reshape(4, 2)
    graph = trace(network, tokens[:1])
    plan = plan_keeping(graph, {group.name: (0, 1) for group in graph.groups})
    assert [group.name for group in graph.groups] == ["body"]
    assert proven(check_cut(network, cut(network, plan), plan, (tokens,)))


def test_neither_network_is_changed_by_the_comparison() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    student.train()
    before = [tensor.clone() for tensor in (*network.state_dict().values(), *student.state_dict().values())]
    check_cut(network, student, plan, (images(),))
    after = [*network.state_dict().values(), *student.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(tensor.dtype == torch.float32 for tensor in student.parameters())
    assert student.training


def failed(detail: str) -> Check:
    return Check("cut equals silenced teacher", False, 0.25, 1e-9, detail)


@pytest.mark.parametrize(("detail", "tail"), [("", "1e-09"), ("why", r"1e-09 \(why\)")])
def test_a_failed_check_stops_the_run_with_both_numbers(detail: str, tail: str) -> None:
    with pytest.raises(CompressError, match=f"largest difference 0.25, rounding explains {tail}$"):
        require([failed(detail)])


def test_checks_that_all_passed_stop_nothing() -> None:
    good: Callable[[str], Check] = lambda name: Check(name, True, 0.0, 1e-9)  # noqa: E731
    require([good("one"), good("two")])
    assert good("one").to_dict() == {
        "name": "one",
        "passed": True,
        "max_abs_error": 0.0,
        "tolerance": 1e-9,
        "detail": "",
    }
