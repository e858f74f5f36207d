"""``compress run``."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from compressor.base.torchrun import launched
from compressor.cli.values import TRUST_HELP, names, print_json, stdout
from compressor.errors import UsageError
from compressor.recipe.budget import COST_TITLES, TIMED_FILES

REMOVE_HELP = "Share of the teacher's cost to REMOVE: 0.7 leaves 30 %."


@click.command()
@click.argument("model", required=False)
@click.option("--ratio", type=float, help=REMOVE_HELP)
@click.option(
    "--of", "cost", metavar=f"[{'|'.join(COST_TITLES)}]", help="The cost that --ratio counts  [default: macs]"
)
@click.option("--max-macs", type=int, help="The most MACs that may stay; limits can be combined.")
@click.option("--max-params", type=int, help="The most parameters that may stay.")
@click.option("--max-bytes", type=int, help="The most bytes of the ONNX file; measured.")
@click.option("--max-latency-ms", type=float, help="The most milliseconds; measured in ONNX Runtime.")
@click.option(
    "--latency-of",
    metavar=f"[{'|'.join(TIMED_FILES)}]",
    help="The file whose time that is; onnx-int8 needs it in --to  [default: onnx]",
)
@click.option("--threads", type=int, help="Threads of every runtime that is measured  [default: 1]")
@click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Modules not to touch, as in 'head.*'; repeatable."
)
@click.option("--granule", type=int, help="Widths are multiples of it  [default: 8]")
@click.option("--whole-heads", is_flag=True, help="Attention loses heads, not width inside every head.")
@click.option("--data", help="Built-in name, folder, shards as in 'x-{00..12}.tar', package.module:factory.")
@click.option("--data-test", help="Shards for the test half  [default: some of --data are held out]")
@click.option("--unlabelled", help="Folder of pictures without classes, to train on instead.")
@click.option("--augment", help="default, none, randaugment, trivialaugment, autoaugment.")
@click.option("--teacher-augment", help="What the teacher is shown  [default: what the student sees]")
@click.option("--data-root", help="Where a torchvision data set lies, or is downloaded to.")
@click.option("--download", is_flag=True, help="Allow a torchvision data set to be downloaded.")
@click.option("--size", type=int, help="Side of the images in pixels  [default: the data's own]")
@click.option("--weights", help="safetensors or torch file, or `pretrained` for the published weights.")
@click.option("--classes", type=int, help="Number of classes, where the data does not say; of the glyphs.")
@click.option(
    "--criterion",
    help="How channels are scored: a name of docs/criteria.md, or package.module:function  [default: lamp]",
)
@click.option("--combine", help="How a group's layers make one score: sum, mean, max, first.")
@click.option("--normalise", help="How groups are put on one scale: none, mean, max, per-macs.")
@click.option("--backend", help="Who sums weights and gradients: auto, torch, cuda  [default: auto]")
@click.option(
    "--method",
    help="How the student is taught: steps, cascade, kd, finetune … (docs/distilling.md)  [default: steps]",
)
@click.option("--assistants", type=int, help="Networks between teacher and student  [default: 1]")
@click.option("--between", type=float, multiple=True, help="Share that a network between loses; repeatable.")
@click.option("--masks", help="In a cascade: channels learned, or as scored  [default: learned]")
@click.option("--teacher", help="Another, stronger network that teaches MODEL, or `none`.")
@click.option("--teacher-weights", help="Its weights: a file, or `pretrained`.")
@click.option("--student", help="A network to teach in place of one cut from MODEL; a name as MODEL is.")
@click.option("--student-weights", help="Its weights: a file, or `pretrained`  [default: random]")
@click.option(
    "--loss",
    "losses",
    multiple=True,
    help="Another loss by the teacher, as in pkt=100,decay=0.7; again for more.",
)
@click.option("--probe", type=int, help="Epochs to see first whether the teacher helps at all.")
@click.option("--shard-teacher", is_flag=True, help="Each process of torchrun holds a part of the teacher.")
@click.option("--epochs", type=int, help="Epochs for each network that is taught.")
@click.option("--qat-epochs", type=int, help="Epochs more for INT8, computing as its file will.")
@click.option(
    "--to",
    callback=names,
    help="Formats, as in onnx,onnx-int8, or all  [default: onnx, and an engine]",
)
@click.option("--seed", type=int, help="Seed of everything random  [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1 or mps  [default: auto]")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML; options win over it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder; the same one continues a broken run."
)
@click.option("--fresh", is_flag=True, help="Ignore the cache of built-in teachers.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def run(
    model: str | None,
    recipe_file: Path | None,
    out: Path | None,
    fresh: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress MODEL: score, cut, distil, export, verify, profile.

    MODEL is a torchvision name, timm:NAME, package.module:factory or a student folder. Without MODEL and
    --data the built-in pair is used: rendered glyphs, and a residual network trained on first use.
    `torchrun … -m compressor run …` trains with several processes, on one machine or many.
    """
    from compressor.recipe import read_recipe, recipe_with

    started = launched()
    if (
        started.size > 1
    ):  # torch would print its own stack frames when another process dies; we say it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    limited = any(options[name] is not None for name in SETTINGS if name.startswith("max_"))
    if options["ratio"] is None and recipe_file is None and not limited and not options["student"]:
        raise UsageError(
            "how much to remove is not given",
            "--ratio 0.7 removes 70 % of the MACs; --student NAME teaches another network",
        )
    options["model"] = model
    # By identity: `--ratio 0` and `--assistants 0` are given, and 0 == False.
    given = {name: value for name, value in options.items() if value not in (None, ()) and value is not False}
    changes = {SETTINGS[name]: value for name, value in given.items()}
    recipe = read_recipe(recipe_file, changes) if recipe_file else recipe_with(changes)

    from compressor.api import compress, run_name
    from compressor.base.console import talk
    from compressor.cli.live import Live
    from compressor.run.folder import RunFolder, free_name
    from compressor.run.report.screen import print_report
    from compressor.run.steps import Silent

    out = out or free_name(Path("runs"), run_name(recipe))
    finished = RunFolder(out).report.exists()
    first = started.rank == 0  # of several processes one speaks; its folder is that of the run
    try:
        with Live(f"run folder: {out}") if first else nullcontext(Silent()) as live:
            if finished and first:
                talk.print(f"this run was finished before: its report, from {out}")
            report = compress(recipe, out, listener=live, fresh=fresh)
    except KeyboardInterrupt:
        if first:
            talk.print(f"stopped; the same command with `--out {out}` goes on from the last checkpoint")
        sys.exit(130)
    if not first:
        pass
    elif as_json:
        print_json(report.to_dict())
    else:
        print_report(report, stdout())
    if not report.passed:
        sys.exit(4)


