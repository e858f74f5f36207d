"""Runtimes for networks and files: one row for each. To add one, add a row and the function that opens it.

Heavy packages are imported only when a row is opened, so recipes and reports can use the names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from compressor.errors import UsageError
from compressor.exporting import NEEDS
from compressor.recipe.names import ALL, runtimes_named

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.exporting import Engine, Session

Call = Callable[[], object]
Kind = Literal["network", "file", "engine", "ir", "program"]

KINDS: dict[Kind, tuple[str, str]] = {
    "network": ("a network", "networks"),
    "file": ("an ONNX file", "ONNX files"),
    "engine": ("an engine", "engines"),
    "ir": ("an OpenVINO file", "OpenVINO files"),
    "program": ("an ExecuTorch program", "ExecuTorch programs"),
}
"""Kinds of subjects, with their names in singular and plural."""
SUFFIXES: dict[str, Kind] = {".onnx": "file", ".engine": "engine", ".xml": "ir", ".pte": "program"}


@dataclass(frozen=True)
class RunSettings:
    """Settings of a runtime."""

    threads: int
    precision: str = "fp32"
    cuda_graph: bool = False


@dataclass(frozen=True)
class Runtime:
    """A runtime: its title, the kinds it takes, the function that opens one for given images, and what it needs.

    A runtime of networks runs in the requested precision; a file has its own precision.
    """

    title: str
    takes: tuple[Kind, ...]
    open: Callable[[Any, Tensor, RunSettings], Call]
    needs: str | None = None
    """Key of a row of ``NEEDS``."""
    cuda: bool = False
    usual_for: Kind | None = None
    """The kind for which it is chosen where no runtime is named."""

    def can_run(self, kinds: Iterable[Kind]) -> bool:
        """True if it takes one of these kinds; a network can also be written to a file."""
        available = set(kinds)
        return bool(available & set(self.takes)) or ("network" in available and "file" in self.takes)


def kind_of(path: Path) -> Kind:
    """Kind of a file, by its suffix."""
    return SUFFIXES.get(path.suffix, "file")


def _pytorch(network: nn.Module, images: Tensor, settings: RunSettings) -> Call:
    network, images = _in_precision(network, images, settings.precision)
    return lambda: network(images)


def _compiled(network: nn.Module, images: Tensor, settings: RunSettings) -> Call:
    import torch

    network, images = _in_precision(network, images, settings.precision)
    compiled = torch.compile(network)
    return lambda: compiled(images)


def _pytorch_cuda(network: nn.Module, images: Tensor, settings: RunSettings) -> Call:
    from compressor.profiling.cuda_timing import CudaCall, as_graph, peak_bytes

    network, images = _in_precision(network, images, settings.precision)
    network, images = copy.deepcopy(network).cuda(), images.cuda()

    def enqueue() -> object:
        return network(images)

    memory = peak_bytes(enqueue)
    return CudaCall(as_graph(enqueue) if settings.cuda_graph else enqueue, memory)


def _onnxruntime(path: Path, images: Tensor, settings: RunSettings) -> Call:
    from compressor.exporting import open_session

    return _fed(open_session(path, threads=settings.threads), images)


def _openvino(path: Path, images: Tensor, settings: RunSettings) -> Call:
    from compressor.exporting import open_openvino

    return _fed(open_openvino(path, threads=settings.threads), images)


def _executorch(path: Path, images: Tensor, settings: RunSettings) -> Call:
    from compressor.exporting import open_program

    return _fed(open_program(path, threads=settings.threads), images)


def _onnxruntime_cuda(path: Path, images: Tensor, settings: RunSettings) -> Call:
    """Keep input and output on the GPU: as for PyTorch, transfers are not timed."""
    import onnxruntime
    import torch

    from compressor.exporting import open_on_cuda
    from compressor.profiling.cuda_timing import CudaCall

    session = open_on_cuda(path, stream=torch.cuda.current_stream().cuda_stream, graph=settings.cuda_graph)
    network_input, binding = session.inputs[0], session.runtime.io_binding()
    held = {network_input.name: onnxruntime.OrtValue.ortvalue_from_numpy(_array(session, images), "cuda", 0)}
    binding.bind_ortvalue_input(network_input.name, held[network_input.name])
    for output in session.outputs:
        shape = [size if isinstance(size, int) else len(images) for size in output.shape]
        held[output.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, output.dtype, "cuda", 0)
        binding.bind_ortvalue_output(output.name, held[output.name])
    options = onnxruntime.RunOptions()
    # Otherwise a run waits for the GPU, and launching the work would seem as slow as the work itself.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return CudaCall(lambda: session.runtime.run_with_iobinding(binding, options), held=held)


def _tensorrt(path: Path, images: Tensor, settings: RunSettings) -> Call:
    """Keep input and output on the GPU, as with the other CUDA runtimes."""
    from compressor.profiling.cuda_timing import CudaCall, as_graph

    engine = engine_for(path, len(images))
    network_input = engine.inputs[0]
    held = engine.bind({network_input.name: images.cpu().numpy().astype(network_input.dtype)})
    return CudaCall(as_graph(engine.start) if settings.cuda_graph else engine.start, held=(engine, held))


def engine_for(path: Path, batch: int) -> Engine:
    """Load an engine file; or build one for exactly this batch from an ONNX file, or take it from the cache."""
    from compressor.base.cache import cache_root
    from compressor.exporting import Asked as FileOptions
    from compressor.exporting import EngineAsk, derived, load_engine

    if kind_of(path) == "engine":
        return load_engine(path)
    ask = EngineAsk((batch, batch, batch), cache=cache_root() / "engines")
    with TemporaryDirectory() as folder:
        made = derived("tensorrt", path, Path(folder) / f"{path.stem}.engine", FileOptions(engine=ask))
        return load_engine(made.path)


RUNTIMES: dict[str, Runtime] = {
    "pytorch": Runtime("PyTorch", ("network",), _pytorch, usual_for="network"),
    "torch-compile": Runtime("torch.compile", ("network",), _compiled),
    "pytorch-cuda": Runtime("PyTorch, CUDA", ("network",), _pytorch_cuda, cuda=True),
    "onnxruntime": Runtime("ONNX Runtime", ("file",), _onnxruntime, usual_for="file"),
    "onnxruntime-cuda": Runtime(
        "ONNX Runtime, CUDA", ("file",), _onnxruntime_cuda, needs="onnxruntime-cuda", cuda=True
    ),
    "openvino": Runtime("OpenVINO", ("file", "ir"), _openvino, needs="openvino", usual_for="ir"),
    "tensorrt": Runtime(
        "TensorRT", ("file", "engine"), _tensorrt, needs="tensorrt", cuda=True, usual_for="engine"
    ),
    "executorch": Runtime("ExecuTorch", ("program",), _executorch, needs="executorch", usual_for="program"),
}


def choose(
    requested: tuple[str, ...], precision: str, kinds_of: Mapping[str, Iterable[Kind]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runtimes to measure, and why others are left out. ``kinds_of``: the kinds that exist of each subject.

    A runtime chosen by name has to work for every subject. Without names the usual runtime of each existing kind is
    chosen; with ``all``, every runtime that this machine has.
    """
    chosen, left_out = [], []
    available = {kind for kinds in kinds_of.values() for kind in kinds}
    usual = (name for name, row in RUNTIMES.items() if row.usual_for in available)
    for name in runtimes_named(requested) if requested else usual:
        problem = _problem(name, precision, kinds_of if requested else {})
        if problem is None:
            chosen.append(name)
        elif ALL in requested or not requested:
            left_out.append(f"{name} is left out: {problem}")
        else:
            raise problem
    if not chosen:
        raise UsageError("no runtime can measure these subjects here", "; ".join(left_out) or None)
    return tuple(chosen), tuple(left_out)


