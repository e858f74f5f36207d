"""State of the machine before and after a measurement: load, clocks, heat.

    with watching() as watch:
        ...
    watch.conditions.reasons

These are facts to record with a number; a few of them make the number invalid. Nothing is set, and nothing runs
during the block, so a change that rises and falls within it is only seen where the platform counts events. Unknown
facts are None, never guessed: most virtual machines report a load and a nominal clock, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ProfileError
from compressor.profiling.nvml import POWER_LIMITED, THROTTLED, GpuState, gpu_state, load_library
from compressor.profiling.reasons import Reason


@dataclass(frozen=True)
class Moment:
    """State at one moment. ``mhz``: one number for each core; ``throttle_counts``: one for each counter, since boot."""

    load: float | None
    mhz: tuple[float, ...] | None
    throttle_counts: Mapping[str, int] | None
    gpu: GpuState | None


@dataclass(frozen=True)
class Conditions:
    """The machine before and after a measurement, and the reasons and notes that follow."""

    before: Moment
    after: Moment

    @property
    def throttle_events(self) -> int | None:
        """Number of times that a core or a package slowed down to cool, by the counter that rose most.

        The cores of a package all count the package's events, so a sum would count one event many times.
        """
        first, last = self.before.throttle_counts, self.after.throttle_counts
        if first is None or last is None or not first.keys() & last.keys():
            return None
        return max(last[name] - first[name] for name in first.keys() & last.keys())

    @property
    def energy_mj(self) -> int | None:
        """Millijoules used by the GPU, other programs included; the counter is updated about ten times a second."""
        states = (self.before.gpu, self.after.gpu)
        first, last = (None if state is None else state.energy_mj for state in states)
        return None if first is None or last is None else last - first

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Reasons that make the measurement invalid; empty if there are none."""
        reasons = []
        if events := self.throttle_events:
            reasons.append(
                Reason("throttled", f"the processor slowed itself down to cool (events: {events})")
            )
        if held_back := self._held_back & THROTTLED:
            reasons.append(
                Reason("throttled", f"the GPU held its clocks down (NVML's reasons {held_back:#x})")
            )
        return tuple(reasons)

    @property
    def notes(self) -> tuple[Reason, ...]:
        """Facts to report with the number; they do not make it invalid."""
        if not self._held_back & POWER_LIMITED:
            return ()
        return (Reason("power-limited", "the GPU ran at its power limit"),)

    @property
    def _held_back(self) -> int:
        states = (self.before.gpu, self.after.gpu)
        first, last = (0 if state is None or state.held_back is None else state.held_back for state in states)
        return first | last

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; unknown facts are null."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "throttle_events": self.throttle_events,
            "energy_mj": self.energy_mj,
            "reasons": [reason.to_dict() for reason in self.reasons],
            "notes": [note.to_dict() for note in self.notes],
        }


class Watch:
    """Holds the `Conditions` of a block once it has ended."""

    def __init__(self) -> None:
        self.ended: Conditions | None = None

    @property
    def conditions(self) -> Conditions:
        """Conditions of the block, once it has ended."""
        if self.ended is None:
            raise ProfileError("the conditions of a block are not known before it has ended")
        return self.ended


@contextmanager
def watching(*, gpu: int | None = 0, root: Path = Path("/")) -> Iterator[Watch]:
    """Read the state of the machine before and after the block, also if the block fails.

    ``gpu``: index of the GPU as CUDA numbers them in this process; None if no GPU is used. ``root``: folder of the
    system's files.
    """
    watch = Watch()
    library = None if gpu is None else load_library()
    before = _moment(library, gpu, root)
    try:
        yield watch
    finally:
        watch.ended = Conditions(before, _moment(library, gpu, root))


def _moment(library: Any, gpu: int | None, root: Path) -> Moment:
    state = None if library is None or gpu is None else gpu_state(library, gpu)
    return Moment(load_average(root), core_mhz(root), throttle_counts(root), state)


def load_average(root: Path) -> float | None:
    """Average number of tasks that ran or waited to run, over the last minute."""
    match = re.match(r"\d+\.\d+", _read(root / "proc/loadavg"))
    return float(match[0]) if match else None


def core_mhz(root: Path) -> tuple[float, ...] | None:
    """Clock of every core, from the frequency driver or, if there is none, from the list of processors."""
    cpus = root / "sys/devices/system/cpu"
    paths = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=_core)
    clocks = [int(text) / 1e3 for path in paths if (text := _read(path).strip()).isdecimal()]
    if not clocks:
        lines = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
        clocks = [float(line) for line in lines]
    return tuple(clocks) or None


def throttle_counts(root: Path) -> dict[str, int] | None:
    """Number of times that each core and its package slowed down to cool: ``cpu0/package`` -> 3."""
    cpus = root / "sys/devices/system/cpu"
    counts = {}
    for path in sorted(cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"), key=_core):
        if (text := _read(path).strip()).isdecimal():
            counts[f"cpu{_core(path)}/{path.name.removesuffix('_throttle_count')}"] = int(text)
    return counts or None


def _core(path: Path) -> int:
    return int(path.parents[1].name.removeprefix("cpu"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
