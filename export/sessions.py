"""Open an exported file in a runtime: named arrays in, named arrays out.

A new runtime for files is a new function here. Measuring time and comparing results are not done
here: both take callables, and a session is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError, first_line
from compressor.exporting.extras import require

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output; a free axis has a name in place of a size."""

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
    """An object with ``run(names, arrays)``: ONNX Runtime's session, or one with the same interface."""
    batches: tuple[int, int | None] = (1, None)
    """Smallest and largest batch; None is no limit."""

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        return self.run(arrays)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; an array of the wrong name, shape or type is an error, never a cast."""
        names = [output.name for output in self.outputs]
        try:
            results = self.runtime.run(names, dict(arrays))
        # The exception types of the runtimes share no base class of their own.
        except Exception as error:
            expected = ", ".join(f"{i.name}: {i.dtype} {list(i.shape)}" for i in self.inputs)
            raise ExportError(
                f"cannot run `{self.path}`: {first_line(error)}", f"it takes {expected}"
            ) from error
        return dict(zip(names, results, strict=True))

    def answers(self, images: Array) -> Any:
        """Compute the output for any number of images, split and padded to batches that the file takes.

        Several outputs are a dictionary by name.
        """
        import numpy as np

        from compressor.exporting.test_inputs import in_parts

        found = [
            {name: values[:count] for name, values in self.run({self.inputs[0].name: part}).items()}
            for part, count in in_parts(images, *self.batches)
        ]
        joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        return joined if len(joined) > 1 else next(iter(joined.values()))


def open_session(
    path: Path, *, threads: int | None = None, providers: Sequence[str] | None = None, fused: bool = True
) -> Session:
    """Open an ONNX file in ONNX Runtime, on the CPU unless ``providers`` says otherwise.

    Idle threads sleep instead of spinning. On two shared cores, resnet18 at batch 1 took 37
    and 38 ms in two runs with sleeping threads, 18 and 60 ms with spinning ones: spinning is fast on
    an idle machine, and takes the core from other work (or its own) on a busy one.

    ``fused``: quantised layers run in 8-bit kernels, which clip sums on processors without VNNI. Otherwise they
    compute as the file says, with rounded values in float32: slowly, and the same on every processor.
    """
    provider_options: list[tuple[str, dict[str, str]]] = [
        (name, {}) for name in providers or ["CPUExecutionProvider"]
    ]
    return _open_onnxruntime(path, threads, provider_options, fused)


def open_unfused(path: Path) -> Session:
    """Open an ONNX file in ONNX Runtime without 8-bit kernels, whose results depend on the processor."""
    return open_session(path, fused=False)


def open_on_cuda(path: Path, *, stream: int, graph: bool = False) -> Session:
    """Open an ONNX file in ONNX Runtime on the GPU; it works in the CUDA ``stream`` of the caller.

    TF32, the default of the provider, is off. ``graph``: the first run at an address is recorded, later ones
    replay it.
    """
    options = {"user_compute_stream": str(stream), "use_tf32": "0", "enable_cuda_graph": str(int(graph))}
    return _open_onnxruntime(path, None, [("CUDAExecutionProvider", options)])


def open_openvino(path: Path, *, threads: int | None = None) -> Session:
    """Open an ONNX file in OpenVINO on the CPU, for the latency of one request.

    Float32 is set explicitly: by default OpenVINO multiplies in bfloat16 if the processor can.
    """
    path = _existing(path)
    require("openvino", f"open `{path}`")
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", config)
    except Exception as error:
        raise ExportError(f"cannot open `{path}` in OpenVINO: {_reason(error)}") from error
    inputs, outputs = (tuple(_port(port) for port in ports) for ports in (compiled.inputs, compiled.outputs))
    return Session(path, inputs, outputs, _OpenVino(compiled.create_infer_request()), _batches(inputs))


@dataclass(frozen=True)
class _OpenVino:
    """An infer request with the interface of ONNX Runtime's session."""

    request: Any

    def run(self, names: Sequence[str], arrays: dict[str, Array]) -> list[Array]:
        results = self.request.infer(arrays)
        return [results[name] for name in names]


def _open_onnxruntime(
    path: Path,
    threads: int | None,
    providers: Sequence[tuple[str, dict[str, str]]],
    fused: bool = True,
) -> Session:
    import onnxruntime

    path = _existing(path)
    _refuse_missing((name for name, _ in providers), onnxruntime.get_available_providers())

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", str(int(not fused)))
    try:
        # With its fallback it would retry a broken file, with a message, and run on the CPU in place of a GPU.
        runtime = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), enable_fallback=0
        )
        # Names are read inside the try: in a broken file they may not be text.
        inputs = tuple(_spec(argument) for argument in runtime.get_inputs())
        outputs = tuple(_spec(argument) for argument in runtime.get_outputs())
    except Exception as error:
        raise ExportError(f"cannot open `{path}`: {first_line(error)}") from error
    return Session(path, inputs, outputs, runtime, _batches(inputs))


def _batches(inputs: Sequence[TensorSpec]) -> tuple[int, int | None]:
    """Smallest and largest batch; a file that was written for one batch size takes no other."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return (first, first) if isinstance(first, int) and first > 0 else (1, None)


def _existing(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"cannot open `{path}`: no such file")
    return path


def _refuse_missing(requested: Iterable[str], available: list[str]) -> None:
    """Raise an error for a missing provider; ONNX Runtime would warn and run on the CPU."""
    for name in requested:
        if name not in available:
            raise ExportError(
                f"ONNX Runtime has no provider `{name}` here",
                "available: " + ", ".join(available),
            )


def _spec(argument: Any) -> TensorSpec:
    kind = argument.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(argument.name, tuple(argument.shape), _DTYPES.get(kind, kind))


def _port(port: Any) -> TensorSpec:
    shape = tuple(
        size.get_length() if size.is_static else f"free_{axis}"
        for axis, size in enumerate(port.partial_shape)
    )
    return TensorSpec(port.get_any_name(), shape, str(port.element_type.to_dtype()))


def _reason(error: Exception) -> str:
    """Reason in an OpenVINO error, which stands after lines about OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (reasons or lines or [type(error).__name__])[0]
