"""Export a network as an ExecuTorch program (`.pte`) for phones and microcontrollers; XNNPACK computes the layers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError, first_line
from compressor.exporting.artifact import Artifact, appearing_whole, describe
from compressor.exporting.capture import BATCH, captured, copied, undisturbed
from compressor.exporting.extras import require
from compressor.exporting.options import Asked
from compressor.exporting.rejections import explained
from compressor.exporting.sessions import Session, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Array = np.ndarray[Any, np.dtype[Any]]


def to_executorch(network: nn.Module, example: Tensor, path: Path, options: Asked) -> Artifact:
    """Write a float32 program for batches up to the largest of ``options.engine``: memory is planned at export."""
    require("executorch", f"write `{path}`")
    with undisturbed():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        module = copied(network, "ExecuTorch")
        with explained(module, "ExecuTorch"):
            program = captured(module, (example,), {0: BATCH}, most=options.engine.batches[-1])
        try:
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
        except Exception as error:  # a pass of the compiler may raise anything
            raise ExportError(f"ExecuTorch refuses the network: {first_line(error)}") from error
    with appearing_whole(path) as scratch:
        scratch.write_bytes(content)
    return describe(path, format="executorch", precision="fp32", opset=None)


def open_program(path: Path, *, threads: int | None = None) -> Session:
    """Open a program in ExecuTorch's runtime on the CPU; it must have one input, and has no names of tensors.

    ``threads`` applies to every program of this process, because they share one pool.
    """
    path = Path(path)
    require("executorch", f"open `{path}`")
    if not path.is_file():
        raise ExportError(f"cannot open `{path}`: no such file")
    with undisturbed():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification
    try:
        with _native_silence():
            if threads and threads != portable_lib._threadpool_get_thread_count():
                portable_lib._unsafe_reset_threadpool(threads)
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            method = program.load_method("forward")
    except Exception as error:  # its C++ raises RuntimeError with a code
        raise ExportError(f"cannot open `{path}` in ExecuTorch: {first_line(error)}") from error
    if method is None or method.metadata.num_inputs() != 1:
        raise ExportError(f"cannot open `{path}`: it has no method `forward` with exactly one input")
    metadata = method.metadata
    most, *rest = metadata.input_tensor_meta(0).sizes()
    names = ["logits", *(f"output_{number}" for number in range(1, metadata.num_outputs()))]
    outputs = tuple(
        TensorSpec(name, (BATCH, *metadata.output_tensor_meta(number).sizes()[1:]), "float32")
        for number, name in enumerate(names)
    )
    input_spec = TensorSpec("input", (BATCH, *rest), "float32")
    return Session(path, (input_spec,), outputs, _Program(program, method), (1, most))


@contextmanager
def _native_silence() -> Iterator[None]:
    """Silence stderr: the runtime's C++ prints which files about the processor it did not find."""
    saved_stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
        os.close(null)


@dataclass(frozen=True)
class _Program:
    """A method with the interface of ONNX Runtime's session; it keeps its program alive."""

    program: Any
    method: Any

    def run(self, names: Sequence[str], arrays: dict[str, Array]) -> list[Array]:
        import torch

        (images,) = arrays.values()
        outputs = self.method.execute([torch.from_numpy(images).contiguous()])
        return [output.numpy().copy() for output in outputs]
