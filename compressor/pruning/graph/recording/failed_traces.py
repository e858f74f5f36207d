"""Why a network cannot be traced, and where: module, operator, line of source, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from compressor.errors import CompressError


def refuse_strange(name: str, tensor: Tensor) -> None:
    if type(tensor) in (UninitializedParameter, UninitializedBuffer):
        raise CompressError(
            f"cannot trace: `{name}` has no shape yet", "run the network with lazy layers once"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
        raise CompressError(
            f"cannot trace: `{name}` is {kind.removeprefix('torch.')}, expected a dense tensor",
            "compress the network before it is quantised or made sparse",
        )


DATA_DEPENDENT = (
    "meta tensors",
    "meta device",
    "_local_scalar_dense",
    "nonzero",
    "data-dependent",
    "no fake impl",
    "Cannot copy out of meta",
)


def depends_on_values(error: Exception) -> bool:
    """True if an operator failed because a tensor has no data here."""
    return any(sign in str(error) for sign in DATA_DEPENDENT)


def cannot_trace(error: Exception, module: str, last: str, inputs: Sequence[Tensor]) -> CompressError:
    """The error for an exception in a forward pass; ``last`` is the last operator that ran."""
    where = f" in `{module}`" if module else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = _line_of(error)
    if depends_on_values(error):
        return CompressError(
            f"cannot trace the network{where}{line}: what it does depends on the values of its input ({reason}, "
            f"after `{last}`)",
            "wrap the part before that in a module of its own and compress that part",
        )
    shapes = ", ".join(
        f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in inputs
    )
    return CompressError(
        f"cannot trace the network{where}{line}: {type(error).__name__}: {reason}",
        f"its forward pass must run on an input of shape {shapes}; is the shape or the type of the example wrong?",
    )


def _line_of(error: Exception) -> str:
    """`` (model.py:12)``: the innermost line of the traceback that is neither torch's nor ours."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and "/compressor/pruning/graph/" not in name and not name.startswith("<"):
            found = f" ({name.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def callers_line() -> str:
    """``file.py:12`` of the innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_recorded":
        name = frame.f_code.co_filename
        if "/torch/" not in name and "/compressor/pruning/graph/" not in name and not name.startswith("<"):
            return f"{name.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
