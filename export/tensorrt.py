"""From an ONNX file to a TensorRT engine, through `tensorrt` or `tensorrt_rtx`: the two have one interface.

The precision is that of the ONNX file, because networks are strongly typed: the one switch left is TF32. Building
needs no GPU with TensorRT-RTX, and one with TensorRT. Running an engine is `engine_run`.
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


def to_tensorrt(source: Path, path: Path, asked: Asked) -> Artifact:
    """Build the engine for this machine, or take it from the cache; the sidecar and the log are written beside it."""
    library = load_tensorrt(f"build `{path}`")
    ask, place = asked.engine, place_of(library)
    flags = {"batches": list(ask.batches), "workspace_mib": ask.workspace_mib, "tf32": ask.tf32}
    onnx_sha256, _ = content_of(source)
    kept = ask.cache / f"{cache_key(onnx_sha256, place, flags)}.engine" if ask.cache else None
    notes: tuple[str, ...] = ()
    with appearing_whole(path) as scratch:
        if kept is not None and _is_kept(kept, place):
            for file in (kept, sidecar_path(kept), _log_path(kept)):
                shutil.copy(file, scratch.with_name(file.name.replace(kept.name, scratch.name)))
            notes = (f"the engine was built before, with the same file, flags and {place.key()}",)
        else:
            plan, log = built(library, source, ask, kept.parent / "timing.cache" if kept else None)
            sidecar = Sidecar(hashlib.sha256(plan).hexdigest(), onnx_sha256, place, flags)
            scratch.write_bytes(plan)
            sidecar_path(scratch).write_text(sidecar.to_json(), encoding="utf-8")
            _log_path(scratch).write_text("\n".join(log) + "\n", encoding="utf-8")
            if kept is not None:
                with appearing_whole(kept) as copy:
                    for file in (scratch, sidecar_path(scratch), _log_path(scratch)):
                        shutil.copy(file, copy.with_name(file.name.replace(scratch.name, copy.name)))
    return describe(path, format="tensorrt", precision=_precision(source), opset=None, notes=notes)


def place_of(library: Any) -> Place:
    """The library and the first GPU. TensorRT-RTX without a GPU builds for all that it supports."""
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
    library: Any, source: Path, ask: EngineAsk, timing_cache: Path | None = None
) -> tuple[bytes, list[str]]:
    """The engine's bytes and the build's log. What is refused is named with the layer that it came from."""
    lines: list[str] = []
    logger = _logger(library, lines)
    builder = library.Builder(logger)
    if builder is None:
        raise ExportError(
            f"cannot build an engine: {_last_complaint(lines)}", "it needs a GPU and its driver"
        )
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(library, network, logger, source, lines)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, ask.workspace_mib << 20)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # Off unless asked for: it is on by default, and then float32 is not float32.
    (config.set_flag if ask.tf32 else config.clear_flag)(library.BuilderFlag.TF32)
    _add_profile(builder, network, config, ask, source)
    started = time.perf_counter()
    with _cached_timings(config, timing_cache if library.__name__ == "tensorrt" else None):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"cannot build an engine of `{source}`: {_last_complaint(lines)}")
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
    # From the file, so that weights beside it are found.
    if parser.parse_from_file(str(source)):
        return
    refused = [_refusal(parser.get_error(index)) for index in range(parser.num_errors)]
    raise ExportError(
        f"TensorRT refuses `{source}`: {'; '.join(dict.fromkeys(refused)) or _last_complaint(lines)}",
        "keep that layer out of the network, or run the ONNX file elsewhere",
    )


def _refusal(error: Any) -> str:
    operator, node = error.node_operator(), error.node_name()
    fact = str(error.desc()).strip().splitlines()[0]
    return f"`{node}` ({operator}): {fact}" if node else fact


def _add_profile(builder: Any, network: Any, config: Any, ask: EngineAsk, source: Path) -> None:
    profile, free = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shape = tuple(given.shape)
        if any(size < 0 for size in shape[1:]):
            raise ExportError(
                f"cannot build an engine of `{source}`: axes of `{given.name}` beside the batch are free",
                "export it with one height and width",
            )
        if shape[0] < 0:
            free = True
            profile.set_shape(given.name, *((batch, *shape[1:]) for batch in ask.batches))
    if free:
        config.add_optimization_profile(profile)


@contextmanager
def _cached_timings(config: Any, path: Path | None) -> Iterator[None]:
    """TensorRT times its kernels once for a device, and reads here what it found before; TensorRT-RTX times none."""
    if path is None:
        yield
        return
    before = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(before)
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    found = config.get_timing_cache()
    if found is not None:
        with appearing_whole(path) as scratch:
            scratch.write_bytes(bytes(found.serialize()))


def _is_kept(engine: Path, place: Place) -> bool:
    try:
        trusted_bytes(engine, place)
    except ExportError:
        return False
    return _log_path(engine).exists()


def _log_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.log")


def _last_complaint(lines: list[str]) -> str:
    told = [line.partition(": ")[2] for line in lines if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return (told or ["no reason was given"])[-1].splitlines()[0]


def _precision(source: Path) -> str:
    """What the ONNX file says of itself; one of another maker says nothing, and float32 is the usual case."""
    import onnx

    facts = {each.key: each.value for each in onnx.load(str(source), load_external_data=False).metadata_props}
    return facts.get("precision_of_file") or ("int8" if "quantised_for" in facts else "fp32")
