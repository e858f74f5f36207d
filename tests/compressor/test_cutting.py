"""The first equality of the product: a cut network is the original with those channels silenced.

Whatever form the student has, whatever the network is made of: it is proven, its costs are those of the plan, and the
network it was cut from is as before.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compressor.artifacts.student import same_bits
from compressor.errors import CompressError
from compressor.profiling import count
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.cost import costs_of
from compressor.pruning.graph.recording.example import Given
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import (
    BLOCKS,
    Attention,
    FlattenHead,
    Function,
    GatedMLP,
    OnTokens,
    PooledHead,
    Res2,
    Residual,
    Shuffled,
    convolution,
    cut_at_random,
    images,
    networks,
    proven,
    random_units,
    with_statistics,
)

seeds = st.integers(0, 2**16)
generated = settings(max_examples=60, deadline=None)
many = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
SIDE = images().shape[-1]


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(convolution(3, 8, True), nn.Sigmoid(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1))
    return with_statistics(layers)


# --- Random networks, random plans.


def cut_and_hold_to_its_promises(network: nn.Module, seed: int) -> None:
    before = state(network)
    graph, student, plan, checks = cut_at_random(network, seed=seed)
    assert all(check.passed for check in checks), checks
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(kept < units for units, kept in plan.widths.values()) == bool(plan.slices)
    widths = torch.tensor([plan.widths[group.name][1] for group in graph.groups], dtype=torch.int64).numpy()
    planned = {name: cost.of(widths) for name, cost in costs_of(graph).items()}
    counted = count(student, (images(),))
    assert (planned["macs"], planned["params"]) == (counted.macs, counted.params)


@generated
@given(networks(), seeds)
def test_random_networks_by_random_plans_are_proven_and_cost_what_was_planned(
    network: nn.Module, seed: int
) -> None:
    cut_and_hold_to_its_promises(network, seed)


@pytest.mark.slow
@many
@given(networks(), seeds)
def test_two_thousand_random_networks_by_random_plans(network: nn.Module, seed: int) -> None:
    cut_and_hold_to_its_promises(network, seed)


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_of_block_is_cut(kind: str) -> None:
    found = []

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(networks((kind,)), seeds)
    def cuts(network: nn.Module, seed: int) -> None:
        cut_and_hold_to_its_promises(network, seed)
        found.append(len(trace(network, images(1)).groups))

    cuts()
    assert max(found) > 1


def assert_one_network(one: nn.Module, other: nn.Module) -> None:
    """The same weights and the same answers; lookups that a program made of its own may be split differently."""
    weights = dict(other.named_parameters())
    assert all(torch.equal(tensor, weights.pop(name)) for name, tensor in one.named_parameters())
    assert not weights
    x = images(3)
    # float32, the same sums in the same order but for layouts; norms over few channels may enlarge that a little.
    torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-4)


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
    assert_one_network(cut(cut(network, large), rest), at_once)
    assert rest.after(large) == small

    assistant = cut(network, large)
    again = trace(assistant, images(1))
    further = plan_keeping(again, random_units(again, seed + 1))
    at_once = cut(network, further.after(large))
    assert_one_network(cut(assistant, further), at_once)
    checks = check_cut(network, at_once, further.after(large), images())
    assert all(check.passed for check in checks), checks


@generated
@given(networks(), seeds)
def test_attributes_that_repeat_a_size_follow_the_tensors(network: nn.Module, seed: int) -> None:
    _, student, _, _ = cut_at_random(network, seed=seed)
    for module in student.modules():
        if isinstance(module, nn.ConvTranspose2d):
            shape = (module.in_channels, module.out_channels // module.groups, *module.kernel_size)
            assert tuple(module.weight.shape) == shape
        elif isinstance(module, nn.modules.conv._ConvNd):
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            assert tuple(module.weight.shape) == shape
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.num_features == len(module.running_mean)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            assert module.normalized_shape == tuple(module.weight.shape)
        elif isinstance(module, nn.RNNBase):
            assert module.weight_hh_l0.shape[1] == module.hidden_size
            assert module.weight_ih_l0.shape[1] == module.input_size


# --- Which form a student has.


def random_inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class ConvNeXtLike(nn.Module):
    """A depthwise convolution, a layer norm over the last dimension, an inverted bottleneck, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.one, self.two = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.two(F.gelu(self.one(y)))).permute(0, 3, 1, 2)


