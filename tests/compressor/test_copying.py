"""Copies of a network with other tensors in place of its own: nothing is shared but what was shared before."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn

from compressor.errors import CompressError
from compressor.models.copying import copy_and_paths, copy_with, named_tensors
from tests.compressor.networks import Function, convolution, images, networks, with_statistics


def cloned(network: nn.Module) -> nn.Module:
    return copy_with(network, lambda name, tensor: tensor.clone())


@settings(max_examples=30, deadline=None)
@given(networks())
def test_a_copy_is_what_deepcopy_gives(network: nn.Module) -> None:
    ours, theirs = cloned(network), copy.deepcopy(network)
    assert [(n, type(m)) for n, m in ours.named_modules()] == [
        (n, type(m)) for n, m in theirs.named_modules()
    ]
    one, other = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [m.training for m in ours.modules()] == [m.training for m in theirs.modules()]
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
    x = images(2)
    assert torch.equal(ours(x), network(x))


@settings(max_examples=20, deadline=None)
@given(networks())
def test_no_memory_and_no_module_is_shared(network: nn.Module) -> None:
    copied = cloned(network)
    assert not {id(module) for module in copied.modules()} & {id(module) for module in network.modules()}
    own = {tensor.untyped_storage().data_ptr() for tensor in named_tensors(network).values()}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in named_tensors(copied).values()}


def test_every_tensor_has_a_name_and_is_named_once() -> None:
    network = Function(lambda self, x: x, layer=convolution(3, 4, True), bare=nn.Parameter(torch.ones(2)))
    network.again = network.layer
    network.plain = torch.zeros(3)
    network.pair = (torch.zeros(1), "text", torch.ones(1))
    network.table = {"a": torch.zeros(1), 3: torch.ones(1)}
    network.register_buffer("hidden", torch.ones(1), persistent=False)
    names = list(named_tensors(network))
    assert len(names) == len(set(names))
    assert {
        "bare",
        "layer.0.weight",
        "layer.1.num_batches_tracked",
        "plain",
        "pair.0",
        "pair.2",
        "table.a",
    } <= set(names)
    assert {"table.3", "hidden"} <= set(names)
    assert not any(name.startswith("again") for name in names)


def test_what_is_changed_stands_in_every_place_of_the_tensor() -> None:
    network = Function(lambda self, x: x, one=nn.Linear(3, 3), two=nn.Linear(3, 3))
    network.two.weight = network.one.weight
    network.alias = network.one.weight
    network.table = {"again": network.one.bias}
    copied = copy_with(network, lambda name, tensor: tensor + 1)
    assert copied.one.weight is copied.two.weight is copied.alias
    assert copied.table["again"] is copied.one.bias
    assert torch.equal(copied.one.weight, network.one.weight + 1)
    assert isinstance(copied.one.weight, nn.Parameter)


def test_a_parameter_stays_one_and_keeps_whether_it_is_trained() -> None:
    network = nn.Linear(3, 3)
    network.bias.requires_grad_(False)
    copied = copy_with(network, lambda name, tensor: tensor.double())
    assert [(type(p), p.dtype, p.requires_grad) for p in copied.parameters()] == [
        (nn.Parameter, torch.float64, True),
        (nn.Parameter, torch.float64, False),
    ]


def test_shared_and_nested_modules_keep_their_place() -> None:
    shared = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.ModuleList([shared]))
    copied, paths = copy_and_paths(network, lambda name, tensor: tensor.clone())
    assert copied[0] is copied[1][1] is copied[2][0]
    assert [path for path, _ in paths] == [path for path, _ in network.named_modules()]
    assert all(copied.get_submodule(path) is module for path, module in paths)


def test_attributes_are_copied_deeply_and_know_the_new_modules() -> None:
    network = Function(lambda self, x: x, layer=nn.Conv2d(3, 4, 1))
    network.settings = {"widths": [1, 2]}
    network.layers = [network.layer]  # a plain list: no child
    network.order = OrderedDict(first=network.layer)
    copied = cloned(network)
    copied.settings["widths"].append(3)
    assert network.settings == {"widths": [1, 2]}
    assert copied.layers[0] is copied.layer
    assert copied.order["first"] is copied.layer


def test_hooks_are_copied_and_the_callers_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    network[0].register_forward_hook(lambda module, args, output: output * 2)
    copied = cloned(network)
    x = images(1)
    assert torch.equal(copied(x), network(x))
    copied[0]._forward_hooks.clear()
    assert len(network[0]._forward_hooks) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(3, 4),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
        lambda: fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    ],
)
def test_modules_with_ways_of_their_own_are_copied(make: Any) -> None:
    torch.manual_seed(0)
    network = make().eval()
    copied = cloned(network)
    assert type(copied) is type(network) or isinstance(copied, fx.GraphModule)
    state = network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in copied.state_dict().items())
    x = torch.randn(2, 4, 3 if isinstance(network, nn.LSTM) or "4" in str(network)[:40] else 8)
    try:
        expected = network(x)
    except (TypeError, RuntimeError):
        return
    found = copied(x)
    for one, other in zip(leaves(expected), leaves(found), strict=True):
        assert torch.equal(one, other)


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for item in value for leaf in leaves(item)]


def test_a_class_that_copies_itself_is_asked_to() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.copies = nn.Linear(2, 2), 0

        def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
            twin = Counting()
            memo[id(self)] = twin
            twin.layer = copy.deepcopy(self.layer, memo)
            twin.copies = self.copies + 1
            return twin

    network = nn.Sequential(Counting())
    copied = copy_with(network, lambda name, tensor: tensor.double())
    assert copied[0].copies == 1
    assert copied[0].layer.weight.dtype == torch.float64


def test_a_network_that_cannot_be_copied_says_why() -> None:
    network = nn.Sequential(Function(lambda self, x: x))
    network[0].handle = (each for each in ())
    with pytest.raises(CompressError, match="cannot copy the network: cannot pickle 'generator' object"):
        cloned(network)


def test_the_network_given_is_not_changed_by_a_copy_that_fails() -> None:
    network = with_statistics(nn.Sequential(Function(lambda self, x: x), nn.BatchNorm1d(2)))
    network[0].handle = (each for each in ())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CompressError):
        copy_with(network, lambda name, tensor: tensor * 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_what_was_put_on_a_layer_of_torch_is_copied_and_seen_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    network[0].seen = []
    network[0].scale = torch.ones(4, 1, 1)
    assert "0.scale" in named_tensors(network)
    copied = copy_with(network, lambda name, tensor: tensor + 1)
    copied[0].seen.append(1)
    assert network[0].seen == []
    assert torch.equal(copied[0].scale, network[0].scale + 1)
