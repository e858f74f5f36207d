"""Where in a network to look: its layers, the last one of each stage, and what its classifier is given.

A stage is everything that works at one resolution. Networks are asked once, with a black image, so nothing is guessed
from names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.training.evaluate import in_eval_mode

EMBEDDING = "embedding"
"""The name for what the classifier, the last linear layer, is given."""

Shapes = Mapping[str, tuple[int, ...]]


class Places:
    """The layers of one network, in the order in which they are done, with the shapes of what they give out."""

    def __init__(self, network: nn.Module, image: Tensor, whose: str) -> None:
        self.whose = whose
        found: dict[str, tuple[int, ...]] = {}
        given: dict[str, tuple[int, ...]] = {}

        def noting(path: str) -> Any:
            def note(module: nn.Module, args: Any, result: Any) -> None:
                if isinstance(result, Tensor) and result.ndim >= 2:
                    found.pop(path, None)
                    found[path] = tuple(result.shape[1:])
                    if isinstance(args[0], Tensor) and _is_linear(module, args[0]):
                        given[path] = tuple(args[0].shape[1:])

            return note

        handles = [m.register_forward_hook(noting(path)) for path, m in network.named_modules() if path]
        try:
            with torch.no_grad(), in_eval_mode(network):
                network(image)
        finally:
            for handle in handles:
                handle.remove()
        self.shapes: dict[str, tuple[int, ...]] = found
        linear = [path for path in found if path in given and len(given[path]) == 1]
        self.classifier = linear[-1] if linear else None
        if self.classifier is not None:
            self.shapes[EMBEDDING] = given[self.classifier]

    @property
    def stages(self) -> list[str]:
        """The last layer at each resolution, the deepest last; a single pixel is none."""
        last: dict[tuple[int, ...], str] = {}
        for path, shape in self.shapes.items():
            if len(shape) == 3 and shape[1] * shape[2] > 1:
                last[shape[1:]] = path
        return list(last.values())

    def without_stages(self, loss: str) -> UsageError:
        """The error of a loss that finds no stages here, or none that correspond; it lists layers."""
        shown = ", ".join(f"{path} {list(shape)}" for path, shape in [*self.shapes.items()][-6:])
        return UsageError(
            f"loss `{loss}` finds no stages in student and teacher to compare",
            f"name layers, as in layers=A/B; the {self.whose} has {shown}",
        )

    def check(self, layer: str, purpose: str) -> None:
        """An error that lists candidates if there is no such layer, or it gives out no tensor."""
        if layer not in self.shapes:
            best = [*self.stages, *([EMBEDDING] if EMBEDDING in self.shapes else [])] or list(self.shapes)[
                -6:
            ]
            shown = ", ".join(f"{path} {list(self.shapes[path])}" for path in best)
            raise UsageError(
                f"{purpose}: the {self.whose} has no layer `{layer}` whose output could be compared",
                f"it has {shown}" if shown else "it has no layers with outputs of their own",
            )


def _is_linear(module: nn.Module, given: Tensor) -> bool:
    """Whether it has a matrix that goes with what it was given: a layer of a program has no class to be told by."""
    weight = getattr(module, "weight", None)
    fits = isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == given.shape[-1]
    return isinstance(module, nn.Linear) or (fits and given.is_floating_point())


@contextmanager
def watching(
    network: nn.Module, layers: Sequence[str], classifier: str | None
) -> Iterator[dict[str, Tensor]]:
    """What the layers give out, and the classifier is given, while the block runs."""
    seen: dict[str, Tensor] = {}

    def noting(layer: str) -> Any:
        def note(module: nn.Module, args: Any, result: Any) -> None:
            seen[layer] = args[0] if layer == EMBEDDING else result

        return note

    handles = []
    for layer in dict.fromkeys(layers):
        path = classifier if layer == EMBEDDING else layer
        assert path is not None
        handles.append(network.get_submodule(path).register_forward_hook(noting(layer)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def pairs_of(student: Places, teacher: Places) -> list[tuple[str, str]]:
    """The last layer of each stage of one network beside that of the other, by name or else counted from the end."""
    mine, theirs = student.stages, teacher.stages
    same = [layer for layer in mine if layer in theirs]
    if same:
        return [(layer, layer) for layer in same]
    count = min(len(mine), len(theirs))
    return list(zip(mine[len(mine) - count :], theirs[len(theirs) - count :], strict=True))