OWN_CLASS: dict[str, Callable[[], nn.Module]] = {
    "resnet-like": lambda: nn.Sequential(
        convolution(3, 8, True), Residual(8, 8, True, nn.ReLU), Residual(8, 12, True, nn.ReLU), PooledHead(12)
    ),
    "convnext-like": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), ConvNeXtLike(8), ConvNeXtLike(8), PooledHead(8)
    ),
    "flattened": lambda: nn.Sequential(convolution(3, 8, True), nn.ReLU(), FlattenHead(8, 2, 6, True)),
    "torch's own shuffle": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv2d(16, 5, 1)
    ),
    "recurrent": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, 3), OnTokens(nn.LSTM(6, 5, batch_first=True)), PooledHead(5)
    ),
}
PROGRAM: dict[str, Callable[[], nn.Module]] = {
    "a shuffle written out": lambda: nn.Sequential(
        convolution(3, 8, True), Shuffled(8, 2, True), PooledHead(8)
    ),
    "a split by a number": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), OnTokens(GatedMLP(6, 5, True)), PooledHead(6)
    ),
    "a chain of parts": lambda: nn.Sequential(convolution(3, 12, True), Res2(12, 3), PooledHead(12)),
    "heads of a fixed width": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), OnTokens(Attention(6, 2, 4, 16, "relative")), PooledHead(6)
    ),
    "a scale from a number": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), OnTokens(Attention(6, 2, 4, 16, "torch")), PooledHead(6)
    ),
    "a view by a number": lambda: Function(
        lambda self, x: self.head(self.stem(x).mean((2, 3)).view(-1, 8)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Linear(8, 5),
    ),
    "a number made of a size": lambda: Function(
        lambda self, x: self.head(self.stem(x)) / self.stem.out_channels**0.5,
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
    ),
}


def halves(network: nn.Module, inputs: Given) -> tuple[nn.Module, Plan]:
    """Every second unit of every group."""
    graph = trace(network, inputs)
    assert graph.groups
    plan = plan_keeping(graph, {group.name: tuple(range(0, group.units, 2)) for group in graph.groups})
    return cut(network, plan), plan


@pytest.mark.parametrize("make", OWN_CLASS.values(), ids=OWN_CLASS)
def test_a_network_whose_python_follows_its_tensors_stays_of_its_own_class(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = with_statistics(make())
    _, student, plan, checks = cut_at_random(network)
    assert any(kept < units for units, kept in plan.widths.values())
    assert proven(checks), checks
    assert form_of(student) == "module"
    assert type(student) is type(network)
    assert [type(module) for module in student.modules()] == [type(module) for module in network.modules()]


@pytest.mark.parametrize("make", PROGRAM.values(), ids=PROGRAM)
def test_a_network_whose_python_fixes_a_size_becomes_a_program(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_statistics(make())
    # Positions that are not the same in every part: a program can, the network's own Python could not.
    _, student, plan, checks = cut_at_random(network, seed=1)
    assert any(kept < units for units, kept in plan.widths.values())
    assert proven(checks), checks
    assert form_of(student) == "program"
    assert set(student.state_dict()) <= set(network.state_dict()) | {"module.places", "1.module.places"} | {
        name for name in student.state_dict() if name.startswith("constant.")
    }
    smaller = sum(p.numel() for p in student.parameters())
    assert smaller < sum(p.numel() for p in network.parameters())


def test_a_number_made_of_a_size_keeps_the_teachers_value() -> None:
    torch.manual_seed(0)
    network = PROGRAM["a number made of a size"]().eval()
    student, plan = halves(network, images(1))
    numbers = [step[1] for step in student.description["steps"] if step[0] == "aten.div.Tensor"]
    assert numbers[0][1] == 8**0.5
    assert proven(check_cut(network, student, plan, images()))


def test_an_even_shuffle_keeps_the_own_class_and_an_uneven_one_does_not() -> None:
    torch.manual_seed(0)
    network = with_statistics(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 5, 1))
    )
    assert form_of(halves(network, images(1))[0]) == "module"


# --- Arguments and answers of every shape.


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0, more: Any = None) -> Tensor:
        z = self.left(x) * scale + self.right(y)
        return self.head(z if more is None else z + more["bias"][0])


