"""The verbs, for Python: each is a step of ``compress run`` that can be called alone.

    graph = compressor.trace(network, image)
    scores = compressor.score(network, graph, "l2")
    plan = compressor.plan(graph, scores, remove=0.5)
    student = compressor.cut(network, plan)

No verb changes what it is given.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from compressor.artifacts.profile import Profile, profiled
from compressor.artifacts.prove import truth_of_network
from compressor.artifacts.prove_call import is_plain, prove_call, require_equal
from compressor.artifacts.student import Student, apply_plan, load_student, save_student
from compressor.artifacts.write import checked, written_onnx
from compressor.base.checks import require
from compressor.data import load_data
from compressor.data.factory import data_from
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.exporting import Artifact
from compressor.exporting.trees import INPUT, call_of
from compressor.models.names import ModelSource
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.folding import fold_constants
from compressor.pruning.cutting.optimizer_state import cut_optimizer
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.recording.example import Given, Inputs, from_description, inputs_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.repairing.fit_network import numbered, repaired
from compressor.pruning.scoring.score import score
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import allocate
from compressor.pruning.widths.latency_cost import Latency
from compressor.pruning.widths.plan import Plan
from compressor.recipe import ExportRecipe, ProfileRecipe, Recipe
from compressor.recipe.budget import Budget
from compressor.run import pipeline
from compressor.run.folder import free_name
from compressor.run.measured_widths.bench import Bench
from compressor.run.report.report import Report
from compressor.run.steps import Listener
from compressor.run.teacher import model_named
from compressor.training import Schedule, train

__all__ = [
    "apply",
    "check",
    "compress",
    "cut",
    "cut_optimizer",
    "data_from",
    "distil",
    "export",
    "fold_constants",
    "load",
    "load_data",
    "measure_latency",
    "plan",
    "profile",
    "repair",
    "save",
    "score",
    "trace",
]

CPU = torch.device("cpu")


def plan(
    graph: ChannelGraph,
    scores: Scores,
    remove: float = 0.0,
    of: str = "macs",
    *,
    latency: Latency | None = None,
    **allowed: object,
) -> Plan:
    """The channels to keep so that the share ``remove`` of the cost ``of`` goes.

    ``latency``: what `measure_latency` found, where time is asked for (``of="latency"``, ``max_latency_ms``). The plan
    is as good as that sum of blocks; ``compress run`` also builds the network and corrects it. ``allowed`` are the
    other fields of ``Budget``: ``keep``, ``granule``, ``max_params`` and so on. Warns if the value asked for cannot
    be reached within one per cent.
    """
    measured = {} if latency is None else {"latency": latency}
    allocation = allocate(graph, scores, Budget(remove, of, **allowed), measured=measured)  # type: ignore[arg-type]
    if allocation.missed:
        warnings.warn(allocation.missed, stacklevel=2)
    return allocation.plan


def measure_latency(
    teacher: nn.Module,
    graph: ChannelGraph,
    image: Tensor,
    *,
    of: str = "latency",
    threads: int = 1,
    **allowed: object,
) -> Latency:
    """The time of widths in ONNX Runtime on this machine, for images like ``image``; its first size is the batch.

    ``of="latency-int8"`` is the time in INT8. ``allowed``: fields of ``Budget`` that limit which widths are asked for
    later (``keep``, ``granule``).
    """
    budget = Budget(of=of, **allowed)  # type: ignore[arg-type]
    recipe = ProfileRecipe(threads=threads, batches=(len(image),))
    with TemporaryDirectory() as folder:
        bench = Bench(_still(teacher), image, Path(folder), ExportRecipe(), recipe, budget.timed_as)
        return bench.latency(graph, budget)


def check(teacher: nn.Module, student: nn.Module, plan: Plan, images: Given, *, folded: bool = False) -> None:
    """Prove that ``student`` is ``teacher`` with the removed channels silenced and costs what was planned, or raise.

    ``folded`` if it comes from ``fold_constants``, so that what these channels say at rest is in its biases.
    """
    require(check_cut(teacher, student, plan, images, folded=folded))
    if not plan.costs or plan.inputs is None or _sizes(images) != _sizes(from_description(plan.inputs)):
        return  # MACs follow the size of the input
    graph = trace(student, images)
    counted, planned = costs_of(graph)["macs"].of(full_widths(graph)), plan.costs["macs"][1]
    # A program leaves out layers whose results nobody reads; the plan has their cost.
    if counted > planned or (counted < planned and len(graph.layers) == len(trace(teacher, images).layers)):
        raise CompressError(
            f"the cut network has {counted:,} MACs, and its plan says {planned:,}",
            "the plan belongs to another network",
        )


def _sizes(example: Given | Inputs) -> list[tuple[int, ...]]:
    """The sizes of one sample of every input."""
    return [tuple(tensor.shape[1:]) for tensor in inputs_of(example).tensors]


def repair(
    student: nn.Module,
    teacher: nn.Module,
    plan: Plan,
    images: Given | Iterable[Given],
    *,
    device: torch.device = CPU,
) -> nn.Module:
    """The ``student`` that ``plan`` cut from ``teacher``, its layers fitted to the teacher's by least squares.

    Neither labels nor gradients are used. ``images``: some hundred as one input of the network, or batches of inputs;
    of the shape that the plan was made with. Warns of what could not be fitted.
    """
    result = repaired(student, teacher, plan, numbered(images), device=device)
    require((result.check,))
    if not result.helped:
        warnings.warn("the fitted outputs are no nearer to the teacher's: nothing was changed", stacklevel=2)
    for left in result.left:
        warnings.warn(f"`{left.layer}` was not fitted: {left.reason}", stacklevel=2)
    return result.network


def distil(
    student: nn.Module,
    data: Data,
    *,
    teacher: nn.Module | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    device: torch.device = CPU,
    checkpoints: Path | None = None,
) -> nn.Module:
    """The student, trained by the teacher's answers and the labels; without a teacher, by the labels alone."""
    trained = train(
        student,
        data,
        schedule or Schedule(),
        teacher=teacher,
        seed=seed,
        device=device,
        checkpoints=checkpoints,
    )
    return trained.network


