"""The rule of recurrent layers: a hidden unit goes with its rows in every gate and whatever reads it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, Multiply, leave_whole
from compressor.pruning.graph.rules.labels import Ids

FIXED = "a recurrent layer reads or keeps it at a fixed width"


def recurrent(flow: Flow, operation: Operation) -> None:
    """LSTM, GRU and plain cells, stacked and in both directions.

    All layers and directions share one hidden width (and one tensor of states), so that one unit stands for the
    same position in all of them. Projections are left whole.
    """
    x, states, weights, biases, layers, _, _, both, _ = operation.args
    states = states if isinstance(states, list) else [states]
    directions = 2 if both else 1
    each = 4 if biases else 2
    if len(weights) != layers * directions * each:
        leave_whole(flow, operation, "a recurrent layer with a projection")
        return
    if weights[1].shape[1] == 1:
        leave_whole(flow, operation, "a recurrent layer of one hidden unit")
        return
    hidden: Ids | None = None
    read = flow.of(x).get(2)
    steps = x.shape[0] * x.shape[1]
    for layer in range(layers):
        for direction in range(directions):
            at = (layer * directions + direction) * each
            into, again, *rest = weights[at : at + each]
            width = again.shape[1]
            rows = flow.of(into)[0].reshape(-1, width)
            hidden = rows[0] if hidden is None else hidden
            for tensor in (into, again, *rest):
                flow.ledger.join(flow.of(tensor)[0].reshape(-1, width), hidden[None, :])
            flow.ledger.join(flow.of(again)[1], hidden)
            consumed = flow.of(into).get(1)
            flow.tie(read if layer == 0 else np.concatenate([hidden] * directions), consumed, FIXED)
            made = flow.of(into)[0]
            flow.multiplies += [
                Multiply(operation, "linear", steps, (made, into.shape[1] if consumed is None else consumed)),
                Multiply(operation, "linear", steps, (flow.of(again)[0], hidden)),
            ]
    assert hidden is not None
    for state in states:
        if isinstance(state, Tensor):
            flow.tie(flow.of(state).get(2), hidden, FIXED)
    output, *last = operation.outputs
    flow.give(output, {2: np.concatenate([hidden] * directions)})
    for state in last:
        flow.give(state, {2: hidden})
