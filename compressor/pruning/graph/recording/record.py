"""Record the operators of one forward pass, without touching a weight.

The network runs once on meta tensors (shapes without data), so that any Python in its forward is simply executed
and every operator is seen with the module it ran in. Two nets catch operators. The coarse one sees Python calls and
keeps layers whole (a linear layer stays one operator, attention too). The fine one sees every ATen operator that
the coarse one let through, so that nothing is missed. The caller's network is never run nor changed. Values that the
Python reads are known where no input takes part in them (``own_values.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.errors import CompressError
from compressor.models.copying import Paths, copy_and_paths
from compressor.pruning.graph.recording.example import Inputs, meta_like
from compressor.pruning.graph.recording.failed_traces import (
    callers_line,
    cannot_trace,
    depends_on_values,
    refuse_strange,
)
from compressor.pruning.graph.recording.layer_calls import COMPOSED, WHOLE, drop_path, unguarded
from compressor.pruning.graph.recording.operation import (
    COUNTER,
    CUSTOM,
    NO_GRAD,
    LayerEnd,
    Operation,
    Recording,
    tensors_in,
)
from compressor.pruning.graph.recording.own_values import OwnValues
from compressor.pruning.graph.recording.shapes import META, SHAPES, no_dispatch


@dataclass
class _Account:
    """The state that both modes write into; every tensor stays alive, since its identity is its name."""

    known: frozenset[str]
    own_device: bool = False
    training: bool = False
    gradients: bool = True
    constants: dict[int, Tensor] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    layers: list[LayerEnd] = field(default_factory=list)
    path: list[str] = field(default_factory=lambda: [""])
    own: OwnValues | None = None

    def attention_dropout(self) -> float:
        """The share of attention that the running module drops in training; a call in evaluation does not have it."""
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
        gradient = "" if torch.is_grad_enabled() else CUSTOM if self.gradients else NO_GRAD
        self.operations.append(
            Operation(operator, function, args, kwargs, outputs, self.path[-1], line, gradient)
        )
        return result

    def values(self, value: Any) -> Any:
        """The value with real tensors, if none of them depends on an input; else None."""
        with no_dispatch():
            return None if self.own is None else self.own.of(value, self.operations)

    def as_constant(self, value: Tensor) -> Tensor:
        """A meta tensor in place of a constant."""
        with no_dispatch():
            meta = torch.empty(value.shape, dtype=value.dtype, device="meta")
        self.constants[id(meta)] = value
        self.alive.append(meta)
        return meta


class _Layers(TorchFunctionMode):
    """The coarse net: calls in ``WHOLE`` are noted as they are, with shapes worked out instead of computed."""

    def __init__(self, account: _Account) -> None:
        super().__init__()
        self.account = account

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = WHOLE.get(func)
        if whole is not None:
            call = whole(*args, **(kwargs or {}))
            dropping = call is not None and call[0] == "attention" and call[2][-1]
            if call is not None and (self.account.training or not dropping):
                operator, function, given, result = call
                if operator == "attention" and not self.account.training:
                    given = (*given[:-2], self.account.attention_dropout(), False)
                return self.account.note(operator, function, given, {}, result)
        elif func in COMPOSED:
            with self:
                return unguarded(func)(*args, **(kwargs or {}))
        elif func is _SET_GRADIENTS:
            # Inside of a custom function gradients are off though nothing here turned them off.
            if torch.is_grad_enabled() == self.account.gradients:
                self.account.gradients = args[0]
        elif func is Tensor.__getitem__:
            args = (args[0], self._index(args[1]))
        elif func is Tensor.__setitem__:
            args = (args[0], self._index(args[1]), *args[2:])
        elif func is _DATA:
            return args[0].detach()
        elif func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return self._constant(*args, **(kwargs or {}))
        elif self.account.own_device and func in _device_constructors() and "device" not in (kwargs or {}):
            kwargs = {**(kwargs or {}), "device": "meta"}
        try:
            return func(*args, **(kwargs or {}))
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return self._with_known_values(error, func, args, kwargs or {})

    def _with_known_values(self, error: Exception, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result of a function that needs values, where these are known before any input."""
        real = self.account.values([list(args), kwargs]) if depends_on_values(error) else None
        if real is None:
            raise error
        with no_dispatch():
            found = func(*real[0], **real[1])
        # Values are computed in float64; a tensor that goes on has the type that it has without data.
        floats = [tensor.dtype for tensor in tensors_in([args, kwargs]) if tensor.is_floating_point()]
        return self._as_constants(found, floats[0] if floats else torch.get_default_dtype())

    def _as_constants(self, found: Any, dtype: torch.dtype) -> Any:
        """What a function gave on real tensors, with constants in place of these."""
        if isinstance(found, Tensor):
            found = found.to(dtype) if found.is_floating_point() else found
            return self.account.as_constant(found) if found.dim() else found
        if isinstance(found, tuple | list) and tensors_in(found):
            return tuple(self._as_constants(item, dtype) for item in found)
        return found

    def _constant(self, data: Any, **options: Any) -> Tensor:
        """A tensor made of Python numbers: these are kept, which the meta tensor in its place cannot."""
        with no_dispatch():
            value = torch.tensor(data, **{**options, "device": "cpu"})
        # One number goes with tensors of any device, and may be asked for.
        return value if value.dim() == 0 else self.account.as_constant(value)

    def _index(self, index: Any) -> Any:
        """An index with constants in place of lists, and positions in place of masks that the network owns."""
        parts = index if isinstance(index, tuple) else (index,)
        written: list[Any] = []
        for part in parts:
            if isinstance(part, list):
                written.append(self._constant(part))
            elif isinstance(part, Tensor) and part.dtype == torch.bool and part.dim():
                mask = self.account.values(part)
                with no_dispatch():
                    places = () if mask is None else mask.nonzero(as_tuple=True)
                written += [part] if mask is None else map(self.account.as_constant, places)
            else:
                written.append(part)
        return tuple(written) if isinstance(index, tuple) or len(written) != 1 else written[0]


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
        if func.namespace == "profiler":
            return func(*args, **kwargs)  # marks for a profiler compute nothing
        written = args[0] if operator.endswith("_") and args else None
        if isinstance(written, Tensor) and not written.is_meta and _any_meta(args[1:], kwargs):
            # Its values would be those from before, for everything that reads them.
            raise NotImplementedError(f"Cannot copy out of meta tensor into one with data, in `{operator}`")
        shape = SHAPES.get(operator)
        result = None
        if shape is not None:
            with no_dispatch():
                result = shape(*args, **kwargs)
        if result is None:
            result = func(*args, **kwargs)
        if operator in BELIEVE_STRIDES:
            # Strides on meta may allow a view where those of another layout do not.
            func, args = torch.ops.aten.reshape.default, args[:2]
        return self.account.note(operator, func, args, kwargs, result)


