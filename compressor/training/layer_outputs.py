"""Layers of a network whose outputs can be compared: all, the last of each stage, and the classifier's input.

A stage is the set of layers with one output resolution. Layers are found by one forward pass of zeros, not
by their names.
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
"""Name of the input of the classifier, which is the last linear layer."""

Shapes = Mapping[str, tuple[int, ...]]
Channels = Mapping[str, Sequence[int]]
"""Layer -> the channels of it that are compared; all of a layer that is not named."""


class Places:
    """The layers of one network in the order of computation, with the shapes of their outputs (without the batch)."""

    def __init__(self, network: nn.Module, image: Tensor, whose: str) -> None:
        self.whose = whose
        outputs: dict[str, tuple[int, ...]] = {}
        inputs: dict[str, tuple[int, ...]] = {}

        def noting(path: str) -> Any:
            def note(module: nn.Module, args: Any, result: Any) -> None:
                if isinstance(result, Tensor) and result.ndim >= 2:
                    outputs.pop(path, None)  # a layer that is called twice counts at its last call
                    outputs[path] = tuple(result.shape[1:])
                    if isinstance(args[0], Tensor) and _is_linear(module, args[0]):
                        inputs[path] = tuple(args[0].shape[1:])

            return note

        handles = [m.register_forward_hook(noting(path)) for path, m in network.named_modules() if path]
        try:
            with torch.no_grad(), in_eval_mode(network):
                network(image)
        finally:
            for handle in handles:
                handle.remove()
        self.shapes: dict[str, tuple[int, ...]] = outputs
        linear = [path for path in outputs if path in inputs and len(inputs[path]) == 1]
        self.classifier = linear[-1] if linear else None
        if self.classifier is not None:
            self.shapes[EMBEDDING] = inputs[self.classifier]

    @property
    def stages(self) -> list[str]:
        """The last layer at each resolution, the deepest last; an output of one pixel is not a stage."""
        last: dict[tuple[int, ...], str] = {}
        for path, shape in self.shapes.items():
            if len(shape) == 3 and shape[1] * shape[2] > 1:
                last[shape[1:]] = path
        return list(last.values())

    def without_stages(self, loss: str) -> UsageError:
        """The error for a loss that finds no stages here, or none that correspond; the hint lists layers."""
        layers = ", ".join(f"{path} {list(shape)}" for path, shape in [*self.shapes.items()][-6:])
        return UsageError(
            f"loss `{loss}` finds no stages in student and teacher to compare",
            f"name layers, as in layers=A/B; the {self.whose} has {layers}",
        )

    def check(self, layer: str, purpose: str) -> None:
        """Raise an error that lists candidates if there is no such layer, or its output is not a tensor."""
        if layer not in self.shapes:
            best = [*self.stages, *([EMBEDDING] if EMBEDDING in self.shapes else [])] or list(self.shapes)[
                -6:
            ]
            candidates = ", ".join(f"{path} {list(self.shapes[path])}" for path in best)
            raise UsageError(
                f"{purpose}: the {self.whose} has no layer `{layer}` whose output could be compared",
                f"it has {candidates}" if candidates else "none of its layers has an output tensor",
            )


def _is_linear(module: nn.Module, value: Tensor) -> bool:
    """True for a linear layer, or one whose weight fits its input as a matrix (layers of a program have no class)."""
    weight = getattr(module, "weight", None)
    fits = isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] == value.shape[-1]
    return isinstance(module, nn.Linear) or (fits and value.is_floating_point())


@contextmanager
def watching(
    network: nn.Module, layers: Sequence[str], classifier: str | None
) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary of the layers' latest outputs, and of the classifier's input, while the block runs."""
    outputs: dict[str, Tensor] = {}

    def noting(layer: str) -> Any:
        def note(module: nn.Module, args: Any, result: Any) -> None:
            outputs[layer] = args[0] if layer == EMBEDDING else result

        return note

    handles = []
    for layer in dict.fromkeys(layers):
        path = classifier if layer == EMBEDDING else layer
        assert path is not None
        handles.append(network.get_submodule(path).register_forward_hook(noting(layer)))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def pairs_of(student: Places, teacher: Places) -> list[tuple[str, str]]:
    """Pairs of the last layers of corresponding stages: of equal name, or else counted from the end."""
    student_stages, teacher_stages = student.stages, teacher.stages
    same = [layer for layer in student_stages if layer in teacher_stages]
    if same:
        return [(layer, layer) for layer in same]
    count = min(len(student_stages), len(teacher_stages))
    return list(
        zip(
            student_stages[len(student_stages) - count :],
            teacher_stages[len(teacher_stages) - count :],
            strict=True,
        )
    )
