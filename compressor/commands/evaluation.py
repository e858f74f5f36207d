"""Evaluate a network on a data set without a run: accuracy, and retrieval by its embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from compressor.artifacts.student import load_student
from compressor.base.device import choose_device
from compressor.commands.retrieval import Ranking, evaluate_retrieval, to_dict
from compressor.commands.subjects import student_folder
from compressor.data import load_data
from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.models.weights import PRETRAINED
from compressor.recipe import DataRecipe, ModelRecipe, read_recipe
from compressor.run.folder import RunFolder
from compressor.run.report.report_rows import percent
from compressor.run.teacher import build_model, check_weights, outputs_of
from compressor.training import accuracy
from compressor.training.layer_outputs import EMBEDDING


@dataclass(frozen=True)
class Evaluation:
    """Result for a network and its data; ``retrieval``: rankings by metric, of the outputs of ``layer``."""

    name: str
    data: str
    images: int
    accuracy: float
    layer: str = EMBEDDING
    retrieval: Mapping[str, Ranking] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        value: dict[str, Any] = {
            "model": self.name,
            "data": {"name": self.data, "test": self.images},
            "accuracy": {"metric": "top-1", "test": self.accuracy},
        }
        if self.retrieval:
            value["retrieval"] = {"layer": self.layer, **to_dict(self.retrieval)}
        return value


def evaluate(
    model: ModelRecipe,
    wanted: DataRecipe | None,
    *,
    seed: int | None = None,
    device: str = "auto",
    retrieval: bool = False,
    layer: str | None = None,
) -> Evaluation:
    """Measure accuracy on the test half; with ``retrieval`` also the rankings of the training half by its images.

    A run folder has its own data, and the seed that chooses the held-out images; both may be replaced.
    """
    if layer is not None and not retrieval:
        raise UsageError(f"layer `{layer}` is used for retrieval only", "add --retrieval")
    run = RunFolder(Path(model.name)).recipe
    if run.exists():
        recipe = read_recipe(run)
        wanted, seed = wanted or recipe.data, recipe.seed if seed is None else seed
    if wanted is None and "/" in model.name and not Path(model.name).exists():
        raise UsageError(
            f"no folder `{model.name}`", "give a run folder, which knows its own data, or --data"
        )
    if wanted is None:
        raise UsageError(
            "no data given to evaluate on", "give --data photos/, or a run folder, which knows its own data"
        )
    data = load_data(wanted, seed or 0)
    network = _network(model, data).to(choose_device(device))
    outputs = outputs_of(network, data, "network")
    if outputs != len(data.classes):
        raise UsageError(
            f"`{model.name}` has {outputs} outputs, `{data.name}` has {len(data.classes)} classes",
            "give the data that it was trained on",
        )
    top_1 = accuracy(network, data.test, device=next(network.parameters()).device)
    layer = layer or EMBEDDING
    rankings = evaluate_retrieval(network, data, layer=layer) if retrieval else {}
    return Evaluation(model.name, data.name, len(data.test), top_1, layer, rankings)


def _network(model: ModelRecipe, data: Data) -> nn.Module:
    path = Path(model.name)
    if path.suffix == ".onnx":
        raise UsageError(
            f"`{path}` is an ONNX file", "give the run folder or the student folder that it is from"
        )
    folder = student_folder(path)
    if folder is not None:
        return load_student(folder, trust=model.trust).network
    check_weights(model)
    network, _, _ = build_model(model, None if model.weights == PRETRAINED else len(data.classes))
    return network


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the accuracy, and a table of the rankings."""
    console.print(
        f"top-1 {percent(evaluation.accuracy, 2)} on {evaluation.images:,} test images of {evaluation.data}"
    )
    if not evaluation.retrieval:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"retrieval by {evaluation.layer}", no_wrap=True)
    for title in ("mAP", "mAP, 11 points", "of the first 100"):
        table.add_column(title, justify="right")
    for metric, ranking in evaluation.retrieval.items():
        values = (ranking.map, ranking.map_11, ranking.precision_100)
        table.add_row(metric, *(percent(value, 2) for value in values))
    console.print(table)