def _any_meta(*values: Any) -> bool:
    return any(tensor.is_meta for tensor in tensors_in(values))


BELIEVE_STRIDES = ("view", "_unsafe_view", "_reshape_alias")
_SET_GRADIENTS = torch._C._set_grad_enabled
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]


def record(
    network: nn.Module, inputs: Inputs, *, known: frozenset[str] = frozenset(), training: bool = False
) -> Recording:
    """The operators of the network in evaluation mode, or in ``training``.

    Operators not ``known`` get their source line. What evaluation leaves out (tensors that no operator reads) is
    looked for in training mode too, if the network runs in it.
    """
    try:
        return _recorded(network, inputs, _Account(known, training=training))
    except CompressError as error:
        # A forward pass that makes tensors without naming a device makes them on the CPU, where the network's own
        # are without data; most such tensors are only looked at, and then they may as well hold their numbers.
        if not isinstance(error.__cause__, RuntimeError | NotImplementedError):
            raise
        try:
            return _recorded(network, inputs, _Account(known, own_device=True, training=training))
        except CompressError:
            raise error from error.__cause__


def _recorded(network: nn.Module, inputs: Inputs, account: _Account) -> Recording:
    copied, names, originals, paths = on_meta(network)
    account.own = OwnValues(originals, account.constants)
    meta = meta_like(inputs)
    result = _followed_pass(copied, meta, paths, account)
    operations, layers = account.operations, account.layers
    training: tuple[Sequence[Operation], Sequence[Tensor]] = ((), ())
    if not account.training and _unread(names, operations):
        account.operations, account.layers, account.training = [], [], True
        try:
            training = account.operations, tensors_in(_followed_pass(copied, meta, paths, account))
        except CompressError:
            training = ((), ())  # it needs more than the example in training: labels, boxes
    tensors = tuple(originals[key][0] for key in names)
    return Recording(
        operations,
        layers,
        names,
        tensors,
        tuple(meta.tensors),
        account.constants,
        _integers(originals),
        result,
        (*tensors, *account.alive),
        training,
        frozenset(names[key] for key in account.own.read if isinstance(originals[key][1], nn.Parameter)),
    )


