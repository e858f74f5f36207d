"""What becomes of a network of the zoo with torch-pruning, for the last column of its table.

It prunes half of every layer by its own magnitude (no rounding, the
layers of the output left alone), in float64, with what its examples do for attention: heads named, fused kernels
off, attributes of timm's attention set anew. What it kept is read off its weights and given to the same proof. Its
LayerNorm pruner, which sorts the kept indices and then uses them unsorted, is mended first.
"""

from __future__ import annotations

import copy
import signal
from importlib import import_module, util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.models.copying import named_tensors
from compressor.profiling import count
from compressor.pruning.cutting.proof import TOLERANCE, check_cut
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan
from tests.compressor.zoo import Images, first, network_named, relative

LIMIT_S = 60


def torch_pruning(name: str) -> str:
    """What becomes of the network with torch-pruning, in a few words."""
    if util.find_spec("torch_pruning") is None:
        return "not installed"
    network, inputs = network_named(name, samples=3)
    stage = ["build"]
    signal.signal(signal.SIGALRM, _out_of_time)
    # Each second again: it has a bare except.
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, 1)
    try:
        wide = tuple(each.double() for each in inputs)
        if _runs(network.double(), wide):
            return _pruned(network, wide, stage)
        return _pruned(network.float(), inputs, stage)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/")
        return f"fails ({stage[-1]}): {reason[:70]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _runs(network: nn.Module, inputs: Images) -> bool:
    try:
        with torch.no_grad():
            network(*inputs)
    except RuntimeError:
        return False
    return True


def _out_of_time(*_: object) -> None:
    raise TimeoutError(f"stopped after {LIMIT_S} s")


def _pruned(network: nn.Module, inputs: Images, stage: list[str]) -> str:
    tp = import_module("torch_pruning")
    _mend(tp.pruner.function.LayernormPruner)
    graph = trace(network, first(inputs, 1))
    ends = [
        each.tensor.rpartition(".")[0]
        for group in graph.frozen
        for each in group.produces
        if _is_output(group)
    ]
    modules = dict(network.named_modules())
    fused = [each for each in modules.values() if hasattr(each, "qkv") and hasattr(each, "num_heads")]
    heads = {each.qkv: each.num_heads for each in fused if isinstance(each.qkv, nn.Linear)}
    names = {each: path for path, each in modules.items()}
    layered = {each: each.num_heads for each in modules.values() if isinstance(each, nn.MultiheadAttention)}
    before = {}
    for tensor, value in named_tensors(network).items():
        if value.is_floating_point():
            value.data += 1e-6 * torch.randn_like(value)  # in float64, so that no number comes twice
            before[tensor] = value.detach().clone()
    teacher = copy.deepcopy(network)
    pruner = tp.pruner.BasePruner(
        network,
        inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[modules[end] for end in ends if end in modules],
        num_heads=dict(heads),
        out_channel_groups=dict(layered),  # it keeps and changes what it is given
    )
    stage.append("prune")
    pruner.step()
    slices = {
        tensor: _kept(before[tensor], value)
        for tensor, value in named_tensors(network).items()
        if tensor in before and value.shape != before[tensor].shape
    }
    for attention in fused if heads else ():
        _refresh(attention, pruner.num_heads)
    for attention in layered:
        _keep_scale(attention, before[f"{names[attention]}.in_proj_weight"].shape[0])
    if hasattr(network, "conv_proj") and hasattr(network, "hidden_dim"):
        network.hidden_dim = network.conv_proj.out_channels
    stage.append("run")
    with torch.no_grad():
        network(*inputs)
    counted = count(network, first(inputs, 1)).macs / count(teacher, first(inputs, 1)).macs
    stage.append("compare")
    return f"{_verdict(teacher, network, slices, inputs)}, {1 - counted:.0%} of MACs gone"


def _is_output(group: Any) -> bool:
    return group.frozen is not None and "output" in group.frozen


def _mend(pruner: Any) -> None:
    """``Tensor.sort`` does not sort in place, so that its LayerNorm keeps the right indices in any order."""
    take = pruner._prune_parameter_and_grad
    if not hasattr(pruner, "mended"):
        pruner.mended = True
        pruner._prune_parameter_and_grad = lambda self, value, keep, dim: take(
            self, value, sorted(map(int, keep)), dim
        )


def _refresh(attention: Any, heads: dict[nn.Module, int]) -> None:
    """The attributes in which timm's attention repeats its widths, as in torch-pruning's example."""
    attention.num_heads = heads.get(attention.qkv, attention.num_heads)
    width = attention.qkv.out_features // 3
    for key, value in (("head_dim", width // attention.num_heads), ("attn_dim", width)):
        if hasattr(attention, key):
            setattr(attention, key, value)


def _keep_scale(attention: nn.MultiheadAttention, rows: int) -> None:
    """It divides by the root of the width that is left, so the queries make up for that: the teacher's scale stays."""
    left = attention.in_proj_weight.shape[0]
    for each in (attention.in_proj_weight, attention.in_proj_bias):
        if each is not None:
            each.data[: left // 3] *= (left / rows) ** 0.5


def _kept(before: Tensor, after: Tensor) -> dict[int, tuple[int, ...]]:
    """Which indices of each axis are left, told by values, which random numbers in float64 make unique."""
    ordered, order = before.flatten().sort()
    flat = order[torch.searchsorted(ordered, after.detach().flatten()).clamp(max=len(order) - 1)]
    places = [each.reshape(after.shape) for each in torch.unravel_index(flat, before.shape)]
    found = {
        axis: places[axis].movedim(axis, 0).reshape(after.shape[axis], -1)[:, 0].tolist()
        for axis in range(before.dim())
    }
    return {axis: tuple(sorted(kept)) for axis, kept in found.items() if len(kept) < before.shape[axis]}


def _verdict(teacher: nn.Module, student: nn.Module, slices: dict[str, Any], inputs: Images) -> str:
    """Our proof of their cut. The silenced teacher is defined where what they kept is whole units of our groups."""
    if inputs[0].dtype != torch.float64:
        return "runs, not compared: its forward pass needs float32"
    walked = walk(teacher, inputs_of(first(inputs, 1)))
    remaining = walked.remaining(slices)
    for meta in walked.recording.tensors:
        implied = {
            axis: tuple(np.flatnonzero(kept).tolist()) for axis, kept in remaining.kept_along(meta).items()
        }
        if implied != slices.get(walked.recording.names[id(meta)], {}):
            return "runs, not compared: it couples other channels"
    checks = check_cut(teacher, student, Plan(slices), inputs)
    worst = max(relative(check) for check in checks)
    return "exact" if worst <= TOLERANCE else f"runs, differs by {worst:.0e}"
