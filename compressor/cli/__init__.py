"""The command line: parse, call, print. No decision about compression lives here.

torch is imported inside the commands, so that help and usage errors answer at once.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from compressor.cli.check import check
from compressor.cli.docs import docs
from compressor.cli.doctor import doctor
from compressor.cli.evaluate import evaluate
from compressor.cli.exit_codes import exit_code
from compressor.cli.export import export
from compressor.cli.inspect import inspect
from compressor.cli.profile import profile
from compressor.cli.recipe import recipe
from compressor.cli.report import report
from compressor.cli.run import run

__all__ = ["cli", "main"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it: `compress run --ratio 0.7` needs no model, no data and no download.",
)
@click.version_option(package_name="compress-to-edge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Make a trained PyTorch network small enough for the edge, and prove it.

    Prunes while distilling, removes channels for real, exports to ONNX, checks that the file is the
    network, and measures both.
    """


for command in (run, recipe, inspect, profile, export, check, evaluate, report, doctor, docs):
    cli.add_command(command)


def main() -> NoReturn:
    """The console script: runs the command line and turns every error into a line and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # before or after the command's name: nobody remembers which
    rest = [each for each in arguments if each != "--debug"]
    sys.exit(exit_code(lambda: cli.main(rest, standalone_mode=False), debug))
