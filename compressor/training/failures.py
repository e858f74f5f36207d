"""Detect failures of a training and locate them: numbers that are not finite, and lack of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

IN_IMAGES = "; its images are not finite"


class DivergedError(Exception):
    """A loss is not finite. ``place`` describes the step, the images and the layer where this began."""

    def __init__(self, place: str, *, in_images: bool = False) -> None:
        super().__init__(place)
        self.place, self.in_images = place, in_images


def check_finite(
    losses: Tensor, start: int, stop: int, where: str, index: Tensor, ask: Callable[[], str]
) -> float:
    """The last of the losses ``start`` to ``stop``; `DivergedError` if one of them is not finite.

    ``index``: the images of the last step. ``ask`` finds the layer; it costs a forward pass, so it runs only on error.
    """
    fresh: list[float] = losses[start:stop].tolist()
    for step, loss in enumerate(fresh, start + 1):
        if not math.isfinite(loss):
            images = ""
            if step == stop:
                first = ", ".join(str(number) for number in index[:4].tolist())
                images = f", images {first}{' …' if len(index) > 4 else ''}"
            reason = ask()
            raise DivergedError(
                f"the loss is {loss} in {where}, step {step}{images}{reason}", in_images=reason == IN_IMAGES
            )
    return fresh[-1]


@torch.no_grad()
def first_not_finite(networks: Mapping[str, nn.Module], images: Tensor) -> str:
    """Text that names the first place that is not finite: the images, a weight, or the output of a layer."""
    if not images.isfinite().all():
        return IN_IMAGES
    for title, network in networks.items():
        owner = f" of the {title}" if title else ""
        for name, tensor in network.named_parameters():
            if not tensor.isfinite().all():
                return f"; the weights `{name}`{owner} are not finite"
        layers: list[str] = []
        handles = [
            module.register_forward_hook(_noting(name, layers))
            for name, module in network.named_modules()
            if not list(module.children())
        ]
        try:
            network(images)
        except Exception as error:
            layers.append(f"`{type(error).__name__}`")
        finally:
            for handle in handles:
                handle.remove()
        if layers:
            return f"; the first output that is not finite comes from layer `{layers[0]}`{owner}"
    return "; every layer's output is finite, so the loss function yields it"


def _noting(name: str, layers: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, args: Any, result: Any) -> None:
        if not layers and isinstance(result, Tensor) and not result.isfinite().all():
            layers.append(name)

    return note


def is_out_of_memory(error: BaseException) -> bool:
    """True if the error means that a device or the computer has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
