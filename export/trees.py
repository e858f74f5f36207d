"""Several inputs and outputs in any form: their names in a file, and the network as a function of plain tensors.

An exporter takes tensors in a row and gives tensors in a row. Networks take arguments by name, nested ones too, and
return dictionaries, tuples and dataclasses: each tensor among these gets the name of the place where it stands.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT, OUTPUT = "input", "logits"


@dataclass(frozen=True)
class Call:
    """An example call of a network: its tensors by name, and the arguments that are rebuilt from them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: dict[str, Tensor]

    def arguments(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these tensors in the places of the example's."""
        left = iter([tensors[name] for name in self.tensors])
        args = tuple(_rebuilt(arg, left) for arg in self.args)
        return args, {name: _rebuilt(value, left) for name, value in self.kwargs.items()}

    def with_samples(self, count: int) -> dict[str, Tensor]:
        """The example's tensors, repeated to so many samples: those whose first size is that of the first one."""
        import torch

        batch = next(iter(self.tensors.values())).shape[:1]
        return {
            name: torch.cat([tensor] * -(-count // len(tensor)))[:count]
            if tensor.dim() and tensor.shape[:1] == batch
            else tensor
            for name, tensor in self.tensors.items()
        }


def call_of(network: nn.Module, example: Any) -> Call:
    """``example``: a tensor, a tuple of arguments, or arguments by name."""
    import torch

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, Mapping):
        kwargs = example
    else:
        args = tuple(example)
    tensors: dict[str, Tensor] = {}
    names = [INPUT] if isinstance(example, torch.Tensor) else _positional(network, len(args))
    for name, value in (*zip(names, args, strict=True), *kwargs.items()):
        tensors.update(leaves(value, name))
    if not tensors:
        raise ExportError("the example has no tensor", "give a tensor, a tuple of arguments or a dictionary")
    return Call(args, kwargs, {name: tensor.detach().cpu() for name, tensor in tensors.items()})


def leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a value, each with the name of its place: ``boxes.0``."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = vars(value).items()
    elif hasattr(value, "_asdict"):
        parts = value._asdict().items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return
    for key, part in parts:
        yield from leaves(part, f"{name}.{key}" if name else str(key))


def outputs_by_name(value: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a network returned. One tensor, or a row of them, has the names that files always had."""
    import torch

    row = [value] if isinstance(value, torch.Tensor) else value
    if type(row) in (list, tuple) and all(isinstance(part, torch.Tensor) for part in row):
        return {OUTPUT if not number else f"output_{number}": part for number, part in enumerate(row)}
    named = dict(leaves(value, ""))
    if not named:
        raise ExportError(f"the network returns a {type(value).__name__} without a tensor in it")
    # A value of a file has one name: what is returned as it came needs another.
    return {f"{name}_out" if name in inputs else name: tensor for name, tensor in named.items()}


def flatten(network: nn.Module, call: Call) -> None:
    """Make ``network``, a copy of ours, a function from tensors in a row to tensors in a row."""
    forward = network.forward

    def flat(*tensors: Tensor) -> Any:
        args, kwargs = call.arguments(dict(zip(call.tensors, tensors, strict=True)))
        found = tuple(outputs_by_name(forward(*args, **kwargs), call.tensors).values())
        return found[0] if len(found) == 1 else found

    # On the instance: a module around it would be in the name of every layer and weight of the file.
    network.forward = flat


def answers_by_name(network: nn.Module, call: Call) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """The network's outputs by name, for tensors in the places of the example's."""
    import torch

    def answers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        args, kwargs = call.arguments(tensors)
        with torch.no_grad():
            return outputs_by_name(network(*args, **kwargs), call.tensors)

    return answers


def _positional(network: nn.Module, count: int) -> list[str]:
    """Names of positional arguments: those of the forward pass, or numbers."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in inspect.signature(network.forward).parameters.values() if p.kind in kinds]
    return [known[at] if at < len(known) else f"{INPUT}_{at}" for at in range(count)]


def _rebuilt(value: Any, left: Iterator[Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return next(left)
    if isinstance(value, Mapping):
        return {name: _rebuilt(part, left) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(part, left) for part in value)
    return value
