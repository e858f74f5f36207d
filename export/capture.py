"""Prepare a network for an exporter: copy it, capture its graph, and silence the exporter."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

BATCH = "batch"
Free = Mapping[int, str | None]
"""Name of each input axis whose size may vary; None for a fixed axis."""


def copied(module: nn.Module, target: str) -> nn.Module:
    """Copy a module to the CPU in evaluation mode; the caller's module is not changed.

    Tensors that are on the CPU already are shared, because no step of an export writes into them.
    """
    tensors = [*module.parameters(), *module.buffers()]
    try:
        return (
            copy.deepcopy(module, {id(tensor): tensor for tensor in tensors if tensor.device.type == "cpu"})
            .cpu()
            .eval()
        )
    except Exception as error:
        name = type(module).__name__
        raise ExportError(f"cannot export `{name}` to {target}: it cannot be copied: {error}") from error


def captured(
    module: nn.Module, tensors: Sequence[Tensor], free: Free, most: int | None = None
) -> ExportedProgram:
    """Capture the module's graph with variable axes ``free``; ``most``: largest batch, if memory is planned ahead.

    Of several inputs those whose first size is that of the first one have the batch there.
    """
    import torch

    tensors = [tensor.detach().cpu() for tensor in tensors]
    batch = tensors[0].shape[:1]
    with_batch = [bool(tensor.dim()) and tensor.shape[:1] == batch for tensor in tensors]
    if batch == (1,) and BATCH in free.values():
        # Some versions of torch.export treat a size of one as a constant.
        tensors = [torch.cat([t, t]) if own else t for t, own in zip(tensors, with_batch, strict=True)]
    # Strides divide a free side into many cases: with `AUTO` the capture chooses those that hold, `Dim` must prove all.
    axes = {
        axis: torch.export.Dim(BATCH, min=1, max=most) if name == BATCH else torch.export.Dim.AUTO
        for axis, name in free.items()
        if name
    }
    shapes: Any = tuple(axes if own else None for own in with_batch)
    parameters = list(inspect.signature(module.forward).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        shapes = (shapes,)  # one parameter for all of them
    return torch.export.export(module, tuple(tensors), dynamic_shapes=shapes, strict=False)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Turn off logs, warnings, prints and garbage collection inside the block; restore them after it.

    The exporter warns and logs about its own internals, and prints its whole graph when
    capture fails. It also allocates graphs by the thousand; garbage collection meanwhile takes a
    fifth of the time and frees nothing. All of these settings are process-wide.
    """
    collecting, level = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if collecting:
            gc.enable()
