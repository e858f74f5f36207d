"""``compress evaluate``."""

from __future__ import annotations

from typing import Any

import click

from compressor.cli.command import Command
from compressor.cli.values import TRUST_HELP, print_json, stdout
from compressor.errors import UsageError


@click.command(
    cls=Command,
    short_help="Say how often MODEL is right, and how well it retrieves.",
    example="compress evaluate runs/glyphnet-0.7",
    page="results",
)
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
