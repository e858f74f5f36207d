"""Run `compress check` with its options: read both sides, compare them, print the result, return the exit code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.base.console import talk
from compressor.commands.check.compare import check_sides
from compressor.commands.check.exact import Limits
from compressor.commands.check.render import tell_the_job, to_text, write_junit
from compressor.commands.check.sides import read_side, refuse_to_overwrite, save_baseline
from compressor.errors import UsageError
from compressor.profiling import Rule

LOOKS = (6, 12, 18, 24)


def run_check(baseline: str, candidate: str | None, options: Mapping[str, Any]) -> int:
    """Run a check, or write a baseline if there is no candidate; return the exit code."""
    limits = Limits(
        share("max-growth", options["max_growth"]),
        options["max_bytes"],
        options["max_accuracy_drop"],
        options["granule"],
        options["max_output_error"],
    )
    rule = Rule(share("max-slowdown", options["max_slowdown"]), looks=looks_up_to(options["processes"]))
    save: Path | None = options["save"]
    junit: Path | None = options["junit"]
    # Check the output files first: an error after the measurement would lose minutes.
    if save is not None:
        refuse_to_overwrite(save)
    if junit is not None:
        refuse_junit(junit)
    first = read_side(baseline)
    if candidate is None:
        if save is None:
            raise UsageError(
                "there is nothing to compare with", "give a second file, or --save baseline.json"
            )
        save_baseline(first, save)
        talk.print(f"baseline written to {save}", markup=False)
        return 0
    second = read_side(candidate)
    checked = check_sides(
        first,
        second,
        limits,
        rule,
        scope="exact" if options["exact_only"] else "all",
        batch=options["batch"],
        threads=options["threads"],
        any_device=options["any_device"],
        moved=lambda done, most: talk.print(f"process {done} of at most {most}", style="dim"),
    )
    if save is not None:
        save_baseline(second, save)
    if junit is not None:
        write_junit(checked, junit)
    for line in tell_the_job(checked):
        talk.print(line, markup=False, soft_wrap=True)
    print(json.dumps(checked.to_dict(), indent=2) if options["as_json"] else to_text(checked))
    return checked.exit_code(strict=options["strict"])


def refuse_junit(path: Path) -> None:
    """Refuse a JUnit file in a missing folder, or in place of a file that is no XML."""
    if not path.parent.is_dir():
        raise UsageError(
            f"cannot write `{path}`: there is no folder `{path.parent}`", "create the folder first"
        )
    if path.is_dir() or (path.exists() and not path.read_bytes().lstrip().startswith(b"<")):
        raise UsageError(
            f"`{path}` exists and is no XML, so --junit does not overwrite it", "choose another name"
        )


def share(name: str, text: str) -> float:
    """Parse ``2.5%`` as 0.025; a number without a per cent sign is ambiguous and refused."""
    digits = text.strip().removesuffix("%")
    try:
        value = float(digits) / 100
    except ValueError:
        value = -1.0
    if not text.strip().endswith("%") or not 0 <= value < float("inf"):
        raise UsageError(f"--{name} is `{text}`", "write per cent, as in 2.5%")
    return value


def looks_up_to(processes: int | None) -> tuple[int, ...]:
    """Numbers of processes after which to decide, with at most ``processes``."""
    if processes is None:
        return LOOKS
    if processes < 3:
        raise UsageError(f"--processes is {processes}, expected at least 3")
    return (*(look for look in LOOKS if look < processes), processes)
