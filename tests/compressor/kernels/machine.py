"""Runs `channel_saliency.cu` on this CPU: built by g++ with `on_cpu.cpp`, driven with the tables of `tiles.py`.

Each run checks what a GPU would not say: nothing outside the given tensors is read, nothing is written beside the
workspace and the results (they lie between guards), and whatever is not written stays NaN.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.pruning.scoring.kernels import tiles

SOURCE = Path(tiles.__file__).with_name("channel_saliency.cu")
ON_CPU = Path(__file__).with_name("on_cpu.cpp")
SCALARS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
GUARD = 64
Call = Callable[..., None]


def why_not() -> str | None:
    """None where the kernel's source can be built here."""
    if platform.system() != "Linux":
        return "the CPU build of the kernel needs Linux (linker sections, ucontext)"
    return None if shutil.which("g++") else "the CPU build of the kernel needs g++"


class RefusedError(Exception):
    """What the machine caught: a divergent barrier, a wild read, a broken guard."""


@dataclass(frozen=True)
class Machine:
    """A folder of built instances of one source."""

    folder: Path
    source: str = field(default_factory=SOURCE.read_text)
    built: dict[tuple[int, int, int], ctypes.CDLL] = field(default_factory=dict)

    def instance(self, mask: int, scalar: int, vector: bool) -> ctypes.CDLL:
        key = (mask, scalar, int(vector))
        if key not in self.built:
            self.built[key] = _build(self.folder, self.source, *key)
        return self.built[key]


def _build(folder: Path, source: str, mask: int, scalar: int, vector: int) -> ctypes.CDLL:
    text = folder / "kernel.cu"
    text.write_text(source)
    library = folder / f"kernel-{mask}-{scalar}-{vector}.so"
    code = library.with_suffix(".o")
    macros = [f"-DMOMENTS={mask}", f"-DSCALAR={scalar}", f"-DVECTOR={vector}", f'-DSOURCE="{text}"']
    # Contraction would round once where the GPU build rounds twice; fortified longjmp refuses to change stacks.
    options = [
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-w",
        "-fPIC",
        "-U_FORTIFY_SOURCE",
        "-fsanitize=bounds",
    ]
    # In two steps, so that the sanitizer's library is not linked: `on_cpu.cpp` has the one handler that is needed.
    for command in (
        ["g++", *options, *macros, "-c", str(ON_CPU), "-o", str(code)],
        ["g++", "-shared", str(code), "-o", str(library)],
    ):
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode != 0:
            raise RuntimeError(f"g++ does not build the kernel:\n{outcome.stderr}")
    return ctypes.CDLL(str(library))


def described(tensor: Tensor, other: Tensor | None = None) -> tiles.Weight:
    """What `tiles.py` needs to know of a weight and its gradient."""
    pointers = [tensor.data_ptr()] + ([] if other is None else [other.data_ptr()])
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return tiles.Weight(shape, strides, SCALARS[tensor.dtype], tiles.aligned(*pointers))


@dataclass(frozen=True)
class Sums:
    """What a run gives: one [moments, channels] array per asked axis, and whether the flag was raised."""

    blocks: list[NDArray[np.float64]]
    flagged: bool
    flat: NDArray[np.float64]


