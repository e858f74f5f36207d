"""``compress inspect``."""

from __future__ import annotations

import click

from compressor.cli.command import Command
from compressor.cli.values import TRUST_HELP, print_json, shape_from, stdout


@click.command(
    cls=Command,
    short_help="Show the channel groups of MODEL, and what stays whole.",
    example="compress inspect resnet18",
    page="cutting",
)
@click.argument("model")
@click.option("--weights", help="Weights file; the groups are the same without.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Sizes of one input, as in 3,224,224.")
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
