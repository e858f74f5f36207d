"""Values of the network's own tensors that its Python reads while it is recorded without data.

A weight, a buffer or a constant is known before any input is, and so is everything that is computed from these alone.
Where a forward pass reads such a value (``if self.ready:``, ``float(self.scale)``, ``self.sizes.tolist()``), the
operators that made it are run on real tensors, up to the place where it is read. They run in float64: a network and
its copy in float64, which the proof of a cut compares with, then read the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation, tensors_in

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class OwnValues:
    """Real tensors by the identity of the meta tensor in their place, as far as no input takes part in them.

    ``read``: the own tensors, by the same identity, from which values were read.
    """

    def __init__(
        self, originals: Mapping[int, tuple[Tensor, Tensor]], constants: Mapping[int, Tensor]
    ) -> None:
        self.originals, self.constants = originals, constants
        self.read: set[int] = set()
        self._real: dict[int, Tensor] = {}
        self._lost: set[int] = set()
        self._done = 0

    def of(self, value: Any, operations: list[Operation]) -> Any:
        """The value with real tensors in place of meta tensors, or None if one of them depends on an input."""
        for operation in operations[self._done :]:
            self._run(operation)
        self._done = len(operations)
        tensors = tensors_in(value)
        if not all(self._known(tensor) for tensor in tensors):
            return None
        self.read |= self._origins(tensors, operations)
        return self._with_real(value)

    def _known(self, tensor: Tensor) -> bool:
        return not tensor.is_meta or id(tensor) in self._real or self._first_met(tensor) is not None

    def _first_met(self, tensor: Tensor) -> Tensor | None:
        """A copy of an own tensor, since operators may write into it; None for a tensor that is not own."""
        _, original = self.originals.get(id(tensor), (None, self.constants.get(id(tensor))))
        if original is None or original.is_meta or id(tensor) in self._lost:
            return None
        copied = original.detach().cpu().clone()
        return self._real.setdefault(id(tensor), copied.double() if copied.is_floating_point() else copied)

    def _origins(self, tensors: list[Tensor], operations: list[Operation]) -> set[int]:
        """The own tensors from which these were computed."""
        wanted = set(map(id, tensors))
        for operation in reversed(operations):
            if not wanted.isdisjoint(map(id, operation.outputs)):
                wanted.update(map(id, tensors_in([operation.args, operation.kwargs])))
        return wanted & self.originals.keys()

    def _run(self, operation: Operation) -> None:
        given = tensors_in([operation.args, operation.kwargs])
        if not all(self._known(tensor) for tensor in given):
            self._forget(operation)
            return
        args, kwargs = self._with_real(operation.args), self._with_real(operation.kwargs)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        if kwargs.get("dtype") in NARROW:
            kwargs["dtype"] = torch.float64
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            with torch.no_grad(), torch._C._ExcludeDispatchKeyGuard(_PYTHON):
                found = tensors_in(operation.function(*args, **kwargs))
        except Exception:
            # An operator that does not run in float64 on a CPU: what reads its result is refused, as of an input.
            self._forget(operation)
            return
        finally:
            torch.set_default_dtype(default)
        self._real.update(zip(map(id, operation.outputs), found, strict=True))

    def _forget(self, operation: Operation) -> None:
        """Results are not known, nor is what was written in place, nor any view of that."""
        for output in operation.outputs:
            lost = self._real.pop(id(output), None)
            self._lost.add(id(output))
            if lost is None:
                continue
            storage = lost.untyped_storage().data_ptr()
            views = [key for key, real in self._real.items() if real.untyped_storage().data_ptr() == storage]
            self._lost.update(views)
            for key in views:
                del self._real[key]

    def _with_real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._real.get(id(value), value)
        if isinstance(value, list | tuple):
            items = [self._with_real(item) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, dict):
            return {name: self._with_real(item) for name, item in value.items()}
        return torch.device("cpu") if isinstance(value, torch.device) else value


_PYTHON = torch._C.DispatchKeySet(torch._C.DispatchKey.Python)
