"""``compress check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.command import Command


@click.command(
    cls=Command,
    short_help="Is CANDIDATE as small, as fast and as right as BASELINE?",
    example="compress check baseline.json runs/new --max-slowdown 5%",
    page="ci",
)
@click.argument("baseline")
@click.argument("candidate", required=False)
@click.option("--max-slowdown", default="2.5%", show_default=True, help="Slowdown that is allowed.")
@click.option(
    "--max-growth", default="1%", show_default=True, help="Growth of MACs, parameters, bytes, operators."
)
@click.option("--max-bytes", type=int, help="The most that the candidate's file may have.")
@click.option(
    "--max-accuracy-drop", type=float, help="Points of top-1 that may be lost  [default: 0.5, if known]"
)
@click.option(
    "--max-output-error",
    type=float,
    help="Difference of outputs that is allowed, of the largest  [default: any]",
)
@click.option("--granule", type=int, default=8, show_default=True, help="Widths should be multiples of it.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images at a time.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--processes", type=int, help="The most processes that measure  [default: 24]")
@click.option("--exact-only", is_flag=True, help="Compare what is exact; measure nothing.")
@click.option(
    "--any-device", is_flag=True, help="Decide the time although the baseline is of another machine."
)
@click.option("--strict", is_flag=True, help="What could not be decided counts as failed.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the last argument as a baseline.json.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def check(baseline: str, candidate: str | None, **options: Any) -> None:
    """Compare CANDIDATE with BASELINE: each an ONNX file, a run folder, or a baseline.json from before.

    Ends with 0 if it passed, 4 if it failed, 3 if the time could not be decided on this machine.
    """
    from compressor.commands.check.command import run_check

    sys.exit(run_check(baseline, candidate, options))
