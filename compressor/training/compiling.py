"""Faster forward passes for ``compile = true``: of the network in training, and of its frozen teacher.

On a CPU a frozen teacher runs as an ONNX file in ONNX Runtime: for a ResNet-56 at batch 128 on two cores 1.4
times as fast as compiled by torch, 1.9 times as fast as eager, and ready in seconds. Not implemented: CUDA graphs, and
ONNX Runtime on a GPU, where nothing was measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.errors import CompressError, ExportError
from compressor.exporting import open_session, to_onnx
from compressor.training.precision import Arithmetic

Forward = Callable[[Tensor], Tensor]


def compiled(network: nn.Module) -> Forward:
    """The network through `torch.compile`, sharing its weights; a `CompressError` if torch cannot compile it."""
    forward = torch.compile(network, dynamic=False)

    def run(images: Tensor) -> Tensor:
        try:
            return forward(images)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise CompressError(
                f"torch cannot compile `{type(network).__name__}`: {reason}",
                "set distil.schedule.compile to false",
            ) from error

    return run


def frozen(teacher: nn.Module, arithmetic: Arithmetic, note: Callable[[str], None]) -> Forward:
    """The fastest known forward pass of a frozen teacher on this device; ``note`` gets a warning on a fallback."""
    if arithmetic.device.type != "cpu" or arithmetic.precision.name != "fp32":
        return compiled(teacher)
    # Built at the first call, because an export needs images of the right shape.
    ready: list[Forward] = []

    def run(images: Tensor) -> Tensor:
        if not ready:
            try:
                ready.append(_in_onnxruntime(teacher, images))
            except ExportError as error:
                note(f"the teacher is compiled by torch, because it cannot be exported to ONNX: {error}")
                ready.append(compiled(teacher))
        return ready[0](images)

    return run


def _in_onnxruntime(teacher: nn.Module, images: Tensor) -> Forward:
    with tempfile.TemporaryDirectory() as folder:  # the session holds the whole model in memory
        artifact = to_onnx(teacher, images[:1], Path(folder) / "teacher.onnx")
        session = open_session(artifact.path, threads=torch.get_num_threads())
    input_name, output_name = session.inputs[0].name, session.outputs[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session(**{input_name: images.contiguous().numpy()})[output_name])

    return run
