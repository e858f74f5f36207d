"""Build a TensorRT engine from an ONNX file, with `tensorrt` or `tensorrt_rtx`, which have the same interface.

The precision is that of the ONNX file, because networks are strongly typed. Building
needs a GPU with TensorRT, and none with TensorRT-RTX. `engine_session` runs an engine.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact, appearing_whole, content_of, describe
from compressor.exporting.engine import ANY_DEVICE, Place, Sidecar, cache_key, sidecar_path, trusted_bytes
from compressor.exporting.extras import load_tensorrt
from compressor.exporting.options import Asked, EngineAsk

WORKSPACE_MIB = 1024
"""GPU memory that TensorRT may use while building; the engines of docs/exporting.md were built with it."""
TF32 = False
"""TF32 is on by default in TensorRT, and has 10 bits of mantissa: too few for the tolerance of float32 files."""


def to_tensorrt(source: Path, path: Path, options: Asked) -> Artifact:
    """Build the engine for this machine, or copy it from the cache; write its sidecar and its log beside it."""
    library = load_tensorrt(f"build `{path}`")
    settings, place = options.engine, place_of(library)
    flags = {
        "batches": list(settings.batches),
        "workspace_mib": WORKSPACE_MIB,
        "tf32": TF32,
    }
    onnx_sha256, _ = content_of(source)
    cached = settings.cache / f"{cache_key(onnx_sha256, place, flags)}.engine" if settings.cache else None
    notes: tuple[str, ...] = ()
    with appearing_whole(path) as scratch:
        if cached is not None and _is_cached(cached, place):
            for file in (cached, sidecar_path(cached), _log_path(cached)):
                shutil.copy(file, scratch.with_name(file.name.replace(cached.name, scratch.name)))
            notes = (f"the engine was built before, with the same file, flags and {place.key()}",)
        else:
            plan, log = built(library, source, settings, cached.parent / "timing.cache" if cached else None)
            sidecar = Sidecar(hashlib.sha256(plan).hexdigest(), onnx_sha256, place, flags)
            scratch.write_bytes(plan)
            sidecar_path(scratch).write_text(sidecar.to_json(), encoding="utf-8")
            _log_path(scratch).write_text("\n".join(log) + "\n", encoding="utf-8")
            if cached is not None:
                with appearing_whole(cached) as copy:
                    for file in (scratch, sidecar_path(scratch), _log_path(scratch)):
                        shutil.copy(file, copy.with_name(file.name.replace(scratch.name, copy.name)))
    return describe(path, format="tensorrt", precision=_precision(source), opset=None, notes=notes)


def place_of(library: Any) -> Place:
    """The library and the first GPU; TensorRT-RTX builds for every GPU that it supports."""
    name, driver = _gpu()
    return Place(
        library.__name__,
        str(library.__version__),
        ANY_DEVICE if library.__name__ == "tensorrt_rtx" else name,
        ANY_DEVICE if library.__name__ == "tensorrt_rtx" else driver,
    )


def _gpu() -> tuple[str, str]:
    import torch

    if not torch.cuda.is_available():
        return "no GPU", "no driver"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} sm_{major}{minor}", _driver()


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        return next(word for word in first.split() if word[:1].isdigit() and "." in word)
    except (OSError, IndexError, StopIteration):
        return "unknown driver"


def built(
    library: Any, source: Path, options: EngineAsk, timing_cache: Path | None = None
) -> tuple[bytes, list[str]]:
    """Build an engine; return its bytes and the log. An error names the layer that is refused."""
    lines: list[str] = []
    logger = _logger(library, lines)
    builder = library.Builder(logger)
    if builder is None:
        raise ExportError(
            f"cannot build an engine: {_last_error(lines)}",
            "TensorRT needs a GPU and its driver to build an engine",
        )
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(library, network, logger, source, lines)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, WORKSPACE_MIB << 20)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    (config.set_flag if TF32 else config.clear_flag)(library.BuilderFlag.TF32)
    _add_profile(builder, network, config, options, source)
    started = time.perf_counter()
    with _cached_timings(config, timing_cache if library.__name__ == "tensorrt" else None):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"cannot build an engine of `{source}`: {_last_error(lines)}")
    lines.append(f"built in {time.perf_counter() - started:.1f} s, {plan.nbytes:,} bytes")
    return bytes(plan), lines


def _logger(library: Any, lines: list[str]) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity != library.ILogger.Severity.VERBOSE:
                lines.append(f"{severity.name}: {message.strip()}")

    return Logger()


def _parse(library: Any, network: Any, logger: Any, source: Path, lines: list[str]) -> None:
    parser = library.OnnxParser(network, logger)
    # By its path, so that weights beside the file are found.
    if parser.parse_from_file(str(source)):
        return
    refusals = [_refusal(parser.get_error(index)) for index in range(parser.num_errors)]
    raise ExportError(
        f"TensorRT refuses `{source}`: {'; '.join(dict.fromkeys(refusals)) or _last_error(lines)}",
        "remove that layer from the network, or run the ONNX file in another runtime",
    )


def _refusal(error: Any) -> str:
    operator, node = error.node_operator(), error.node_name()
    fact = str(error.desc()).strip().splitlines()[0]
    return f"`{node}` ({operator}): {fact}" if node else fact


def _add_profile(builder: Any, network: Any, config: Any, options: EngineAsk, source: Path) -> None:
    profile, free = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise ExportError(
                f"cannot build an engine of `{source}`: axes of `{tensor.name}` other than the batch are free",
                "export it with a fixed height and width",
            )
        if shape[0] < 0:
            free = True
            profile.set_shape(tensor.name, *((batch, *shape[1:]) for batch in options.batches))
    if free:
        config.add_optimization_profile(profile)


@contextmanager
def _cached_timings(config: Any, path: Path | None) -> Iterator[None]:
    """Let TensorRT reuse and update its kernel timings of this device in a file; TensorRT-RTX times no kernels."""
    if path is None:
        yield
        return
    previous = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(previous)
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    updated = config.get_timing_cache()
    if updated is not None:
        with appearing_whole(path) as scratch:
            scratch.write_bytes(bytes(updated.serialize()))


def _is_cached(engine: Path, place: Place) -> bool:
    try:
        trusted_bytes(engine, place)
    except ExportError:
        return False
    return _log_path(engine).exists()


def _log_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.log")


def _last_error(lines: list[str]) -> str:
    errors = [line.partition(": ")[2] for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return (errors or ["no reason was given"])[-1].splitlines()[0]


def _precision(source: Path) -> str:
    """Precision in the metadata of the ONNX file; float32, the usual case, for files of other exporters."""
    import onnx

    model = onnx.load(str(source), load_external_data=False)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    return facts.get("precision_of_file") or ("int8" if "quantised_for" in facts else "fp32")
