"""Hints: the student imitates the outputs of some layers of its teacher, channel by channel.

``weight`` · Σ over layers of the mean squared difference (Romero et al. 2015; Miles and Mikolajczyk 2020, section 4.3).
Student and teacher need not be equally wide: the channels that both have are compared. Off by default, because in the
paper hints cost half a point while channels change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.errors import UsageError

Channels = Mapping[str, Sequence[int]]
"""Layer -> the channels of the uncut network that it has; a layer that is not named has all of them."""


@dataclass(frozen=True)
class Hints:
    """The imitated layers, and the weight of this loss beside the others."""

    layers: tuple[str, ...]
    weight: float

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield a dictionary that holds the latest output of each layer while the block runs."""
        outputs: dict[str, Tensor] = {}

        def noting(layer: str) -> Any:
            def note(module: nn.Module, args: Any, result: Any) -> None:
                outputs[layer] = result

            return note

        handles = [network.get_submodule(name).register_forward_hook(noting(name)) for name in self.layers]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    def loss(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        student_channels: Channels,
        teacher_channels: Channels,
    ) -> Tensor:
        """The weighted sum of the losses of all layers, without gradient for the teacher's outputs."""
        total = torch.zeros((), device=next(iter(student.values())).device)
        for layer, own in student.items():
            other = teacher[layer].detach()
            places, teacher_places = _places(layer, own, other, student_channels, teacher_channels)
            total = total + F.mse_loss(own[:, places].float(), other[:, teacher_places].float())
        return self.weight * total


def hints_for(layers: tuple[str, ...], weight: float, student: nn.Module, teacher: nn.Module) -> Hints | None:
    """The hints, or None without layers or weight; an error if one of the two networks lacks a layer."""
    for network, role in ((student, "student"), (teacher, "teacher")):
        known = {name for name, module in network.named_modules() if _gives_channels(module)}
        for layer in layers:
            if layer not in known:
                shared = known & {name for name, module in student.named_modules() if _gives_channels(module)}
                candidates = sorted(shared)[-6:]
                raise UsageError(
                    f"the {role} has no layer `{layer}` with output channels to imitate",
                    f"both have {', '.join(candidates)}"
                    if candidates
                    else "the two networks have no layer in common; leave distil.hints empty",
                )
    return Hints(layers, weight) if layers and weight else None


def _gives_channels(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not isinstance(module, nn.Embedding)


def _places(
    layer: str, own: Tensor, other: Tensor, student_channels: Channels, teacher_channels: Channels
) -> tuple[list[int], list[int]]:
    """The positions, in the student's output and in the teacher's, of the channels that both have."""
    channels = list(student_channels.get(layer, range(own.shape[1])))
    place = {
        channel: number for number, channel in enumerate(teacher_channels.get(layer, range(other.shape[1])))
    }
    pairs = [(number, place[channel]) for number, channel in enumerate(channels) if channel in place]
    if not pairs or own.shape[2:] != other.shape[2:]:
        raise UsageError(
            f"the outputs of `{layer}` cannot be compared: shape {tuple(own.shape)} of the student, "
            f"{tuple(other.shape)} of the teacher",
            "name a layer in which both networks have the same size and some of the same channels",
        )
    return [one for one, _ in pairs], [two for _, two in pairs]
