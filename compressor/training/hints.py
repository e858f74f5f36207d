"""Hints: the student imitates what some layers of its teacher give out, channel by channel.

``weight`` · Σ over layers of the mean squared difference (Romero et al. 2015; Miles and Mikolajczyk 2020, section 4.3).
Student and teacher need not be equally wide: what both have is compared. Off by default, because in the paper hints
cost half a point while channels change.
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
"""Layer -> which channels of the uncut network it has; a layer that is not named has all of them."""


@dataclass(frozen=True)
class Hints:
    """Which layers are imitated, and how much that counts beside the other losses."""

    layers: tuple[str, ...]
    weight: float

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[dict[str, Tensor]]:
        """What the layers give out while the block runs."""
        seen: dict[str, Tensor] = {}

        def noting(layer: str) -> Any:
            def note(module: nn.Module, given: Any, result: Any) -> None:
                seen[layer] = result

            return note

        handles = [network.get_submodule(name).register_forward_hook(noting(name)) for name in self.layers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def loss(
        self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], my: Channels, their: Channels
    ) -> Tensor:
        """The weighted sum; what a teacher gave out gets no gradient."""
        total = torch.zeros((), device=next(iter(mine.values())).device)
        for layer, own in mine.items():
            other = theirs[layer].detach()
            both, beside = _places(layer, own, other, my, their)
            total = total + F.mse_loss(own[:, both].float(), other[:, beside].float())
        return self.weight * total


def hints_for(layers: tuple[str, ...], weight: float, student: nn.Module, teacher: nn.Module) -> Hints | None:
    """The hints, if there are any; a layer that one of the two networks does not have is an error."""
    for network, whose in ((student, "student"), (teacher, "teacher")):
        known = {name for name, module in network.named_modules() if _gives_channels(module)}
        for layer in layers:
            if layer not in known:
                shared = known & {name for name, module in student.named_modules() if _gives_channels(module)}
                candidates = sorted(shared)[-6:]
                raise UsageError(
                    f"the {whose} has no layer `{layer}` whose output could be imitated",
                    f"both have {', '.join(candidates)}"
                    if candidates
                    else "the two networks have no layer in common; leave distil.hints empty",
                )
    return Hints(layers, weight) if layers and weight else None


def _gives_channels(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not isinstance(module, nn.Embedding)


def _places(
    layer: str, own: Tensor, other: Tensor, my: Channels, their: Channels
) -> tuple[list[int], list[int]]:
    mine = list(my.get(layer, range(own.shape[1])))
    place = {channel: number for number, channel in enumerate(their.get(layer, range(other.shape[1])))}
    pairs = [(number, place[channel]) for number, channel in enumerate(mine) if channel in place]
    if not pairs or own.shape[2:] != other.shape[2:]:
        raise UsageError(
            f"the outputs of `{layer}` cannot be compared: {tuple(own.shape)} and {tuple(other.shape)}",
            "name a layer in which both networks have the same size and some of the same channels",
        )
    return [one for one, _ in pairs], [two for _, two in pairs]
