"""The ways to score all channels of a network that `saliency.py` times: ours, torch-pruning, and what one writes.

Everyone gets a `Copy`: the same network with its own weights and gradients, so that caches can be cold. Ours and the
plain ways sum every axis of every parameter that a group of ours lives on, and add the sums up into groups;
torch-pruning scores its own groups, found beforehand, as shipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.kernels.sums import channel_sums

CLASSES = 1000  # a layer of this many outputs is the classifier, which torch-pruning is told to leave alone
WIDTHS = ("out_features", "out_channels")
OUTPUTS = ("prune_conv_out_channels", "prune_linear_out_channels")
INPUTS = ("prune_conv_in_channels", "prune_linear_in_channels")


@dataclass(frozen=True)
class Places:
    """Where the groups of a graph live: axes of parameters; and from the channels of all axes to units of groups."""

    names: tuple[str, ...]
    axes: tuple[tuple[int, int], ...]
    channels: Tensor  # into the channels of all axes, one after the other
    units: Tensor  # of all groups, one after the other: which one that channel belongs to
    count: int


@dataclass(frozen=True)
class Copy:
    """One of several equal networks: its parameters, their gradients, and torch-pruning's view of it."""

    weights: list[Tensor]
    gradients: list[Tensor]
    named: Mapping[str, Tensor]
    theirs: list[Any]

    @property
    def bytes(self) -> int:
        """Of the weights alone, each counted once."""
        return sum(weight.numel() * weight.element_size() for weight in self.weights)


def places_of(network: nn.Module, graph: ChannelGraph, device: torch.device) -> Places:
    shapes = {name: value.shape for name, value in network.named_parameters()}
    slots = [slot for group in graph.groups for slot in group.slots if slot.tensor in shapes]
    names = tuple(dict.fromkeys(slot.tensor for slot in slots))
    pairs = list(dict.fromkeys((slot.tensor, slot.axis) for slot in slots))
    starts = dict(zip(pairs, np.cumsum([0] + [shapes[name][axis] for name, axis in pairs]), strict=False))
    channels, units, count = [], [], 0
    for group in graph.groups:
        for slot in group.slots:
            if slot.tensor in shapes:
                channels.append(starts[slot.tensor, slot.axis] + slot.indices.reshape(-1))
                units.append(count + np.repeat(np.arange(group.units), slot.indices.shape[1]))
        count += group.units
    index = [torch.from_numpy(np.concatenate(each)).to(device) for each in (channels, units)]
    return Places(names, tuple((names.index(name), axis) for name, axis in pairs), *index, count)


def copy_of(
    network: nn.Module, places: Places, image: Tensor, dtype: torch.dtype, device: torch.device
) -> Copy:
    """Gradients are random: no time depends on what they are."""
    network = copy.deepcopy(network)
    theirs = groups_of_torch_pruning(network, image)
    network.to(device, dtype)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    named = dict(network.named_parameters())
    weights = [named[name].detach() for name in places.names]
    return Copy(weights, [named[name].grad for name in places.names], named, theirs)


def groups_of_torch_pruning(network: nn.Module, image: Tensor) -> list[Any]:
    """Found here, on the CPU and before the clock starts; an empty list where it is missing or fails."""
    try:
        tp = import_module("torch_pruning")
        classifier = [
            each for each in network.modules() if CLASSES in (vars(each).get(key) for key in WIDTHS)
        ]
        graph = tp.DependencyGraph().build_dependency(network, example_inputs=image, verbose=False)
        return list(graph.get_all_groups(ignored_layers=classifier))
    except Exception as error:
        print(f"torch-pruning is left out: {error!r}")
        return []


def in_groups(sums: list[Tensor], places: Places) -> Tensor:
    values = torch.cat(sums).double().abs()
    return values.new_zeros(places.count).index_add_(0, places.units, values[places.channels])


def ours(each: Copy, places: Places, moment: str, backend: str = "auto") -> Tensor:
    sums = channel_sums(each.weights, each.gradients, places.axes, [moment], backend)
    return in_groups([values[0] for values in sums.values], places)


