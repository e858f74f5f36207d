"""Check of a description: everything in it is examined before anything of it is run.

What passes names only operators that are known here, reads only values that exist by then, and only tensors that lie
beside it. It may still be nonsense: then it fails when it runs, or computes something useless.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.base.strict_json import LARGEST, DamageError, entries, items, plain, text, truth, whole
from compressor.models.copying import named_tensors
from compressor.pruning.cutting.program import LATER_KEYS, OWN, Program
from compressor.pruning.cutting.program_operators import function_named

KEYS = ("inputs", "batch", "example", "steps", "result", *LATER_KEYS)
LONGEST_REASON = 1000
DEEPEST_LAYER = 100
MOST_INPUTS = 1000
LARGEST_EXAMPLE = 2**28
"""Numbers in one tensor of an example: it is never filled, but labels are as long as its dimensions."""


def _names(kind: type) -> frozenset[str]:
    return frozenset(str(v).removeprefix("torch.") for v in vars(torch).values() if isinstance(v, kind))


KINDS = {
    "dtype": _names(torch.dtype),
    "memory_format": _names(torch.memory_format),
    "layout": _names(torch.layout),
    "float": frozenset(("inf", "-inf", "nan")),
    "device": frozenset(("",)),
    OWN: frozenset(("",)),
}
"""Kinds of values that are written by a name, and their names."""


def checked(description: Any, tensors: Collection[str]) -> dict[str, Any]:
    """The description, if it is that of a program over tensors of these names."""
    if type(description) is dict:
        description = {**LATER_KEYS, **description}
    value = entries(description, "the program", KEYS)
    inputs = whole(value["inputs"], "`inputs`", 1, MOST_INPUTS)
    if value["batch"] is not None:
        whole(value["batch"], "`batch`", 1)
    examples = check_example(value["example"])
    if examples != inputs:
        raise DamageError(f"`example` has {examples} tensors, `inputs` says {inputs}")
    names = frozenset(tensors)
    known = set(range(inputs))
    given_by = dict.fromkeys(known, -1)
    for number, step in enumerate(items(value["steps"], "`steps`")):
        where = f"step {number}"
        operator, given, options, results = items(step, where, 4)
        _check_operator(operator, where)
        reader = _Reader(known, names, where)
        for item in items(given, f"the arguments of {where}"):
            reader.argument(item)
        for item in entries(options, f"the options of {where}").values():
            reader.argument(item)
        _check_results(items(results, f"the results of {where}"), reader)
        known.update(results)
        given_by.update((result, number) for result in results if result not in given_by)
    for layer in items(value["layers"], "`layers`"):
        _check_layer(layer, given_by, len(value["steps"]), names)
    for key in ("frozen", "without_gradient"):
        for number in items(value[key], f"`{key}`"):
            whole(number, f"a step in `{key}`", 0, len(value["steps"]) - 1)
    if value["not_trained"] is not None and len(text(value["not_trained"], "`not_trained`")) > LONGEST_REASON:
        raise DamageError("`not_trained` is too long")
    result = _Reader(known, names, "`result`")
    result.result(value["result"])
    if not result.found:
        raise DamageError("`result` has no tensor")
    return value


def program_to_json(network: nn.Module) -> dict[str, Any]:
    """The content of a program's file, which lies beside the file of its tensors."""
    assert isinstance(network, Program)
    description = checked(json.loads(json.dumps(network.description)), named_tensors(network))
    return {
        "parameters": {name: tensor.requires_grad for name, tensor in network.named_parameters()},
        "buffers": [name for name, _ in network.named_buffers()],
        "program": description,
    }


def program_from_json(content: Any, tensors: Mapping[str, Tensor]) -> Program:
    """The program in a file, on these tensors."""
    value = entries(content, "it", ("parameters", "buffers", "program"))
    learned = {
        name: truth(learns, f"`{name[:80]}` in `parameters`")
        for name, learns in entries(value["parameters"], "`parameters`").items()
    }
    names = [*learned, *(text(name, "a name in `buffers`") for name in items(value["buffers"], "`buffers`"))]
    if len(names) != len(tensors) or set(names) != tensors.keys():
        raise DamageError("its parameters and buffers are not the tensors beside it")
    for name in names:
        parts = name.split(".")
        if not all(parts) or "training" in parts:
            raise DamageError(f"no tensor of a network is called `{name[:80]}`")
    description = checked(value["program"], names)
    own = {
        name: nn.Parameter(tensors[name], learned[name]) if name in learned else tensors[name]
        for name in names
    }
    program = Program(description, own)
    if any(program.tensor(name) is not tensor for name, tensor in own.items()):
        raise DamageError("a tensor has the name of something else")
    return program