def _followed_pass(copied: nn.Module, meta: Inputs, paths: Paths, account: _Account) -> Any:
    """The result of one forward pass of our copy, while both nets watch."""
    _set_mode(copied, paths, account.training)
    _follow_modules(paths, account)
    account.modules, account.path = dict(paths), [""]
    with torch.enable_grad(), _Operators(account), _Layers(account):
        try:
            result = copied(*meta.args, **meta.kwargs)
        except CompressError:
            raise
        except Exception as error:
            last = account.operations[-1].operator if account.operations else "the first operator"
            raise cannot_trace(error, account.path[-1], last, meta.tensors) from error
    for _, module in paths:
        # Each refers to its module: the copy can go at once, not by a collection.
        module.__dict__.pop("forward", None)
    account.modules.clear()
    if not tensors_in(result):
        raise CompressError(
            f"cannot follow the network's output, a {type(result).__name__} without tensors to be seen in it",
            "return a tensor, or tensors in a tuple, a list, a dictionary or a dataclass",
        )
    return result


def _unread(names: dict[int, str], operations: list[Operation]) -> bool:
    """True if evaluation leaves out a tensor that training may use; counters of batches always are."""
    read = {id(tensor) for each in operations for tensor in tensors_in([each.args, each.kwargs])}
    return any(not name.endswith(COUNTER) for key, name in names.items() if key not in read)


def _integers(originals: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
    return {
        key: real
        for key, (meta, real) in originals.items()
        if not isinstance(meta, nn.Parameter)
        and real.dim()
        and real.dtype == torch.int64
        and not real.is_meta
    }


def on_meta(
    network: nn.Module,
) -> tuple[nn.Module, dict[int, str], dict[int, tuple[Tensor, Tensor]], Paths]:
    """A copy without data; by identity of its tensors their names, these with the real ones; its modules by path."""
    names: dict[int, str] = {}
    originals: dict[int, tuple[Tensor, Tensor]] = {}

    def empty(name: str, tensor: Tensor) -> Tensor:
        refuse_strange(name, tensor)
        meta = torch.empty_like(tensor, device=META, memory_format=torch.contiguous_format)
        if isinstance(tensor, nn.Parameter):
            meta = nn.Parameter(meta, requires_grad=False)
        names[id(meta)] = name
        originals[id(meta)] = meta, tensor
        return meta

    copied, paths = copy_and_paths(network, empty)
    return copied, names, originals, paths


def _follow_modules(paths: Paths, account: _Account) -> None:
    """Keep ``account.path`` the stack of modules that are running, and note their ends. Only done to our own copy.

    The instance's ``forward`` is wrapped instead of a hook added: hooks make every call several times slower.
    """
    for name, module in paths:
        if name and not isinstance(module, torch.jit.ScriptModule):
            forward = (
                _dropping_paths(module) if type(module).__name__.endswith(DROP_PATHS) else module.forward
            )
            module.__dict__["forward"] = _followed(forward, name, account)


def _set_mode(network: nn.Module, paths: Paths, training: bool) -> None:
    """``network.train(training)``; directly, unless some class has its own idea of it."""
    kinds = {type(module) for _, module in paths}
    if all(kind.train is nn.Module.train and kind.eval is nn.Module.eval for kind in kinds):
        for _, module in paths:
            module.__dict__["training"] = training
    else:
        network.train(training)


DROP_PATHS = ("DropPath", "StochasticDepth")
"""Modules, by the end of their class's name, that drop whole branches in training and do nothing in evaluation."""


def _dropping_paths(module: nn.Module) -> Callable[..., Any]:
    p = float(getattr(module, "p", None) or getattr(module, "drop_prob", None) or 0.0)
    per_sample = getattr(module, "mode", "row") == "row"
    return lambda x: drop_path(x, p, per_sample, module.training)


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
