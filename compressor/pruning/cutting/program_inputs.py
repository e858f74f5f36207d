"""Arguments of a program, compared with the example that it was made with: a difference is an error.

A program holds the sizes and the Python values of its example. Another image size, or another value of a flag, would
give numbers that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compressor.errors import CompressError

HINT = "a program takes what it was traced with; trace the network with the arguments that are needed"


def inputs_for(example: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a call, in the order of those of the example; its batch may be another."""
    names, found = list(example["kwargs"]["dict"]), list(args)
    described = list(example["args"]["list"])
    # Arguments that were given by name may be given by position, and the other way round is refused.
    described += [example["kwargs"]["dict"][name] for name in names]
    unknown = sorted(kwargs.keys() - set(names))
    if unknown:
        raise CompressError(
            f"the program takes no argument `{', '.join(unknown)}`",
            f"it knows {', '.join(names) or 'no names'}",
        )
    missing = [
        name for name in names[max(0, len(found) - len(described) + len(names)) :] if name not in kwargs
    ]
    if missing or len(found) + len(kwargs) != len(described):
        raise CompressError(
            f"the program takes {len(described)} arguments, found {len(found) + len(kwargs)}"
            + (f": `{missing[0]}` is missing" if missing else ""),
            HINT,
        )
    found += [kwargs[name] for name in names if name in kwargs]
    tensors: list[Tensor] = []
    places = [f"argument {number}" for number in range(len(described) - len(names))]
    for where, part, value in zip([*places, *(f"`{name}`" for name in names)], described, found, strict=True):
        _match(part, value, where, tensors)
    shapes = _shapes(described)
    batch, expected = tensors[0].shape[:1], shapes[0][:1]
    for number, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        wanted = (*batch, *shape[1:]) if shape[:1] == expected else shape
        if tuple(tensor.shape) != tuple(wanted) and tuple(tensor.shape) != tuple(shape):
            raise CompressError(
                f"input {number} of the program has the shape {tuple(tensor.shape)}, expected "
                f"{tuple(wanted)}",
                "a program is made for one size of image; trace the network with the size that is needed",
            )
    return tensors


def _match(described: Any, value: Any, where: str, tensors: list[Tensor]) -> None:
    """Gather the tensors of a value that has the form of its description, or raise."""
    if isinstance(described, dict) and "tensor" in described:
        if not isinstance(value, Tensor):
            raise CompressError(
                f"{where} of the program is a {type(value).__name__}, expected a tensor", HINT
            )
        tensors.append(value)
    elif isinstance(described, dict) and "dict" in described:
        parts = described["dict"]
        if not isinstance(value, Mapping) or list(map(str, value)) != list(parts):
            raise CompressError(f"{where} of the program is not a dictionary of {', '.join(parts)}", HINT)
        for (name, part), item in zip(parts.items(), value.values(), strict=True):
            _match(part, item, f"`{name}` in {where}", tensors)
    elif isinstance(described, dict | list):
        parts = described if isinstance(described, list) else next(iter(described.values()))
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise CompressError(f"{where} of the program does not have {len(parts)} parts", HINT)
        for number, (part, item) in enumerate(zip(parts, value, strict=True)):
            _match(part, item, f"{where} {number}", tensors)
    elif isinstance(value, Tensor) or value != described:
        shown = "a tensor" if isinstance(value, Tensor) else repr(value)
        raise CompressError(f"{where} of the program is {shown}, and it was traced with {described!r}", HINT)


def _shapes(described: Any) -> list[tuple[int, ...]]:
    if isinstance(described, list):
        return [shape for item in described for shape in _shapes(item)]
    if not isinstance(described, dict):
        return []
    if "tensor" in described:
        return [tuple(described["tensor"])]
    inner = next(iter(described.values()))
    return _shapes(list(inner.values()) if isinstance(inner, dict) else inner)