TREES: dict[str, Given] = {
    "a tuple": (images(), images()[:, :1]),
    "keywords": {"x": images(), "y": images()[:, :1]},
    "a number beside": {"x": images(), "y": images()[:, :1], "scale": 0.5},
    "a tree": {"x": images(), "y": images()[:, :1], "more": {"bias": [torch.ones(4, 1, 1, 1)]}},
}


@pytest.mark.parametrize("inputs", TREES.values(), ids=TREES)
def test_networks_of_several_inputs_are_cut(inputs: Given) -> None:
    torch.manual_seed(0)
    network = TwoInputs()
    student, plan = halves(network, inputs)
    assert student.left.out_channels == 4
    assert proven(check_cut(network, student, plan, inputs))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))).inputs == plan.inputs


@dataclasses.dataclass
class Answer:
    classes: Tensor
    mask: Tensor
    note: str = ""


def answers(form: Callable[[Tensor, Tensor], object], fixed: bool) -> nn.Module:
    """Two heads on one stem; ``fixed``: with a size in its Python."""
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> object:
        x = self.stem(x)
        x = x.view(-1, 8, SIDE, SIDE) if fixed else x
        return form(self.head(x.mean((2, 3))), self.mask(x))

    parts = {"stem": nn.Conv2d(3, 8, 1), "head": nn.Linear(8, 5), "mask": nn.Conv2d(8, 2, 1)}
    return Function(forward, **parts).eval()


FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a dictionary": lambda classes, mask: {"classes": classes, "mask": mask},
    "a tuple": lambda classes, mask: (classes, mask),
    "a list with nothing": lambda classes, mask: [classes, None, mask],
    "a tree": lambda classes, mask: {"all": (classes, [mask]), "note": "as it is", "count": 2},
}


@pytest.mark.parametrize("fixed", [False, True], ids=["module", "program"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_answers_keep_their_form(form: Callable[[Tensor, Tensor], object], fixed: bool) -> None:
    network = answers(form, fixed)
    student, plan = halves(network, images(1))
    assert form_of(student) == ("program" if fixed else "module")
    assert proven(check_cut(network, student, plan, images()))
    assert shape_of(student(images(2))) == shape_of(network(images(2)))


def shape_of(value: object) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    return type(value)(shape_of(item) for item in value) if isinstance(value, list | tuple) else value


def test_a_data_class_is_answered_by_the_own_class_and_refused_by_a_program() -> None:
    student, plan = halves(answers(Answer, fixed=False), images(1))
    assert isinstance(student(images(1)), Answer)
    assert proven(check_cut(answers(Answer, fixed=False), student, plan, images()))
    with pytest.raises(CompressError, match="the network returns a Answer") as caught:
        halves(answers(Answer, fixed=True), images(1))
    assert "return tensors, tuples, lists or dictionaries" in str(caught.value.hint)


# --- What networks are made of besides layers.


def test_an_empty_plan_gives_an_equal_but_separate_network() -> None:
    network = chain()
    copied = cut(network, plan_keeping(trace(network, images(1)), {}))
    assert same_bits(network, copied)
    with torch.no_grad():
        copied[2].weight.zero_()
    assert network[2].weight.any()


@pytest.mark.parametrize("make", [chain, PROGRAM["a chain of parts"]], ids=["module", "program"])
def test_nothing_of_the_student_shares_memory_with_the_teacher(make: Callable[[], nn.Module]) -> None:
    network = make()
    _, student, _, _ = cut_at_random(network)
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in student.state_dict().values()}


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


def test_hooks_that_change_what_passes_are_cut_with_the_network() -> None:
    network = chain()
    network[1].register_forward_hook(lambda module, args, output: output * 2 + 1)
    network[2].register_forward_pre_hook(lambda module, args: (args[0] - 1,))
    _, student, _, checks = cut_at_random(network)
    assert student[2].in_channels < 8
    assert proven(checks)


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


def tied() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(
        nn.Conv2d(3, 6, SIDE), nn.Flatten(), first, nn.ReLU(), second, nn.Linear(6, 5)
    ).eval()


def test_tied_weights_stay_tied() -> None:
    _, student, _, checks = cut_at_random(tied())
    assert student[2].weight is student[4].weight
    assert student[2].in_features == student[2].out_features < 6
    assert proven(checks)


def test_an_embedding_tied_to_its_classifier_is_cut_on_the_axis_that_both_share() -> None:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: F.linear(self.body(self.words(x)), self.words.weight),
        words=nn.Embedding(11, 8),
        body=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
    )
    graph, student, _, checks = cut_at_random(network, torch.arange(8).view(4, 2))
    assert {group.units for group in graph.groups} == {8, 12}
    assert student.words.weight.shape[0] == 11
    assert student.words.embedding_dim == student.words.weight.shape[1] < 8
    assert proven(checks)


