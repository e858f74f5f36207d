"""Load a TensorRT engine, if its sidecar fits this machine, and run it: named arrays in, named arrays out.

Buffers are torch tensors on the first GPU. For timing, call `bind` once and `start` many times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError, NotHereError
from compressor.exporting.engine import trusted_bytes
from compressor.exporting.extras import load_tensorrt
from compressor.exporting.sessions import Session, TensorSpec
from compressor.exporting.tensorrt import place_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

DEVICE = "cuda"


@dataclass(frozen=True)
class Engine:
    """An engine on the GPU and a context to run it in; ``run`` has the signature of ONNX Runtime's session."""

    library: Any
    engine: Any
    context: Any
    runtime: Any
    """Kept alive, because the engine needs it."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batches(self) -> tuple[int, int]:
        """Smallest and largest batch that its optimisation profile allows."""
        spec = self.inputs[0]
        if isinstance(spec.shape[0], int):
            return spec.shape[0], spec.shape[0]
        fewest, _, most = self.engine.get_tensor_profile_shape(spec.name, 0)
        return int(fewest[0]), int(most[0])

    def with_context(self) -> Engine:
        """Return the same engine with a new context, so that no state is shared."""
        context = self.engine.create_execution_context()
        return Engine(self.library, self.engine, context, self.runtime, self.inputs, self.outputs)

    def bind(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Copy the inputs to the GPU and allocate the outputs; the caller must keep the returned tensors alive."""
        import torch

        tensors = {name: torch.from_numpy(array).to(DEVICE).contiguous() for name, array in arrays.items()}
        for name, tensor in tensors.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise ValueError(f"`{name}` of shape {tuple(tensor.shape)} is outside the engine's profile")
        for output in self.outputs:  # their shapes are known once those of the inputs are set
            shape = tuple(self.context.get_tensor_shape(output.name))
            tensors[output.name] = torch.empty(shape, dtype=getattr(torch, output.dtype), device=DEVICE)
        for name, tensor in tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        return tensors

    def start(self) -> None:
        """Enqueue one run on the bound tensors in the current stream, and do not wait."""
        import torch

        if not self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("the engine could not be started")

    def run(self, names: Sequence[str], arrays: Mapping[str, Array]) -> list[Array]:
        """Run once and wait."""
        import torch

        tensors = self.bind(arrays)
        self.start()
        torch.cuda.current_stream().synchronize()
        return [tensors[name].cpu().numpy() for name in names]


def open_engine(path: Path) -> Session:
    """Open an engine that was built for this machine; without a GPU, or with another one, that is an error."""
    engine = load_engine(path)
    return Session(Path(path), engine.inputs, engine.outputs, engine, engine.batches)


def load_engine(path: Path) -> Engine:
    """Load an engine that was built for this machine; raise an error with the reason if it cannot be loaded."""
    path = Path(path)
    library = load_tensorrt(f"load `{path}`")
    content = trusted_bytes(path, place_of(library))
    gpu = _gpu_here()
    if gpu is None:
        raise NotHereError(
            f"cannot load `{path}`: there is no CUDA device here",
            "run it on the machine that it was built for",
        )
    runtime = library.Runtime(library.Logger(library.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ExportError(
            f"cannot load `{path}`: {library.__name__} refuses it on {gpu}",
            "rebuild it here from its ONNX file",
        )
    specs = [_spec(library, engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
    inputs, outputs = (
        tuple(spec for mode, spec in specs if mode == wanted)
        for wanted in (library.TensorIOMode.INPUT, library.TensorIOMode.OUTPUT)
    )
    return Engine(library, engine, engine.create_execution_context(), runtime, inputs, outputs)


def _gpu_here() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _spec(library: Any, engine: Any, name: str) -> tuple[Any, TensorSpec]:
    import numpy as np

    shape = tuple("batch" if size < 0 else int(size) for size in engine.get_tensor_shape(name))
    dtype = np.dtype(library.nptype(engine.get_tensor_dtype(name)))
    return engine.get_tensor_mode(name), TensorSpec(name, shape, dtype.name)
