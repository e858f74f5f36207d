"""Cut: a network and a plan give a new, really smaller network. The one given is never changed.

The student is the user's own module class with sliced tensors wherever that still runs exactly what it should: this
is decided by recording it and comparing operator by operator. Where its Python fixes a size (a view, a split) or
derives a number from one, the student is a `Program`: the teacher's recorded operators with the sizes rewritten.
"""

from __future__ import annotations

import warnings

from torch import nn

from compressor.errors import CompressError
from compressor.models.copying import named_tensors
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.program_steps import same_as
from compressor.pruning.cutting.program_write import program_of
from compressor.pruning.cutting.sliced import sliced
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import Inputs, from_description
from compressor.pruning.graph.recording.operation import Recording
from compressor.pruning.graph.recording.record import record
from compressor.pruning.widths.plan import Plan


def cut(network: nn.Module, plan: Plan) -> nn.Module:
    """The network with only the channels that the plan keeps."""
    if plan.earlier is not None:
        return cut(cut(network, plan.earlier), plan.within(plan.earlier))
    _check_names(network, plan)
    student = sliced(network, plan)
    if not plan.slices or plan.inputs is None:
        return student
    inputs = from_description(plan.inputs)
    if runs_as_it_is(network, student, plan, inputs):
        return student
    return program_of(network, plan, inputs)


FORMS = {"module": "its teacher's own class", "program": "a program of rewritten operators"}
"""The forms of a student, and what they are called for people."""


def form_of(network: nn.Module) -> str:
    """``module`` for a network of its own class, ``program`` for rewritten operators."""
    return "program" if isinstance(network, Program) else "module"


def runs_as_it_is(network: nn.Module, student: nn.Module, plan: Plan, inputs: Inputs) -> bool:
    """True if the sliced module runs the teacher's operators, with the sizes that remain."""
    walked = walk(network, inputs, whole_heads=plan.whole_heads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recording = record(student, inputs)
    except CompressError:
        return False
    if not same_as(walked, plan.slices, recording):
        return False
    _tell_widths(student, recording)
    return True


def _tell_widths(student: nn.Module, recording: Recording) -> None:
    """Norms without tensors of their own learn their width from what they were given."""
    for operation in recording.operations:
        if operation.operator in ("instance_norm", "batch_norm") and operation.module:
            norm = student.get_submodule(operation.module)
            if isinstance(norm, nn.modules.batchnorm._NormBase) and norm.weight is None:
                norm.num_features = operation.args[0].shape[1]


def _check_names(network: nn.Module, plan: Plan) -> None:
    tensors = named_tensors(network)
    unknown = next((name for name in plan.slices if name not in tensors), None)
    if unknown is not None:
        raise CompressError(
            f"cannot cut `{unknown}`: the network has no such tensor", "the plan belongs to another network"
        )
