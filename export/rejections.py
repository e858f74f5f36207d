"""Turn an exporter's long error into one line that names the layer and the operator.

The layer is found in the traceback: the last frame that ran one of the module's own layers,
or that was translating a node of its graph. Without such a frame the line names no layer.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import ExportError

if TYPE_CHECKING:
    from torch import nn

_UNKNOWN_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


@contextmanager
def explained(module: nn.Module, target: str) -> Iterator[None]:
    """Turn any error inside the block into one ExportError, with the original as its cause."""
    try:
        yield
    # Broad on purpose: capture runs the user's own forward, which may raise anything.
    except Exception as error:
        layer = _failing_layer(error, module)
        where = f" at layer `{layer}`" if layer else ""
        fact, hint = _explanation(error, _failing_line(error, module))
        name = type(module).__name__
        raise ExportError(f"cannot export `{name}` to {target}{where}: {fact}", hint) from error


def _explanation(error: BaseException, line: str | None) -> tuple[str, str | None]:
    text = "\n".join(str(link) for link in _chain(error))
    if match := _UNKNOWN_OPERATOR.search(text):
        return (
            f"operator `{match[1]}` has no ONNX form",
            "replace the operator, or keep it outside the exported module",
        )
    if "data-dependent" in text:
        return (
            f"the path through it depends on the values of the input{f' ({line})' if line else ''}",
            "use `torch.where` or `torch.cond` in place of a Python `if` on a tensor",
        )
    if "Constraints violated (batch)" in text:
        return (
            "its code fixes the batch size",
            "use `x.shape[0]` or -1 where the code names the batch size as a number",
        )
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}", None


def _failing_layer(error: BaseException, module: nn.Module) -> str | None:
    names = {id(child): name for name, child in module.named_modules()}
    layer: str | None = None
    for link in _chain(error):
        for frame, _ in traceback.walk_tb(link.__traceback__):
            running = names.get(id(frame.f_locals.get("self")))
            layer = running or _layer_of(frame.f_locals.get("node")) or layer
    return layer


def _failing_line(error: BaseException, module: nn.Module) -> str | None:
    """The innermost line of a layer's own code, as `network.py:12`."""
    layers = {id(child) for child in module.modules()}
    place: str | None = None
    for link in _chain(error):
        for frame, line in traceback.walk_tb(link.__traceback__):
            code = frame.f_code
            if id(frame.f_locals.get("self")) in layers and not _is_torch(code.co_filename):
                place = f"{Path(code.co_filename).name}:{line}"
    return place


def _is_torch(file: str) -> bool:
    import torch

    return Path(file).is_relative_to(Path(torch.__file__).parent)


def _layer_of(node: object) -> str | None:
    stack = getattr(node, "meta", {}).get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
