"""``compress recipe``."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.cli.command import Command


@click.command(
    cls=Command,
    short_help="Print every key of a recipe, explained.",
    example="compress recipe --set distil.method=kd > recipe.toml",
    page="recipe",
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A change, as in budget.granule=16; repeatable.",
)
def recipe(file: Path | None, settings: tuple[str, ...]) -> None:
    """Print the recipe in FILE, or the defaults, as TOML with an explanation of every key."""
    from compressor.recipe import read_recipe, recipe_with
    from compressor.recipe.listing import changes_from, listed

    changes = changes_from(settings)
    print(listed(read_recipe(file, changes) if file else recipe_with(changes)), end="")