def _problem(name: str, precision: str, kinds_of: Mapping[str, Iterable[Kind]]) -> UsageError | None:
    runtime = RUNTIMES[name]
    if "network" not in runtime.takes and precision != "fp32":
        return UsageError(
            f"`{name}` runs a file in the precision that it was written in, not in {precision}",
            f"{precision} is for {_for('network')}",
        )
    for subject, kinds in kinds_of.items():
        if not runtime.can_run(kinds):
            kind = next(iter(kinds))
            return UsageError(
                f"`{name}` runs {' and '.join(KINDS[taken][1] for taken in runtime.takes)}, and the {subject} is "
                f"{KINDS[kind][0]}",
                f"for {KINDS[kind][1]}: {_for(kind)}",
            )
    if runtime.cuda and not _has_gpu():
        return UsageError(
            f"`{name}` needs a CUDA device, and there is none here", "`compress doctor` says more"
        )
    if runtime.needs and NEEDS[runtime.needs].missing:
        need = NEEDS[runtime.needs]
        return UsageError(f"`{name}` needs {need.title}, which is not installed", need.install)
    return None


def _for(kind: Kind) -> str:
    return ", ".join(name for name, row in RUNTIMES.items() if kind in row.takes)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _in_precision(network: nn.Module, images: Tensor, precision: str) -> tuple[nn.Module, Tensor]:
    import torch

    if precision == "fp32":
        return network, images
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return copy.deepcopy(network).to(dtype), images.to(dtype)


def _fed(session: Session, images: Tensor) -> Call:
    feed = {session.inputs[0].name: _array(session, images)}
    return lambda: session.run(feed)


def _array(session: Session, images: Tensor) -> Any:
    return images.cpu().numpy().astype(session.inputs[0].dtype)
