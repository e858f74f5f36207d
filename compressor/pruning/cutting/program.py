"""A student whose own class could not be kept: recorded operators as data, with the weights under their old names.

A program is a list of steps in JSON values: an operator's name, its arguments, the numbers of its results. Numbers
that follow the batch are written as such, so that any batch size runs. Batch norm, dropout and stochastic depth
follow `train()` and `eval()`; gradients reach every weight. The layers of the network that a program was made of are
there under their names, and hooks on them see what they were given and gave out. Nothing in a program is code: a step
may only name an operator that is known here, so that a program from a stranger can at worst compute something useless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.pruning.cutting.program_inputs import inputs_for
from compressor.pruning.cutting.program_operators import function_named
from compressor.pruning.graph.recording.layer_calls import TRAINING_FLAGS
from compressor.pruning.graph.recording.operation import COUNTER, tensors_in

OWN = "own_dtype"
"""Stands for the type of the weights, which tensors that the network creates follow."""


_LEFT_OUT = object()

LATER_KEYS: dict[str, Any] = {"layers": [], "frozen": [], "without_gradient": [], "not_trained": None}
"""Parts of a description that programs of earlier versions do not have.

``frozen`` are the numbers of the steps that do not follow ``train()`` (norms that the network keeps in evaluation),
``without_gradient`` those in a block of ``torch.no_grad()``; ``not_trained`` is why it would train another network.
"""


class Program(nn.Module):
    """Runs the steps of a description on its own parameters and buffers."""

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        description = {**LATER_KEYS, **description}
        self.description = description
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name, tensor in tensors.items():
            *path, key = name.split(".")
            owner = _part(self, path)
            # Not `register_parameter`: a network may well have a part that is called like a method of ours.
            held: dict[str, Any] = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
            held[key] = tensor
            self._places[name] = (owner, key)
        self._not_trained = description["not_trained"]
        self.only_batch: int | None = description["batch"]
        unused = _last_uses(description["steps"], description["result"])
        self._steps = [
            _Step(self, step, done) for step, done in zip(description["steps"], unused, strict=True)
        ]
        for path, after, given, result in description["layers"]:
            self._steps[after].layers.append((_part(self, path.split(".")), given, result))
        for number in description["frozen"]:
            self._steps[number].frozen = True
        for number in description["without_gradient"]:
            self._steps[number].gradient = False
        self._result = _reading(self, description["result"])
        self.batch_statistics = False
        # While statistics are measured anew: the number of the batch that is averaged with those before it.
        self.averaging = 0

    def forward(self, input: Any = _LEFT_OUT, *more: Any, **named: Any) -> Any:
        """The student's answer, in the form in which the teacher gave it."""
        given = () if input is _LEFT_OUT else (input, *more)
        inputs = inputs_for(self.description["example"], given, named)
        if self.training and self._not_trained and torch.is_grad_enabled():
            raise CompressError(
                f"this student cannot be trained: {self._not_trained}",
                "it can be repaired, exported and measured; to train it, write the sizes in its network's forward "
                "pass from tensors (`x.shape[1]`), so that its own class can be kept",
            )
        batch = inputs[0].shape[0]
        if self.only_batch is not None and batch != self.only_batch:
            raise CompressError(
                f"this program runs batches of {self.only_batch} only, found {batch}",
                "its network does different things for different batches; trace it with the batch that is needed",
            )
        run = _Run(self, dict(enumerate(inputs)), batch, inputs[0].device)
        for step in self._steps:
            step(run)
        return self._result(run)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        floats = (tensor.dtype for tensor in map(self.tensor, self._places) if tensor.is_floating_point())
        return next(floats, torch.get_default_dtype())

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer by its whole name."""
        owner, key = self._places[name]
        held: Mapping[str, Tensor | None] = owner._parameters if key in owner._parameters else owner._buffers
        value = held[key]
        assert value is not None
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        tensors = {}
        for name in self._places:
            tensor = self.tensor(name)
            if id(tensor) not in memo:
                copied = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    copied = nn.Parameter(copied, tensor.requires_grad)
                    copied.grad = None if tensor.grad is None else tensor.grad.clone()
                memo[id(tensor)] = copied
            tensors[name] = memo[id(tensor)]
        program = Program(self.description, tensors)
        program.train(self.training)
        memo[id(self)] = program
        parts = dict(program.named_modules())
        memo.update((id(part), parts[name]) for name, part in self.named_modules())
        return program


class Layer(nn.Module):
    """Holds the tensors of one layer, and is called when its operators have run: for hooks."""

    def forward(self, given: Tensor | None, result: Tensor) -> Tensor:
        """The result. ``given`` is None where nothing holds that value any more."""
        return result


class _Run:
    """The values of one forward pass by their numbers."""

    __slots__ = ("batch", "device", "dtype", "program", "values")

    def __init__(self, program: Program, values: dict[int, Tensor], batch: Any, device: torch.device) -> None:
        self.program, self.values, self.batch, self.device = program, values, batch, device
        self.dtype = program.dtype


Reading = Callable[[_Run], Any]
"""Gives an argument its value in a run."""


class _Step:
    """One operator, with everything that does not change from run to run worked out."""

    def __init__(self, program: Program, step: list[Any], unused: list[int]) -> None:
        operator, given, options, self.results = step
        function = function_named(operator)
        if function is None:
            raise CompressError(
                f"a program names the operator `{operator}`, which is not one of those it may call"
            )
        self.function, self.operator = function, operator
        self.counter = _counter_of(operator, given)
        self.args, self.moving = _parted(program, enumerate(given))
        self.options, self.moving_options = _parted(program, options.items())
        self.unused, self.gradient, self.frozen = unused, True, False
        self.layers: list[tuple[nn.Module, int | None, int]] = []

    def __call__(self, run: _Run) -> None:
        args = list(self.args.values())
        for place, read in self.moving:
            args[place] = read(run)
        options = self.options
        if self.moving_options:
            options = {**options, **{name: read(run) for name, read in self.moving_options}}
        if self.operator in TRAINING_FLAGS:
            training = run.program.training and not self.frozen
            _switch(run.program, self.operator, args, self.counter, training)
        if self.gradient:
            found = self.function(*args, **options)
        else:
            with torch.no_grad():
                found = self.function(*args, **options)
        if isinstance(found, Tensor):
            run.values[self.results[0]] = found
        else:
            for number, value in zip(self.results, tensors_in(found), strict=True):
                run.values[number] = value
        for layer, given, result in self.layers:
            if result in run.values:
                run.values[result] = layer(None if given is None else run.values[given], run.values[result])
        for number in self.unused:
            del run.values[number]


def _parted(program: Program, coded: Any) -> tuple[dict[Any, Any], list[tuple[Any, Reading]]]:
    """Arguments by their place: those that are the same in every run, and how to read the others."""
    same: dict[Any, Any] = {}
    moving: list[tuple[Any, Reading]] = []
    for place, value in coded:
        same[place] = None
        if _is_same(value):
            same[place] = _reading(program, value)(None)  # type: ignore[arg-type]
        else:
            moving.append((place, _reading(program, value)))
    return same, moving


def _is_same(coded: Any) -> bool:
    if isinstance(coded, dict):
        return not coded.keys() & {"value", "tensor", "per_batch", "device", OWN} and all(
            _is_same(item) for item in coded.values()
        )
    return not isinstance(coded, list) or all(_is_same(item) for item in coded)


def _reading(program: Program, coded: Any) -> Reading:
    """The function that reads an argument from its JSON form."""
    if isinstance(coded, list):
        parts = [_reading(program, item) for item in coded]
        return lambda run: [part(run) for part in parts]
    if not isinstance(coded, dict):
        return lambda run: coded
    (kind, content), *_ = coded.items()
    return _READINGS[kind](program, content)


def _read_tensor(program: Program, name: str) -> Reading:
    owner, key = program._places[name]
    held = owner._parameters if key in owner._parameters else owner._buffers
    return lambda run: held[key]


def _read_tuple(program: Program, items: list[Any]) -> Reading:
    parts = [_reading(program, item) for item in items]
    return lambda run: tuple(part(run) for part in parts)


def _read_dict(program: Program, items: dict[str, Any]) -> Reading:
    parts = {name: _reading(program, item) for name, item in items.items()}
    return lambda run: {name: part(run) for name, part in parts.items()}


def _read_name(program: Program, name: str) -> Reading:
    value = getattr(torch, name)
    return lambda run: value


_READINGS: dict[str, Callable[[Program, Any], Reading]] = {
    "value": lambda program, number: lambda run: run.values[number],
    "tensor": _read_tensor,
    "per_batch": lambda program, line: lambda run: line[0] * run.batch + line[1],
    "dtype": _read_name,
    "device": lambda program, _: lambda run: run.device,
    OWN: lambda program, _: lambda run: run.dtype,
    "memory_format": _read_name,
    "layout": _read_name,
    "float": lambda program, text: lambda run: float(text),
    "tuple": _read_tuple,
    "dict": _read_dict,
}


def referred(value: Any, kind: str) -> set[Any]:
    """References in a part of a program: the names of tensors (``tensor``) or the numbers of values (``value``)."""
    if isinstance(value, list):
        return {found for item in value for found in referred(item, kind)}
    if isinstance(value, dict):
        if value.keys() == {kind}:
            return {value[kind]}
        return {found for item in value.values() for found in referred(item, kind)}
    return set()


def _last_uses(steps: list[Any], result: Any) -> list[list[int]]:
    """After each step, the values that nothing reads any more."""
    seen = referred(result, "value")
    unused: list[list[int]] = []
    for _, given, options, results in reversed(steps):
        now = (referred([given, options], "value") | set(results)) - seen
        seen |= now
        unused.append(sorted(now))
    return unused[::-1]


def _counter_of(operator: str, given: list[Any]) -> str | None:
    """The name of a batch norm's count of batches: it stands beside its running mean."""
    mean = given[1].get("tensor") if operator == "batch_norm" and isinstance(given[1], dict) else None
    return None if mean is None else counter_beside(mean)


