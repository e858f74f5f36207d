"""The proof must be able to fail: every way in which a cut could be wrong is made here on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.base.checks import Check, require
from compressor.errors import CompressError
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import (
    MLP,
    Attention,
    ChannelsLast,
    FlattenHead,
    Function,
    GatedMLP,
    OnTokens,
    PooledHead,
    Res2,
    Residual,
    Shuffled,
    convolution,
    images,
    networks,
    proven,
    random_units,
    with_statistics,
)


def flattening() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(nn.Sequential(convolution(3, 8, True), nn.Sigmoid(), FlattenHead(8, 2, 6, True)))


def passed(checks: tuple[Check, ...]) -> list[bool]:
    """Of the comparisons with the silenced teacher; that it was recorded faithfully goes without saying."""
    recorded, *cuts = checks
    assert recorded.name == "recorded network equals teacher"
    assert recorded.passed or recorded.max_abs_error != recorded.max_abs_error
    return [check.passed for check in cuts]


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
    assert not any(passed(check_cut(network, student, plan, (images(),))))


def test_the_wrong_columns_behind_a_flatten_are_found() -> None:
    network = flattening()
    _, plan = cut_in_half(network)
    kept = plan.slices["2.hidden.weight"][1]
    # What a rule without the spread over positions would keep: the first columns, in one piece.
    naive = {**plan.slices, "2.hidden.weight": {**plan.slices["2.hidden.weight"], 1: tuple(range(len(kept)))}}
    student = cut(network, dataclasses.replace(plan, slices=naive, inputs=None))
    assert not any(passed(check_cut(network, student, plan, (images(),))))


def test_a_norm_left_with_the_statistics_of_other_channels_is_found() -> None:
    network = flattening()
    student, plan = cut_in_half(network)
    student[0][1].running_mean.copy_(network[0][1].running_mean[1::2])
    as_used, on_batch_statistics = passed(check_cut(network, student, plan, (images(),)))
    assert not as_used
    assert on_batch_statistics  # there the stored statistics are not read


def test_a_mistake_hidden_by_a_faded_signal_is_found_on_batch_statistics() -> None:
    network = flattening()
    network[2].norm.running_var.fill_(1e30)
    student, plan = cut_in_half(network)
    with torch.no_grad():
        student[0][0].weight[0] *= 2
    as_used, on_batch_statistics = passed(check_cut(network, student, plan, (images(),)))
    assert as_used
    assert not on_batch_statistics


@pytest.mark.parametrize("place", [0, 1])
def test_not_a_number_in_any_output_fails(place: int) -> None:
    def forward(self: Function, x: Tensor) -> list[Tensor]:
        good = self.head(self.stem(x))
        return [good * float("nan") if i == place else good for i in range(2)]

    network = Function(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 5, 1)).eval()
    student, plan = cut_in_half(network)
    recorded, check = check_cut(network, student, plan, (images(),))
    assert not recorded.passed
    assert not check.passed
    assert check.to_dict()["max_abs_error"] is None


def test_outputs_that_are_all_zero_are_said_to_prove_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    student, plan = cut_in_half(network)
    _, check = check_cut(network, student, plan, (images(),))
    assert check.detail == "all outputs are zero, which proves nothing"


def test_outputs_of_another_shape_fail_and_the_shapes_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    student, plan = cut_in_half(network)
    student[1] = nn.Conv2d(4, 3, 1)
    _, check = check_cut(network, student, plan, (images(4),))
    assert not check.passed
    assert check.detail == "its outputs have the shapes (4, 3, 8, 8)"


def test_a_student_that_does_not_run_is_explained() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)).eval()
    student, plan = cut_in_half(network)
    student[1] = nn.Conv2d(7, 5, 1)
    with pytest.raises(CompressError, match="the cut network does not run: ") as caught:
        check_cut(network, student, plan, (images(),))
    assert "please report" in str(caught.value.hint)


def test_a_conversion_to_single_precision_inside_stays_in_double() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x.float()).to(torch.float32)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
    ).eval()
    student, plan = cut_in_half(network)
    assert proven(check_cut(network, student, plan, (images(),)))


def test_a_network_that_makes_its_own_single_precision_tensors_is_explained_or_proven() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x) @ torch.eye(8)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
    ).eval()
    student, plan = cut_in_half(network)
    try:
        checks = check_cut(network, student, plan, (images(),))
    except CompressError as error:
        assert "float64" in str(error)  # noqa: PT017
    else:
        assert proven(checks)


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
    assert "body" in [group.name for group in graph.groups]
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


# --- A correct student, with one single thing wrong.


def convolutional() -> nn.Module:
    return nn.Sequential(convolution(3, 8, True), nn.Sigmoid(), Residual(8, 8, True, nn.SiLU), PooledHead(8))


def transformer() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), OnTokens(Attention(8, 2, 4, 16, "fused")), ChannelsLast(MLP(8, 12, nn.LayerNorm)),
        PooledHead(8),
    )  # fmt: skip


def normed() -> nn.Module:
    return nn.Sequential(
        # An instance norm takes out what is the same at all positions: a padded border lets a constant be heard.
        nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.InstanceNorm2d(6, affine=True), nn.PReLU(6), ChannelsLast(nn.RMSNorm(6)), PooledHead(6),
    )  # fmt: skip


def rewritten() -> nn.Module:
    return nn.Sequential(
        convolution(3, 12, True), Res2(12, 3), nn.Sigmoid(), Shuffled(12, 2, True),
        ChannelsLast(GatedMLP(12, 5, True)), PooledHead(12),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutional,
    "a transformer": transformer,
    "norms": normed,
    "a program": rewritten,
}


def proven_student(make: Callable[[], nn.Module], seed: int = 0) -> tuple[nn.Module, nn.Module, Plan]:
    torch.manual_seed(0)
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1).add_(0.2 * parameter.sign())
    with_statistics(network)
    graph = trace(network, images(1))
    rng = np.random.default_rng(seed)
    # Of one or two channels a norm leaves little but their signs, which a small mistake does not move.
    kept = {
        group.name: tuple(sorted(rng.permutation(group.units)[: max(3, group.units // 2)].tolist()))
        for group in graph.groups
    }
    plan = plan_keeping(graph, kept)
    student = cut(network, plan)
    assert proven(check_cut(network, student, plan, images()))
    return network, student, plan


def is_found(network: nn.Module, student: nn.Module, plan: Plan) -> bool:
    return not all(passed(check_cut(network, student, plan, images())))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_change_of_any_tensor_is_found(make: Callable[[], nn.Module]) -> None:
    network, student, plan = proven_student(make)
    for name, tensor in student.state_dict().items():
        if tensor.is_floating_point() and "constant" not in name:
            before = tensor.clone()
            # Not a factor for all: a norm behind it would take it out again.
            tensor.copy_(tensor * (1 + 1e-3 * torch.rand(tensor.shape)) + 1e-3 * torch.rand(tensor.shape))
            assert is_found(network, student, plan), name
            tensor.copy_(before)
    assert not is_found(network, student, plan)


def roll(tensor: Tensor, axis: int) -> Tensor:
    return tensor.roll(1, axis)


def swap(tensor: Tensor, axis: int) -> Tensor:
    order = list(range(tensor.shape[axis]))
    order[0], order[-1] = order[-1], order[0]
    return tensor.index_select(axis, torch.tensor(order))


def double(tensor: Tensor, axis: int) -> Tensor:
    tensor = tensor.clone()
    tensor.select(axis, 0).mul_(2)
    return tensor


def forget(tensor: Tensor, axis: int) -> Tensor:
    tensor = tensor.clone()
    tensor.select(axis, -1).zero_()
    return tensor


def repeated(tensor: Tensor, axis: int) -> Tensor:
    tensor = tensor.clone()
    tensor.select(axis, 0).copy_(tensor.select(axis, -1))
    return tensor


def bump(tensor: Tensor, axis: int) -> Tensor:
    tensor = tensor.clone()
    tensor.select(axis, 0).add_(1e-5)
    return tensor


MUTATIONS = {each.__name__: each for each in (roll, swap, double, forget, repeated, bump)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.sampled_from(sorted(NETWORKS)),
    st.integers(0, 3),
    st.integers(0, 99),
    st.integers(0, 9),
    st.sampled_from(sorted(MUTATIONS)),
)
def test_single_mistakes_in_a_student_are_found(
    which: str, seed: int, place: int, axis: int, mutation: str
) -> None:
    network, student, plan = proven_student(NETWORKS[which], seed)
    tensors = [(n, t) for n, t in student.state_dict().items() if t.is_floating_point() and t.dim()]
    name, tensor = tensors[place % len(tensors)]
    changed = MUTATIONS[mutation](tensor, axis % tensor.dim())
    assume(not torch.equal(changed, tensor))
    if "qkv" in name:
        # A constant added to every key moves no softmax; and heads have no order but that of the layers around.
        keys = len(tensor) // 3
        assume(
            not torch.equal(changed[:keys], tensor[:keys])
            or not torch.equal(changed[2 * keys :], tensor[2 * keys :])
        )
    tensor.copy_(changed)
    assert is_found(network, student, plan), (which, name, mutation)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 3), st.integers(0, 99), st.integers(0, 99))
def test_a_tensor_that_was_cut_by_other_indices_is_found(
    which: str, seed: int, place: int, shift: int
) -> None:
    network, student, plan = proven_student(NETWORKS[which], seed)
    state, full = student.state_dict(), network.state_dict()
    cuts = [
        (name, axis, kept)
        for name, axes in plan.slices.items()
        for axis, kept in axes.items()
        if name in state and len(kept) < full[name].shape[axis]
    ]
    name, axis, kept = cuts[place % len(cuts)]
    size = full[name].shape[axis]
    wrong = tuple(sorted((index + 1 + shift % (size - 1)) % size for index in kept))
    assume(wrong != kept)
    tensor = full[name]
    for each, indices in plan.slices[name].items():
        tensor = tensor.index_select(each, torch.tensor(wrong if each == axis else indices))
    assume(not torch.allclose(tensor, state[name]))
    state[name].copy_(tensor)
    assert is_found(network, student, plan), (which, name, axis, wrong, kept)


def steps_of(program: Program, operator: str) -> list[Any]:
    return [step for step in program.description["steps"] if step[0] == operator]


PROGRAM_MISTAKES: dict[str, tuple[str, Callable[[list[Any]], None]]] = {
    "a split that cuts elsewhere": (
        "aten.split_with_sizes.default",
        lambda step: step[1].__setitem__(1, [step[1][1][0] + 1, step[1][1][1] - 1, *step[1][1][2:]]),
    ),
    "parts joined in another order": ("aten.cat.default", lambda step: step[1][0].reverse()),
    "another dimension": ("aten.mean.dim", lambda step: step[1].__setitem__(1, [1])),
}


@pytest.mark.parametrize(("operator", "mistake"), PROGRAM_MISTAKES.values(), ids=PROGRAM_MISTAKES)
def test_single_mistakes_in_the_steps_of_a_program_are_found(
    operator: str, mistake: Callable[[list[Any]], None]
) -> None:
    network, student, plan = proven_student(rewritten, seed=1)
    assert isinstance(student, Program)
    step = steps_of(student, operator)[0]
    mistake(step)
    wrong = Program(student.description, {name: student.tensor(name) for name in student._places})
    try:
        assert is_found(network, wrong, plan)
    except CompressError as error:
        assert "the cut network does not run" in str(error)  # noqa: PT017


def test_a_wrong_lookup_of_a_shuffle_is_found() -> None:
    network, student, plan = proven_student(rewritten, seed=1)
    places = [name for name in student.state_dict() if name.startswith("constant")]
    assert places
    for name in places:
        tensor = student.state_dict()[name]
        if len(tensor) > 1:
            tensor.copy_(tensor.roll(1))
            assert is_found(network, student, plan)
            tensor.copy_(tensor.roll(-1))
    assert not is_found(network, student, plan)


@pytest.mark.parametrize(
    "attribute", [("1", "num_groups", 1), ("3", "eps", 1e-2), ("5.module", "eps", 1e-2)], ids=str
)
def test_a_wrong_attribute_of_a_norm_is_found(attribute: tuple[str, str, Any]) -> None:
    network, student, plan = proven_student(normed)
    name, key, value = attribute
    setattr(student.get_submodule(name), key, value)
    assert is_found(network, student, plan)


def test_statistics_taken_over_what_was_removed_too_are_found() -> None:
    """A layer norm whose mean still counts the removed channels as zeros: what silence alone would give."""

    class CountsZeros(nn.Module):
        def __init__(self, norm: nn.LayerNorm, width: int) -> None:
            super().__init__()
            self.norm, self.width = norm, width

        def forward(self, x: Tensor) -> Tensor:
            mean = x.sum(-1, keepdim=True) / self.width
            spread = ((x - mean) ** 2).sum(-1, keepdim=True) / self.width
            return (x - mean) / (spread + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias

    network, student, plan = proven_student(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 2, 2), ChannelsLast(MLP(8, 12, nn.LayerNorm)), PooledHead(8))
    )
    student[1].module.norm = CountsZeros(student[1].module.norm, student[0].out_channels)
    assert not is_found(network, student, plan)
    student[1].module.norm.width = 8
    assert is_found(network, student, plan)


def test_a_wrong_scale_of_attention_is_found() -> None:
    network, student, plan = proven_student(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 2, 2), OnTokens(Attention(8, 2, 4, 16, "separate")), PooledHead(8)
        )
    )
    student.get_submodule("1.module").scale *= 1.01
    assert is_found(network, student, plan)


def test_a_larger_unit_for_another_is_found_in_random_networks() -> None:
    found = []

    @settings(max_examples=25, deadline=None)
    @given(networks(), st.integers(0, 2**16))
    def exchanged(network: nn.Module, seed: int) -> None:
        graph = trace(network, images(1))
        kept = random_units(graph, seed)
        plan = plan_keeping(graph, kept)
        group = next((each for each in graph.groups if len(kept[each.name]) < each.units), None)
        if group is None:
            return
        free = next(unit for unit in range(group.units) if unit not in kept[group.name])
        other = {**kept, group.name: tuple(sorted({*kept[group.name][1:], free}))}
        wrong = cut(network, plan_keeping(graph, other))
        checks = check_cut(network, wrong, plan, images())
        # Where no signal arrives (a dead activation) there is nothing to be told apart.
        found.append(not all(passed(checks)) or not checks[1].tolerance)

    exchanged()
    assert sum(found) >= 0.9 * len(found)
