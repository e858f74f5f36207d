"""The first equality of the product: a cut network is the original with those channels silenced."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.budget.cost import costs_of
from compressor.budget.plan import Plan, plan_keeping
from compressor.cutting import cut, silence
from compressor.errors import CompressError
from compressor.graph.trace import trace
from compressor.proof import check_cut
from compressor.student import same_bits
from profiles import count
from tests.compressor.networks import (
    FlattenHead,
    Function,
    Residual,
    convolution,
    cut_at_random,
    images,
    networks,
    proven,
    random_units,
    with_statistics,
)

seeds = st.integers(0, 2**16)
generated = settings(max_examples=300, deadline=None)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(convolution(3, 8, True), nn.Sigmoid(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1))
    return with_statistics(layers)


@generated
@given(networks(), seeds)
def test_a_cut_network_equals_the_original_with_those_channels_silenced(
    network: nn.Module, seed: int
) -> None:
    before = state(network)
    graph, student, plan, checks = cut_at_random(network, seed=seed)
    assert graph.groups
    assert all(check.passed for check in checks), checks
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(p.numel() for p in student.parameters()) <= sum(p.numel() for p in network.parameters())
    assert any(kept < units for units, kept in plan.widths.values()) == bool(plan.slices)


@generated
@given(networks(), seeds)
def test_planned_costs_are_those_of_the_cut_network(network: nn.Module, seed: int) -> None:
    graph, student, plan, _ = cut_at_random(network, seed=seed)
    widths = torch.tensor([plan.widths[group.name][1] for group in graph.groups]).numpy()
    planned = {name: cost.of(widths) for name, cost in costs_of(graph).items()}
    counted = count(student, (images(),))
    layers = [module for module in student.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert planned["macs"] == counted.macs
    assert planned["params"] == counted.params
    assert planned["channels"] == sum(layer.weight.shape[0] for layer in layers)


@generated
@given(networks(), seeds)
def test_plans_survive_json_and_compose(network: nn.Module, seed: int) -> None:
    graph = trace(network, images(1))
    outer = random_units(graph, seed, share=0.8)
    inner = {name: kept[: max(1, len(kept) // 2)] for name, kept in outer.items()}
    large, small = plan_keeping(graph, outer), plan_keeping(graph, inner)
    assert Plan.from_dict(json.loads(json.dumps(small.to_dict()))) == small

    rest = small.within(large)
    at_once = cut(network, small)
    assert same_bits(cut(cut(network, large), rest), at_once)
    assert rest.after(large) == small

    assistant = cut(network, large)
    again = trace(assistant, images(1))
    further = plan_keeping(again, random_units(again, seed + 1))
    assert same_bits(cut(assistant, further), cut(network, further.after(large)))


@generated
@given(networks(), seeds)
def test_attributes_that_repeat_a_size_follow_the_tensors(network: nn.Module, seed: int) -> None:
    _, student, _, _ = cut_at_random(network, seed=seed)
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert tuple(module.weight.shape) == shape
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.num_features == len(module.running_mean)


def test_a_silenced_network_has_zeros_in_every_slot_of_a_removed_channel() -> None:
    network = chain()
    graph = trace(network, images(1))
    plan = plan_keeping(graph, {"0.0": (0, 2, 3)})
    quiet = silence(network, plan).state_dict()
    gone = [1, 4, 5, 6, 7]
    for name in ("0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"):
        assert not quiet[name][gone].any()
        assert torch.equal(quiet[name][[0, 2, 3]], network.state_dict()[name][[0, 2, 3]])
    assert not quiet["2.weight"][:, gone].any()
    assert quiet["2.weight"][:, [0, 2, 3]].all()


def test_an_empty_plan_gives_an_equal_but_separate_network() -> None:
    network = chain()
    copied = cut(network, plan_keeping(trace(network, images(1)), {}))
    assert same_bits(network, copied)
    with torch.no_grad():
        copied[2].weight.zero_()
    assert network[2].weight.any()


def test_nothing_of_the_student_shares_memory_with_the_teacher() -> None:
    network = chain()
    _, student, _, _ = cut_at_random(network)
    own = {tensor.data_ptr() for tensor in network.state_dict().values() if tensor.dim()}
    assert not own & {tensor.data_ptr() for tensor in student.state_dict().values() if tensor.dim()}


def test_hooks_and_training_flags_of_the_callers_module_are_as_before() -> None:
    network = chain()
    network[2].train()
    network[0].requires_grad_(False)
    network[2].weight.grad = torch.ones_like(network[2].weight)
    network[2].register_forward_hook(lambda module, args, output: None)
    flags = [module.training for module in network.modules()]
    _, student, _, _ = cut_at_random(network)
    assert [module.training for module in network.modules()] == flags
    assert [len(module._forward_hooks) for module in network.modules()].count(1) == 1
    assert [len(module._forward_pre_hooks) for module in network.modules()].count(0) == len(flags)
    assert torch.equal(network[2].weight.grad, torch.ones_like(network[2].weight))
    assert [module.training for module in student.modules()] == flags
    assert not student[0][0].weight.requires_grad
    assert student[2].weight.requires_grad


def test_a_module_used_twice_stays_one_module() -> None:
    torch.manual_seed(0)
    shared = convolution(8, 8, True)
    network = with_statistics(
        nn.Sequential(convolution(3, 8, True), shared, nn.ReLU(), shared, nn.Conv2d(8, 5, 1))
    )
    graph, student, _, checks = cut_at_random(network)
    assert [group.units for group in graph.groups] == [8]
    assert student[1] is student[3]
    assert student[1][0].out_channels < 8
    assert proven(checks)


def test_tied_weights_stay_tied() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    network = nn.Sequential(
        nn.Conv2d(3, 6, SIDE), nn.Flatten(), first, nn.ReLU(), second, nn.Linear(6, 5)
    ).eval()
    _, student, _, checks = cut_at_random(network)
    assert student[2].weight is student[4].weight
    assert student[2].in_features == student[2].out_features < 6
    assert proven(checks)


SIDE = images().shape[-1]


def test_a_network_with_named_outputs_is_cut_and_all_its_outputs_are_kept_whole() -> None:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: {"classes": self.head(self.stem(x).mean((2, 3))), "mask": self.mask(self.stem(x))},
        stem=nn.Conv2d(3, 8, 3),
        head=nn.Linear(8, 5),
        mask=nn.Conv2d(8, 2, 1),
    ).eval()
    _, student, _, checks = cut_at_random(network)
    found = student(images(2))
    assert found["classes"].shape == (2, 5)
    assert found["mask"].shape[1] == 2
    assert student.stem.out_channels < 8
    assert proven(checks)


def test_convolutions_of_one_channel_pass_unharmed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 1, 3),
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 1, 1),
        nn.Conv2d(1, 5, 1),
    )
    graph, student, _, checks = cut_at_random(with_statistics(network))
    assert [group.name for group in graph.groups] == ["2"]
    assert student[0].out_channels == student[4].out_channels == 1
    assert student[2].out_channels < 8
    assert proven(checks)


def test_networks_in_half_precision_are_cut_and_proven() -> None:
    network = chain().to(torch.float16)
    _, student, _, checks = cut_at_random(network, images().half())
    assert student[0][0].weight.dtype == torch.float16
    assert proven(checks)


@pytest.mark.parametrize("outputs", [6, 8])
def test_transposed_convolutions_are_cut_on_both_axes(outputs: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ConvTranspose2d(8, outputs, 2, stride=2),
        nn.Hardswish(),
        nn.Conv2d(outputs, 5, 1),
    )
    graph, student, _, checks = cut_at_random(network.eval())
    assert [group.units for group in graph.groups] == [8, outputs]
    assert student[1].in_channels == student[0].out_channels < 8
    assert student[1].out_channels == student[3].in_channels < outputs
    assert proven(checks)


def test_a_plan_for_another_network_names_the_missing_tensor() -> None:
    with pytest.raises(CompressError, match=r"cannot cut `nowhere.weight`: the network has no such tensor"):
        cut(chain(), Plan({"nowhere.weight": {0: (0,)}}))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({0: (0, 9)}, "axis 0 has 6 indices, the plan keeps index 9"),
        ({0: (9, 0)}, "axis 0 has 6 indices, the plan keeps index 9"),
        ({0: (-1, 0)}, "axis 0 has 6 indices, the plan keeps index -1"),
        ({0: ()}, "axis 0 has 6 indices, the plan keeps 0"),
        ({7: (0,)}, "axis 7 has 0 indices, the plan keeps index 0"),
    ],
)
def test_a_plan_that_does_not_fit_a_tensor_names_it(axes: dict[int, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CompressError, match=f"cannot cut `2.weight`: {message}"):
        cut(chain(), Plan({"2.weight": axes}))


def test_a_student_trains_as_the_teacher_would() -> None:
    torch.manual_seed(0)
    network = with_statistics(nn.Sequential(Residual(3, 8, True, nn.ReLU), FlattenHead(8, 2, 6, True)))
    _, student, _, _ = cut_at_random(network)
    student.train()(images()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_check_of_the_wrong_plan_fails() -> None:
    network = chain()
    graph = trace(network, images(1))
    one, other = (plan_keeping(graph, {"0.0": kept}) for kept in ((0, 1, 2), (3, 4, 5)))
    assert not any(check.passed for check in check_cut(network, cut(network, one), other, (images(),)))
