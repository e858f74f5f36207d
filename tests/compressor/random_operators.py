"""Call every operator that a program may call, and that has no rule, on random arguments: a program of its own.

Errors are what a wrong argument should give. A crash of the process is not, since programs come from strangers.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
from typing import Any

import torch

from compressor.pruning.cutting.program_operators import function_named
from compressor.pruning.graph.rules.table import rule_of

CALLS = 300
SECONDS = 10  # for one operator
MEMORY = 12 << 30
NUMBERS = (-(2**40), -100, -1, 0, 1, 2, 3, 7, 100, 2**31)


def operators() -> list[str]:
    """The names of all operators of ATen that may be called and have no rule."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        library, _, name = schema.name.partition("::")
        full = f"{library}.{name}.{schema.overload_name or 'default'}"
        if library == "aten" and rule_of(name) is None and function_named(full) is not None:
            found.add(full)
    return sorted(found)


def drawn(kind: str, draw: random.Random) -> Any:
    """A value for an argument of this type."""
    if kind.startswith("Optional"):
        return None if draw.random() < 0.3 else drawn(kind[9:-1], draw)
    if kind.startswith("List"):
        return [drawn(kind[5:-1], draw) for _ in range(draw.randint(0, 4))]
    if kind == "Tensor" and draw.random() < 0.7:
        return torch.randn([draw.choice([0, 1, 2, 3, 5]) for _ in range(draw.randint(0, 5))])
    if kind == "Tensor":
        return torch.randint(-3, 9, [draw.choice([1, 2, 4]) for _ in range(draw.randint(0, 4))])
    values = {
        "int": (*NUMBERS, *range(5), *range(5)),
        "float": (0.0, 1.0, -1.0, 0.3, 1e30),
        "bool": (True, False),
    }
    return draw.choice(values.get(kind, (0, 1, -2, 0.5)))


def called(name: str) -> None:
    """Call one operator on random arguments."""
    function, draw = function_named(name), random.Random(0)
    assert isinstance(function, torch._ops.OpOverload)
    for _ in range(CALLS):
        args = []
        for argument in function._schema.arguments:
            if argument.kwarg_only or (argument.has_default_value() and draw.random() < 0.5):
                break
            args.append(drawn(str(argument.type), draw))
        with contextlib.suppress(RuntimeError, IndexError, ValueError, TypeError, MemoryError, OverflowError):
            function(*args)


def too_slow(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, too_slow)
    for name in operators():
        print(name, flush=True)
        signal.alarm(SECONDS)
        with contextlib.suppress(TimeoutError):
            called(name)
        signal.alarm(0)
    print("all", flush=True)


if __name__ == "__main__":
    main()
