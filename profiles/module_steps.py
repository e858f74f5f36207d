"""Record the steps of a module's forward pass, operator by operator; ``activations`` defines a step.

A tensor is identified by its storage, so a view is the same as its base, and an operator in place writes nothing new.
Only tensors computed from the inputs are recorded: arithmetic on weights and sizes can be done beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.profiling.activations import Activations, Step, activations

aten = torch.ops.aten

# Elementwise in inference, but without torch's tag for it.
ALSO_ELEMENTWISE = frozenset(
    {
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit_no_training.default,
        aten.hardswish.default,
        aten.hardswish_.default,
    }
)


class Watch(TorchDispatchMode):
    """Record every operator while active, as a step of the layer that ``running`` returns."""

    def __init__(self, inputs: tuple[Tensor, ...], running: Callable[[], Hashable]) -> None:
        super().__init__()
        self.running = running
        self.steps: list[Step] = []
        # A weak reference keeps the address from being used for another storage, but does not keep the data.
        self.sizes: dict[StorageWeakRef, int] = {}
        self.inputs = [self._follow(tensor) for tensor in inputs]

    def memory(self, output: object) -> Activations:
        """Memory of all recorded steps; ``output``: the result of the network."""
        return activations(self.steps, self.sizes, self.inputs, self._known(output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        reads = frozenset(self._known((args, kwargs)))
        if reads:
            fresh = [tensor for tensor in tensors_in(result) if _storage(tensor) not in self.sizes]
            writes = frozenset(self._follow(tensor) for tensor in fresh)
            if writes or func._schema.is_mutable:  # otherwise the result is a view
                self.steps.append(Step((self.running(),), reads, writes, _elementwise(func, args)))
        return result

    def _follow(self, tensor: Tensor) -> StorageWeakRef:
        storage = _storage(tensor)
        self.sizes[storage] = tensor.untyped_storage().nbytes()
        return storage

    def _known(self, value: object) -> Iterator[StorageWeakRef]:
        return (storage for tensor in tensors_in(value) if (storage := _storage(tensor)) in self.sizes)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _elementwise(func: Any, args: tuple[Any, ...]) -> bool:
    if func is aten.clone.default:  # a copy in another order cannot be made in place
        return bool(args[0].is_contiguous())
    return torch.Tag.pointwise in func.tags or func in ALSO_ELEMENTWISE
