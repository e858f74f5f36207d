"""``compress run``."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from compressor.base.torchrun import launched
from compressor.cli.command import Command
from compressor.cli.values import TRUST_HELP, names, print_json, stdout
from compressor.errors import UsageError

OPTIONS: dict[str, dict[str, str]] = {
    "Model": {"weights": "model.weights", "trust": "model.trust"},
    "Data": {"data": "data.name", "size": "data.size", "unlabelled": "data.unlabelled"},
    "Budget": {
        "ratio": "budget.remove",
        "max_macs": "budget.max_macs",
        "max_params": "budget.max_params",
        "max_latency_ms": "budget.max_latency_ms",
        "keep": "budget.keep",
    },
    "Teaching": {
        "method": "distil.method",
        "epochs": "distil.schedule.epochs",
        "lr": "distil.schedule.learning_rate",
        "batch": "distil.schedule.batch",
        "teacher": "distil.teacher",
        "student": "distil.student",
        "criterion": "saliency.criterion",
    },
    "Output": {
        "to": "export.to",
        "out": "",
        "as_json": "",
        "recipe_file": "",
        "settings": "",
        "device": "device",
        "seed": "seed",
        "threads": "profile.threads",
    },
}
"""The options by heading, and the recipe key of each; every other key is reached by ``--set``."""


@click.command(
    cls=Command,
    groups=OPTIONS,
    short_help="Compress MODEL: cut, repair, teach, export, measure.",
    example="compress run mobilenet_v2 --weights pretrained --data photos/ --ratio 0.5 --method kd",
    page="distilling",
)
@click.argument("model", required=False)
@click.option("--weights", help="safetensors or torch file, or `pretrained` for the published weights.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--data", help="Built-in name, folder, shards as in 'x-{00..12}.tar', package.module:factory.")
@click.option("--size", type=int, help="Side of the images in pixels  [default: that of the data]")
@click.option("--unlabelled", help="Folder of pictures without classes, to train on instead.")
@click.option("--ratio", type=float, help="Share of the teacher's MACs to REMOVE: 0.7 leaves 30 %.")
@click.option("--max-macs", type=int, help="Most MACs that may stay; limits can be combined.")
@click.option("--max-params", type=int, help="Most parameters that may stay.")
@click.option("--max-latency-ms", type=float, help="Most milliseconds; measured in ONNX Runtime.")
@click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Modules not to cut, as in 'head.*'; repeatable."
)
@click.option("--method", help="repair, kd, steps, cascade, finetune …  [default: steps]")
@click.option("--epochs", type=int, help="Epochs of each network that is taught  [default: 6]")
@click.option("--lr", type=float, help="Peak of the learning rate  [default: 0.1]")
@click.option("--batch", type=int, help="Images of a training step  [default: 128]")
@click.option(
    "--teacher", help="Another, stronger network that teaches MODEL: NAME, NAME=WEIGHTS, or `none`."
)
@click.option("--student", help="A network to teach in place of one cut from MODEL: NAME or NAME=WEIGHTS.")
@click.option("--criterion", help="How channels are scored  [default: lamp]")
@click.option(
    "--to", callback=names, help="Formats, as in onnx,onnx-int8, or all  [default: onnx, and an engine]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder; the same one continues a broken run."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML; options win over it.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of `compress recipe`, as in budget.granule=16; repeatable.",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1 or mps  [default: auto]")
@click.option("--seed", type=int, help="Seed of everything random  [default: 0]")
@click.option("--threads", type=int, help="Threads of every runtime that is measured  [default: 1]")
def run(
    model: str | None,
    recipe_file: Path | None,
    settings: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress MODEL: score, cut, repair, distil, export, verify, profile.

    MODEL is a torchvision name, timm:NAME, package.module:factory or a student folder. Without MODEL and --data the
    built-in pair is used: rendered glyphs, and a residual network trained on first use.
    `torchrun … -m compressor run …` trains with several processes, on one machine or many.
    """
    recipe = _recipe(model, recipe_file, settings, options)
    processes = launched()
    if (
        processes.size > 1
    ):  # torch would print its own stack frames when another process dies; we say it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

    from compressor.api import compress, run_name
    from compressor.base.console import talk
    from compressor.cli.live import Live
    from compressor.run.folder import RunFolder, free_name
    from compressor.run.report.screen import print_report
    from compressor.run.steps import Silent

    out = out or free_name(Path("runs"), run_name(recipe))
    finished = RunFolder(out).report.exists()
    first = processes.rank == 0  # of several processes one speaks; its folder is that of the run
    try:
        with Live(f"run folder: {out}") if first else nullcontext(Silent()) as live:
            if finished and first:
                talk.print(f"this run was finished before: its report, from {out}")
            report = compress(recipe, out, listener=live)
    except KeyboardInterrupt:
        if first:
            talk.print(f"stopped; the same command with `--out {out}` goes on from the last checkpoint")
        sys.exit(130)
    if first:
        print_json(report.to_dict()) if as_json else print_report(report, stdout())
    if not report.passed:
        sys.exit(4)


def _recipe(model: str | None, file: Path | None, settings: tuple[str, ...], options: dict[str, Any]) -> Any:
    """The recipe in the file, if there is one, with the options that are given and then `--set`."""
    from compressor.recipe import read_recipe, recipe_with
    from compressor.recipe.listing import changes_from

    paths = {
        "model": "model.name",
        **{name: path for group in OPTIONS.values() for name, path in group.items()},
    }
    # By identity: `--ratio 0` is given, and 0 == False.
    given = {
        name: value
        for name, value in {"model": model, **options}.items()
        if value not in (None, ()) and value is not False
    }
    changes = {paths[name]: value for name, value in given.items()} | changes_from(settings)
    says_how_much = any(
        path.startswith(("budget.remove", "budget.max_", "distil.student")) for path in changes
    )
    if file is None and not says_how_much:
        raise UsageError(
            "how much to remove is not given",
            "--ratio 0.7 removes 70 % of the MACs; --student NAME teaches another network",
        )
    return read_recipe(file, changes) if file else recipe_with(changes)