def check_example(value: Any) -> int:
    """The number of tensors of a described example; an error if it is none."""
    entries(value, "`example`", ("args", "kwargs"))
    for name, kind in (("args", "list"), ("kwargs", "dict")):
        entries(value[name], f"`{name}` of the example", (kind,))
    number = _count(value["args"]) + _count(value["kwargs"])
    if not number:
        raise DamageError("the example has no tensor")
    return number


def _count(value: Any) -> int:
    where = "the example"
    if type(value) is not dict:
        plain(value, where)
        return 0
    if "tensor" in value:
        entries(value, where, ("tensor", "dtype"))
        text(value["dtype"], where, KINDS["dtype"])
        numbers = 1
        for size in items(value["tensor"], where):
            numbers *= whole(size, where, 1, LARGEST_EXAMPLE)
        whole(numbers, f"the size of a tensor of {where}", 1, LARGEST_EXAMPLE)
        return 1
    kind = text(next(iter(value), None), where, ("dict", "list", "tuple"))
    inner = entries(value, where, (kind,))[kind]
    parts = list(entries(inner, where).values()) if kind == "dict" else items(inner, where)
    return sum(_count(part) for part in parts)


def _check_operator(operator: Any, where: str) -> None:
    name = text(operator, f"the operator of {where}")
    if function_named(name) is None:
        raise DamageError(
            f"{where} names the operator `{name[:80]}`, which is not one of those a program may call"
        )


def _check_layer(layer: Any, given_by: Mapping[int, int], steps: int, names: frozenset[str]) -> None:
    """``[path, the step after which it ends, the value it was given or None, the value it gave out]``."""
    path, after, given, result = items(layer, "a layer", 4)
    where = f"the layer `{text(path, 'the path of a layer')[:80]}`"
    whole(after, f"the step of {where}", 0, steps - 1)
    for value in (result, *(() if given is None else (given,))):
        if given_by.get(whole(value, f"a value of {where}"), steps) > after:
            raise DamageError(f"{where} has value {value}, which nothing gave by then")
    parts = path.split(".")
    if not all(parts) or len(parts) > DEEPEST_LAYER:
        raise DamageError(f"no layer of a network is called `{path[:80]}`")
    if any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1)):
        raise DamageError(f"{where} has the name of a tensor")


def _check_results(results: list[Any], reader: _Reader) -> None:
    """Each is new, or one that was given to the operator and written in place."""
    for result in results:
        number = whole(result, f"a result of {reader.where}")
        if number in reader.known and number not in reader.found:
            raise DamageError(f"{reader.where} writes value {number}, which is another's")
    if len(set(results)) != len(results):
        raise DamageError(f"{reader.where} gives one value twice")


class _Reader:
    """Checks the values of one place, and gathers the numbers of those that it reads."""

    def __init__(self, known: set[int], tensors: frozenset[str], where: str) -> None:
        self.known, self.tensors, self.where = known, tensors, where
        self.found: set[int | str] = set()

    def argument(self, value: Any) -> None:
        """One argument of an operator."""
        if type(value) is list:
            for item in value:
                self.argument(item)
        elif type(value) is dict:
            self._coded(value)
        else:
            plain(value, self.where)

    def result(self, value: Any) -> None:
        """The result of the network: values as in arguments, and tuples and dictionaries."""
        kind = next(iter(value), None) if type(value) is dict else None
        if kind == "dict":
            parts = list(entries(entries(value, self.where, ("dict",))["dict"], self.where).values())
        elif kind == "tuple":
            parts = items(entries(value, self.where, ("tuple",))["tuple"], self.where)
        elif type(value) is list:
            parts = value
        else:
            self.argument(value)
            return
        for part in parts:
            self.result(part)

    def _coded(self, value: dict[str, Any]) -> None:
        known = ("value", "tensor", "per_batch", *KINDS)
        kind = text(next(iter(value), None), self.where, known)
        content = entries(value, self.where, (kind,))[kind]
        if kind == "value":
            if whole(content, self.where) not in self.known:
                raise DamageError(f"{self.where} reads value {content}, which nothing gave")
            self.found.add(content)
        elif kind == "tensor":
            if text(content, self.where) not in self.tensors:
                raise DamageError(f"{self.where} reads the tensor `{content[:80]}`, which is not there")
            self.found.add(content)
        elif kind == "per_batch":
            for number in items(content, self.where, 2):
                whole(number, self.where, -LARGEST)
        else:
            text(content, self.where, KINDS[kind])
