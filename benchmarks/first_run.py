"""What a new user meets: time and memory of the default run, and what each arm of it is worth.

    python benchmarks/first_run.py --seeds 5 --json FILE

The default command is run twice as a subprocess with an empty cache: once to train the teacher, once to
find it. Then, for each seed, four arms share teacher, scores, plan, data and schedule and differ in one thing:

    cut        the student, merely cut
    finetune   trained by the labels alone, for the student's own epochs
    kd         taught by the teacher, for the same epochs
    student    taught by an assistant that the teacher taught (the default run)

``kd_long`` is no fifth arm but a control of the last: kd with the epochs of assistant and student together.
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
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from record import write_figures

from compressor.cascade import descend, stages, with_own_statistics
from compressor.cutting import cut
from compressor.data.sources import load_data
from compressor.distill import accuracy, train
from compressor.graph.trace import trace
from compressor.recipe import recipe_with
from compressor.saliency.score import score
from compressor.teacher import load_teacher

CPU = torch.device("cpu")
REMOVE = 0.7


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1 of the four arms")
    options.add_argument("--json", type=Path, help="write the figures here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESS_CACHE"] = folder
        runs = {name: timed_run(Path(folder) / name) for name in ("fresh", "cached")}
        arms = [four_arms(seed) for seed in range(given.seeds)]
    names = list(arms[0])
    means = {name: statistics.mean(arm[name] for arm in arms) for name in names}
    for name in names:
        values = [arm[name] for arm in arms]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"{name:<22} mean {means[name]:.4f}  sd {spread:.4f}  min {min(values):.4f}  max {max(values):.4f}"
        )
    peak = max(run["peak_rss_mb"] for run in runs.values())
    figures = {
        "wall_s_fresh": runs["fresh"]["wall_s"],
        "wall_s_cached": runs["cached"]["wall_s"],
        "peak_rss_mb": peak,
        **means,
    }
    write_figures(given.json, figures, {"runs": runs, "arms": arms})


def timed_run(out: Path) -> dict[str, Any]:
    """The README's command as a user gives it: its wall time, peak memory and steps."""
    command = [sys.executable, "-m", "compressor", "run", "--ratio", str(REMOVE), "--out", str(out), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"the run failed with status {os.waitstatus_to_exitcode(status)}")
    steps = {step["name"]: step["seconds"] for step in json.loads(said)["steps"]}
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(
        f"{out.name}: {wall:.1f} s; " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps.items())
    )
    return {"wall_s": wall, "peak_rss_mb": peak, "steps": steps}


def four_arms(seed: int) -> dict[str, float]:
    """The accuracies of one seed."""
    recipe = recipe_with({"seed": seed, "budget.remove": REMOVE})
    schedule = recipe.distil.schedule
    data = load_data(recipe.data, seed)
    teacher = load_teacher(recipe, data, device=CPU, progress=lambda name, now: None).network
    graph = trace(teacher, torch.zeros(1, *data.shape))
    batches = islice(data.train.batches(recipe.saliency.batch, shuffle=seed), recipe.saliency.batches)
    scores = score(teacher, graph, recipe.saliency.criterion, batches)
    path = stages(graph, scores, recipe.budget, recipe.distil.assistants)
    plan = path[-1].plan
    start = with_own_statistics(cut(teacher, plan), data, seed, CPU)
    longer = replace(schedule, epochs=sum(recipe.distil.schedule_of(stage.name).epochs for stage in path))
    with tempfile.TemporaryDirectory() as folder:
        trainings = descend(
            teacher,
            path,
            data,
            recipe.distil.schedule_of,
            seed=seed,
            device=CPU,
            checkpoints=lambda name: Path(folder) / name,
            progress=lambda name, now: None,
        )
    result = {
        "macs_removed": plan.removed("macs"),
        "accuracy_teacher": accuracy(teacher, data.test),
        "accuracy_cut": accuracy(cut(teacher, plan), data.test),
        "accuracy_finetune": train(start, data, schedule, seed=seed).accuracy,
        "accuracy_kd": train(start, data, schedule, teacher=teacher, seed=seed).accuracy,
        "accuracy_student": trainings[-1].trained.accuracy,
        "accuracy_kd_long": train(start, data, longer, teacher=teacher, seed=seed).accuracy,
        "accuracy_assistant": trainings[0].trained.accuracy,
    }
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in result.items()), flush=True)
    return result


if __name__ == "__main__":
    main()
