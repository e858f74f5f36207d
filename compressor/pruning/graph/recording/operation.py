"""A recording: the operators of a forward pass, the layers they ran in, and the tensors it began and ended with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor, nn

PLAIN = frozenset((type(None), bool, int, float, str))


@dataclass(slots=True)
class Operation:
    """One operator as it ran: its arguments and results are the very tensors, told apart by identity.

    ``gradient``: empty, or why no ordinary gradient passes it: a block of ``NO_GRAD``, or a ``CUSTOM`` function.
    """

    operator: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    module: str
    line: str = ""
    gradient: str = ""

    @property
    def in_place(self) -> bool:
        """True for an operator that writes into its first argument."""
        return self.operator.endswith("_") and not self.operator.endswith("__")


COUNTER = "num_batches_tracked"
"""The end of the name of a norm's count of batches."""

NO_GRAD = "no_grad"
CUSTOM = "a function with its own backward pass"


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
    ``integers``: whole numbers that the network owns, in the same way: they may be indices of channels. ``training``:
    the operators and the result of the network in training mode, where tensors are only used then (auxiliary heads).
    ``read``: the parameters whose values the network's Python reads.
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
    training: tuple[Sequence[Operation], Sequence[Tensor]] = ((), ())
    read: frozenset[str] = frozenset()

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the network's parameters by name."""
        named = ((self.names[id(tensor)], tensor) for tensor in self.tensors)
        return {name: tuple(tensor.shape) for name, tensor in named if isinstance(tensor, nn.Parameter)}

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors in what the network returned."""
        return tuple(tensors_in(self.result))


VIEWS = frozenset(
    """view _unsafe_view reshape _reshape_alias slice select expand permute transpose t unsqueeze squeeze split
    split_with_sizes unsafe_split unbind alias detach""".split()
)
"""Operators whose results may share the memory of their first argument."""


def needed(operations: Sequence[Operation], outputs: Sequence[Tensor]) -> list[Operation]:
    """The operations that lead to these outputs, and those that write in place."""
    wanted = {id(output) for output in outputs}
    found = []
    for operation in reversed(operations):
        if operation.in_place or any(id(output) in wanted for output in operation.outputs):
            wanted.update(id(tensor) for tensor in tensors_in([operation.args, operation.kwargs]))
            found.append(operation)
    return found[::-1]


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
