"""A call on a GPU, with what the host's clock cannot tell: the GPU's own time, and whether the host held it up.

Every call is enqueued between two events and waited for, so `measure` sees the latency that a user sees, and the
samples of the GPU belong to the same rounds. Memory and energy need passes of their own. Clocks are never set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compressor.profiling.nvml import gpu_state, load_library
from compressor.profiling.timing import quantile

LAUNCH_BOUND = 0.8
# The energy counter moves about ten times a second; over five seconds that is an error of two per cent.
ENERGY_WINDOW_S = 5.0


@dataclass(frozen=True)
class GpuTiming:
    """Every sample of the GPU's own time, and of the time that the host took to hand the work over."""

    gpu_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]

    @property
    def launch_bound(self) -> bool:
        """Whether the GPU waits for the host: a smaller network would not be faster, a CUDA graph might."""
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
    """A candidate for `measure`. The rule between calls: each adds one sample, warm-up included."""

    def __init__(
        self, enqueue: Callable[[], object], memory_bytes: int | None = None, held: object = None
    ) -> None:
        import torch

        self.enqueue, self.memory_bytes = enqueue, memory_bytes
        self.held = held  # whatever must stay where it is as long as the call may be made
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.samples: list[tuple[float, float]] = []

    def __call__(self) -> None:
        began = time.perf_counter_ns()
        self.start.record()
        self.enqueue()
        self.end.record()
        handed_over = time.perf_counter_ns()
        self.end.synchronize()
        self.samples.append((self.start.elapsed_time(self.end), (handed_over - began) / 1e6))

    def last(self, calls: int) -> GpuTiming:
        """The samples of the last so many calls."""
        gpu, enqueue = zip(*self.samples[-calls:], strict=True)
        return GpuTiming(gpu, enqueue)


def as_graph(enqueue: Callable[[], object]) -> Callable[[], object]:
    """The same work recorded once as a CUDA graph; each call replays it. Inputs and results stay where they are."""
    import torch

    apart = torch.cuda.Stream()
    apart.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(apart):
        for _ in range(3):  # libraries allocate and choose kernels on first use, which no graph may record
            enqueue()
    torch.cuda.current_stream().wait_stream(apart)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue()
    return graph.replay


def peak_bytes(enqueue: Callable[[], object]) -> int:
    """What torch allocates on the GPU for one call, beyond what was there before it: weights are not in it."""
    import torch

    enqueue()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    enqueue()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def energy_mj(call: Callable[[], object], gpu: int = 0) -> float | None:
    """Millijoules of the whole GPU for one call, other programs on it included; None where nothing counts them."""
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
