"""Compare a file with its network where there are several inputs, or outputs that are no single tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.base.checks import Check
from compressor.errors import CompressError
from compressor.exporting import TOLERANCES, Artifact, compare, open_session
from compressor.exporting.trees import INPUT, Call, answers_by_name

Array = np.ndarray[Any, np.dtype[Any]]


def is_plain(network: nn.Module, call: Call) -> bool:
    """True for one image in and one tensor out, which everything else takes."""
    if list(call.tensors) != [INPUT]:
        return False
    args, kwargs = call.arguments(call.tensors)
    with torch.no_grad():
        return isinstance(network(*args, **kwargs), Tensor)


def prove_call(artifact: Artifact, network: nn.Module, call: Call) -> Check:
    """Every output of the file in ONNX Runtime against the network's: for the example, and for twice its samples."""
    session, answers = open_session(artifact.path), answers_by_name(network, call)
    name = f"{artifact.path.name} equals PyTorch in ONNX Runtime"
    own = next(iter(call.tensors.values())).shape[:1]
    counts = [own[0]] if own else [1]
    if session.batches[1] is None and own:
        counts.append(2 * own[0])
    read = {spec.name for spec in session.inputs}  # the exporter leaves out what nothing reads

    def tensors(batch: Array) -> Mapping[str, Tensor]:
        return call.with_samples(len(batch)) if own else call.tensors

    verdict = compare(
        name,
        lambda batch: {key: value.numpy() for key, value in answers(tensors(batch)).items()},
        lambda batch: session.run(
            {key: value.numpy() for key, value in tensors(batch).items() if key in read}
        ),
        [np.arange(count) for count in counts],
        relative_tolerance=TOLERANCES["fp32"].relative,
    )
    return Check(name, verdict.passed, verdict.max_abs_error, verdict.tolerance, verdict.detail)


def require_equal(artifact: Artifact, check: Check) -> Artifact:
    """The artifact, if it is the network; a file that is not is removed."""
    if check.passed:
        return artifact
    artifact.path.unlink(missing_ok=True)
    raise CompressError(f"{check.name}: {check.detail}")