def weight_sums(
    machine: Machine,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    axes: Sequence[tuple[int, int]],
    mask: int = 31,
    *,
    backwards: bool = False,
    onto: NDArray[np.float64] | None = None,
) -> Sums:
    """The whole calculation as a launcher does it; ``onto`` accumulates, ``backwards`` runs threads in reverse."""
    pairs = list(zip(weights, gradients or [None] * len(weights), strict=True))
    plan = tiles.weight_tiles([described(w, g) for w, g in pairs], axes, mask)
    partials = _guarded(np.full(plan.workspace_floats, np.nan, np.float32))
    sums = _guarded(np.full(plan.result_doubles, np.nan) if onto is None else onto)
    flag = np.zeros(1, np.int32)
    for launch in plan.launches:
        library = machine.instance(mask, launch.scalar, launch.vector)
        pointers = (ctypes.c_void_p * (2 * tiles.SLOTS))()
        for slot, number in enumerate(launch.numbers):
            weight, gradient = pairs[number]
            pointers[slot] = weight.data_ptr()
            if gradient is not None:
                pointers[tiles.SLOTS + slot] = gradient.data_ptr()
        tensors = [tensor for number in launch.numbers for tensor in pairs[number] if tensor is not None]
        arguments = (pointers, *_at(plan.jobs, plan.tile_jobs), _inside(partials), launch.first_tile)
        _run(library, "run_weight_tiles", launch.tiles, backwards, tensors, *arguments)
    # The second kernel is the same in every instance of the mask.
    first = plan.launches[0] if plan.launches else tiles.TileLaunch(0, True, (), 0, 0)
    library = machine.instance(mask, first.scalar, first.vector)
    tables = _at(plan.outputs, plan.block_outputs)
    arguments = (*tables, _inside(partials), _inside(sums), *_at(flag), int(onto is not None))
    _run(library, "run_weight_totals", len(plan.block_outputs), backwards, [], *arguments)
    _unguarded(partials)
    flat = _unguarded(sums)
    kinds = mask.bit_count()
    blocks = [
        flat[block.offset : block.offset + kinds * block.channels].reshape(kinds, block.channels)
        for block in plan.blocks
    ]
    return Sums(blocks, bool(flag[0]), flat)


def gate_sums(
    machine: Machine,
    activation: Tensor,
    gradient: Tensor,
    channel: int,
    mask: int = 31,
    *,
    backwards: bool = False,
) -> NDArray[np.float32]:
    """[samples, channels] of activation x gradient; the mask only says which built instance serves."""
    about = described(activation, gradient)
    plan = tiles.gate_tiles(about.shape, about.strides, channel, about.scalar, about.aligned)
    out = _guarded(np.full(plan.samples * plan.channels, np.nan, np.float32))
    partials = _guarded(np.full(plan.partial_floats, np.nan, np.float32))
    library = machine.instance(mask, about.scalar, plan.vector)
    target = _inside(partials if plan.partial_floats else out)
    pair = (ctypes.c_void_p(activation.data_ptr()), ctypes.c_void_p(gradient.data_ptr()))
    size = ctypes.c_longlong
    if plan.columns:
        sizes = (size(plan.positions), size(plan.channels), plan.splits, plan.channel_tiles)
        _run(
            library, "run_gate_columns", plan.blocks, backwards, [activation, gradient], *pair, target, *sizes
        )
    else:
        sizes = (size(plan.rows), size(plan.inner), plan.channels, plan.splits)
        _run(library, "run_gate_rows", plan.blocks, backwards, [activation, gradient], *pair, target, *sizes)
    if plan.partial_floats:
        sizes = (size(plan.samples * plan.channels), size(plan.total_splits), size(plan.channels))
        _run(library, "run_gate_totals", plan.total_blocks, backwards, [], target, _inside(out), *sizes)
    _unguarded(partials)
    return _unguarded(out).reshape(plan.samples, plan.channels)


def _run(
    library: ctypes.CDLL,
    name: str,
    blocks: int,
    backwards: bool,
    tensors: Sequence[Tensor],
    *arguments: object,
) -> None:
    library.may_read_nothing()
    for tensor in tensors:
        size = ctypes.c_longlong(tensor.numel() * tensor.element_size())
        library.may_read(ctypes.c_void_p(tensor.data_ptr()), size)
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    error = function(blocks, ctypes.c_bool(backwards), *arguments)
    if error:
        raise RefusedError(f"{name}: {error.decode()}")


def _at(*arrays: NDArray[np.generic]) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(array.ctypes.data) for array in arrays)


def _guarded(values: NDArray[np.generic]) -> NDArray[np.generic]:
    guard = np.full(GUARD, -12345, values.dtype)
    return np.concatenate([guard, values, guard])


def _inside(values: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values[GUARD:].ctypes.data)


def _unguarded(values: NDArray[np.generic]) -> NDArray[np.generic]:
    if not (values[:GUARD] == -12345).all() or not (values[-GUARD:] == -12345).all():
        raise RefusedError("something was written beside the workspace or the results")
    return values[GUARD:-GUARD]
