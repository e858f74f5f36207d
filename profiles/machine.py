"""Fingerprint of the machine on which a number was measured, as a dict of JSON values.

A latency means nothing without it, and two latencies may be compared as absolute numbers only
if these dicts agree. Unknown facts are None or empty, never guessed. No package is imported to
find its version: importing torch takes seconds and changes threads.
Left out: clocks, temperatures and load, which change all the time.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime")

# Instruction sets by which a runtime chooses its kernels -> the names of their flags on different systems.
INSTRUCTION_SETS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "amx": ("amx_tile",),
    "neon": ("neon", "asimd"),
}


def fingerprint() -> dict[str, object]:
    """The machine, its instruction sets, cores, memory, system, versions and accelerator."""
    cpuinfo = _read("/proc/cpuinfo")
    return {
        "cpu": cpu_model(cpuinfo),
        "architecture": platform.machine(),
        "instruction_sets": instruction_sets(cpuinfo, platform.machine()),
        "logical_cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        **_torch_facts(),
    }


def cpu_model(cpuinfo: str) -> str | None:
    """The processor's name; on a small Arm board, where it has none, the name of the board."""
    if match := re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return match[1].strip()
    board = _read("/proc/device-tree/model").strip("\0\n ")
    return board or _sysctl("machdep.cpu.brand_string") or platform.processor() or None


def instruction_sets(cpuinfo: str, architecture: str) -> list[str]:
    """List the names in `INSTRUCTION_SETS` that the processor has."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(match[1].split()) if match else _macos_flags()
    if architecture.lower() in ("arm64", "aarch64"):
        flags.add("neon")  # part of the 64-bit architecture, whatever the system lists
    return [name for name, spellings in INSTRUCTION_SETS.items() if flags & set(spellings)]


def _macos_flags() -> set[str]:
    keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
    return {flag for key in keys for flag in _sysctl(key).lower().split()}


def _usable_cores() -> int | None:
    """Number of cores that this process may use: in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_facts() -> dict[str, object]:
    """Threads and GPU as torch sees them, if the caller has loaded torch already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"torch_threads": None, "gpu": None}
    gpu = None
    if torch.cuda.is_available():
        gpu = {
            "name": torch.cuda.get_device_name(),
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda,
        }
    return {"torch_threads": torch.get_num_threads(), "gpu": gpu}


def _nvidia_driver() -> str | None:
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", _read("/proc/driver/nvidia/version"))
    return match[0] if match else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    """One fact from macOS; an empty string anywhere else."""
    if sys.platform != "darwin":
        return ""
    finished = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return finished.stdout.strip()
