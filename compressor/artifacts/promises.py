"""Save the trained student and verify it: the folder loads back exactly, and the planned costs are the counted ones.

Each function returns a check for the report; none of them decides what to do when it fails.
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
    """Check the costs that the plan expects against an independent count of the real network."""
    counts = count(network, (image,))
    off = max(abs(counts.macs - plan.costs["macs"][1]), abs(counts.params - plan.costs["params"][1]))
    return Check("planned cost equals counted cost", off == 0, float(off), 0.0)
