"""An exported file, opened again: named arrays in, named arrays out.

One more runtime for files is one more function here. Measuring time and comparing results are not
done here: a session is a callable, and both take callables.
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
    """Whatever has ``run(names, arrays)``: ONNX Runtime's own session, or one that behaves like it."""
    batches: tuple[int, int | None] = (1, None)
    """The fewest and the most images at a time; none is no limit."""

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

    def answers(self, images: Array) -> Array:
        """The first output for any number of images: in parts, and filled up, where the file takes no such batch."""
        import numpy as np

        from compressor.exporting.test_inputs import in_parts

        given, answer = self.inputs[0].name, self.outputs[0].name
        parts = in_parts(images, *self.batches)
        return np.concatenate([self.run({given: part})[answer][:own] for part, own in parts])


def open_session(
    path: Path, *, threads: int | None = None, providers: Sequence[str] | None = None, fused: bool = True
) -> Session:
    """Open an ONNX file in ONNX Runtime, on the CPU unless ``providers`` says otherwise.

    Idle threads sleep instead of spinning. On two shared cores, resnet18 at batch 1 took 37
    and 38 ms in two runs asleep, 18 and 60 ms spinning: spinning is fast on an empty machine
    and takes the core from its neighbour (or from itself) on a busy one.

    ``fused``: quantised layers run in kernels of 8 bits, which clip sums on processors without VNNI. Without it they
    compute as the file says, with rounded values in float32: slowly, and on every processor the same.
    """
    named: list[tuple[str, dict[str, str]]] = [(name, {}) for name in providers or ["CPUExecutionProvider"]]
    return _open_onnxruntime(path, threads, named, fused)


def open_unfused(path: Path) -> Session:
    """Open an ONNX file in ONNX Runtime to see what it says, not what kernels of 8 bits make of it here."""
    return open_session(path, fused=False)


def open_on_cuda(path: Path, *, stream: int, graph: bool = False) -> Session:
    """Open an ONNX file in ONNX Runtime on the GPU, so that its work goes to a CUDA ``stream`` of the caller.

    Float32 stays float32: by default the provider multiplies in TF32. ``graph``: the first run at an address is
    recorded, later ones replay it.
    """
    options = {"user_compute_stream": str(stream), "use_tf32": "0", "enable_cuda_graph": str(int(graph))}
    return _open_onnxruntime(path, None, [("CUDAExecutionProvider", options)])


def open_openvino(path: Path, *, threads: int | None = None) -> Session:
    """Open an ONNX file in OpenVINO on the CPU, for the latency of one request.

    Its precision is said: left to itself OpenVINO multiplies in bfloat16 where the processor can.
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
        raise ExportError(f"cannot open `{path}` in OpenVINO: {_fact(error)}") from error
    inputs, outputs = (tuple(_port(port) for port in ports) for ports in (compiled.inputs, compiled.outputs))
    return Session(path, inputs, outputs, _OpenVino(compiled.create_infer_request()), _batches(inputs))


@dataclass(frozen=True)
class _OpenVino:
    """An infer request that is asked as ONNX Runtime's session is."""

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
        # Where a file is broken it would print so and try the same again; on a GPU it would fall back to the CPU.
        runtime = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), enable_fallback=0
        )
        # Names are read here too: those of a broken file are no text.
        inputs = tuple(_spec(argument) for argument in runtime.get_inputs())
        outputs = tuple(_spec(argument) for argument in runtime.get_outputs())
    except Exception as error:
        raise ExportError(f"cannot open `{path}`: {first_line(error)}") from error
    return Session(path, inputs, outputs, runtime, _batches(inputs))


def _batches(inputs: Sequence[TensorSpec]) -> tuple[int, int | None]:
    """A file that was written for one batch takes no other."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return (first, first) if isinstance(first, int) and first > 0 else (1, None)


def _existing(path: Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"cannot open `{path}`: no such file")
    return path


def _refuse_missing(wanted: Iterable[str], available: list[str]) -> None:
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


def _port(port: Any) -> TensorSpec:
    shape = tuple(
        size.get_length() if size.is_static else f"free_{axis}"
        for axis, size in enumerate(port.partial_shape)
    )
    return TensorSpec(port.get_any_name(), shape, str(port.element_type.to_dtype()))


def _fact(error: Exception) -> str:
    """OpenVINO tells first which lines of its own source were passed, and then what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[0]
