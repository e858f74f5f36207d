"""Every error of a command as a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from compressor.base.torchrun import CLAIMED, ToldError, launched
from compressor.errors import CompressError, UsageError


def exit_code(call: Callable[[], Any], debug: bool) -> int:
    """Run the command; what it raises is told on stderr."""
    from compressor.base.console import complain

    try:
        call()
    except SystemExit as stop:
        return int(stop.code or 0)
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = context and f"`{context.command_path} --help` shows what it takes"
        if _speaks(error):
            complain(error.format_message(), hint)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not _speaks(error):
            return int(getattr(error, "exit_code", 1))
        hint = getattr(error, "hint", None)
        if isinstance(error, CompressError) or hasattr(error, "exit_code"):
            complain(str(error), hint)
            return int(getattr(error, "exit_code", 1))
        complain(
            f"{type(error).__name__}: {error}".splitlines()[0],
            "this is our mistake: please report it with the output of --debug",
        )
        return 1
    return 0


def _speaks(error: Exception) -> bool:
    """True if this process reports the failure, where several processes failed."""
    if isinstance(error, ToldError):
        return False
    try:
        return launched().speaks or hasattr(error, CLAIMED)
    except UsageError:
        return True
