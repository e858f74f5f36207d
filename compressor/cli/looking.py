"""What only looks: ``compress inspect``, ``evaluate``, ``report`` and ``doctor``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.values import TRUST_HELP, print_json, shape_from, stdout
from compressor.errors import UsageError


@click.command(short_help="Show the channel groups of MODEL, and what stays whole.")
@click.argument("model")
@click.option("--weights", help="Weights file; the groups are the same without.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def inspect(
    model: str, weights: str | None, classes: int | None, shape: str | None, trust: bool, as_json: bool
) -> None:
    """Show the channel groups of MODEL: what each costs, what cannot be cut and why."""
    from compressor.commands.inspection import inspected, print_inspection
    from compressor.recipe import ModelRecipe

    found = inspected(ModelRecipe(model, weights or "", trust), classes, shape_from(shape))
    print_json(found.to_dict()) if as_json else print_inspection(found, stdout())


@click.command(short_help="Say how often MODEL is right, and how well it retrieves.")
@click.argument("model")
@click.option("--data", help="As for `run`  [default: that of a run folder]")
@click.option("--data-root", help="Where a torchvision data set lies.")
@click.option("--size", type=int, help="Side of the images in pixels  [default: the data's own]")
@click.option("--classes", type=int, help="Number of classes, where the data does not say.")
@click.option("--seed", type=int, help="Decides what is held out, where data has no test half  [default: 0]")
@click.option("--weights", help="Weights file, or `pretrained`.")
@click.option("--retrieval", is_flag=True, help="Rank the training images for each test image.")
@click.option(
    "--layer", help="Module whose output is compared  [default: what the last linear layer is given]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def evaluate(
    model: str,
    data: str | None,
    data_root: str | None,
    size: int | None,
    classes: int | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how often MODEL is right on data: a run folder, a student folder or a model name with --weights.

    With --retrieval: mean average precision and precision of the first 100, by Euclidean distance and by cosine.
    """
    from compressor.commands.evaluation import evaluate, print_evaluation
    from compressor.recipe import DataRecipe, ModelRecipe

    about = {"root": data_root, "size": size, "classes": classes}
    given = {key: value for key, value in about.items() if value is not None}
    if data is None and given:
        raise UsageError(
            f"the {next(iter(given))} of data is given, and --data is not", "name the data as well"
        )
    wanted = DataRecipe(data, **given) if data else None  # type: ignore[arg-type]
    found = evaluate(ModelRecipe(model, weights or "", trust), wanted, **options)
    print_json(found.to_dict()) if as_json else print_evaluation(found, stdout())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@click.option("--markdown", is_flag=True, help="Print Markdown on stdout.")
def report(folder: Path, as_json: bool, markdown: bool) -> None:
    """Show the report of a finished run."""
    from compressor.run.report.markdown import to_markdown
    from compressor.run.report.report import read_report
    from compressor.run.report.screen import print_report

    found = read_report(folder)
    if as_json:
        print_json(found.to_dict())
    elif markdown:
        print(to_markdown(found), end="")
    else:
        print_report(found, stdout())
    if not found.passed:
        sys.exit(4)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and what to install for the rest."""
    from compressor.commands.environment import examine

    findings = examine()
    if as_json:
        print_json([finding.to_dict() for finding in findings])
        return
    for finding in findings:
        mark = "ok" if finding.works else "--"
        advice = f"\n{'':21}{finding.advice}" if finding.advice else ""
        print(f"{mark}  {finding.part:<16} {finding.found}{advice}")
