"""Recording: every operator is seen, the module it ran in is known, the caller's network never runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from compressor.errors import CompressError
from compressor.graph.record import on_meta, record
from tests.compressor.networks import Function, images


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 5, 1)))


def test_operators_are_recorded_in_order_with_the_module_they_ran_in() -> None:
    recording = record(pair(), (images(1),))
    seen = [(operation.operator, operation.module) for operation in recording.operations]
    assert [pair for pair in seen if pair[0] != "detach"] == [
        ("convolution", "0"),
        ("relu", "1.0"),
        ("convolution", "1.1"),
    ]


def test_parameters_and_buffers_are_known_by_name() -> None:
    recording = record(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), (images(1),))
    (convolution,) = [each for each in recording.operations if each.operator == "convolution"]
    assert recording.names[id(convolution.args[1])] == "0.weight"
    assert recording.names[id(convolution.args[2])] == "0.bias"
    assert "1.running_var" in recording.names.values()


def test_python_in_the_forward_pass_is_simply_executed() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(3 if x.shape[1] == 3 else 1):
            x = self.layer(x)
        return x

    recording = record(Function(forward, layer=nn.Conv2d(3, 3, 1)), (images(1),))
    assert [each.operator for each in recording.operations].count("convolution") == 3


def test_the_copy_has_no_data_and_keeps_sharing() -> None:
    network = pair()
    network.append(network[0])
    copied, names = on_meta(network)
    assert all(tensor.is_meta for tensor in copied.parameters())
    assert copied[2] is copied[0]
    assert sorted(names.values()) == sorted(name for name, _ in network.named_parameters())


def test_the_callers_network_is_as_before() -> None:
    network = pair().train()
    before = [tensor.clone() for tensor in network.parameters()]
    record(network, (images(1),))
    assert network.training
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))


def test_counting_batches_is_not_done_by_recording() -> None:
    norm = nn.BatchNorm2d(3).train()
    record(norm, (images(1),))
    assert norm.num_batches_tracked == 0


def test_every_tensor_of_a_nested_output_is_an_end() -> None:
    network = Function(lambda self, x: {"a": x + 1, "b": [x, (x * 2,)]})
    assert len(record(network, (images(1),)).outputs) == 3


def test_a_failing_forward_names_the_layer_and_the_shapes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(7, 5, 1))
    with pytest.raises(CompressError, match="cannot trace the network in `1`: ") as caught:
        record(network, (images(1),))
    assert "(1, 3, 8, 8)" in str(caught.value.hint)


def test_code_that_looks_at_values_is_explained() -> None:
    network = Function(lambda self, x: x if x.sum() > 0 else -x)
    with pytest.raises(CompressError, match="cannot trace the network: ") as caught:
        record(network, (images(1),))
    assert "meta tensors" in str(caught.value.hint)


@dataclasses.dataclass
class Answer:
    classes: Tensor


def test_an_output_that_hides_its_tensors_is_refused() -> None:
    network = Function(lambda self, x: Answer(self.head(x)), head=nn.Conv2d(3, 5, 1))
    with pytest.raises(CompressError, match="cannot follow the network's output, a Answer"):
        record(network, (images(1),))


def test_weights_computed_by_hooks_are_explained() -> None:
    network = pair()
    prune.l1_unstructured(network[0], "weight", 0.5)
    with pytest.raises(CompressError, match="cannot copy the network") as caught:
        record(network, (images(1),))
    assert "prune.remove" in str(caught.value.hint)
    prune.remove(network[0], "weight")
    assert record(network, (images(1),)).outputs


def test_lazy_layers_are_explained() -> None:
    with pytest.raises(CompressError, match="cannot copy the network") as caught:
        record(nn.LazyConv2d(8, 1), (images(1),))
    assert "run a network with lazy layers once" in str(caught.value.hint)
