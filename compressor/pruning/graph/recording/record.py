"""Record the operators of one forward pass, without touching a weight.

The network runs once on meta tensors (shapes without data), so that any Python in its forward is simply executed
and every operator is seen with the module it ran in. Two nets catch operators. The coarse one sees Python calls and
keeps layers whole (a linear layer stays one operator, attention too). The fine one sees every ATen operator that
the coarse one let through, so that nothing is missed. The caller's network is never run nor changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.errors import CompressError
from compressor.models.copying import Paths, copy_and_paths
from compressor.pruning.graph.recording.example import Inputs, meta_like
from compressor.pruning.graph.recording.failed_traces import callers_line, cannot_trace, refuse_strange
from compressor.pruning.graph.recording.layer_calls import COMPOSED, WHOLE, drop_path, unguarded
from compressor.pruning.graph.recording.shapes import META, SHAPES, no_dispatch


@dataclass(slots=True)
class Operation:
    """One operator as it ran: its arguments and results are the very tensors, told apart by identity."""

    operator: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    module: str
    line: str = ""


@dataclass(frozen=True, slots=True)
class LayerEnd:
    """A module that came to its end after so many operators: what it was given first, and what it gave out."""

    path: str
    after: int
    given: Any
    result: Tensor


@dataclass(frozen=True)
class Recording:
    """All operators of a forward pass, the names of the tensors it started from, and its ends.

    ``constants``: what stood in the forward pass as Python numbers, by the identity of the meta tensor in its place.
    ``integers``: whole numbers that the network owns, in the same way: they may be indices of channels.
    """

    operations: list[Operation]
    layers: list[LayerEnd]
    names: dict[int, str]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    constants: dict[int, Tensor]
    integers: dict[int, Tensor]
    result: Any
    alive: tuple[Tensor, ...] = ()

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the network's parameters by name."""
        named = ((self.names[id(tensor)], tensor) for tensor in self.tensors)
        return {name: tuple(tensor.shape) for name, tensor in named if isinstance(tensor, nn.Parameter)}

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors in what the network returned."""
        return tuple(tensors_in(self.result))


@dataclass
class _Account:
    """What both nets write into; every tensor stays alive, since identity is only a name while it lives."""

    known: frozenset[str]
    own_device: bool = False
    constants: dict[int, Tensor] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    layers: list[LayerEnd] = field(default_factory=list)
    path: list[str] = field(default_factory=lambda: [""])

    def attention_dropout(self) -> float:
        """What the running module drops of its attention in training: in evaluation it hands over nothing of it."""
        module = self.modules[self.path[-1]]
        if isinstance(module, nn.MultiheadAttention):
            return module.dropout
        dropout = getattr(module, "attn_drop", None)
        return dropout.p if isinstance(dropout, nn.Dropout) else 0.0

    def note(
        self, operator: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        outputs = (result,) if isinstance(result, Tensor) else tuple(tensors_in(result))
        line = "" if operator in self.known else callers_line()
        self.operations.append(Operation(operator, function, args, kwargs, outputs, self.path[-1], line))
        return result


class _Layers(TorchFunctionMode):
    """The coarse net: calls in ``WHOLE`` are noted as they are, with shapes worked out instead of computed."""

    def __init__(self, account: _Account) -> None:
        super().__init__()
        self.account = account

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = WHOLE.get(func)
        if whole is not None:
            call = whole(*args, **(kwargs or {}))
            if call is not None:
                operator, function, given, result = call
                if operator == "attention":
                    given = (*given[:-2], self.account.attention_dropout(), False)
                return self.account.note(operator, function, given, {}, result)
        elif func in COMPOSED:
            with self:
                return unguarded(func)(*args, **(kwargs or {}))
        elif func is Tensor.__getitem__:
            args = (args[0], self._lists_as_tensors(args[1]))
        elif func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return self._constant(*args, **(kwargs or {}))
        elif self.account.own_device and func in _device_constructors() and "device" not in (kwargs or {}):
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))

    def _constant(self, data: Any, **options: Any) -> Tensor:
        """A tensor made of Python numbers: these are kept, which the meta tensor in its place cannot."""
        with no_dispatch():
            value = torch.tensor(data, **{**options, "device": "cpu"})
            if value.dim() == 0:
                return value  # goes with tensors of any device, and may be asked for its number
            meta = torch.empty(value.shape, dtype=value.dtype, device="meta")
        self.account.constants[id(meta)] = value
        self.account.alive.append(meta)
        return meta

    def _lists_as_tensors(self, index: Any) -> Any:
        if isinstance(index, list):
            return self._constant(index)
        if isinstance(index, tuple) and any(isinstance(part, list) for part in index):
            return tuple(self._constant(part) if isinstance(part, list) else part for part in index)
        return index


class _Operators(TorchDispatchMode):
    """The fine net: every ATen operator."""

    # Otherwise torch loads its compiler, seconds of it, to keep that from looking in here.
    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, account: _Account) -> None:
        super().__init__()
        self.account = account

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func._overloadpacket.__name__
        kwargs = kwargs or {}
        shape = SHAPES.get(operator)
        result = None
        if shape is not None:
            with no_dispatch():
                result = shape(*args, **kwargs)
        if result is None:
            result = func(*args, **kwargs)
        if operator in VIEWS:
            # Strides on meta may allow a view where those of another layout do not.
            func, args = torch.ops.aten.reshape.default, args[:2]
        return self.account.note(operator, func, args, kwargs, result)


VIEWS = ("view", "_unsafe_view", "_reshape_alias")
PLAIN = frozenset((type(None), bool, int, float, str))


def record(network: nn.Module, inputs: Inputs, *, known: frozenset[str] = frozenset()) -> Recording:
    """The operators of the network in evaluation mode. Operators not ``known`` get their source line."""
    try:
        return _recorded(network, inputs, _Account(known))
    except CompressError as error:
        # A forward pass that makes tensors without naming a device makes them on the CPU, where the network's own
        # are without data; most such tensors are only looked at, and then they may as well hold their numbers.
        if not isinstance(error.__cause__, RuntimeError | NotImplementedError):
            raise
        try:
            return _recorded(network, inputs, _Account(known, own_device=True))
        except CompressError:
            raise error from error.__cause__


def _recorded(network: nn.Module, inputs: Inputs, account: _Account) -> Recording:
    copied, names, originals, paths, integers = on_meta(network)
    _evaluating(copied, paths)
    meta = meta_like(inputs)
    _follow_modules(paths, account)
    account.modules = dict(paths)
    with torch.no_grad(), _Operators(account), _Layers(account):
        try:
            result = copied(*meta.args, **meta.kwargs)
        except CompressError:
            raise
        except Exception as error:
            last = account.operations[-1].operator if account.operations else "the first operator"
            raise cannot_trace(error, account.path[-1], last, meta.tensors) from error
    for _, module in paths:
        module.__dict__.pop(
            "forward", None
        )  # each refers to its module: the copy can go at once, not by a collection
    account.modules.clear()
    if not tensors_in(result):
        raise CompressError(
            f"cannot follow the network's output, a {type(result).__name__} without tensors to be seen in it",
            "return a tensor, or tensors in a tuple, a list, a dictionary or a dataclass",
        )
    return Recording(
        account.operations,
        account.layers,
        names,
        originals,
        tuple(meta.tensors),
        account.constants,
        integers,
        result,
        (*originals, *account.alive),
    )


def on_meta(
    network: nn.Module,
) -> tuple[nn.Module, dict[int, str], tuple[Tensor, ...], Paths, dict[int, Tensor]]:
    """A copy without data; by identity the names of its tensors, these tensors, its modules by path, its integers."""
    names: dict[int, str] = {}
    alive: list[Tensor] = []
    integers: dict[int, Tensor] = {}

    def empty(name: str, tensor: Tensor) -> Tensor:
        refuse_strange(name, tensor)
        meta = torch.empty_like(tensor, device=META, memory_format=torch.contiguous_format)
        if isinstance(tensor, nn.Parameter):
            meta = nn.Parameter(meta, requires_grad=False)
        elif tensor.dim() and tensor.dtype == torch.int64 and not tensor.is_meta:
            integers[id(meta)] = tensor
        names[id(meta)] = name
        alive.append(meta)
        return meta

    copied, paths = copy_and_paths(network, empty)
    return copied, names, tuple(alive), paths, integers


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in a value: in lists, tuples, dictionaries, dataclasses, in the order met."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) in PLAIN:  # asked thousands of times: the others take longer to be told
        return []
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for item in vars(value).values() for tensor in tensors_in(item)]
    return []


def _follow_modules(paths: Paths, account: _Account) -> None:
    """Keep ``account.path`` the stack of modules that are running, and note their ends. Only done to our own copy.

    The instance's ``forward`` is wrapped instead of a hook added: hooks make every call several times slower.
    """
    for name, module in paths:
        if name and not isinstance(module, torch.jit.ScriptModule):
            forward = _dropping_paths(module) if type(module).__name__ in DROP_PATHS else module.forward
            module.__dict__["forward"] = _followed(forward, name, account)


def _evaluating(network: nn.Module, paths: Paths) -> None:
    """``network.eval()``; directly, unless some class has its own idea of it."""
    kinds = {type(module) for _, module in paths}
    if all(kind.train is nn.Module.train and kind.eval is nn.Module.eval for kind in kinds):
        for _, module in paths:
            module.__dict__["training"] = False
    else:
        network.eval()


DROP_PATHS = ("DropPath", "StochasticDepth")
"""Modules, by the name of their class, that drop whole branches in training and do nothing in evaluation."""


def _dropping_paths(module: nn.Module) -> Callable[..., Any]:
    p = float(getattr(module, "p", None) or getattr(module, "drop_prob", None) or 0.0)
    per_sample = getattr(module, "mode", "row") == "row"
    return lambda x: drop_path(x, p, per_sample, False)


def _followed(forward: Callable[..., Any], name: str, account: _Account) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        account.path.append(name)
        result = forward(*args, **kwargs)
        if isinstance(result, Tensor):
            given = args[0] if args else None
            account.layers.append(LayerEnd(name, len(account.operations), given, result))
        account.path.pop()  # not in a `finally`: after an error the stack says where it happened
        return result

    return run
