"""Time a call on a GPU: the GPU's own time, the time to enqueue the work, memory and energy.

Every call is enqueued between two events and waited for, so `measure` times the latency that a user sees, and the
samples of the GPU belong to the same rounds. Memory and energy need separate passes. Clocks are never set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compressor.profiling.nvml import gpu_state, load_library
from compressor.profiling.timing import quantile

LAUNCH_BOUND = 0.8
"""Share of the GPU's time that the host needs to enqueue, from which the host is the limit."""
# The energy counter is updated about ten times a second; over five seconds that is an error of two per cent.
ENERGY_WINDOW_S = 5.0


@dataclass(frozen=True)
class GpuTiming:
    """All samples of the GPU's own time, and of the host's time to enqueue the work."""

    gpu_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]

    @property
    def launch_bound(self) -> bool:
        """True if the GPU waits for the host: a smaller network would not be faster, a CUDA graph might."""
        return quantile(self.enqueue_ms, 0.5) > LAUNCH_BOUND * quantile(self.gpu_ms, 0.5)

    def to_dict(self) -> dict[str, object]:
        return {
            "gpu_median_ms": quantile(self.gpu_ms, 0.5),
            "enqueue_median_ms": quantile(self.enqueue_ms, 0.5),
            "launch_bound": self.launch_bound,
            "gpu_ms": list(self.gpu_ms),
            "enqueue_ms": list(self.enqueue_ms),
        }


class CudaCall:
    """A candidate for `measure`. Each call adds one sample, warm-up included."""

    def __init__(
        self, enqueue: Callable[[], object], memory_bytes: int | None = None, held: object = None
    ) -> None:
        import torch

        self.enqueue, self.memory_bytes = enqueue, memory_bytes
        self.held = held  # objects that must exist as long as the call is used
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.samples: list[tuple[float, float]] = []

    def __call__(self) -> None:
        began = time.perf_counter_ns()
        self.start.record()
        self.enqueue()
        self.end.record()
        enqueued = time.perf_counter_ns()
        self.end.synchronize()
        self.samples.append((self.start.elapsed_time(self.end), (enqueued - began) / 1e6))

    def last(self, calls: int) -> GpuTiming:
        """Samples of the last ``calls`` calls."""
        gpu, enqueue = zip(*self.samples[-calls:], strict=True)
        return GpuTiming(gpu, enqueue)


def as_graph(enqueue: Callable[[], object]) -> Callable[[], object]:
    """Record the work once as a CUDA graph, which each call replays. Addresses of inputs and results stay the same."""
    import torch

    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        # On first use libraries allocate memory and choose kernels, which a graph must not record.
        for _ in range(3):
            enqueue()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue()
    return graph.replay


def peak_bytes(enqueue: Callable[[], object]) -> int:
    """Bytes that torch allocates on the GPU for one call, beyond those before it: weights are not included."""
    import torch

    enqueue()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    enqueue()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def energy_mj(call: Callable[[], object], gpu: int = 0) -> float | None:
    """Millijoules of the whole GPU for one call, other programs included; None if there is no counter."""
    library = load_library()
    first = gpu_state(library, gpu) if library is not None else None
    if first is None or first.energy_mj is None:
        return None
    calls, until = 0, time.monotonic() + ENERGY_WINDOW_S
    while time.monotonic() < until:
        call()
        calls += 1
    last = gpu_state(library, gpu)
    return None if last is None or last.energy_mj is None else (last.energy_mj - first.energy_mj) / calls