def test_tensors_that_no_layer_holds_are_cut() -> None:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: self.head(self.stem(x) * self.scale + self.shift + self.table["more"] + self.fixed),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
        scale=nn.Parameter(torch.rand(8, 1, 1)),
    ).eval()
    network.shift = torch.randn(1, 8, 1, 1)  # a plain attribute
    network.table = {"more": torch.randn(8, 1, 1)}
    network.register_buffer("fixed", torch.randn(8, SIDE, SIDE), persistent=False)
    _, student, _, checks = cut_at_random(network)
    left = student.stem.out_channels
    assert left < 8
    assert [t.shape[-3] for t in (student.scale, student.shift, student.table["more"], student.fixed)] == (
        [left] * 4
    )
    assert set(student.state_dict()) == set(network.state_dict())
    assert network.table["more"].shape[0] == 8
    assert proven(checks)


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm of the old style": nn.utils.weight_norm,
    "weight norm along another dimension": lambda m: nn.utils.parametrizations.weight_norm(m, dim=1),
    "weight norm over everything": lambda m: nn.utils.parametrizations.weight_norm(m, dim=None),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("training", [True, False])
def test_layers_with_weight_norm_are_cut_or_left_whole_and_proven(
    wrap: Callable[[nn.Module], nn.Module], training: bool
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), wrap(nn.Conv2d(6, 8, 1)), nn.ReLU(), nn.Conv2d(8, 5, 1)
    ).train(training)
    _, student, _, checks = cut_at_random(network)
    assert proven(checks), checks
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("training", [True, False])
def test_layers_with_spectral_norm_are_cut_or_left_whole_and_proven(
    wrap: Callable[[nn.Module], nn.Module], training: bool
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), wrap(nn.Conv2d(6, 8, 1)), nn.ReLU(), nn.Conv2d(8, 7, 1), nn.Conv2d(7, 5, 1)
    ).train(training)  # fmt: skip
    before = state(network)
    _, student, _, checks = cut_at_random(network)
    assert proven(checks), checks
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert student.get_parameter("4.weight").shape[0] < 7


def test_an_orthogonal_layer_and_its_neighbours_are_proven() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Flatten(), nn.utils.parametrizations.orthogonal(nn.Linear(6 * 64, 8)),
        nn.Linear(8, 6), nn.Linear(6, 5),
    ).eval()  # fmt: skip
    graph, _, _, checks = cut_at_random(network)
    assert "3" in [group.name for group in graph.groups]
    assert proven(checks), checks


def test_a_traced_graph_module_is_cut_as_its_network() -> None:
    torch.manual_seed(0)
    network = with_statistics(
        nn.Sequential(convolution(3, 8, True), Residual(8, 8, True, nn.ReLU), PooledHead(8))
    )
    traced = fx.symbolic_trace(network).eval()
    _, student, plan, checks = cut_at_random(traced)
    assert proven(checks), checks
    assert form_of(student) == "module"
    assert isinstance(student, fx.GraphModule)
    x = images()
    assert torch.equal(student(x), cut(network, plan)(x))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_part_is_cut_or_explained() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), torch.jit.script(nn.ReLU()), nn.Conv2d(8, 5, 1)).eval()
    try:
        _, _, _, checks = cut_at_random(network)
    except CompressError as error:
        assert error.hint  # noqa: PT017
    else:
        assert proven(checks)


def test_convolutions_of_one_channel_pass_unharmed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1),
        nn.Conv2d(1, 5, 1),
    )  # fmt: skip
    graph, student, _, checks = cut_at_random(with_statistics(network))
    assert [group.name for group in graph.groups] == ["2"]
    assert student[0].out_channels == student[4].out_channels == 1
    assert student[2].out_channels < 8
    assert proven(checks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [chain, PROGRAM["a chain of parts"]], ids=["module", "program"])