_DISTILLING = (
    *("method", "assistants", "between", "masks", "teacher", "teacher_weights", "student", "student_weights"),
    *("losses", "probe", "shard_teacher"),
)

SETTINGS = {
    "model": "model.name",
    "weights": "model.weights",
    "trust": "model.trust",
    "ratio": "budget.remove",
    "cost": "budget.of",
    **{name: f"budget.{name}" for name in ("max_macs", "max_params", "max_bytes", "max_latency_ms")},
    "latency_of": "budget.latency_of",
    "threads": "profile.threads",
    "keep": "budget.keep",
    "granule": "budget.granule",
    "whole_heads": "budget.whole_heads",
    "data": "data.name",
    "data_test": "data.test",
    "unlabelled": "data.unlabelled",
    "augment": "data.augment",
    "teacher_augment": "data.teacher_augment",
    "data_root": "data.root",
    "download": "data.download",
    "size": "data.size",
    "classes": "data.classes",
    "criterion": "saliency.criterion",
    "combine": "saliency.combine",
    "normalise": "saliency.normalise",
    "backend": "saliency.backend",
    **{name: f"distil.{name}" for name in _DISTILLING},
    "epochs": "distil.schedule.epochs",
    "qat_epochs": "distil.quantise_aware_epochs",
    "to": "export.to",
    "seed": "seed",
    "device": "device",
}
"""Which setting of the recipe each option of ``run`` is."""
