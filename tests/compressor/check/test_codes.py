"""Every reason code is explained in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from compressor.profiling import REASONS

PAGE = Path(__file__).parents[3] / "docs/ci.md"


def test_the_table_of_reasons_is_the_one_that_the_program_has() -> None:
    section = PAGE.read_text().partition("## Why nothing was decided")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == list(REASONS)
