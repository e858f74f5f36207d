"""Who can run a network or a file: one row for each runtime. A new one is a row, and the function that opens it.

Nothing heavy is imported before a row is opened, so recipes and reports may know the names.
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
"""What can be run, and what one and many of it are called."""
SUFFIXES: dict[str, Kind] = {".onnx": "file", ".engine": "engine", ".xml": "ir", ".pte": "program"}


@dataclass(frozen=True)
class Asked:
    """How a runtime is to run."""

    threads: int
    precision: str = "fp32"
    cuda_graph: bool = False


@dataclass(frozen=True)
class Runtime:
    """What it is called, what it runs, how that becomes a call on these images, and what has to be there.

    A runtime of networks runs in the precision that is asked for; in a file the precision is written down.
    """

    title: str
    takes: tuple[Kind, ...]
    open: Callable[[Any, Tensor, Asked], Call]
    needs: str | None = None
    """A row of ``NEEDS``."""
    cuda: bool = False
    usual_for: Kind | None = None
    """What it is chosen for where no runtime is named."""

    def can_run(self, kinds: Iterable[Kind]) -> bool:
        """Whether one of these is taken, or can be made into what is: a network into a file."""
        there = set(kinds)
        return bool(there & set(self.takes)) or ("network" in there and "file" in self.takes)


def kind_of(path: Path) -> Kind:
    """What a file is, by its name."""
    return SUFFIXES.get(path.suffix, "file")


def _pytorch(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    network, images = _in_precision(network, images, asked.precision)
    return lambda: network(images)


def _compiled(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    import torch

    network, images = _in_precision(network, images, asked.precision)
    compiled = torch.compile(network)
    return lambda: compiled(images)


def _pytorch_cuda(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    from compressor.profiling.cuda_timing import CudaCall, as_graph, peak_bytes

    network, images = _in_precision(network, images, asked.precision)
    network, images = copy.deepcopy(network).cuda(), images.cuda()

    def enqueue() -> object:
        return network(images)

    memory = peak_bytes(enqueue)
    return CudaCall(as_graph(enqueue) if asked.cuda_graph else enqueue, memory)


def _onnxruntime(path: Path, images: Tensor, asked: Asked) -> Call:
    from compressor.exporting import open_session

    return _fed(open_session(path, threads=asked.threads), images)


def _openvino(path: Path, images: Tensor, asked: Asked) -> Call:
    from compressor.exporting import open_openvino

    return _fed(open_openvino(path, threads=asked.threads), images)


def _executorch(path: Path, images: Tensor, asked: Asked) -> Call:
    from compressor.exporting import open_program

    return _fed(open_program(path, threads=asked.threads), images)


def _onnxruntime_cuda(path: Path, images: Tensor, asked: Asked) -> Call:
    """Input and output stay on the GPU: transfers are not timed, as they are not for PyTorch."""
    import onnxruntime
    import torch

    from compressor.exporting import open_on_cuda
    from compressor.profiling.cuda_timing import CudaCall

    session = open_on_cuda(path, stream=torch.cuda.current_stream().cuda_stream, graph=asked.cuda_graph)
    given, binding = session.inputs[0], session.runtime.io_binding()
    held = {given.name: onnxruntime.OrtValue.ortvalue_from_numpy(_array(session, images), "cuda", 0)}
    binding.bind_ortvalue_input(given.name, held[given.name])
    for output in session.outputs:
        shape = [size if isinstance(size, int) else len(images) for size in output.shape]
        held[output.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, output.dtype, "cuda", 0)
        binding.bind_ortvalue_output(output.name, held[output.name])
    options = onnxruntime.RunOptions()
    # Otherwise a run waits for the GPU, and handing the work over would look as slow as the work.
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return CudaCall(lambda: session.runtime.run_with_iobinding(binding, options), held=held)


def _tensorrt(path: Path, images: Tensor, asked: Asked) -> Call:
    """Input and output stay on the GPU, as with the other runtimes there."""
    from compressor.profiling.cuda_timing import CudaCall, as_graph

    engine = engine_for(path, len(images))
    given = engine.inputs[0]
    held = engine.bind({given.name: images.cpu().numpy().astype(given.dtype)})
    return CudaCall(as_graph(engine.start) if asked.cuda_graph else engine.start, held=(engine, held))


def engine_for(path: Path, batch: int) -> Engine:
    """An engine as it is, or one for exactly this batch: built of an ONNX file, or taken from the cache."""
    from compressor.base.cache import cache_root
    from compressor.exporting import Asked as AskedOfFile
    from compressor.exporting import EngineAsk, derived, load_engine

    if kind_of(path) == "engine":
        return load_engine(path)
    ask = EngineAsk((batch, batch, batch), cache=cache_root() / "engines")
    with TemporaryDirectory() as folder:
        made = derived("tensorrt", path, Path(folder) / f"{path.stem}.engine", AskedOfFile(engine=ask))
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
    asked: tuple[str, ...], precision: str, given: Mapping[str, Iterable[Kind]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runtimes to measure, and why others are left out. ``given``: what there is of each subject.

    A runtime asked for by name has to work for every subject. Without names the usual ones are chosen, as far as
    they take something that is there; with ``all``, what this machine has.
    """
    chosen, left_out = [], []
    there = {kind for kinds in given.values() for kind in kinds}
    usual = (name for name, row in RUNTIMES.items() if row.usual_for in there)
    for name in runtimes_named(asked) if asked else usual:
        problem = _problem(name, precision, given if asked else {})
        if problem is None:
            chosen.append(name)
        elif ALL in asked or not asked:
            left_out.append(f"{name} is left out: {problem}")
        else:
            raise problem
    if not chosen:
        raise UsageError("no runtime is left to measure in", "; ".join(left_out) or None)
    return tuple(chosen), tuple(left_out)


def _problem(name: str, precision: str, given: Mapping[str, Iterable[Kind]]) -> UsageError | None:
    runtime = RUNTIMES[name]
    if "network" not in runtime.takes and precision != "fp32":
        return UsageError(
            f"`{name}` runs a file in the precision that it was written in, not in {precision}",
            f"{precision} is for {_for('network')}",
        )
    for who, kinds in given.items():
        if not runtime.can_run(kinds):
            kind = next(iter(kinds))
            return UsageError(
                f"`{name}` runs {' and '.join(KINDS[each][1] for each in runtime.takes)}, and the {who} is "
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
