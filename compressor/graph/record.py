"""Record the operators of one forward pass, without touching a weight.

The network runs once on meta tensors (shapes without data) under a dispatch mode, so that any Python
in its forward is simply executed and every ATen operator is seen with the module it ran in. The
caller's network is never run nor changed: parameters and buffers of the copy are created as meta
tensors directly, so that not even their memory is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.errors import CompressError


@dataclass(frozen=True)
class Operation:
    """One operator as it ran: its arguments and results are the very tensors, told apart by identity."""

    operator: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    module: str


@dataclass(frozen=True)
class Recording:
    """All operators of a forward pass, the names of the tensors it started from, and its ends."""

    operations: tuple[Operation, ...]
    names: dict[int, str]
    tensors: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass
class _Recorder(TorchDispatchMode):
    """Notes each operator; keeps every tensor alive, since identity is only a name while it lives."""

    operations: list[Operation] = field(default_factory=list)
    path: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.operations.append(
            Operation(
                operator=func.overloadpacket.__name__,
                args=args,
                kwargs=kwargs or {},
                outputs=outputs,
                module=self.path[-1] if self.path else "",
            )
        )
        return result


def record(network: nn.Module, inputs: tuple[Tensor, ...]) -> Recording:
    """The operators of ``network(*inputs)`` in evaluation mode."""
    try:
        copied, names = on_meta(network)
    except (RuntimeError, ValueError) as error:
        raise CompressError(
            f"cannot copy the network: {str(error).splitlines()[0]}",
            "make computed weights plain first (`torch.nn.utils.remove_weight_norm`, `prune.remove`), "
            "and run a network with lazy layers once",
        ) from error
    copied.eval()
    meta_inputs = tuple(tensor.to("meta") for tensor in inputs)
    recorder = _Recorder()
    with _following_modules(copied, recorder.path), torch.no_grad(), recorder:
        try:
            result = copied(*meta_inputs)
        except CompressError:
            raise
        except Exception as error:
            where = f" in `{recorder.path[-1]}`" if recorder.path and recorder.path[-1] else ""
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CompressError(
                f"cannot trace the network{where}: {reason}",
                "its forward pass must run on meta tensors of shape "
                + ", ".join(str(tuple(tensor.shape)) for tensor in inputs),
            ) from error
    outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    if not outputs:
        raise CompressError(
            f"cannot follow the network's output, a {type(result).__name__} without tensors to be seen in it",
            "return a tensor, or tensors in a tuple, a list or a dictionary",
        )
    alive = (*copied.parameters(), *copied.buffers(), *meta_inputs)
    return Recording(tuple(recorder.operations), names, alive, outputs)


def on_meta(network: nn.Module) -> tuple[nn.Module, dict[int, str]]:
    """A copy without data, and the name of each of its parameters and buffers by identity."""
    memo: dict[int, Any] = {}
    names: dict[int, str] = {}
    for name, parameter in network.named_parameters():
        empty = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        memo[id(parameter)] = empty
        names[id(empty)] = name
    for name, buffer in network.named_buffers():
        meta = torch.empty_like(buffer, device="meta")
        memo[id(buffer)] = meta
        names[id(meta)] = name
    return copy.deepcopy(network, memo), names


@contextmanager
def _following_modules(network: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep ``path`` the stack of modules that are running. Only ever used on our own copy."""

    def enter(name: str) -> Any:
        return lambda module, args: path.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        path.pop()

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
