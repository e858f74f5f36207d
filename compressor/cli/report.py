"""``compress report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from compressor.cli.command import Command
from compressor.cli.values import print_json, stdout


@click.command(
    cls=Command,
    example="compress report runs/glyphnet-0.7 --markdown",
    page="report",
)
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
