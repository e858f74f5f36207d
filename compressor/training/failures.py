"""What goes wrong in a training, found and named: numbers that are not finite, and memory that ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class DivergedError(Exception):
    """A loss is not a number. ``place`` says in which step, on which images, and in which layer it began."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def check_finite(
    losses: Tensor, start: int, stop: int, where: str, index: Tensor, ask: Callable[[], str]
) -> float:
    """The last of these losses; `DivergedError` if one of them is not finite.

    ``index``: the images of the last step; ``ask`` looks for the layer, which is worth a forward pass only then.
    """
    fresh: list[float] = losses[start:stop].tolist()
    for step, loss in enumerate(fresh, start + 1):
        if not math.isfinite(loss):
            images = ""
            if step == stop:
                first = ", ".join(str(number) for number in index[:4].tolist())
                images = f", images {first}{' …' if len(index) > 4 else ''}"
            raise DivergedError(f"the loss is {loss} in {where}, step {step}{images}{ask()}")
    return fresh[-1]


@torch.no_grad()
def first_not_finite(networks: Mapping[str, nn.Module], images: Tensor) -> str:
    """Words for the first place that is not finite: the images, a weight, or what a layer gives out."""
    if not images.isfinite().all():
        return "; its images are not finite"
    for title, network in networks.items():
        whose = f" of the {title}" if title else ""
        for name, tensor in network.named_parameters():
            if not tensor.isfinite().all():
                return f"; the weights `{name}`{whose} are not finite"
        found: list[str] = []
        handles = [
            module.register_forward_hook(_noting(name, found))
            for name, module in network.named_modules()
            if not list(module.children())
        ]
        try:
            network(images)
        except Exception as error:
            found.append(f"`{type(error).__name__}`")
        finally:
            for handle in handles:
                handle.remove()
        if found:
            return f"; the first that is not finite comes from layer `{found[0]}`{whose}"
    return "; every layer's output is finite, so it began in the loss"


def _noting(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, given: Any, result: Any) -> None:
        if not found and isinstance(result, Tensor) and not result.isfinite().all():
            found.append(name)

    return note


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ended, of a device or of the computer."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
