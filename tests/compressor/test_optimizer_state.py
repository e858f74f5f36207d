"""A cut optimizer goes on as if the network had always been small: same groups, state sliced as the weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from compressor.artifacts.student import same_bits
from compressor.errors import CompressError
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.optimizer_state import cut_optimizer
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import PooledHead, convolution, images, networks, random_units, with_statistics

Make = Callable[[Any], Optimizer]

MAKES: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam with amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, lr_decay=0.1, initial_accumulator_value=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01, t0=2),
}
every_optimizer = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
momentum, adamw = MAKES["SGD with momentum"], MAKES["AdamW"]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [convolution(3, 8, True), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), PooledHead(6)]
    return with_statistics(nn.Sequential(*layers)).double().train()


def plan_for(network: nn.Module, seed: int = 0) -> Plan:
    """Some channels of every group leave."""
    graph = trace(network, images(1).to(next(network.parameters()).dtype))
    return plan_keeping(graph, random_units(graph, seed))


def steps(network: nn.Module, optimizer: Optimizer, seeds: Iterable[int]) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        x = images(seed=seed).to(next(network.parameters()).dtype)
        network(x).square().mean().backward()
        optimizer.step()


def by_name(optimizer: Optimizer, network: nn.Module) -> dict[str, dict[str, Any]]:
    return {n: dict(optimizer.state[p]) for n, p in network.named_parameters() if p in optimizer.state}


def same_state(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    flat = [{(n, key): value for n in state for key, value in state[n].items()} for state in (one, other)]
    return flat[0].keys() == flat[1].keys() and all(
        torch.equal(torch.as_tensor(flat[0][key]), torch.as_tensor(flat[1][key])) for key in flat[0]
    )


def sliced_by_hand(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    array = tensor.numpy()
    for axis, kept in plan.slices.get(name, {}).items():
        array = array.take(kept, axis)
    return torch.tensor(array)


@every_optimizer
def test_a_step_after_the_cut_is_that_of_a_fresh_optimizer_with_the_state_sliced_by_hand(make: Make) -> None:
    network = small()
    optimizer = make(network.parameters())
    steps(network, optimizer, range(3))
    plan = plan_for(network)
    student = cut(network, plan)
    expected = copy.deepcopy(student)
    fresh = make(expected.parameters())
    full = by_name(optimizer, network)
    for name, parameter in expected.named_parameters():
        for key, value in full.get(name, {}).items():
            same = isinstance(value, Tensor) and value.dim()
            fresh.state[parameter][key] = sliced_by_hand(name, value, plan) if same else copy.copy(value)

    new = cut_optimizer(optimizer, network, student, plan)
    steps(student, new, (3, 4))
    steps(expected, fresh, (3, 4))
    assert type(new) is type(optimizer)
    assert same_bits(student, expected)
    assert same_state(by_name(new, student), by_name(fresh, expected))


def at_full_size(name: str, tensor: Tensor, full: Tensor, plan: Plan) -> Tensor:
    axes = plan.slices.get(name, {})
    wide = torch.zeros_like(full).numpy()
    wide[np.ix_(*(axes.get(axis, range(size)) for axis, size in enumerate(full.shape)))] = tensor.numpy()
    return torch.from_numpy(wide)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MAKES)), networks(), st.integers(0, 2**16))
def test_a_cut_optimizer_does_to_what_stays_what_the_full_one_does(
    name: str, network: nn.Module, seed: int
) -> None:
    network.double()
    optimizer = MAKES[name](network.parameters())
    steps(network, optimizer, range(2))
    plan = plan_for(network, seed)
    student = cut(network, plan)
    steps(student, cut_optimizer(optimizer, network, student, plan), (2,))
    narrow = dict(student.named_parameters())
    for name, parameter in network.named_parameters():
        gradient = narrow[name].grad
        assert gradient is not None
        parameter.grad = at_full_size(name, gradient, parameter, plan)
    optimizer.step()
    for name, parameter in network.named_parameters():
        wanted = sliced_by_hand(name, parameter.detach(), plan)
        # float64 by the same formula; a vectorised loop and its remainder may round the last bit differently.
        torch.testing.assert_close(narrow[name].detach(), wanted, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(networks(), st.integers(0, 2**16))
def test_cutting_twice_is_cutting_at_once(network: nn.Module, seed: int) -> None:
    optimizer = adamw(network.parameters())
    steps(network, optimizer, range(2))
    first = plan_for(network, seed)
    assistant = cut(network, first)
    further = plan_for(assistant, seed + 1)
    student, at_once = cut(assistant, further), cut(network, further.after(first))
    twice = cut_optimizer(cut_optimizer(optimizer, network, assistant, first), assistant, student, further)
    once = cut_optimizer(optimizer, network, at_once, further.after(first))
    assert twice.state
    assert same_state(by_name(twice, student), by_name(once, at_once))


@every_optimizer
def test_after_a_cut_of_nothing_training_goes_on_bit_by_bit(make: Make) -> None:
    network = small()
    optimizer = make(network.parameters())
    steps(network, optimizer, range(3))
    student = cut(network, Plan({}))
    new = cut_optimizer(optimizer, network, student, Plan({}))
    steps(student, new, range(3, 6))
    steps(network, optimizer, range(3, 6))
    assert same_bits(student, network)


def test_an_optimizer_that_has_not_stepped_is_cut_too() -> None:
    network = small()
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(adamw(network.parameters()), network, student, plan)
    assert not new.state
    steps(student, new, (0,))


@every_optimizer
def test_what_is_given_is_not_changed_and_shares_nothing(make: Make) -> None:
    network = small()
    optimizer = make(network.parameters())
    steps(network, optimizer, range(2))
    state, weights = copy.deepcopy(by_name(optimizer, network)), copy.deepcopy(network)
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    for plan in (plan_for(network), Plan({})):
        student = cut(network, plan)
        new = cut_optimizer(optimizer, network, student, plan)
        for group in new.param_groups:
            group["lr"] = 0.5
        steps(student, new, range(2, 4))
        assert same_bits(network, weights)
        assert same_state(by_name(optimizer, network), state)
        assert optimizer.state_dict()["param_groups"] == groups


def test_groups_keep_their_order_settings_and_names_and_what_was_left_out_stays_out() -> None:
    network = small()
    named = dict(network.named_parameters())
    norm = {"params": [("0.1.weight", named["0.1.weight"])], "weight_decay": 0.0, "ours": "norm"}
    heads = {"params": [(n, named[n]) for n in ("4.head.weight", "2.weight")], "lr": 0.3, "betas": (0.5, 0.6)}
    optimizer = torch.optim.AdamW([norm, heads], lr=0.01, weight_decay=0.1)
    steps(network, optimizer, range(2))
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    own = dict(student.named_parameters())
    assert [group["param_names"] for group in new.param_groups] == [
        ["0.1.weight"],
        ["4.head.weight", "2.weight"],
    ]
    for group, old in zip(new.param_groups, optimizer.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(own[name]) for name in group["param_names"]]
        assert {**group, "params": 0} == {**old, "params": 0}
    assert new.defaults == optimizer.defaults
    untouched = own["0.0.weight"].clone()
    steps(student, new, (2,))
    assert torch.equal(own["0.0.weight"], untouched)


def test_frozen_parameters_stay_frozen_and_in_their_group() -> None:
    network = small()
    network[0].requires_grad_(False)
    optimizer = adamw(network.parameters())
    steps(network, optimizer, range(2))
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    before = student[0][0].weight.clone()
    steps(student, new, (2,))
    assert new.param_groups[0]["params"][0] is student[0][0].weight
    assert torch.equal(student[0][0].weight, before)
    student[0].requires_grad_(True)
    steps(student, new, (3,))
    assert not torch.equal(student[0][0].weight, before)


def tied() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), first, nn.ReLU(), second, nn.Linear(6, 5))


def test_tied_weights_have_one_state() -> None:
    network = tied()
    optimizer = adamw(network.parameters())
    steps(network, optimizer, range(2))
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    shared = student[2].weight
    assert shared is student[4].weight
    assert sum(parameter is shared for parameter in new.param_groups[0]["params"]) == 1
    exp_avg = optimizer.state[network[2].weight]["exp_avg"]
    assert shared.numel() < exp_avg.numel()
    assert torch.equal(new.state[shared]["exp_avg"], sliced_by_hand("2.weight", exp_avg, plan))


def test_a_student_that_lost_a_tie_is_refused() -> None:
    network = tied()
    student = cut(network, Plan({}))
    student[4].weight = nn.Parameter(student[4].weight.detach().clone())
    with pytest.raises(
        CompressError, match=r"`2\.weight` and `4\.weight`: the student has 2 such parameters"
    ):
        cut_optimizer(adamw(network.parameters()), network, student, Plan({}))


def test_a_student_may_know_a_tied_weight_by_one_of_its_names_only() -> None:
    network = tied()
    optimizer = adamw(network.parameters())
    steps(network, optimizer, range(2))
    student = cut(network, Plan({}))
    del student[4].weight
    new = cut_optimizer(optimizer, network, student, Plan({}))
    assert torch.equal(new.state[student[2].weight]["exp_avg"], optimizer.state[network[2].weight]["exp_avg"])


@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("after", [torch.channels_last, torch.contiguous_format])
def test_fused_steps_are_right_in_any_memory_format(
    before: torch.memory_format, after: torch.memory_format
) -> None:
    network = small().to(memory_format=before)
    optimizer = MAKES["AdamW, fused"](network.parameters())
    steps(network, optimizer, range(2))
    plan = plan_for(network)
    student = cut(network, plan).to(memory_format=after)
    expected = copy.deepcopy(student)
    fused = cut_optimizer(optimizer, network, student, plan)
    plain = cut_optimizer(optimizer, network, expected, plan)
    for group in plain.param_groups:
        group["fused"] = False
    steps(student, fused, (2,))
    steps(expected, plain, (2,))
    for found, wanted in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(
            found, wanted, rtol=1e-12, atol=1e-12
        )  # float64, another order of rounding


def test_state_of_a_parameter_that_left_its_group_is_cut_with_the_others() -> None:
    network = small()
    optimizer = momentum(network.parameters())
    steps(network, optimizer, range(2))
    left = optimizer.param_groups[0]["params"].pop(0)
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    own = student[0][0].weight
    assert left is network[0][0].weight
    assert new.state[own]["momentum_buffer"].shape == own.shape
    assert all(parameter is not own for parameter in new.param_groups[0]["params"])


def test_a_learning_rate_that_is_a_tensor_is_copied_and_stays_shared_between_groups() -> None:
    network = small()
    rate = torch.tensor(0.01)
    groups = [{"params": network[0].parameters()}, {"params": network[2].parameters()}]
    new = cut_optimizer(torch.optim.AdamW(groups, lr=rate), network, cut(network, Plan({})), Plan({}))
    one, other = (group["lr"] for group in new.param_groups)
    assert one is other
    assert one is not rate
    assert torch.equal(one, rate)


class Own(torch.optim.SGD):
    """Its constructor asks for what no group knows."""

    def __init__(self, parameters: Any, *, rate: float, log: list[int]) -> None:
        log.append(1)
        self.name = "own"
        super().__init__(parameters, lr=rate, momentum=0.9)


def test_an_optimizer_of_ones_own_needs_no_constructor() -> None:
    network, log = small(), []
    optimizer = Own(network.parameters(), rate=0.1, log=log)
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    assert type(new) is Own
    assert new.name == "own"
    assert log == [1]
    steps(student, new, (0,))
    copy.deepcopy(new).load_state_dict(new.state_dict())


def test_hooks_stay_with_the_old_optimizer() -> None:
    network, calls = small(), []
    optimizer = adamw(network.parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    student = cut(network, Plan({}))
    new = cut_optimizer(optimizer, network, student, Plan({}))
    steps(student, new, (0,))
    assert not calls
    new.register_step_post_hook(lambda *_: calls.append(2))
    steps(student, new, (1,))
    steps(network, optimizer, (0,))
    assert calls == [2, 1]


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
@pytest.mark.parametrize("make", [momentum, adamw, lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01))])
def test_a_scheduler_goes_on_with_the_cut_optimizer(make: Make, schedule: Callable[[Optimizer], Any]) -> None:
    def train(network: nn.Module, optimizer: Optimizer, seeds: Iterable[int]) -> list[float]:
        rates = []
        for seed in seeds:
            steps(network, optimizer, (seed,))
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
            rates += [float(group["lr"]) for group in optimizer.param_groups]
        return rates

    network = small()
    scheduler = schedule(make(network.parameters()))
    uncut = train(network, scheduler.optimizer, range(9))

    network = small()
    scheduler = schedule(make(network.parameters()))
    optimizer = scheduler.optimizer
    rates = train(network, optimizer, range(3))
    plan = plan_for(network)
    student = cut(network, plan)
    new = cut_optimizer(optimizer, network, student, plan)
    for each in (scheduler, *getattr(scheduler, "_schedulers", ())):
        each.optimizer = new
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The second of a sequence has not stepped yet: torch then takes an optimizer without its wrapper for misuse.
        warnings.filterwarnings("ignore", "Seems like `optimizer.step")
        rates += train(student, new, range(3, 9))
    assert rates == uncut
    assert len(set(rates)) > 1


def refused(
    optimizer: Optimizer, network: nn.Module, plan: Plan, student: nn.Module | None = None
) -> CompressError:
    with pytest.raises(CompressError) as caught:
        cut_optimizer(optimizer, network, cut(network, plan) if student is None else student, plan)
    assert caught.value.hint
    assert str(caught.value).startswith(f"cannot cut the optimizer `{type(optimizer).__name__}`: ")
    return caught.value


def test_parameters_that_are_not_of_the_network_are_counted() -> None:
    network = small()
    error = refused(momentum([*network.parameters(), nn.Parameter(torch.ones(2))]), network, Plan({}))
    assert "1 of its 9 parameters are not in the network" in str(error)
    assert "8 of its 8" in str(refused(momentum(network.parameters()), copy.deepcopy(network), Plan({})))


def test_a_parameter_that_the_student_lacks_is_named() -> None:
    network = small()
    error = refused(momentum(network.parameters()), network, Plan({}), nn.Sequential(network[0]))
    assert "`2.weight`: the student has 0 such parameters, expected 1" in str(error)


def test_a_student_of_another_plan_or_type_is_refused() -> None:
    network = small()
    optimizer, plan = momentum(network.parameters()), Plan({"2.weight": {0: (0, 1)}, "2.bias": {0: (0, 1)}})
    shapes = r"`2.weight` of the student is (6, 8, 1, 1) torch.float64 on cpu, expected (2, 8, 1, 1)"
    assert shapes in str(refused(optimizer, network, plan, cut(network, Plan({}))))
    assert "torch.float32 on cpu, expected" in str(
        refused(optimizer, network, plan, cut(network, plan).float())
    )


@pytest.mark.parametrize("axes", [{0: (0, 9)}, {0: (-1,)}, {7: (0,)}])
def test_a_plan_that_does_not_fit_is_refused(axes: dict[int, tuple[int, ...]]) -> None:
    network = small()
    error = refused(momentum(network.parameters()), network, Plan({"2.weight": axes}), cut(network, Plan({})))
    assert "the plan does not fit `2.weight` of shape (6, 8, 1, 1)" in str(error)


def test_means_over_rows_and_columns_are_refused_where_the_plan_cuts_and_kept_elsewhere() -> None:
    network = small()
    optimizer = torch.optim.Adafactor(network.parameters())
    steps(network, optimizer, range(2))
    error = refused(optimizer, network, plan_for(network))
    assert "its `row_var` of `0.0.weight` is a Tensor of (8, 3, 3, 1), expected (8, 3, 3, 3)" in str(error)
    student = cut(network, Plan({}))
    new = cut_optimizer(optimizer, network, student, Plan({}))
    steps(student, new, (2,))
    steps(network, optimizer, (2,))
    assert same_bits(student, network)


def test_state_that_is_no_tensor_of_a_parameter_that_is_cut_is_refused() -> None:
    network = small()
    optimizer = momentum(network.parameters())
    optimizer.state[network[0][0].weight]["past"] = [torch.zeros(8)]
    error = refused(optimizer, network, plan_for(network))
    assert "its `past` of `0.0.weight` is a list of no shape" in str(error)


def test_optimizers_that_look_at_all_parameters_at_once_are_refused() -> None:
    network = small()
    assert "it keeps `_params` beside" in str(
        refused(torch.optim.LBFGS(network.parameters()), network, Plan({}))
    )
    optimizer = momentum(network.parameters())
    optimizer.state["average"] = torch.zeros(3)
    assert "it keeps `average` beside" in str(refused(optimizer, network, Plan({})))
