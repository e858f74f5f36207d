"""``compress docs``."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

from compressor.cli.command import Command
from compressor.cli.values import stdout
from compressor.errors import unknown_name


@click.command(
    cls=Command,
    short_help="Read a page of the documentation.",
    example="compress docs distilling",
    page="index",
)
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """Print PAGE of the documentation that is installed with this version, or the names of all pages."""
    pages = {
        path.name.removesuffix(".md"): path
        for path in files("compressor.docs").iterdir()
        if path.name.endswith(".md")
    }
    if page is None:
        for name in sorted(pages):
            title = pages[name].read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            print(f"{name:<20} {title}")
        return
    if page not in pages:
        raise unknown_name("page", page, pages)
    text = pages[page].read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.markdown import Markdown

    stdout().print(Markdown(text))
