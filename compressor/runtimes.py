"""Who can run a network or a file: one row for each runtime. A new one is a row, and the function that opens it.

Nothing heavy is imported before a row is opened, so recipes and reports may know the names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from compressor.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from export import Session

Call = Callable[[], object]
Kind = Literal["network", "file"]

PRECISIONS = ("fp32", "fp16", "bf16")


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
    takes: Kind
    open: Callable[[Any, Tensor, Asked], Call]
    package: str | None = None
    """To be installed, as the extra of the same name."""
    cuda: bool = False


def _pytorch(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    network, images = _in_precision(network, images, asked.precision)
    return lambda: network(images)


def _compiled(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    import torch

    network, images = _in_precision(network, images, asked.precision)
    compiled = torch.compile(network)
    return lambda: compiled(images)


def _pytorch_cuda(network: nn.Module, images: Tensor, asked: Asked) -> Call:
    from profiles.cuda import CudaCall, as_graph, peak_bytes

    network, images = _in_precision(network, images, asked.precision)
    network, images = copy.deepcopy(network).cuda(), images.cuda()

    def enqueue() -> object:
        return network(images)

    memory = peak_bytes(enqueue)
    return CudaCall(as_graph(enqueue) if asked.cuda_graph else enqueue, memory)


def _onnxruntime(path: Path, images: Tensor, asked: Asked) -> Call:
    from export import open_session

    return _fed(open_session(path, threads=asked.threads), images)


def _openvino(path: Path, images: Tensor, asked: Asked) -> Call:
    from export import open_openvino

    return _fed(open_openvino(path, threads=asked.threads), images)


def _onnxruntime_cuda(path: Path, images: Tensor, asked: Asked) -> Call:
    """Input and output stay on the GPU: transfers are not timed, as they are not for PyTorch."""
    import onnxruntime
    import torch

    from export import open_on_cuda
    from profiles.cuda import CudaCall

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


RUNTIMES: dict[str, Runtime] = {
    "pytorch": Runtime("PyTorch", "network", _pytorch),
    "torch-compile": Runtime("torch.compile", "network", _compiled),
    "pytorch-cuda": Runtime("PyTorch, CUDA", "network", _pytorch_cuda, cuda=True),
    "onnxruntime": Runtime("ONNX Runtime", "file", _onnxruntime),
    "onnxruntime-cuda": Runtime("ONNX Runtime, CUDA", "file", _onnxruntime_cuda, cuda=True),
    "openvino": Runtime("OpenVINO", "file", _openvino, package="openvino"),
}

ALIASES = {
    "torch": "pytorch",
    "torch-cuda": "pytorch-cuda",
    "ort": "onnxruntime",
    "ort-cuda": "onnxruntime-cuda",
}
ALL = "all"
USUAL = ("pytorch", "onnxruntime")


def named(names: Iterable[str]) -> tuple[str, ...]:
    """The keys of ``RUNTIMES`` that these names mean, each once; ``all`` is every one."""
    found: list[str] = []
    for name in names:
        if name != ALL and ALIASES.get(name, name) not in RUNTIMES:
            raise unknown_name("runtime", name, [*RUNTIMES, *ALIASES, ALL])
        found += RUNTIMES if name == ALL else [ALIASES.get(name, name)]
    return tuple(dict.fromkeys(found))


def choose(
    asked: tuple[str, ...], precision: str, given: Mapping[str, Iterable[Kind]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runtimes to measure, and why others are left out. ``given``: what there is of each subject.

    A runtime asked for by name has to work for every subject. Without names the usual ones are chosen, as far as
    they take something that is there; with ``all``, what this machine has.
    """
    chosen, left_out = [], []
    for name in named(asked) if asked else USUAL:
        takes = RUNTIMES[name].takes
        some = any(takes in kinds or ("network" in kinds and bool(asked)) for kinds in given.values())
        if not asked and not some:
            continue
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
    if runtime.takes == "file" and precision != "fp32":
        return UsageError(
            f"`{name}` runs a file in the precision that it was written in, not in {precision}",
            f"{precision} is for {', '.join(each for each, row in RUNTIMES.items() if row.takes == 'network')}",
        )
    only_file = [who for who, kinds in given.items() if "network" not in kinds]
    if runtime.takes == "network" and only_file:
        return UsageError(
            f"`{name}` runs networks, and the {' and the '.join(only_file)} is a file",
            f"for files: {', '.join(each for each, row in RUNTIMES.items() if row.takes == 'file')}",
        )
    if runtime.package and find_spec(runtime.package) is None:
        return UsageError(
            f"`{name}` needs the package {runtime.package}, which is not installed",
            f"python -m pip install 'compress-to-edge[{runtime.package}]'",
        )
    return _without_gpu(name) if runtime.cuda else None


def _without_gpu(name: str) -> UsageError | None:
    import torch

    if not torch.cuda.is_available():
        return UsageError(
            f"`{name}` needs a CUDA device, and there is none here", "`compress doctor` says more"
        )
    if RUNTIMES[name].takes == "file":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return UsageError(
                f"`{name}` needs an ONNX Runtime that was built for CUDA",
                "python -m pip install onnxruntime-gpu in place of onnxruntime",
            )
    return None


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
