"""Open an ONNX file of unknown origin: check its contents, then open it in a separate process first.

ONNX Runtime is C++ that trusts its input: some broken files end the process, some request all memory. So `check_file`
reads the protobuf and refuses what cannot be right, `probe` opens the file in a separate process with a limit of time
and memory, and `open_stranger` does both and then opens it here.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.errors import ExportError
from compressor.exporting.sessions import Session, open_session

OLDEST_OPSET = 7
"""Oldest supported version; broadcasting was different before it."""
MOST_ELEMENTS = 1 << 31
PATIENCE_S = 60.0
_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from compressor.exporting.untrusted import opened_alone
sys.exit(opened_alone(Path(sys.argv[2])))
"""
MEMORY = 8 << 30
"""Bytes that the process of `probe` may use, beside eight times the size of the file."""


def open_stranger(path: Path, *, threads: int | None = None) -> Session:
    """Open a file that may be broken or hostile; any fault of it is an ExportError."""
    check_file(path)
    probe(path)
    return open_session(path, threads=threads)


def check_file(path: Path) -> None:
    """Refuse a file that is no ONNX file, has impossible sizes, or reads from outside its folder."""
    import onnx

    path = Path(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ExportError(f"cannot open `{path}`: no such file") from error
    except OSError as error:
        raise ExportError(f"cannot open `{path}`: {error.strerror or error}") from error
    except Exception as error:  # protobuf's exceptions depend on its back end
        raise ExportError(f"cannot open `{path}`: it is no ONNX file") from error
    if not model.graph.node:
        raise ExportError(f"cannot open `{path}`: it is no ONNX file, or it is empty")
    fault = _opset_fault(model) or next(_faults(path, model.graph), None)
    if fault:
        raise ExportError(f"cannot open `{path}`: {fault}")


def probe(path: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Open the file in another process; a crash, a timeout or too much memory there is an error here."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _PROGRAM, root, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"cannot open `{path}`: ONNX Runtime took more than {patience_s:g} s") from error
    if done.returncode:
        raise ExportError(ended(path, done.returncode, done.stderr))


def opened_alone(path: Path) -> int:
    """Main function of the process of `probe`: 0 if the file opens, else 1 with the reason as last line on stderr."""
    limit_memory(path)
    try:
        open_session(path, threads=1)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def limit_memory(path: Path) -> None:
    """Limit the memory of this process to enough for any valid file of this size, where the system can."""
    try:
        import resource
    except ImportError:
        return
    most = MEMORY + 8 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def ended(path: Path, code: int, stderr: str) -> str:
    """One line on the failed attempt to open the file, from the exit code and stderr of the process."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"cannot open `{path}`: ONNX Runtime crashes on it ({name})"
    lines = stderr.strip().splitlines() or ["no reason was given"]
    return lines[-1] if lines[-1].startswith("cannot open") else f"cannot open `{path}`: {lines[-1]}"


def _opset_fault(model: Any) -> str | None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        return "it has no operator set"
    if not OLDEST_OPSET <= versions[0] <= newest:
        return f"its operator set is {versions[0]}, supported are {OLDEST_OPSET} to {newest}"
    return None


def _faults(path: Path, graph: Any) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim if size.HasField("dim_value")]
        if any(size < 0 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
            yield f"`{_short(value.name)}` has the shape {_short(str(sizes))}, which is not possible"
    for tensor in graph.initializer:
        yield from _tensor_faults(path, tensor)
    for node in graph.node:
        for attribute in node.attribute:
            for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                yield from _tensor_faults(path, tensor)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _faults(path, inner)


def _tensor_faults(path: Path, tensor: Any) -> Iterator[str]:
    import onnx

    name, sizes = _short(tensor.name), list(tensor.dims)
    if any(size < 0 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
        yield f"weight `{name}` has the shape {_short(str(sizes))}, which is not possible"
        return
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        yield f"weight `{name}` has the unknown type {tensor.data_type}"
        return
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from _external_faults(
            path, name, {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
        )
    elif tensor.HasField("raw_data") and len(tensor.raw_data) > item * math.prod(sizes):
        yield f"weight `{name}` has {len(tensor.raw_data):,} bytes for the shape {_short(str(sizes))}"


def _external_faults(path: Path, name: str, entries: dict[str, str]) -> Iterator[str]:
    folder = path.resolve().parent
    location = entries.get("location", "")
    try:
        # Links are resolved, so that one to the outside is refused too.
        file = (folder / location).resolve()
        inside = bool(location) and file.is_relative_to(folder) and not Path(location).is_absolute()
        size = file.stat().st_size if inside and file.is_file() else None
        offset, length = (int(entries.get(key, 0)) for key in ("offset", "length"))
    except (OSError, ValueError):
        yield f"the location of weight `{name}` is not valid"
        return
    if not inside:
        yield f"weight `{name}` lies outside the file's folder, at `{_short(location)}`"
    elif size is None:
        yield f"the file `{_short(location)}` with weight `{name}` is missing"
    elif min(offset, length) < 0 or offset + length > size:
        yield f"weight `{name}` reaches beyond the end of `{_short(location)}`"


def _text(value: str | bytes) -> str:
    """Decode bytes, which protobuf returns for a text that is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _short(text: str | bytes, most: int = 80) -> str:
    """Shorten a text of an untrusted file to one printable line."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in _text(text))
    return shown if len(shown) <= most else f"{shown[:most]}…"
