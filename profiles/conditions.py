"""What a machine was doing while something was measured on it: load, clocks, heat, before and after.

    with watching() as watch:
        ...
    watch.conditions.reasons

These are facts to record beside a number, and the few that forbid believing it. Nothing is set, and nothing runs in
between, so what rose and fell within the block is only seen where the platform counts events. What it does not tell
is None, never guessed: most virtual machines tell a load and a nominal clock, and no more.
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
    """One look at the machine. ``mhz`` has one number a core; ``throttle_counts`` one a counter, since the start."""

    load: float | None
    mhz: tuple[float, ...] | None
    throttle_counts: Mapping[str, int] | None
    gpu: GpuState | None


@dataclass(frozen=True)
class Conditions:
    """The machine before and after a measurement, and what follows from it."""

    before: Moment
    after: Moment

    @property
    def throttle_events(self) -> int | None:
        """How often a core or a package slowed itself down to cool, as its worst counter has it.

        The cores of a package all count the package's events, so a sum would count one event many times.
        """
        first, last = self.before.throttle_counts, self.after.throttle_counts
        if first is None or last is None or not first.keys() & last.keys():
            return None
        return max(last[name] - first[name] for name in first.keys() & last.keys())

    @property
    def energy_mj(self) -> int | None:
        """What the GPU used, other programs on it included. The counter moves about ten times a second."""
        first, last = (None if each.gpu is None else each.gpu.energy_mj for each in (self.before, self.after))
        return None if first is None or last is None else last - first

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why what was measured meanwhile cannot be vouched for; empty where nothing speaks against it."""
        found = []
        if events := self.throttle_events:
            found.append(Reason("throttled", f"the processor slowed itself down to cool (events: {events})"))
        if held := self._held_back & THROTTLED:
            found.append(Reason("throttled", f"the GPU held its clocks down (NVML's reasons {held:#x})"))
        return tuple(found)

    @property
    def notes(self) -> tuple[Reason, ...]:
        """What is worth saying beside the number."""
        if not self._held_back & POWER_LIMITED:
            return ()
        return (Reason("power-limited", "the GPU ran at its power limit"),)

    @property
    def _held_back(self) -> int:
        states = (self.before.gpu, self.after.gpu)
        first, last = (0 if state is None or state.held_back is None else state.held_back for state in states)
        return first | last

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not known is null."""
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
        """What the machine was doing."""
        if self.ended is None:
            raise ProfileError("the conditions of a block are known once it has ended")
        return self.ended


@contextmanager
def watching(*, gpu: int | None = 0, root: Path = Path("/")) -> Iterator[Watch]:
    """Look at the machine before and after the block, also where it fails.

    ``gpu``: which one, as CUDA numbers them in this process; None where none takes part. ``root``: where the
    system's own files are.
    """
    watch = Watch()
    library = None if gpu is None else load_library()
    before = _look(library, gpu, root)
    try:
        yield watch
    finally:
        watch.ended = Conditions(before, _look(library, gpu, root))


def _look(library: Any, gpu: int | None, root: Path) -> Moment:
    state = None if library is None or gpu is None else gpu_state(library, gpu)
    return Moment(load_average(root), core_mhz(root), throttle_counts(root), state)


def load_average(root: Path) -> float | None:
    """How many tasks ran or waited to run, over the last minute."""
    found = re.match(r"\d+\.\d+", _read(root / "proc/loadavg"))
    return float(found[0]) if found else None


def core_mhz(root: Path) -> tuple[float, ...] | None:
    """The clock of every core, from the frequency driver or, where there is none, from the list of processors."""
    cpus = root / "sys/devices/system/cpu"
    paths = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=_core)
    told = [int(text) / 1e3 for path in paths if (text := _read(path).strip()).isdecimal()]
    if not told:
        lines = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
        told = [float(line) for line in lines]
    return tuple(told) or None


def throttle_counts(root: Path) -> dict[str, int] | None:
    """How often each core and its package have slowed down to cool: ``cpu0/package`` -> 3."""
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
