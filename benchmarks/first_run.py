"""What a new user meets: time and memory of the default run, and what each arm of it is worth.

    python benchmarks/first_run.py --seeds 5 --json FILE

The default command is run twice as a subprocess with an empty cache: once to train the teacher, once to
find it. Then, for each seed, arms share teacher, scores, data and schedule and differ in how the student is taught:
every method of docs/distilling.md, and the cascade with channels as scored and without assistants.
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
from pathlib import Path
from typing import Any

import torch
from record import write_figures

from compressor.data.sources import load_data
from compressor.methods import Task, method_named, stages
from compressor.pruning.graph.trace import trace
from compressor.recipe import recipe_with
from compressor.recipe.distilling import Distilling
from compressor.recipe.method_table import METHODS
from compressor.run.prune import scored
from compressor.run.teacher import load_teacher
from compressor.training import Guide, accuracy

CPU = torch.device("cpu")
REMOVE = 0.7
ARMS = {
    **{name: Distilling(name) for name in METHODS},
    "cascade-without-assistants": Distilling("cascade", assistants=0),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seeds", type=int, default=5, help="seeds 0 .. N-1 of the arms")
    options.add_argument("--arms", default=",".join(ARMS), help="some of them, with commas between")
    options.add_argument("--no-runs", action="store_true", help="leave out the two whole runs")
    options.add_argument("--json", type=Path, help="write the figures here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESS_CACHE"] = folder
        kinds = () if given.no_runs else ("fresh", "cached")
        runs = {name: timed_run(Path(folder) / name) for name in kinds}
        arms = [taught(seed, given.arms.split(",")) for seed in range(given.seeds)]
    names = list(arms[0])
    means = {name: statistics.mean(arm[name] for arm in arms) for name in names}
    for name in names:
        values = [arm[name] for arm in arms]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"{name:<38} mean {means[name]:.4f}  sd {spread:.4f}  min {min(values):.4f}  max {max(values):.4f}"
        )
    figures = {f"wall_s_{name}": run["wall_s"] for name, run in runs.items()} | means
    if runs:
        figures["peak_rss_mb"] = max(run["peak_rss_mb"] for run in runs.values())
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


def taught(seed: int, arms: Sequence[str]) -> dict[str, float]:
    """The accuracies of one seed."""
    recipe = recipe_with({"seed": seed, "budget.remove": REMOVE})
    data = load_data(recipe.data, seed)
    teacher = load_teacher(recipe, data, device=CPU, progress=lambda name, now: None).network
    graph = trace(teacher, torch.zeros(1, *data.shape))
    scores = scored(recipe, teacher, graph, data, CPU)
    result = {"accuracy_teacher": accuracy(teacher, data.test)}
    for arm in arms:
        asked = ARMS[arm]
        path = stages(graph, scores, recipe.budget, asked.assistants)
        with tempfile.TemporaryDirectory() as folder:
            task = Task(
                teacher,
                Guide("teacher", teacher),
                graph,
                scores,
                recipe.budget,
                path,
                asked,
                data,
                seed,
                CPU,
                Path(folder).joinpath,
                lambda name, now: None,
            )
            start = time.perf_counter()
            trainings = method_named(asked.method)(task)
        result[f"accuracy_{arm}"] = trainings[-1].trained.accuracy
        result[f"seconds_{arm}"] = time.perf_counter() - start
        result[f"macs_removed_{arm}"] = trainings[-1].stage.plan.removed("macs")
    told = ", ".join(f"{name} {value:.4f}" for name, value in result.items() if name.startswith("accuracy"))
    print(f"seed {seed}: {told}", flush=True)
    return result


if __name__ == "__main__":
    main()