def export(network: nn.Module, example: Given, path: Path | str, *, opset: int | None = None) -> Artifact:
    """The network as an ONNX file with a dynamic batch axis, proven on ``example`` to be the network.

    ``example``: images, a tuple of arguments, or arguments by name. Outputs may be tensors, tuples, dictionaries and
    dataclasses: each tensor among them is an output of the file with the name of its place.
    """
    still, recipe = _still(network), ExportRecipe(opset=opset)
    call = call_of(still, example)
    if getattr(still, "only_batch", None) is not None or not is_plain(still, call):
        artifact = written_onnx(still, example, Path(path), recipe, {})
        return require_equal(artifact, prove_call(artifact, still, call))
    images = call.tensors[INPUT]
    artifact = written_onnx(still, images[:1], Path(path), recipe, {})
    for check in checked(artifact, truth_of_network(still, images), recipe).checks:
        require_equal(artifact, check)
    return artifact


def profile(
    teacher: nn.Module, student: nn.Module, image: Tensor, recipe: ProfileRecipe | None = None
) -> Profile:
    """MACs, parameters, activations and latency of both, interleaved; in PyTorch unless the recipe says otherwise."""
    networks = {"teacher": _still(teacher), "student": _still(student)}
    return profiled(networks, {}, image.cpu(), recipe or ProfileRecipe(runtimes=()))


def compress(
    recipe: Recipe | None = None,
    out: Path | str | None = None,
    *,
    listener: Listener | None = None,
    fresh: bool = False,
) -> Report:
    """A whole run, as ``compress run`` does it; without ``out`` in a new folder under ``runs/``."""
    recipe = recipe or Recipe()
    folder = Path(out) if out else free_name(Path("runs"), run_name(recipe))
    return pipeline.compress(recipe, folder, listener=listener, fresh=fresh)


def run_name(recipe: Recipe) -> str:
    """The name of a run folder, if none is given: model, data and the share that is removed."""
    parts = [Path(each).name for each in (recipe.model.name, recipe.data.name)]
    if recipe.distil.student:
        parts.append(Path(model_named(recipe.distil.student, trust=False).name).name)
    names = [re.sub(r"[^\w.-]+", "-", part) for part in parts]  # a pattern for shards is no name of a folder
    removed = [] if recipe.distil.student else [recipe.budget.of, f"{recipe.budget.remove:g}"]
    return "-".join([*names, *removed])


def save(
    network: nn.Module,
    folder: Path | str,
    *,
    plan: Plan,
    model: str,
    image: Tensor,
    classes: int | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a student folder: the plan, the weights, and how to build its class (``model``, ``classes``).

    ``model`` is what the command line takes: a torchvision name, ``timm:NAME``, ``package.module:factory``.
    """
    shape = (1, *image.shape[1:])
    save_student(Student(network, ModelSource(model, classes), plan, shape, about or {}), Path(folder))


def load(folder: Path | str, *, trust: bool = False) -> nn.Module:
    """The network in a student folder, bit for bit as it was saved, in evaluation mode.

    A folder may name code, as ``package.module:factory``: that is imported and called only with ``trust``.
    """
    return load_student(Path(folder), trust=trust).network


def apply(network: nn.Module, path: Path | str) -> nn.Module:
    """The untrained student of ``network`` by the plan in a student folder, or in its ``plan.json`` alone.

    ``network`` must look like the teacher that the plan was made for, tensor by tensor.
    """
    return apply_plan(network, Path(path))


def _still(network: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, which may be run without changing what was given."""
    return copy.deepcopy(network).cpu().eval()
