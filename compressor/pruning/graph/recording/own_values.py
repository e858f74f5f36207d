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
    """Real tensors by the identity of the meta tensor in their place, as far as no input takes part in them."""

    def __init__(
        self, originals: Mapping[int, tuple[Tensor, Tensor]], constants: Mapping[int, Tensor]
    ) -> None:
        self.originals, self.constants = originals, constants
        self._real: dict[int, Tensor] = {}
        self._done = 0

    def of(self, value: Any, operations: list[Operation]) -> Any:
        """The value with real tensors in place of meta tensors, or None if one of them depends on an input."""
        for operation in operations[self._done :]:
            self._run(operation)
        self._done = len(operations)
        tensors = tensors_in(value)
        if not all(self._known(tensor) for tensor in tensors):
            return None
        return self._with_real(value)

    def _known(self, tensor: Tensor) -> bool:
        return not tensor.is_meta or id(tensor) in self._real or self._first_met(tensor) is not None

    def _first_met(self, tensor: Tensor) -> Tensor | None:
        """A copy of an own tensor, since operators may write into it; None for a tensor that is not own."""
        _, original = self.originals.get(id(tensor), (None, self.constants.get(id(tensor))))
        if original is None or original.is_meta:
            return None
        copied = original.detach().cpu().clone()
        return self._real.setdefault(id(tensor), copied.double() if copied.is_floating_point() else copied)

    def _run(self, operation: Operation) -> None:
        given = tensors_in([operation.args, operation.kwargs])
        if all(self._known(tensor) for tensor in given):
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
                return  # nothing is known of its results then, and what reads them is refused as before
            finally:
                torch.set_default_dtype(default)
            self._real.update(zip(map(id, operation.outputs), found, strict=True))
            return
        # What an input is written into is known no longer, nor is any view of it.
        for output in operation.outputs:
            lost = self._real.pop(id(output), None)
            if lost is not None:
                storage = lost.untyped_storage().data_ptr()
                for key in [k for k, t in self._real.items() if t.untyped_storage().data_ptr() == storage]:
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
