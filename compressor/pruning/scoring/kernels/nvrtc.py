"""Compile CUDA C++ at run time, with the compiler that comes with torch.

A kernel is compiled for the device that will run it, in some tenths of a second, so the user needs no toolkit, and a
wheel also works on devices that did not exist when it was built. The result is machine code (a cubin) and not PTX: a
compiler of a newer minor version writes PTX that an older driver refuses to read, but the driver loads the machine
code. Each result is kept in the cache folder under a hash of everything it depends on.

The compiler is called through ctypes: a dozen functions whose C interface has not changed since CUDA 11.2.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.cache import cache_root
from compressor.base.files import write_atomic
from compressor.errors import CompressError

# No contraction into fused multiply-adds: the same bits on every architecture, and on a CPU that runs this source.
COMMON_OPTIONS = ("--std=c++17", "--fmad=false")
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Compiler:
    """The loaded library and its version."""

    library: ctypes.CDLL
    version: tuple[int, int]


@dataclass(frozen=True)
class Cubin:
    """Machine code for one architecture; ``not_stored``: the reason why it is not in the cache."""

    code: bytes
    from_cache: bool
    not_stored: str | None = None


@functools.cache
def find_compiler() -> Compiler:
    """NVRTC of torch's own CUDA version: from torch's packages first, then from the system's library path."""
    if torch.version.cuda is None:
        raise CompressError(
            "no CUDA compiler: this torch is built without CUDA", "install a CUDA build of torch"
        )
    major = torch.version.cuda.split(".")[0]
    tried: list[str] = []
    for path in [*_library_files(major), *_library_names(major)]:
        try:
            _load_builtins(path)
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"{path} ({error})")
            continue
        return Compiler(library, _version(library))
    raise CompressError(
        f"no CUDA compiler: found no NVRTC of CUDA {major}; tried {', '.join(tried) or 'no file'}",
        f"the package that has it comes with torch: nvidia-cuda-nvrtc for CUDA {major}",
    )


def cubin(
    source: str, architecture: str, options: Sequence[str] = COMMON_OPTIONS, name: str = "kernel"
) -> Cubin:
    """Machine code of ``source`` for an architecture as ``sm_90``, from the cache folder if it is there and whole."""
    compiler = find_compiler()
    file = _cache_file(compiler, source, architecture, options, name)
    code = _read(file) if file else None
    if code is not None:
        return Cubin(code, from_cache=True)
    code = compile_source(source, architecture, options, name)
    if file is None:
        return Cubin(code, from_cache=False, not_stored="there is no home folder; set COMPRESS_CACHE")
    try:
        write_atomic(file, hashlib.sha256(code).digest() + code)
    except CompressError as error:  # not fatal: the next process compiles again
        return Cubin(code, from_cache=False, not_stored=str(error))
    return Cubin(code, from_cache=False)


def compile_source(
    source: str, architecture: str, options: Sequence[str] = COMMON_OPTIONS, name: str = "kernel"
) -> bytes:
    """Machine code of ``source``, compiled without the cache; an error contains the compiler's log."""
    library = find_compiler().library
    program = ctypes.c_void_p()
    _check(
        library,
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None
        ),
        f"compiling `{name}`",
    )
    try:
        all_options = [f"--gpu-architecture={architecture}", *options]
        arguments = (ctypes.c_char_p * len(all_options))(*(option.encode() for option in all_options))
        if library.nvrtcCompileProgram(program, len(all_options), arguments) != 0:
            log = _text(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode(
                errors="replace"
            )
            raise CompressError(
                f"cannot compile `{name}` for {architecture}: {log.strip(chr(0)).strip()}",
                f"options: {' '.join(all_options)}; NVRTC {'.'.join(map(str, find_compiler().version))}",
            )
        return _text(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _cache_file(
    compiler: Compiler, source: str, architecture: str, options: Sequence[str], name: str
) -> Path | None:
    version = ".".join(map(str, compiler.version))
    ingredients = "\0".join([version, architecture, *options, source])
    key = hashlib.sha256(ingredients.encode()).hexdigest()[:24]
    try:
        return cache_root() / "kernels" / f"{name}-{architecture}-{key}.cubin"
    except RuntimeError:  # a container's user without a home folder
        return None


def _read(file: Path) -> bytes | None:
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _library_files(major: str) -> Iterator[str]:
    pattern = f"nvrtc64_{major}[0-9]_0.dll" if sys.platform == "win32" else f"libnvrtc.so.{major}"
    for folder in _folders(major):
        yield from (str(file) for file in sorted(folder.glob(pattern)))


def _library_names(major: str) -> list[str]:
    return [f"nvrtc64_{major}0_0.dll"] if sys.platform == "win32" else [f"libnvrtc.so.{major}"]


def _folders(major: str) -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")  # a namespace package, perhaps in several folders
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    for root in dict.fromkeys([*roots, Path(torch.__file__).parents[1] / "nvidia"]):
        for package in (f"cu{major}", "cuda_nvrtc"):
            yield root / package / "lib"
            yield root / package / "bin"
            yield root / package / "bin" / "x86_64"
    yield Path(torch.__file__).parent / "lib"
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            toolkit = Path(os.environ[variable])
            yield from (toolkit / "lib64", toolkit / "lib", toolkit / "bin")


def _load_builtins(path: str) -> None:
    """Load the builtins first: the compiler opens this library by its bare name, which works only if it is loaded."""
    folder = Path(path).parent
    if not Path(path).is_absolute():
        return
    pattern = "nvrtc-builtins64_*.dll" if sys.platform == "win32" else "libnvrtc-builtins.so.*"
    for file in sorted(folder.glob(pattern)):
        ctypes.CDLL(str(file))


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(
        library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "asking NVRTC its version"
    )
    return major.value, minor.value


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, size_function: str, function: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, size_function)(program, ctypes.byref(size)), size_function)
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, function)(program, buffer), function)
    return buffer.raw


def _check(library: ctypes.CDLL, result: int, doing: str) -> None:
    if result != 0:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        words = library.nvrtcGetErrorString(result)
        raise CompressError(f"{doing}: NVRTC says {words.decode() if words else f'error {result}'}")
