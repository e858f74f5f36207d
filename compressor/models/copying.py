"""Copy a network with other tensors in place of its own: without data, sliced, shared, in another precision.

Shared modules and tied weights stay shared, everything that is not a tensor is copied, and the original network never
changes. All tensors are replaced: parameters, buffers, and those that a module keeps as plain attributes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError

Change = Callable[[str, Tensor], Tensor]
Paths = list[tuple[str, nn.Module]]

_AS_THEY_ARE = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
)
_REGISTERED = ("_parameters", "_buffers", "_modules")
_EVERY_MODULE = nn.Module().__dict__
_HOOKS = tuple(key for key, value in _EVERY_MODULE.items() if type(value) is OrderedDict)
_OWN_COPYING = ("__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor by name, each once: parameters and buffers, then plain attributes by their path."""
    return _named(_paths(network), {})


def copy_with(network: nn.Module, change: Change) -> nn.Module:
    """A copy in which each tensor is replaced by the result of ``change(name, tensor)``, without a further copy."""
    return copy_and_paths(network, change)[0]


def copy_and_paths(network: nn.Module, change: Change) -> tuple[nn.Module, Paths]:
    """The copy, and each of its modules with its path."""
    memo: dict[int, Any] = {}
    simple: dict[int, bool] = {}
    paths = _paths(network)
    with torch.no_grad():
        for name, tensor in _named(paths, simple).items():
            changed = change(name, tensor)
            # The first condition is for speed only: isinstance is slow for the class of parameters.
            if (
                type(tensor) is not type(changed)
                and isinstance(tensor, nn.Parameter)
                and not isinstance(changed, nn.Parameter)
            ):
                changed = nn.Parameter(changed, tensor.requires_grad)
            memo[id(tensor)] = changed
    try:
        copied = _copy(network, memo, simple)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CompressError(
            f"cannot copy the network: {str(error).splitlines()[0]}",
            "it must be possible to copy.deepcopy it",
        ) from error
    return copied, [(path, memo[id(module)]) for path, module in paths if id(module) in memo]


def require_numbers(network: nn.Module) -> None:
    """Raise an error if a tensor of the network has no data (meta device)."""
    name = next((name for name, tensor in named_tensors(network).items() if tensor.is_meta), None)
    if name is not None:
        raise CompressError(
            f"`{name}` is on the meta device: it has a shape and no data",
            "load the weights first (`network.to_empty(device=...)`, then `load_state_dict`)",
        )


def _paths(network: nn.Module) -> Paths:
    """The same as ``named_modules``, several times faster."""
    paths: Paths = []
    visited: set[int] = set()

    def visit(path: str, module: nn.Module) -> None:
        if id(module) in visited:
            return
        visited.add(id(module))
        paths.append((path, module))
        prefix = f"{path}." if path else ""
        for name, child in module._modules.items():
            if child is not None:
                visit(prefix + name, child)

    visit("", network)
    return paths


def _named(paths: Paths, simple: dict[int, bool]) -> dict[str, Tensor]:
    """Every tensor by name. Fills ``simple``: module id -> the result of `_is_simple`."""
    named: dict[str, Tensor] = {}
    added: set[int] = set()

    def add(name: str, tensor: Tensor) -> None:
        if id(tensor) not in added:
            added.add(id(tensor))
            named[name] = tensor

    for path, module in paths:
        prefix = f"{path}." if path else ""
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    add(prefix + name, tensor)
    for path, module in paths:
        simple[id(module)] = _is_simple(module)
        if not simple[id(module)]:
            for name, tensor in _plain_tensors(module):
                add(f"{path}.{name}" if path else name, tensor)
    return named


def _plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key, value in module.__dict__.items():
        kind = type(value)
        if kind in _AS_THEY_ARE or key in _REGISTERED:
            continue
        if kind in (dict, OrderedDict, list, tuple):
            items = (value.items() if isinstance(value, dict) else enumerate(value)) if value else ()
            for inner, item in items:
                if isinstance(item, Tensor):
                    yield f"{key}.{inner}", item
        elif isinstance(value, Tensor):
            yield key, value


def _copy(module: Any, memo: dict[int, Any], simple: dict[int, bool]) -> Any:
    """Like ``copy.deepcopy``, but copies a plain module attribute by attribute: some ten times faster."""
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if not isinstance(module, nn.Module) or not _is_plain(kind):
        return copy.deepcopy(module, memo)
    new: Any = object.__new__(kind)
    memo[id(module)] = new
    state = new.__dict__
    original = module.__dict__
    if simple.get(id(module)):
        state.update(original)
        for key in _HOOKS:
            state[key] = OrderedDict()
    else:
        for key, item in original.items():
            if key not in _REGISTERED:
                state[key] = _copied_attribute(item, memo, simple)
    for key in ("_parameters", "_buffers"):
        tensors = original[key]
        state[key] = type(tensors)((name, t if t is None else memo[id(t)]) for name, t in tensors.items())
    children = original["_modules"]
    state["_modules"] = type(children)((name, _copy(child, memo, simple)) for name, child in children.items())
    return new


def _copied_attribute(item: Any, memo: dict[int, Any], simple: dict[int, bool]) -> Any:
    kind = type(item)
    if kind in _AS_THEY_ARE:
        return item
    if kind in (dict, OrderedDict, set, list) and not item:
        return kind()
    if kind is tuple and all(type(part) in _AS_THEY_ARE for part in item):
        return item
    return _copy(item, memo, simple) if isinstance(item, nn.Module) else copy.deepcopy(item, memo)


_plain_kinds: dict[type, bool] = {}


def _is_plain(kind: type) -> bool:
    """True if a module class does not define how it is copied."""
    if kind not in _plain_kinds:
        # torch's own layers override these methods only to read old pickles. Recurrent layers also keep references.
        _plain_kinds[kind] = not issubclass(kind, nn.RNNBase) and all(
            getattr(kind, name, None) is getattr(nn.Module, name, None)
            or getattr(kind, name).__module__.startswith("torch.nn.modules.")
            for name in _OWN_COPYING
        )
    return _plain_kinds[kind]


def _is_simple(module: nn.Module) -> bool:
    """True for a layer of torch itself without hooks or added attributes: its attributes are plain values."""
    kind = type(module)
    if not _is_torchs_own(kind) or module._forward_pre_hooks or module._forward_hooks:
        return False
    own = module.__dict__
    for key in own.keys() - _EVERY_MODULE.keys():
        item = type(own[key])
        if item not in _AS_THEY_ARE and key[0] != "_" and item is not tuple:
            return False
    return True


_own_kinds: dict[type, bool] = {}


def _is_torchs_own(kind: type) -> bool:
    if kind not in _own_kinds:
        _own_kinds[kind] = kind.__module__.startswith("torch.nn.modules.") and _is_plain(kind)
    return _own_kinds[kind]


def in_float64(network: nn.Module) -> nn.Module:
    """A copy on the CPU in float64 and in evaluation mode, so that a difference is an error and not rounding."""

    def wide(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return tensor.double() if tensor.is_floating_point() else tensor.clone()

    return copy_with(network, wide).eval()
