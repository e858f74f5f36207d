"""A network on its way out of PyTorch: copied, captured as a graph, with its exporter kept quiet."""

from __future__ import annotations

import copy
import gc
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

from compressor.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

BATCH = "batch"
Free = Mapping[int, str | None]
"""Axes of the input that may change, by the names that they get."""


def copied(module: nn.Module, target: str) -> nn.Module:
    """A copy on the CPU in evaluation mode: the caller's module is not touched.

    Tensors that are on the CPU already are shared, because nothing that is done to the copy writes into them.
    """
    tensors = [*module.parameters(), *module.buffers()]
    try:
        return (
            copy.deepcopy(module, {id(each): each for each in tensors if each.device.type == "cpu"})
            .cpu()
            .eval()
        )
    except Exception as error:
        name = type(module).__name__
        raise ExportError(f"cannot export `{name}` to {target}: it cannot be copied: {error}") from error


def captured(module: nn.Module, example: Tensor, free: Free, most: int | None = None) -> ExportedProgram:
    """The module's graph, in which the axes ``free`` have no size; ``most`` images, where memory is planned ahead."""
    import torch

    example = example.detach().cpu()
    # A size of one is taken for a constant by some versions of torch.export.
    example = torch.cat([example, example]) if len(example) == 1 else example
    # Strides turn a free side into many cases; `AUTO` lets the capture say which hold, `Dim` makes it prove all.
    axes = {
        axis: torch.export.Dim(BATCH, min=1, max=most) if name == BATCH else torch.export.Dim.AUTO
        for axis, name in free.items()
        if name
    }
    return torch.export.export(module, (example,), dynamic_shapes=(axes,), strict=False)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No talk and no garbage collection inside: both are process-wide, so both are put back.

    The exporter warns and logs about its own internals, and prints its whole graph when
    capture fails. It also allocates graphs by the thousand, and collecting while it does is a
    fifth of the time for nothing freed.
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
