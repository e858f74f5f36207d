"""From the trained student to a folder and to figures that are proven to be its own.

Each step here ends in a check that goes into the report; none of them decides what to do when it fails.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from compressor.artifacts.student import Student, load_student, same_bits, save_student
from compressor.base.checks import Check
from compressor.profiling import count
from compressor.pruning.widths.plan import Plan


def saved(student: Student, folder: Path, name: str = "student") -> Check:
    """Write the student folder, load it again, and compare every bit."""
    save_student(student, folder)
    equal = same_bits(load_student(folder, trust=True).network, student.network)
    return Check(f"{name} loads back bit for bit", equal, 0.0 if equal else math.inf, 0.0)


def counted(network: nn.Module, plan: Plan, image: Tensor) -> Check:
    """The costs that the plan promised against an independent count of the real network."""
    found = count(network, (image,))
    off = max(abs(found.macs - plan.costs["macs"][1]), abs(found.params - plan.costs["params"][1]))
    return Check("planned cost equals counted cost", off == 0, float(off), 0.0)
