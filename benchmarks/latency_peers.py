"""torch-pruning at a given number of MACs, by the very scores that ours uses, so that only the widths differ.

What it kept is read off numbers that no importance looks at: running means and biases are numbered beforehand.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from compressor.profiling import count
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.limits import worth_of

SETTINGS = {
    f"torch-pruning {kind}{f' round_to={step}' if step else ''}": (kind == "global", step)
    for step in (None, 8, 16)
    for kind in ("uniform", "global")
}
TRIES = 7


@dataclass(frozen=True)
class Pruned:
    """A network that it pruned, its MACs, and the share of all scores that it kept."""

    network: nn.Module
    macs: int
    kept: float


def pruned(
    network: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    image: Tensor,
    macs: int,
    *,
    everywhere: bool,
    round_to: int | None,
) -> Pruned:
    """Its network that comes closest to ``macs``: its ratio by false position on the root of its MACs."""
    target = macs**0.5
    low, high = (0.0, count(network, (image,)).macs ** 0.5), (1.0, 0.0)
    best: Pruned | None = None
    for _ in range(TRIES):
        share = (low[1] - target) / (low[1] - high[1])
        ratio = low[0] + (high[0] - low[0]) * min(0.95, max(0.05, share))
        found = _at(network, graph, scores, image, ratio, everywhere, round_to)
        if best is None or abs(found.macs - macs) < abs(best.macs - macs):
            best = found
        if abs(best.macs / macs - 1) < 0.004:
            break
        if found.macs > macs:
            low = (ratio, found.macs**0.5)
        else:
            high = (ratio, found.macs**0.5)
    assert best is not None
    return best


def _at(
    network: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    image: Tensor,
    ratio: float,
    everywhere: bool,
    round_to: int | None,
) -> Pruned:
    tp = import_module("torch_pruning")
    copied = copy.deepcopy(network)
    tensors = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    numbered = _numbered(graph, tensors)
    worth = dict(zip((group.name for group in graph.groups), worth_of(graph, scores), strict=True))
    last = [module for module in copied.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        copied,
        image,
        importance=_importance(copied, graph, worth),
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        global_pruning=everywhere,
        round_to=round_to,
        ignored_layers=[last],
    )
    pruner.step()
    tensors = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    kept = total = 0.0
    for group in graph.groups:
        stayed = tensors[numbered[group.name]].detach().round().long().numpy()
        kept += float(worth[group.name][stayed].sum())
        total += float(worth[group.name].sum())
    return Pruned(copied.eval(), count(copied, (image,)).macs, kept / total)


def _numbered(graph: ChannelGraph, tensors: dict[str, Tensor]) -> dict[str, str]:
    """For each group a tensor with one number for each unit, which is set to the unit's own."""
    found: dict[str, str] = {}
    for group in graph.groups:
        for slot in group.slots:
            tensor = tensors[slot.tensor]
            if (
                tensor.dim() == 1
                and slot.tensor.endswith(("running_mean", "bias"))
                and len(tensor) == group.units
            ):
                numbers = torch.empty(group.units)
                numbers[torch.from_numpy(slot.indices[:, 0])] = torch.arange(group.units, dtype=torch.float32)
                tensor.data.copy_(numbers)
                found[group.name] = slot.tensor
                break
    return found


def _importance(network: nn.Module, graph: ChannelGraph, worth: dict[str, np.ndarray]) -> object:
    """Our scores, as it asks for them: for the channels of a group's first layer."""
    names = {module: name for name, module in network.named_modules()}
    made = {slot.tensor: group.name for group in graph.groups for slot in group.produces}

    def importance(group: object, **_: object) -> Tensor | None:
        for dependency, indices in group:  # type: ignore[attr-defined]
            name = f"{names.get(dependency.target.module)}.weight"
            if name in made and "out_channels" in dependency.handler.__name__:
                own = torch.from_numpy(worth[made[name]]).float()
                return own[torch.as_tensor(indices)] / own.mean()
        return None

    return importance
