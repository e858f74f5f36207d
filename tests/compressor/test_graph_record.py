"""Recording: every operator is seen, the module it ran in is known, the caller's network never runs."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from compressor.errors import CompressError
from compressor.pruning.graph.recording.example import Given, inputs_of
from compressor.pruning.graph.recording.operation import Recording
from compressor.pruning.graph.recording.record import on_meta, record
from compressor.pruning.graph.recording.replay import replay
from compressor.pruning.graph.trace import trace
from tests.compressor.networks import Function, Residual, images, with_statistics


def recorded(network: nn.Module, inputs: Given | None = None) -> Recording:
    return record(network, inputs_of(images(1) if inputs is None else inputs))


def operators(recording: Recording) -> list[tuple[str, str]]:
    return [(operation.operator, operation.module) for operation in recording.operations]


def refused(network: nn.Module, inputs: Given | None = None) -> CompressError:
    with pytest.raises(CompressError) as caught:
        trace(network, images(1) if inputs is None else inputs)
    return caught.value


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 5, 1)))


def test_operators_are_recorded_in_order_with_the_module_they_ran_in() -> None:
    assert operators(recorded(pair())) == [
        ("convolution", "0"),
        ("relu", "1.0"),
        ("convolution", "1.1"),
    ]


def test_what_a_parent_does_between_two_children_is_its_own() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).sin()).cos()

    assert operators(recorded(nn.Sequential(Block()))) == [
        ("convolution", "0.one"),
        ("sin", "0"),
        ("convolution", "0.two"),
        ("cos", "0"),
    ]


def test_a_module_that_runs_twice_is_recorded_twice_under_its_first_name() -> None:
    shared = nn.Conv2d(3, 3, 1)
    assert operators(recorded(nn.Sequential(shared, nn.ReLU(), shared))) == [
        ("convolution", "0"),
        ("relu", "1"),
        ("convolution", "0"),
    ]


def test_parameters_and_buffers_are_known_by_name() -> None:
    recording = recorded(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    convolution, norm = recording.operations
    assert [recording.names[id(tensor)] for tensor in convolution.args[1:3]] == ["0.weight", "0.bias"]
    assert [recording.names[id(tensor)] for tensor in norm.args[1:5]] == [
        "1.running_mean",
        "1.running_var",
        "1.weight",
        "1.bias",
    ]
    assert recording.parameters == {
        "0.weight": (8, 3, 1, 1),
        "0.bias": (8,),
        "1.weight": (8,),
        "1.bias": (8,),
    }


def test_plain_tensor_attributes_are_known_by_name() -> None:
    network = Function(lambda self, x: x * self.scale + self.table["shift"] - self.steps[1])
    network.scale = torch.ones(3, 1, 1)
    network.table = {"shift": torch.zeros(3, 1, 1)}
    network.steps = [torch.zeros(1), torch.zeros(1)]
    assert {"scale", "table.shift", "steps.1"} <= set(recorded(network).names.values())


def test_python_in_the_forward_pass_is_simply_executed() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(3 if x.shape[1] == 3 else 1):
            x = self.layer(x)
        return x

    recording = recorded(Function(forward, layer=nn.Conv2d(3, 3, 1)))
    assert [each.operator for each in recording.operations] == ["convolution"] * 3


LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a linear layer": (lambda x: F.linear(x, x[0, 0]), "linear"),
    "a product": (lambda x: x @ x.mT, "matmul"),
    "a product of batches": (lambda x: torch.bmm(x[0], x[0]), "matmul"),
    "an einsum": (lambda x: torch.einsum("bcij,bcjk->bcik", x, x), "bmm"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), "attention"),
    "a layer norm": (lambda x: F.layer_norm(x, (8,)), "layer_norm"),
    "an rms norm": (lambda x: F.rms_norm(x, (8,)), "rms_norm"),
    "a group norm": (lambda x: F.group_norm(x, 3), "group_norm"),
    "an instance norm": (F.instance_norm, "instance_norm"),
    "a pool to a size": (lambda x: F.adaptive_avg_pool2d(x, 2), "adaptive_avg_pool2d"),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), "dropout"),
    "a convolution with a padding in words": (
        lambda x: F.conv2d(x, x[:, :, :3, :3].expand(4, 3, 3, 3), padding="same"),
        "convolution",
    ),
    "a convolution of an even kernel with a padding in words": (
        lambda x: F.conv2d(x, x[:, :, :2, :2].expand(4, 3, 2, 2), padding="same"),
        "convolution",
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("function", "operator"), LAYERS.values(), ids=LAYERS)
def test_layers_are_recorded_whole_and_have_the_shapes_that_torch_gives(
    function: Callable[[Tensor], Tensor], operator: str
) -> None:
    recording = recorded(Function(lambda self, x: function(x)))
    assert operator in [each.operator for each in recording.operations]
    assert recording.outputs[0].shape == function(images(1)).shape


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention_is_recorded_layer_by_layer(heads: int, weights: bool) -> None:
    network = Function(
        lambda self, x: self.look(x, x, x, need_weights=weights)[0],
        look=nn.MultiheadAttention(8, heads, batch_first=True),
    )
    found = [operator for operator, _ in operators(recorded(network, torch.randn(2, 3, 8)))]
    assert found.count("linear") == 2
    assert ("attention" in found) != weights


@pytest.mark.parametrize(
    "network",
    [
        lambda: with_statistics(nn.Sequential(Residual(3, 8, True, nn.SiLU), nn.AdaptiveAvgPool2d((2, None)))),
        lambda: Function(lambda self, x: F.interpolate(x.roll(1, 1).cumsum(2), scale_factor=2)[:, [2, 0]]),
        lambda: Function(lambda self, x: self.memory(x.flatten(2).mT)[0], memory=nn.LSTM(3, 4, batch_first=True)),
        lambda: Function(lambda self, x: x.transpose(1, 3).clone(memory_format=torch.contiguous_format).mean((1, -1))),
        lambda: Function(lambda self, x: torch.einsum("bchw,dc->bdhw", x, self.w), w=nn.Parameter(torch.randn(5, 3))),
    ],
)  # fmt: skip
def test_what_is_recorded_is_what_the_network_computes(network: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    teacher = network().double().eval()
    x = images(3).double()
    recording = recorded(teacher, x)
    state = dict([*teacher.named_parameters(), *teacher.named_buffers()])
    with torch.no_grad():
        (found,) = replay(recording, state, [x])
        # float64, and the same operators: only kernels chosen by memory layout may round in another order.
        torch.testing.assert_close(found, teacher(x), rtol=1e-13, atol=1e-13)


def test_the_copy_has_no_data_and_keeps_sharing() -> None:
    network = pair()
    network.append(network[0])
    network[1][1].weight = nn.Parameter(torch.ones(5, 8, 1, 1))
    copied, names, originals, paths = on_meta(network)
    assert all(tensor.is_meta for tensor in copied.parameters())
    assert all(
        meta.is_meta and tensor is network.get_parameter(names[key])
        for key, (meta, tensor) in originals.items()
    )
    assert copied[2] is copied[0]
    assert sorted(names.values()) == sorted(name for name, _ in network.named_parameters())
    assert [path for path, _ in paths] == [path for path, _ in network.named_modules()]


# --- The caller's network is as it was, whether recording succeeds or fails.


def everything(network: nn.Module) -> list[Any]:
    """All there is to see of a network: bits, flags, hooks, attributes."""
    return [
        (
            path,
            module,
            module.training,
            [
                (name, id(t), t._version, t.clone(), t.requires_grad)
                for tensors in (module._parameters, module._buffers)
                for name, t in tensors.items()
                if t is not None
            ],
            {key: id(value) for key, value in module.__dict__.items()},
            list(module._forward_hooks.values()),
            list(module._forward_pre_hooks.values()),
        )
        for path, module in network.named_modules()
    ]  # fmt: skip


def assert_untouched(before: list[Any], after: list[Any]) -> None:
    def bits(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().numpy().tobytes()
        if isinstance(value, dict):
            return {key: bits(item) for key, item in value.items()}
        return tuple(bits(item) for item in value) if isinstance(value, list | tuple) else value

    assert bits(before) == bits(after)


def busy() -> nn.Sequential:
    """Norms, dropout, hooks, parametrizations, mixed training flags: all that recording could trip over."""
    network = nn.Sequential(
        Residual(3, 8, True, nn.ReLU),
        nn.Dropout(0.5),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1)),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 5, 1),
    )
    network[4].eval()
    network[4].weight.requires_grad_(False)
    network[3].register_forward_hook(lambda module, args, output: output)
    network[1].register_forward_pre_hook(lambda module, args: None)
    return network


def test_the_callers_network_is_bitwise_as_before() -> None:
    network = busy()
    before = everything(network)
    recorded(network)
    trace(network, images(1))
    assert_untouched(before, everything(network))


def test_the_callers_network_is_bitwise_as_before_after_a_failure_too() -> None:
    network = busy().append(nn.Conv2d(99, 1, 1))
    before = everything(network)
    refused(network)
    assert_untouched(before, everything(network))


def test_the_callers_example_is_as_before() -> None:
    network = Function(lambda self, x: x.mul_(0).add_(1))
    x = images(1)
    before = x.clone()
    recorded(network, x)
    assert torch.equal(x, before)


def test_counting_batches_is_not_done_by_recording() -> None:
    norm = nn.BatchNorm2d(3).train()
    recorded(norm)
    assert norm.num_batches_tracked == 0


def test_a_network_in_training_is_recorded_as_in_evaluation() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
    assert [operation.args[-1] is True for operation in recorded(network).operations] == [False, False]
    assert recorded(network).operations[1].args[5] is False


def test_a_cache_that_a_network_fills_is_left_empty_in_the_callers() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.arange(x.shape[-1], device=x.device)
        return x + self.grid

    network = Function(forward)
    network.grid = None
    recorded(network)
    assert network.grid is None


def test_recording_twice_gives_the_same_operators() -> None:
    network = busy()
    assert operators(recorded(network)) == operators(recorded(network))


def test_recording_leaves_no_mode_behind_after_an_error() -> None:
    refused(Function(lambda self, x: x if x.sum() > 0 else -x))
    assert torch.equal(F.linear(torch.ones(1, 2), torch.ones(1, 2)), torch.full((1, 1), 2.0))
    assert torch.is_grad_enabled()


# --- Arguments and results of any shape.


@dataclasses.dataclass
class Answer:
    classes: Tensor
    score: float = 1.0


Pair = collections.namedtuple("Pair", "one two")


def test_every_tensor_of_a_nested_output_is_an_end() -> None:
    network = Function(
        lambda self, x: {"a": x + 1, "b": [x, (x * 2, None)], "c": Answer(x - 1), "d": Pair(x, x)}
    )
    assert len(recorded(network).outputs) == 6


def test_keyword_arguments_and_trees_of_inputs_are_passed_on() -> None:
    class Many(nn.Module):
        def forward(self, image: Tensor, *, extra: dict[str, Any], scale: float = 1.0) -> Tensor:
            return image * scale + extra["more"][0]

    recording = recorded(Many(), {"image": images(1), "extra": {"more": [images(1)]}, "scale": 2.0})
    assert len(recording.inputs) == 2
    assert recording.operations[0].args[1] == 2.0


def test_a_data_class_that_hides_no_tensor_is_followed() -> None:
    network = Function(lambda self, x: Answer(self.head(x)), head=nn.Conv2d(3, 5, 1))
    assert recorded(network).outputs[0].shape == (1, 5, 8, 8)


class Hidden:
    def __init__(self, classes: Tensor) -> None:
        self.classes = classes


# --- What cannot be recorded: the error names the place, the cause and the way out.


def test_an_output_that_hides_its_tensors_is_refused() -> None:
    error = refused(Function(lambda self, x: Hidden(self.head(x)), head=nn.Conv2d(3, 5, 1)))
    assert str(error).startswith("cannot follow the network's output, a Hidden")
    assert error.hint is not None
    assert "return a tensor" in error.hint


def test_a_failing_forward_names_the_layer_and_the_shapes() -> None:
    error = refused(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(7, 5, 1)))
    assert str(error).startswith("cannot trace the network in `1`: ")
    assert "(1, 3, 8, 8) float32" in str(error.hint)


def test_an_input_of_the_wrong_type_names_the_layer_and_the_type() -> None:
    network = Function(
        lambda self, x: self.head(self.words(x)), words=nn.Embedding(10, 6), head=nn.Linear(6, 5)
    )
    error = refused(network, torch.zeros(1, 4))
    assert str(error).startswith("cannot trace the network in `words` (test_graph_record.py:")
    assert "(1, 4) float32" in str(error.hint)
    assert "type" in str(error.hint)


def test_a_mistake_in_the_networks_own_python_names_its_line() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x.reshape(7, -1)  # the line that is named

    error = refused(nn.Sequential(nn.ReLU(), Function(forward)))
    line = forward.__code__.co_firstlineno + 1
    assert str(error).startswith(f"cannot trace the network in `1` (test_graph_record.py:{line}): ")


VALUES: dict[str, Callable[[Tensor], object]] = {
    "a condition": lambda x: x if x.sum() > 0 else -x,
    "a number": lambda x: x * x.max().item(),
    "a whole number": lambda x: x * int(x.sum()),
    "a selection": lambda x: x[x > 0],
    "places": torch.nonzero,
    "a list": lambda x: x * x.flatten().tolist()[0],
    "different values": torch.unique,
    "an array": lambda x: torch.from_numpy(x.numpy()),
}


@pytest.mark.parametrize("function", VALUES.values(), ids=VALUES)
def test_code_that_looks_at_values_is_explained(function: Callable[[Tensor], object]) -> None:
    error = refused(nn.Sequential(nn.ReLU(), Function(lambda self, x: function(x))))
    assert "in `1` (test_graph_record.py:" in str(error)
    assert "depends on the values of its input" in str(error)
    assert "wrap the part before" in str(error.hint)


def test_an_operator_without_a_rule_is_listed_with_its_module_and_its_line() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(torch.special.entr(self.stem(x)))

    graph = trace(
        nn.Sequential(Function(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 5, 1))), images(1)
    )
    (item,) = graph.unsupported
    line = forward.__code__.co_firstlineno + 1
    assert (item.module, item.operator, item.line) == ("0", "special_entr", f"test_graph_record.py:{line}")


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout that is always on": lambda x: F.dropout(x, 0.5),
    "dropout of channels that is always on": lambda x: F.dropout2d(x, 0.5),
    "noise": lambda x: x + torch.randn_like(x),
    "noise of a given shape": lambda x: x + torch.rand(x.shape, device=x.device),
    "a drawn choice": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "noise in place": lambda x: x + torch.empty_like(x).normal_(),
}


@pytest.mark.parametrize("function", RANDOM.values(), ids=RANDOM)
def test_randomness_in_evaluation_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    error = refused(nn.Sequential(nn.Conv2d(3, 8, 1), Function(lambda self, x: function(x))))
    assert str(error).startswith("the network draws random numbers in evaluation mode: `")
    assert "in `1`" in str(error)
    assert "self.training" in str(error.hint)


def test_randomness_in_training_only_is_welcome() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Dropout2d(0.2),
        nn.RReLU(),
        Function(lambda self, x: x + torch.randn_like(x) if self.training else x),
        nn.Conv2d(8, 5, 1),
    ).train()
    assert [group.units for group in trace(network, images(1)).groups] == [8]


def test_a_network_that_changes_its_own_tensors_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen

    network = nn.Sequential(Function(forward))
    network[0].register_buffer("seen", torch.zeros(3, 1, 1))
    error = refused(network)
    assert str(error).startswith("the network changes its own `0.seen` while it runs: `add_` in `0`")
    assert ".clone()" in str(error.hint)
    assert not network[0].seen.any()


def test_weights_with_a_mask_of_pruning_are_recorded() -> None:
    network = pair()
    prune.l1_unstructured(network[0], "weight", 0.5)
    assert "0.weight_orig" in recorded(network).names.values()


def test_lazy_layers_are_explained() -> None:
    error = refused(nn.Sequential(nn.ReLU(), nn.LazyConv2d(8, 1)))
    assert str(error) == "cannot trace: `1.weight` has no shape yet"
    assert error.hint == "run the network with lazy layers once"


@pytest.mark.filterwarnings("ignore")
def test_quantised_and_sparse_weights_are_explained() -> None:
    for tensor, kind in (
        (torch.quantize_per_tensor(torch.randn(4, 3), 0.1, 0, torch.qint8), "quantised"),
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.eye(3).to_sparse_csr(), "sparse_csr"),
    ):
        network = nn.Sequential(nn.ReLU())
        network[0].register_buffer("table", tensor)
        error = refused(network)
        assert str(error) == f"cannot trace: `0.table` is {kind}, expected a dense tensor"
        assert "before it is quantised or made sparse" in str(error.hint)


@pytest.mark.filterwarnings("ignore")
def test_a_dynamically_quantised_network_is_explained() -> None:
    network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 5)), dtype=torch.qint8)
    assert str(refused(network, torch.randn(1, 8))).startswith("cannot ")


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 0, 8)])
def test_an_example_that_holds_nothing_is_refused(shape: tuple[int, ...]) -> None:
    error = refused(pair(), torch.zeros(shape))
    assert str(error) == f"the example input has the shape {shape}, which holds nothing"
    assert error.hint == "every dimension must be at least 1"


def test_an_example_without_a_tensor_is_refused() -> None:
    assert str(refused(pair(), ("a name",))) == "the example input is tuple without a tensor"
    assert str(refused(pair(), {})) == "the example input is dict without a tensor"


def test_an_argument_that_is_no_value_is_refused() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor, how: object) -> Tensor:
            return x

    assert str(refused(Asks(), (images(1), object()))) == "an argument of the example is a object"


def test_a_network_that_cannot_be_copied_is_explained() -> None:
    network = Function(lambda self, x: x)
    network.handle = (each for each in ())
    error = refused(network)
    assert str(error).startswith("cannot copy the network: ")
    assert error.hint == "it must be possible to copy.deepcopy it"


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_network_is_recorded_or_explained() -> None:
    scripted = torch.jit.script(pair().eval())
    try:
        assert recorded(scripted).outputs[0].shape == (1, 5, 6, 6)
    except CompressError as error:
        assert error.hint  # noqa: PT017


def test_networks_are_recorded_wherever_their_copy_is() -> None:
    network = busy()
    assert operators(recorded(copy.deepcopy(network))) == operators(recorded(network))