def test_networks_in_another_precision_are_cut_and_proven(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    network = with_statistics(make()).to(dtype)
    _, student, _, checks = cut_at_random(network, images().to(dtype))
    assert {parameter.dtype for parameter in student.parameters()} == {dtype}
    assert student(images().to(dtype)).dtype == dtype
    assert proven(checks)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("outputs", [8, 16])
def test_transposed_convolutions_are_cut(groups: int, outputs: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ConvTranspose2d(8, outputs, 2, stride=2, groups=groups),
        nn.Hardswish(),
        nn.Conv2d(outputs, 5, 1),
    )
    graph, student, _, checks = cut_at_random(network.eval())
    assert student[1].in_channels == student[0].out_channels
    assert student[1].out_channels == student[3].in_channels
    assert proven(checks)
    if groups == 1:
        assert [group.units for group in graph.groups] == [8, outputs]


# --- Cut again.


@pytest.mark.parametrize(
    "make", [*OWN_CLASS.values(), *PROGRAM.values()], ids=[*OWN_CLASS, *PROGRAM]
)  # fmt: skip
def test_a_student_is_cut_again_and_both_steps_are_one_plan(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_statistics(make())
    teacher, plan, students = network, None, []
    for step in range(3):
        graph = trace(teacher, images(1))
        further = plan_keeping(graph, random_units(graph, step, share=0.8))
        student = cut(teacher, further)
        assert proven(check_cut(teacher, student, further, images()))
        plan = further if plan is None else further.after(plan)
        students.append(student)
        teacher = student
    assert plan is not None
    at_once = cut(network, Plan.from_dict(json.loads(json.dumps(plan.to_dict()))))
    assert same_bits(at_once, students[-1])
    assert proven(check_cut(network, at_once, plan, images()))
    # The same weights through the same operators in the same order: no bit differs.
    assert torch.equal(at_once(images()), students[-1](images()))


def test_a_cut_network_is_cut_as_if_it_had_been_built_so_narrow() -> None:
    network = chain()
    graph = trace(network, images(1))
    student = cut(network, plan_keeping(graph, {"0.0": (0, 2, 5), "2": (1, 2)}))
    narrow = nn.Sequential(convolution(3, 3, True), nn.Sigmoid(), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 5, 1))
    narrow.load_state_dict(student.state_dict())
    again, built = trace(student, images(1)), trace(narrow, images(1))
    assert again.to_dict() == built.to_dict()
    assert same_bits(student, narrow.eval())


def test_several_cuts_at_a_time_leave_each_other_alone() -> None:
    network = chain()
    graph = trace(network, images(1))
    plans = [plan_keeping(graph, random_units(graph, seed)) for seed in range(3)]
    students = [cut(network, plan) for plan in plans]
    for plan, student in zip(plans, students, strict=True):
        assert same_bits(student, cut(network, plan))


# --- Training, and what is refused.


@pytest.mark.parametrize("make", [PROGRAM["a chain of parts"], OWN_CLASS["flattened"]])
def test_a_student_trains_as_the_teacher_would(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = with_statistics(make())
    _, student, _, _ = cut_at_random(network)
    student.train()(images()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_parameters_that_are_frozen_stay_frozen_in_a_program() -> None:
    torch.manual_seed(0)
    network = with_statistics(PROGRAM["a chain of parts"]())
    network[0][0].weight.requires_grad_(False)
    student, _ = halves(network, images(1))
    assert isinstance(student, Program)
    asked = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    assert not asked.pop("0.0.weight")
    assert all(asked.values())


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


def test_a_check_of_the_wrong_plan_fails() -> None:
    network = chain()
    graph = trace(network, images(1))
    one, other = (plan_keeping(graph, {"0.0": kept}) for kept in ((0, 1, 2), (3, 4, 5)))
    recorded, *cuts = check_cut(network, cut(network, one), other, images())
    assert recorded.passed
    assert not any(check.passed for check in cuts)


def test_the_same_cut_of_a_copy_is_the_same_student() -> None:
    network = chain()
    graph = trace(network, images(1))
    plan = plan_keeping(graph, random_units(graph, 0))
    assert same_bits(cut(network, plan), cut(copy.deepcopy(network), plan))
