"""Accuracy after compression: every method and every control, at the same MACs and for the same number of steps.

    python benchmarks/cifar10.py --data PATH --json FILE                       # a GPU: three seeds, 100 epochs
    python benchmarks/cifar10.py --data PATH --json FILE --factors 3.33 --seeds 0 --epochs 2 --images 20000

A ResNet-56 with 93.39 % on CIFAR-10 loses 53, 61 and 70 % of its MACs (2.13, 2.57 and 3.33 times fewer). All arms
have the same epochs, batch, augmentation, learning rate and decay; cascade and steps spend theirs on several networks.
The arms of torch-pruning are its pruning by Taylor scores and by the norms of groups, with widths from one threshold
over all layers and uniform, at the same MACs, trained by labels.

PATH has ``cifar10/{train,test}/CLASS.webp`` and ``resnet56-cifar10.safetensors``. What FILE holds already is not done
again, and an arm that was stopped goes on from its checkpoints beside FILE.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cifar import cifar10, resnet56
from peers import PEERS, pruned_to
from record import keep, write_figures
from torch import nn

from compressor.base.device import choose_device
from compressor.data.in_memory import crop_and_flip
from compressor.data.split import Data
from compressor.methods import Task, method_named, stages
from compressor.profiling import count
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.recipe.method_table import METHODS
from compressor.training import Guide, Progress, Schedule, accuracy, reestimate, train

FACTORS = (2.13, 2.57, 3.33)
IMAGES = 50_000
OURS = {name: Distilling(name) for name in METHODS}
TORCH_PRUNING = "torch-pruning-"
ARMS = (*OURS, *(f"{TORCH_PRUNING}{name}" for name in PEERS))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--arms", default=",".join(ARMS))
    options.add_argument("--factors", default=",".join(str(factor) for factor in FACTORS))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--rate", type=float, default=0.05)
    options.add_argument(
        "--images", type=int, default=IMAGES, help="of the training half, as many of each class"
    )
    options.add_argument("--threads", type=int, help="of torch")
    options.add_argument("--device", default="auto")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    data = cifar10(given.data, given.images // 10, 1000, crop_and_flip)
    teacher = resnet56(given.data)
    schedule = Schedule(
        epochs=given.epochs,
        learning_rate=given.rate,
        warmup_epochs=min(1.0, given.epochs / 20),
        test_every=max(1, given.epochs // 5),
    )
    rows: list[dict[str, Any]] = json.loads(given.json.read_text())["samples"] if given.json.exists() else []
    about = {"epochs": given.epochs, "images": given.images, "rate": given.rate}
    if not any(row["arm"] == "teacher" for row in rows):
        rows.append({"arm": "teacher", "accuracy": accuracy(teacher, data.test, device=device), **about})
        print(f"teacher {rows[-1]['accuracy']:.2%}", flush=True)
    for factor in map(float, given.factors.split(",")):
        for seed in map(int, given.seeds.split(",")):
            for arm in given.arms.split(","):
                which = {"arm": arm, "factor": factor, "seed": seed, **about}
                if any(which.items() <= row.items() for row in rows):
                    continue
                start = time.perf_counter()
                folder = given.json.with_suffix("") / f"{arm}-{factor}-{seed}-{given.epochs}-{given.images}"
                find = peer if arm.startswith(TORCH_PRUNING) else ours
                found = find(arm, Given(teacher, data, schedule, factor, seed, device, folder))
                rows.append({**which, **found, "seconds": time.perf_counter() - start})
                keep(given.json, figures(rows), rows)
                print(
                    f"{factor} {arm} seed {seed}: {found['accuracy']:.2%}, {found['macs']:,} MACs", flush=True
                )
    write_figures(given.json, figures(rows), rows)


@dataclass(frozen=True)
class Given:
    """What an arm is given."""

    teacher: nn.Module
    data: Data
    schedule: Schedule
    factor: float
    seed: int
    device: torch.device
    folder: Path


def ours(arm: str, given: Given) -> dict[str, Any]:
    """One of our methods, with the default criterion and widths of any number of channels."""
    image = torch.zeros(1, *given.data.shape)
    asked = replace(OURS[arm], schedule=given.schedule)
    graph = trace(given.teacher, image)
    scores = score(given.teacher, graph, "lamp")
    budget = Budget(1 - 1 / given.factor, granule=1)
    path = stages(graph, scores, budget, asked.assistants)
    task = Task(
        copy.deepcopy(given.teacher), Guide("teacher", given.teacher), graph, scores, budget, path, asked,
        given.data, given.seed, given.device, given.folder.joinpath, shown(arm),
    )  # fmt: skip
    trainings = method_named(asked.method)(task)
    last = trainings[-1]
    return {
        "accuracy": last.trained.accuracy,
        "best": last.trained.best_accuracy,
        "macs": count(last.trained.network.cpu(), (image,)).macs,
        "trainings": [
            {
                "name": each.stage.name,
                "teacher": each.teacher,
                "accuracies": [epoch.accuracy for epoch in each.trained.history],
                "losses": [epoch.loss for epoch in each.trained.history],
                "images_per_second": each.trained.images_per_second,
            }
            for each in trainings
        ],
    }


def peer(arm: str, given: Given) -> dict[str, Any]:
    """torch-pruning's network of as many MACs, trained by labels for as many steps."""
    image = torch.zeros(1, *given.data.shape)
    name = arm.removeprefix(TORCH_PRUNING)
    best = pruned_to(name, given.teacher, given.data, 1 - 1 / given.factor, given.seed)
    start = reestimate(best, given.data.train, batches=20, seed=given.seed, device=given.device)
    trained = train(
        start,
        given.data,
        given.schedule,
        seed=given.seed,
        device=given.device,
        checkpoints=given.folder,
        progress=lambda now: shown(arm)("student", now),
    )
    return {
        "accuracy": trained.accuracy,
        "best": trained.best_accuracy,
        "before": accuracy(start, given.data.test, device=given.device),
        "macs": count(trained.network.cpu(), (image,)).macs,
        "images_per_second": trained.images_per_second,
    }


def shown(arm: str) -> Callable[[str, Progress], None]:
    def show(name: str, now: Progress) -> None:
        if now.over or now.step % 50 == 0:
            right = "" if now.accuracy is None else f" top-1 {now.accuracy:.2%}"
            print(
                f"  {arm} {name}: epoch {now.epoch} step {now.step}/{now.steps} loss {now.loss:.3f} "
                f"{now.images_per_second:.0f} images/s{right}",
                flush=True,
            )

    return show


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and deviation over seeds of every arm."""
    found: dict[str, float] = {}
    keys = dict.fromkeys((row["arm"], row["factor"]) for row in rows if "factor" in row)
    for arm, factor in keys:
        values = [row["accuracy"] for row in rows if (row["arm"], row.get("factor")) == (arm, factor)]
        found[f"accuracy_{arm}_{factor}"] = statistics.mean(values)
        if len(values) > 1:
            found[f"std_{arm}_{factor}"] = statistics.stdev(values)
    return found


if __name__ == "__main__":
    main()
