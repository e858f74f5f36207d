"""What each way of teaching is worth: accuracy, time of a step and memory, for one student and one schedule.

    python benchmarks/methods.py --json FILE                                    # the built-in pair, three seeds
    python benchmarks/methods.py --pair resnet56 --data PATH --json FILE        # ResNet-56 on CIFAR-10; a GPU

Every method of docs/distilling.md; every loss beside `kd`, at its usual weight (`kd+NAME`); and every way of following
a teacher's answers in place of `kd` (`by NAME`). Students lose 70 % of the MACs and begin with the same channels.
Each arm is a process of its own, so that its peak memory is its own. Times are those of the processor, which on one
thread (``--threads 1``) do not grow when other programs run; on a GPU they mean nothing. What FILE holds already is
not done again.

PATH has ``cifar10/{train,test}/CLASS.webp`` and ``resnet56-cifar10.safetensors``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from cifar import cifar10, resnet56
from record import keep, write_figures
from torch import nn

from compressor.base.device import choose_device
from compressor.data.in_memory import crop_and_flip
from compressor.data.sources import load_data
from compressor.data.split import Data
from compressor.methods import Task, method_named, stages
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.recipe import recipe_with
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.recipe.method_table import METHODS
from compressor.run.teacher import load_teacher
from compressor.training import Guide, Progress, Schedule, accuracy
from compressor.training.losses import LOSSES, TEACHER_LOSSES

REMOVE = 0.7
OTHERS = [name for name in LOSSES if name not in ("labels", "kd", "same-channels")]
ARMS: dict[str, Distilling] = {
    **{name: Distilling(name) for name in METHODS},
    **{
        f"by {name}": Distilling("kd", schedule=Schedule(teacher_loss=name))
        for name in TEACHER_LOSSES
        if name != "kd"
    },
    **{f"kd+{name}": Distilling("kd", losses=(name,)) for name in OTHERS},
    "kd+ofa at layers": Distilling("kd", losses=("ofa, layers=auto",)),
}
"""Every arm by its name."""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pair", choices=("glyphs", "resnet56"), default="glyphs")
    options.add_argument("--data", type=Path, help="for resnet56")
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--arms", default=",".join(ARMS), help="some of them, with commas between")
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--epochs", type=int, help="of the student  [default: 6, resnet56: 30]")
    options.add_argument("--images", type=int, default=50_000, help="of CIFAR-10's training half")
    options.add_argument("--threads", type=int, help="of torch")
    options.add_argument("--device", default="auto")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.one:
        print(json.dumps(one(given.arms, int(given.seeds), given)))
        return
    rows: list[dict[str, Any]] = json.loads(given.json.read_text())["samples"] if given.json.exists() else []
    about = {"pair": given.pair, "epochs": given.epochs, "images": given.images, "threads": given.threads}
    for seed in map(int, given.seeds.split(",")):
        for arm in given.arms.split(","):
            which = {"arm": arm, "seed": seed, **about}
            if any(which.items() <= row.items() for row in rows):
                continue
            rows.append({**which, **in_a_process(arm, seed)})
            keep(given.json, figures(rows), rows)
            shown = {key: value for key, value in rows[-1].items() if key not in about}
            print(", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
    write_figures(given.json, figures(rows), rows)


def in_a_process(arm: str, seed: int) -> dict[str, Any]:
    """One arm, and the most memory that its process had."""
    command = [sys.executable, *sys.argv, "--one", "--arms", arm, "--seeds", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        return {"failed": os.waitstatus_to_exitcode(status)}
    return {**json.loads(said.splitlines()[-1]), "peak_mb": round(usage.ru_maxrss / 1024)}


def one(arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and times of one arm."""
    device = choose_device(given.device)
    teacher, data, schedule = pair(given, seed, device)
    asked = ARMS[arm]
    asked = replace(asked, schedule=replace(schedule, teacher_loss=asked.schedule.teacher_loss))
    graph = trace(teacher, torch.zeros(1, *data.shape))
    batches = islice(data.train.batches(64, shuffle=seed), 8)
    scores, budget = score(teacher, graph, "lamp", batches), Budget(REMOVE)
    path = stages(graph, scores, budget, asked.assistants)
    ends: list[float] = []

    def seen(name: str, now: Progress) -> None:
        """When each step of the last training ended; the median step has no test in it."""
        if now.step == 1 and now.epoch == 1:
            ends.clear()
        if not now.over:
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            teacher, Guide("teacher", teacher), graph, scores, budget, path, asked, data, seed, device,
            Path(folder).joinpath, seen,
        )  # fmt: skip
        start = time.process_time()
        trainings = method_named(asked.method)(task)
        seconds = time.process_time() - start
    last = trainings[-1].trained
    return {
        "teacher": accuracy(teacher, data.test, device=device),
        "accuracy": last.accuracy,
        "cpu_seconds_per_step": statistics.median(later - sooner for sooner, later in pairwise(ends))
        if ends
        else 0.0,
        "cpu_seconds": seconds,
        "macs_removed": trainings[-1].stage.plan.removed("macs"),
    }


def pair(given: argparse.Namespace, seed: int, device: torch.device) -> tuple[nn.Module, Data, Schedule]:
    """A teacher, its data, and how its students are taught."""
    if given.pair == "glyphs":
        recipe = recipe_with({"seed": seed, "budget.remove": REMOVE})
        data = load_data(recipe.data, seed)
        teacher = load_teacher(recipe, data, device=device, progress=lambda name, now: None).network
        return teacher, data, Schedule(epochs=given.epochs or 6)
    data, teacher = cifar10(given.data, given.images // 10, 1000, crop_and_flip), resnet56(given.data)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # the file's, a plain average over all time, would lag behind
    epochs = given.epochs or 30
    return (
        teacher,
        data,
        Schedule(epochs=epochs, learning_rate=0.02, warmup_epochs=epochs / 20, test_every=epochs),
    )


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds, and the deviation of accuracies."""
    found: dict[str, float] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm and "accuracy" in row]
        if not mine:
            continue
        accuracies = [row["accuracy"] for row in mine]
        found[f"accuracy_{arm}"] = statistics.mean(accuracies)
        if len(mine) > 1:
            found[f"std_{arm}"] = statistics.stdev(accuracies)
        found[f"seconds_per_step_{arm}"] = statistics.median(row["cpu_seconds_per_step"] for row in mine)
        found[f"peak_mb_{arm}"] = max(row["peak_mb"] for row in mine)
    return found


if __name__ == "__main__":
    main()
