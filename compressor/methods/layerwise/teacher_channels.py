"""Choose the channels of a teacher's layer that a narrower student imitates.

A student that was cut from the teacher has some of the teacher's channels. Any other student imitates those of the
filters with the largest L1 norm (Sarridis et al. 2022). The convolutions that produce the channels of a layer are
found by changing their filters and comparing the layer's output: nothing is guessed from names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.pruning.widths.plan import Plan
from compressor.training.evaluate import in_eval_mode
from compressor.training.layer_outputs import watching

Kept = tuple[int, ...]


def kept_by_plan(network: nn.Module, layer: str, plan: Plan, image: Tensor) -> Kept:
    """The channels of a layer that the plan keeps for the student; all of them if it removes none."""
    makers, channels = makers_of(network, layer, image)
    return plan.slices.get(f"{makers[0]}.weight", {}).get(0, tuple(range(channels)))


def largest_filters(network: nn.Module, layer: str, count: int, image: Tensor) -> Kept:
    """The ``count`` channels of a layer whose filters have the largest Σ|w|, over all convolutions that make it."""
    makers, channels = makers_of(network, layer, image)
    if count > channels:
        raise UsageError(
            f"layer `{layer}` of the teacher has {channels} channels, the student's layer has {count}",
            "a teacher is at least as wide as its student: name other layers in distil.layerwise.layers",
        )
    weights = [network.get_submodule(maker).weight for maker in makers]
    norms = torch.stack([weight.detach().abs().flatten(1).sum(1) for weight in weights]).sum(0)  # type: ignore[operator]
    return tuple(sorted(norms.topk(count).indices.tolist()))


def makers_of(network: nn.Module, layer: str, image: Tensor) -> tuple[list[str], int]:
    """The convolutions whose filter i affects only channel i of the layer's output; and the number of channels.

    After them every operator works channel by channel: norms, activations, pooling, a sum with a shortcut.
    """
    changed = copy.deepcopy(network).eval()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    with torch.no_grad(), in_eval_mode(changed):
        before = _given_out(changed, layer, noise)
        channels = before.shape[1]
        chosen = torch.randperm(channels, generator=torch.Generator().manual_seed(1))[: (channels + 1) // 2]
        others = sorted(set(range(channels)) - set(chosen.tolist()))
        makers = []
        for path, module in changed.named_modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor) or weight.ndim < 3 or len(weight) != channels:
                continue
            kept = weight.data.clone()
            weight.data[chosen] *= -1.5
            after = _given_out(changed, layer, noise)
            weight.data.copy_(kept)
            if not torch.equal(after, before) and _alike(after, before, others):
                makers.append(path)
    if not makers:
        raise UsageError(
            f"no convolution of the teacher makes the {channels} channels of layer `{layer}` one by one",
            "name layers after a convolution, its norm and activation in distil.layerwise.layers",
        )
    return makers, channels


def _alike(after: Tensor, before: Tensor, channels: Sequence[int]) -> bool:
    """True if equal up to rounding: a kernel may sum in another order when other filters of its block change."""
    index = torch.tensor(channels, device=before.device, dtype=torch.int64)
    return torch.allclose(after[:, index], before[:, index], rtol=1e-4, atol=1e-6)


def _given_out(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    with watching(network, [layer], None) as seen:
        network(image)
    return seen[layer]
