"""Draw what `compress report` shows as `docs/images/report.svg`.

compress run --ratio 0.7 --to onnx,onnx-int8 --out runs/first
python docs/images/report.py runs/first
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from compressor.run.report.report import read_report
from compressor.run.report.screen import print_report

COLUMNS = 100
FONTS = "Menlo, Consolas, DejaVu Sans Mono, monospace"


def drawn(folder: Path) -> str:
    """The report of the run folder as an SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(f"[bold]$ compress report {folder}[/]")
    print_report(read_report(folder), console)
    svg = console.export_svg(title="compress report", unique_id="report")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they point at a server
    svg = re.sub(r"font-family: Fira Code, monospace", f"font-family: {FONTS}", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


if __name__ == "__main__":
    Path(__file__).with_name("report.svg").write_text(drawn(Path(sys.argv[1])), encoding="utf-8")