def counter_beside(running_mean: str) -> str:
    """The name that torch's norms give to their count of batches."""
    return f"{running_mean.rpartition('.')[0]}.{COUNTER}".removeprefix(".")


def _switch(program: Program, operator: str, args: list[Any], counter: str | None, training: bool) -> None:
    """Set the training flag of a layer among its arguments."""
    flag = TRAINING_FLAGS[operator]
    # A norm without running statistics takes those of the batch in evaluation too.
    args[flag] = training or (operator in ("batch_norm", "instance_norm") and args[flag])
    if operator == "batch_norm":
        args[flag] = args[flag] or program.batch_statistics or bool(program.averaging)
        _move_statistics(program, args, counter, training)


def _move_statistics(program: Program, args: list[Any], counter: str | None, training: bool) -> None:
    """Set the momentum of a batch norm, and count the batch."""
    if program.averaging:
        args[6] = 1 / program.averaging
    if training and counter in program._places:
        count = program.tensor(counter)
        count.add_(1)
        if args[6] == 0.0:  # what torch hands over in evaluation if the momentum is None: a plain average
            args[6] = 1 / int(count)


def _part(root: nn.Module, path: list[str]) -> nn.Module:
    part = root
    for name in path:
        child = part._modules.get(name)
        if child is None:
            child = part._modules[name] = Layer()
        part = child
    return part
