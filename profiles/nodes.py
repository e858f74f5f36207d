"""Time of each node of an ONNX file inside whole runs, by ONNX Runtime's profiler.

Nodes are timed in the network: fused as the runtime fuses them, in its own layout, with the caches as the previous
node left them. A node that runs alone in a loop looks faster than it is in the network. The profiler costs about
one microsecond a node, its clock ticks in microseconds, and it has wall time only: so these times are good for
shares, for comparing widths and for finding slow nodes; the time of the whole network is measured without it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ProfileError
from compressor.profiling.timing import quantile

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]

WARM_UP_RUNS = 2


@dataclass(frozen=True)
class NodeTime:
    """One node that ran. ``samples_ms``: one for every run. A fused node has the name of its last part."""

    name: str
    op: str
    output_shape: Shape
    samples_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return quantile(self.samples_ms, 0.5)


@dataclass(frozen=True)
class NodeTimes:
    """All nodes in the order of execution, and the times of the whole runs."""

    nodes: tuple[NodeTime, ...]
    runs_ms: tuple[float, ...]


def node_times(
    model: Path | bytes,
    feed: Mapping[str, np.ndarray[Any, Any]],
    *,
    threads: int = 1,
    rounds: int = 20,
    budget_s: float | None = None,
) -> NodeTimes:
    """Time the nodes of an ONNX file (or of one in memory) in ``rounds`` runs, after two warm-up runs.

    ``budget_s``: seconds after which no further run starts, except that five always run.
    """
    if rounds < 1:
        raise ProfileError(f"cannot time nodes in {rounds} rounds", "give at least one round")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    name = "a model in memory" if isinstance(model, bytes) else f"`{model}`"
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            source = model if isinstance(model, bytes) else str(model)
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            runs = 0
            deadline = time.monotonic() + budget_s if budget_s is not None else None
            while runs < rounds + WARM_UP_RUNS:
                if deadline and runs >= 5 + WARM_UP_RUNS and time.monotonic() > deadline:
                    break
                session.run(None, dict(feed))
                runs += 1
        except Exception as error:  # ONNX Runtime's exception types share no base class of their own
            raise ProfileError(f"cannot time the nodes of {name}: {str(error).splitlines()[0]}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _gathered(events, runs)


def _gathered(events: Iterable[Mapping[str, Any]], runs: int) -> NodeTimes:
    """Collect the nodes that ran once in every run; nodes inside loops and branches count for the node around them."""
    samples: dict[tuple[int, str], list[float]] = {}
    descriptions: dict[tuple[int, str], tuple[str, Shape]] = {}
    whole: list[float] = []
    for event in events:
        if event["name"] == "model_run":
            whole.append(event["dur"] / 1e3)
        elif event["name"].endswith("_kernel_time"):
            facts = event["args"]
            key = (int(facts["node_index"]), event["name"].removesuffix("_kernel_time"))
            descriptions.setdefault(key, (facts["op_name"], _shape(facts)))
            samples.setdefault(key, []).append(event["dur"] / 1e3)
    nodes = (
        NodeTime(key[1], *descriptions[key], tuple(times[WARM_UP_RUNS:]))
        for key, times in samples.items()
        if len(times) == runs
    )
    return NodeTimes(tuple(nodes), tuple(whole[WARM_UP_RUNS:]))


def _shape(facts: Mapping[str, Any]) -> Shape:
    """Shape of the first output that is a tensor."""
    for typed in facts.get("output_type_shape", ()):
        for sizes in typed.values():
            return tuple(int(size) for size in sizes)
    return ()
