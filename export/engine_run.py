"""A TensorRT engine, loaded if its sidecar fits, and run: named arrays in, named arrays out.

Buffers are torch's, on the first GPU. What is timed elsewhere takes the same session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engine import trusted_bytes
from .errors import ExportError, NotHereError
from .needs import load_tensorrt
from .sessions import Session, TensorSpec
from .tensorrt import place_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def open_engine(path: Path) -> Session:
    """Load an engine that was built here; without a GPU, or with another one, that is an error."""
    import torch

    path = Path(path)
    library = load_tensorrt(f"load `{path}`")
    content = trusted_bytes(path, place_of(library))
    if not torch.cuda.is_available():
        raise NotHereError(
            f"cannot load `{path}`: there is no CUDA device here", "run it where it was built for"
        )
    runtime = library.Runtime(library.Logger(library.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ExportError(
            f"cannot load `{path}`: {library.__name__} refuses it on {torch.cuda.get_device_name()}",
            "rebuild it here from its ONNX file",
        )
    specs = [_spec(library, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
    inputs = tuple(spec for mode, spec in specs if mode == library.TensorIOMode.INPUT)
    outputs = tuple(spec for mode, spec in specs if mode == library.TensorIOMode.OUTPUT)
    running = _Engine(engine, engine.create_execution_context(), runtime)
    return Session(path, inputs, outputs, running, _batches(engine, inputs[0]))


def _batches(engine: Any, given: TensorSpec) -> tuple[int, int | None]:
    """The fewest and the most images that its profile allows."""
    if isinstance(given.shape[0], int):
        return given.shape[0], given.shape[0]
    fewest, _, most = engine.get_tensor_profile_shape(given.name, 0)
    return int(fewest[0]), int(most[0])


def _spec(library: Any, engine: Any, name: str) -> tuple[Any, TensorSpec]:
    import numpy as np

    shape = tuple("batch" if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    dtype = np.dtype(library.nptype(engine.get_tensor_dtype(name)))
    return engine.get_tensor_mode(name), TensorSpec(name, shape, dtype.name)


@dataclass(frozen=True)
class _Engine:
    """An engine that is asked as ONNX Runtime's session is; it keeps alive what it needs."""

    engine: Any
    context: Any
    runtime: Any

    def run(self, names: Sequence[str], arrays: dict[str, Array]) -> list[Array]:
        import torch

        held = {name: torch.from_numpy(array).cuda().contiguous() for name, array in arrays.items()}
        for name, tensor in held.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise ValueError(f"`{name}` of shape {tuple(tensor.shape)} is outside the engine's profile")
        for name in names:
            held[name] = torch.empty(tuple(self.context.get_tensor_shape(name)), device="cuda")
        for name, tensor in held.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("the engine could not be started")
        stream.synchronize()
        return [held[name].cpu().numpy() for name in names]
