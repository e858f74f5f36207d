"""``compress doctor``."""

from __future__ import annotations

import click

from compressor.cli.command import Command
from compressor.cli.values import print_json


@click.command(
    cls=Command,
    example="compress doctor --json",
    page="profiling",
)
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
