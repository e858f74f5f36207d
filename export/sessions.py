"""An exported file, opened again: named arrays in, named arrays out.

Only ONNX Runtime today. Measuring time and comparing results are not done here: a session
is a callable, and both take callables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExportError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; an axis that is free is known by its name."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Session:
    """A model ready to run: ``session(input=array)["logits"]``."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime: Any

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        return self.run(arrays)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; an array of the wrong name, shape or type is an error, never a cast."""
        names = [output.name for output in self.outputs]
        try:
            results = self.runtime.run(names, dict(arrays))
        # ONNX Runtime's exception types share no base class of their own.
        except Exception as error:
            expected = ", ".join(f"{i.name}: {i.dtype} {list(i.shape)}" for i in self.inputs)
            raise ExportError(
                f"cannot run `{self.path}`: {_first_line(error)}", f"it takes {expected}"
            ) from error
        return dict(zip(names, results, strict=True))


def open_session(
    path: Path, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> Session:
    """Open an ONNX file in ONNX Runtime, on the CPU unless ``providers`` says otherwise.

    Idle threads sleep instead of spinning. On two shared cores, resnet18 at batch 1 took 37
    and 38 ms in two runs asleep, 18 and 60 ms spinning: spinning is fast on an empty machine
    and takes the core from its neighbour (or from itself) on a busy one.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise ExportError(f"cannot open `{path}`: no such file")
    wanted = list(providers or ["CPUExecutionProvider"])
    _refuse_missing(wanted, onnxruntime.get_available_providers())

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        runtime = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:
        raise ExportError(f"cannot open `{path}`: {_first_line(error)}") from error
    inputs = tuple(_spec(argument) for argument in runtime.get_inputs())
    outputs = tuple(_spec(argument) for argument in runtime.get_outputs())
    return Session(path, inputs, outputs, runtime)


def _refuse_missing(wanted: list[str], available: list[str]) -> None:
    """ONNX Runtime itself would warn and run on the CPU: a measurement of something else."""
    for name in wanted:
        if name not in available:
            raise ExportError(
                f"ONNX Runtime has no provider `{name}` here",
                "available: " + ", ".join(available),
            )


def _spec(argument: Any) -> TensorSpec:
    kind = argument.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(argument.name, tuple(argument.shape), _DTYPES.get(kind, kind))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
