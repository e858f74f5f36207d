"""Rules of the operators that take statistics: norms, softmax, means and extremes.

Where statistics run over channels they are taken, after a cut, over the channels that remain. That changes no size
and is what the narrower network computes; the proof takes its reference the same way.
"""

from __future__ import annotations

from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, first_output
from compressor.pruning.graph.rules.labels import Labels


def batch_norm(flow: Flow, operation: Operation) -> None:
    """Weight, bias and both running statistics belong to the channels of the input."""
    x = operation.args[0]
    channels = flow.of(x).get(1)
    for tensor in operation.args[1:5]:
        if isinstance(tensor, Tensor):
            channels = flow.tie(flow.of(tensor).get(0), channels, "its norm is of fixed width")
    _pass_on(flow, operation, flow.of(x))


def layer_norm(flow: Flow, operation: Operation) -> None:
    """Weight and bias belong to the dimensions that the statistics run over, the last ones."""
    x, shape, *parameters = operation.args
    first = x.dim() - len(shape)
    for tensor in parameters:
        if isinstance(tensor, Tensor):
            for dim in range(len(shape)):
                if tensor.shape[dim] > 1:
                    flow.tie(
                        flow.of(tensor).get(dim), flow.of(x).get(first + dim), "its norm is of fixed width"
                    )
    _pass_on(flow, operation, flow.of(x))


def group_norm(flow: Flow, operation: Operation) -> None:
    """Many narrow groups: whole ones may go. Few wide ones: positions, taken from every group alike."""
    x, groups, *parameters = operation.args
    channels = flow.of(x).get(1)
    names = []
    for tensor in parameters[:2]:
        if isinstance(tensor, Tensor):
            flow.tie(flow.of(tensor).get(0), channels, "its norm is of fixed width")
            names.append(flow.name_of(tensor))
    if channels is not None and groups > 1:
        if channels.ndim > 1:
            flow.ledger.freeze(channels, "a group norm splits it")
        else:
            rows = channels.reshape(groups, -1)
            if groups < rows.shape[1]:
                flow.ledger.join(rows, rows[:1])
            elif names and names[0] is not None:
                flow.ledger.join(rows, rows[:, :1])
                flow.blocks[names[0]] = groups
            else:
                flow.ledger.freeze(channels, "a group norm without weights splits it")
    _pass_on(flow, operation, flow.of(x))


def local_response_norm(flow: Flow, operation: Operation) -> None:
    """Each channel is scaled by its neighbours, and after a cut these would be others."""
    flow.freeze(operation.args[0], "a local response norm reads its neighbours", (1,))
    _pass_on(flow, operation, {d: ids for d, ids in flow.of(operation.args[0]).items() if d != 1})


def weight_norm(flow: Flow, operation: Operation) -> None:
    """``_weight_norm_interface(v, g, dim)``: a direction and its length."""
    v, g, dim = (*operation.args, 0)[:3]
    flow.tie(flow.of(v).get(dim), flow.of(g).get(dim), "its length is of fixed width")
    flow.give(operation.outputs[0], flow.of(v))
    flow.give(operation.outputs[1], {d: ids for d, ids in flow.of(g).items() if d == dim})


def softmax(flow: Flow, operation: Operation) -> None:
    """Every dimension passes, the one it runs over too."""
    _pass_on(flow, operation, flow.of(operation.args[0]))


REDUCED_AT = {"linalg_vector_norm": 2, "norm": 2}
"""The place of the dimensions among the arguments, if not the second."""


def reduced_dims(operation: Operation) -> tuple[int, ...]:
    """The dimensions that a mean, a sum, a norm or an extreme runs over."""
    x = operation.args[0]
    at = REDUCED_AT.get(operation.operator, 1)
    given = operation.args[at] if len(operation.args) > at else operation.kwargs.get("dim")
    if given is None or given == []:
        return tuple(range(x.dim()))
    return tuple(dim % x.dim() for dim in ([given] if isinstance(given, int) else given))


def reduction(flow: Flow, operation: Operation) -> None:
    """Dimensions it runs over disappear, or become one; the others pass."""
    x = operation.args[0]
    dims = reduced_dims(operation)
    kept = [dim for dim in range(x.dim()) if dim not in dims]
    for out in operation.outputs:
        place = {dim: dim if out.dim() == x.dim() else number for number, dim in enumerate(kept)}
        flow.give(out, {place[dim]: ids for dim, ids in flow.of(x).items() if dim in place})


def extreme(flow: Flow, operation: Operation) -> None:
    """``max`` and ``min``: of two tensors, over everything, or over one dimension with the indices."""
    x, *others = operation.args
    if others and isinstance(others[0], Tensor):
        labels = flow.combine(
            [x, others[0]], first_output(operation).dim(), "it meets a tensor of fixed width"
        )
        flow.give(first_output(operation), labels)
        return
    flow.freeze(x, f"`{operation.operator}` looks for an index in it", reduced_dims(operation))
    reduction(flow, operation)


def runs_along(flow: Flow, operation: Operation) -> None:
    """Sorting, searching and running sums: order matters along their dimension, the others pass."""
    x = operation.args[0]
    at = 2 if operation.operator == "topk" else 1
    given = operation.args[at] if len(operation.args) > at else operation.kwargs.get("dim", -1)
    dim = (-1 if given is None else given) % max(1, x.dim())
    flow.freeze(x, f"`{operation.operator}` runs along it", (dim,))
    rest = {d: ids for d, ids in flow.of(x).items() if d != dim}
    for out in operation.outputs:
        if out.dim() == x.dim():
            flow.give(out, rest)
        else:
            flow.give(out, {d - (d > dim): ids for d, ids in rest.items()})


def _pass_on(flow: Flow, operation: Operation, labels: Labels) -> None:
    flow.give(first_output(operation), labels)
