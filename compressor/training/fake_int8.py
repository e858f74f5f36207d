"""Quantisation-aware training: round weights and inputs of convolutions and linear layers to 8 bits, as in the file.

Weights by channel, symmetric; inputs by tensor, over the range of the calibration images. Gradients pass the rounding
where no value was clipped (Jacob et al. 2018). The returned network does not round.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.training.evaluate import in_eval_mode

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ORIGINAL = ".parametrizations.weight.original"


def rounding(network: nn.Module, batches: Iterable[Tensor], weight_steps: int) -> nn.Module:
    """A copy that rounds, with the same trainable parameters; ``batches`` are the calibration images.

    ``weight_steps``: number of weight values on either side of zero.
    """
    changed = copy.deepcopy(network)
    layers = dict(_products(changed))
    ranges = _ranges(changed, layers, batches)
    for name, layer in layers.items():
        if name in ranges:
            layer.register_forward_pre_hook(_RoundedInput(*ranges[name]))
        parametrize.register_parametrization(layer, "weight", _RoundedWeight(weight_steps))
    return changed


def without_rounding(learnt: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of ``network`` with the weights of ``learnt``, its rounding copy after training."""
    plain = copy.deepcopy(network)
    state = {name.replace(_ORIGINAL, ".weight"): tensor for name, tensor in learnt.state_dict().items()}
    plain.load_state_dict(state)
    return plain


def can_round(network: nn.Module) -> bool:
    """True if the network has layers that can round; a program has none."""
    return any(True for _ in _products(network))


def _products(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        # Left out: a weight that is computed by another parametrisation, such as weight norm.
        if isinstance(module, PRODUCTS) and not parametrize.is_parametrized(module):
            yield name, module


def _ranges(
    network: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest input of each layer."""
    ranges: dict[str, tuple[float, float]] = {}

    def noting(name: str) -> object:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args:
                low, high = ranges.get(name, (0.0, 0.0))  # contains zero, which pads the borders
                ranges[name] = (min(low, float(args[0].min())), max(high, float(args[0].max())))

        return note

    handles = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), in_eval_mode(network):
            for images in batches:
                network(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return ranges


class _RoundedWeight(nn.Module):
    """Round a weight to ``steps`` values on either side of zero, with one scale for each output channel."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).amax(1)
        scale = (largest / self.steps).clamp_min(torch.finfo(weight.dtype).tiny)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.steps, self.steps)


class _RoundedInput:
    """Round the first input of a layer to 256 values between ``low`` and ``high``."""

    def __init__(self, low: float, high: float) -> None:
        self.scale = max((high - low) / 255, 1e-12)
        self.zero = round(-low / self.scale)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *others = args
        rounded = torch.fake_quantize_per_tensor_affine(images.float(), self.scale, self.zero, 0, 255)
        return (rounded.to(images.dtype), *others)