def sum_over_others(product: Tensor, axis: int) -> Tensor:
    others = [dim for dim in range(product.dim()) if dim != axis]
    return product.sum(others) if others else product


def per_layer(each: Copy, places: Places, moment: str) -> Tensor:
    """What one writes: the product of a layer, once, and its sums."""
    products: dict[int, Tensor] = {}
    sums = []
    for number, axis in places.axes:
        if number not in products:
            weight = each.weights[number]
            products[number] = weight * (weight if moment == "w2" else each.gradients[number])
        sums.append(sum_over_others(products[number], axis))
    return in_groups(sums, places)


def foreach(each: Copy, places: Places, moment: str) -> Tensor:
    others = each.weights if moment == "w2" else each.gradients
    products = torch._foreach_mul(each.weights, others)
    return in_groups([sum_over_others(products[number], axis) for number, axis in places.axes], places)


def torch_pruning(each: Copy, moment: str) -> list[Tensor]:
    """GroupTaylor or GroupMagnitude of all groups, with every default of theirs."""
    tp = import_module("torch_pruning").importance
    importance = tp.GroupMagnitudeImportance(p=2) if moment == "w2" else tp.GroupTaylorImportance()
    return [importance(group) for group in each.theirs]


def peers(
    places: Places, moment: str, device: torch.device, with_compiler: bool
) -> dict[str, Callable[[Copy], Any]]:
    """By name; ours first."""
    found: dict[str, Callable[[Copy], Any]] = {
        "ours": lambda each: ours(each, places, moment),
        "torch-pruning": lambda each: torch_pruning(each, moment),
        "per layer": lambda each: per_layer(each, places, moment),
        "foreach": lambda each: foreach(each, places, moment),
    }
    if device.type == "cuda":
        from saliency_triton import triton_sums

        found["ours, by torch"] = lambda each: ours(each, places, moment, "torch")
        found["triton"] = lambda each: in_groups(
            triton_sums(each.weights, each.gradients, places.axes, moment), places
        )
    if with_compiler:
        compiled = torch.compile(per_layer)
        found["torch.compile"] = lambda each: compiled(each, places, moment)
    return found


def disagreement_with_torch_pruning(each: Copy, moment: str) -> float:
    """The largest relative difference of a unit's score, from our sums over the terms that torch-pruning counts.

    It counts convolutions, linear layers and, in GroupMagnitude only, batch norms. Its default Taylor score is the sum
    of magnitudes, ``abs_wg`` here.
    """
    tp = import_module("torch_pruning")
    options = {"group_reduction": "sum", "normalizer": None}
    taylor = moment != "w2"
    theirs = (
        tp.importance.GroupTaylorImportance(**options)
        if taylor
        else tp.importance.GroupMagnitudeImportance(2, **options)
    )
    functions = tp.pruner.function
    axis_of = {getattr(functions, name): 0 for name in OUTPUTS} | {
        getattr(functions, name): 1 for name in INPUTS
    }
    if not taylor:
        axis_of[functions.prune_batchnorm_out_channels] = 0
    names = {id(value): name for name, value in each.named.items()}
    worst = 0.0
    for group in each.theirs:
        expected, total = theirs(group), None
        for number, (dependency, indices) in enumerate(group):
            layer, axis = dependency.target.module, axis_of.get(dependency.handler)
            if axis is None or id(getattr(layer, "weight", None)) not in names:
                continue
            weight = layer.weight
            (sums,) = channel_sums(
                [weight], [weight.grad], [(0, axis)], ["abs_wg" if taylor else "w2"]
            ).values
            total = torch.zeros(expected.shape, dtype=torch.float64) if total is None else total
            roots = torch.tensor(group[number].root_idxs)
            total.index_add_(0, roots, sums[0].cpu()[torch.tensor(indices)])
        if total is not None:
            worst = max(worst, ((total - expected.cpu().double()).abs() / total).max().item())
    return worst
