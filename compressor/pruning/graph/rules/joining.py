"""Rules of the operators that put tensors side by side."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, first_output
from compressor.pruning.graph.rules.labels import Ids, Labels


def concatenate(flow: Flow, operation: Operation) -> None:
    """The channels of the parts, one after the other; a part of fixed width keeps its place, frozen."""
    parts = [tensor for tensor in operation.args[0] if tensor.numel()]
    out = first_output(operation)
    axis = (operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", 0)) % out.dim()
    result: Labels = {}
    for dim in range(out.dim()):
        labels = [flow.of(part).get(dim) for part in parts]
        known = [ids for ids in labels if ids is not None]
        if not known:
            continue
        if dim == axis and all(ids.ndim == 1 for ids in known):
            result[dim] = np.concatenate(
                [
                    _fixed_channels(flow, part, dim) if ids is None else ids
                    for part, ids in zip(parts, labels, strict=True)
                ]
            )
        elif dim == axis or len(known) < len(parts):
            for ids in known:
                flow.ledger.freeze(ids, "it is concatenated with a tensor of fixed width")
        else:
            tied: Ids | None = known[0]
            for ids in known[1:]:
                tied = flow.tie(tied, ids, "it is concatenated with another")
            if tied is not None:
                result[dim] = tied
    flow.give(out, result)


def stack(flow: Flow, operation: Operation) -> None:
    """A new plain dimension; the others are one."""
    parts = operation.args[0]
    out = first_output(operation)
    axis = (operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", 0)) % out.dim()
    labels = flow.combine(parts, out.dim() - 1, "it is stacked with a tensor of fixed width")
    flow.give(out, {dim + (dim >= axis): ids for dim, ids in labels.items()})


def _fixed_channels(flow: Flow, tensor: Tensor, dim: int) -> Ids:
    """Atoms for channels that no parameter makes, so that their neighbours can still be told apart."""
    ids = flow.ledger.unnamed(tensor.shape[dim])
    flow.ledger.freeze(ids, "it is concatenated from a tensor of fixed width")
    return ids
