"""State of a machine, read from files as real machines write them, and the reasons that follow from it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import ProfileError
from compressor.profiling import REASONS, Conditions, Reason, watching
from compressor.profiling.conditions import Moment, core_mhz, load_average, throttle_counts
from compressor.profiling.nvml import GpuState, gpu_state, visible_as

NOTHING = Moment(None, None, None, None)
COOL = GpuState("GPU", 1980, 2619, 41, 120.0, 0x0, 1000)


def files(root: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cores(name: str, values: Mapping[int, str]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{core}/{name}": f"{value}\n" for core, value in values.items()}


def test_the_load_is_that_of_the_last_minute(tmp_path: Path) -> None:
    assert load_average(files(tmp_path, {"proc/loadavg": "12.50 8.01 3.20 3/812 4711\n"})) == 12.5


def test_clocks_come_from_the_frequency_driver_in_the_order_of_the_cores(tmp_path: Path) -> None:
    told = cores("cpufreq/scaling_cur_freq", {0: "2900000", 2: "1200000", 10: "800000"})
    files(tmp_path, told | {"proc/cpuinfo": "cpu MHz\t\t: 100.0\n"})
    assert core_mhz(tmp_path) == (2900.0, 1200.0, 800.0)


def test_without_a_frequency_driver_the_list_of_processors_is_read(tmp_path: Path) -> None:
    text = "processor\t: 0\ncpu MHz\t\t: 2445.412\n\nprocessor\t: 1\ncpu MHz\t\t: 3100.5\n"
    assert core_mhz(files(tmp_path, {"proc/cpuinfo": text})) == (2445.412, 3100.5)


def test_what_a_platform_does_not_tell_is_none(tmp_path: Path) -> None:
    files(tmp_path, cores("cpufreq/scaling_cur_freq", {0: "<unknown>"}) | {"proc/loadavg": "?"})
    assert (load_average(tmp_path), core_mhz(tmp_path), throttle_counts(tmp_path)) == (None, None, None)
    with watching(gpu=None, root=tmp_path) as watch:
        pass
    assert watch.conditions == Conditions(NOTHING, NOTHING)
    assert (watch.conditions.throttle_events, watch.conditions.energy_mj) == (None, None)
    assert watch.conditions.reasons == watch.conditions.notes == ()


def throttling(package: int) -> dict[str, str]:
    """Two cores of one package, which both count the events of the package."""
    own = cores("thermal_throttle/core_throttle_count", {0: "5", 1: "7"})
    return own | cores("thermal_throttle/package_throttle_count", {0: str(package), 1: str(package)})


def test_slowing_down_within_the_block_is_a_reason_and_before_it_is_none(tmp_path: Path) -> None:
    with watching(gpu=None, root=files(tmp_path, throttling(20))) as calm:
        pass
    assert (calm.conditions.throttle_events, calm.conditions.reasons) == (0, ())
    assert calm.conditions.before.throttle_counts == {
        "cpu0/core": 5, "cpu0/package": 20, "cpu1/core": 7, "cpu1/package": 20,
    }  # fmt: skip
    with watching(gpu=None, root=tmp_path) as hot:
        files(tmp_path, throttling(23))
    assert hot.conditions.throttle_events == 3  # one package, not 3 + 3
    (reason,) = hot.conditions.reasons
    assert (reason.code, "events: 3" in reason.text) == ("throttled", True)


def test_the_conditions_are_known_when_the_block_has_ended_even_badly(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), watching(gpu=None, root=tmp_path) as watch:  # noqa: PT012
        with pytest.raises(ProfileError, match="not known before it has ended"):
            _ = watch.conditions
        raise ZeroDivisionError
    assert watch.conditions.before == NOTHING


@pytest.mark.parametrize(
    ("bits", "reasons", "notes"),
    [
        (0x0, [], []),
        (0x1 | 0x2 | 0x10 | 0x100, [], []),  # idle, set by an application, sync boost, a display: no fault
        (0x4, [], ["power-limited"]),
        (0x8, ["throttled"], []),
        (0x20, ["throttled"], []),
        (0x40 | 0x4, ["throttled"], ["power-limited"]),
        (0x80, ["throttled"], []),
    ],
)
def test_only_heat_and_brakes_forbid_believing_a_gpu(bits: int, reasons: list[str], notes: list[str]) -> None:
    cool, held = (replace(NOTHING, gpu=replace(COOL, held_back=each)) for each in (0, bits))
    for conditions in (Conditions(cool, held), Conditions(held, cool)):
        assert [reason.code for reason in conditions.reasons] == reasons
        assert [note.code for note in conditions.notes] == notes


def test_energy_is_what_the_counter_moved_by() -> None:
    before, after = (replace(NOTHING, gpu=replace(COOL, energy_mj=total)) for total in (1000, 31_000))
    assert Conditions(before, after).energy_mj == 30_000
    assert Conditions(before, NOTHING).energy_mj is None


def test_conditions_survive_json(tmp_path: Path) -> None:
    with watching(root=files(tmp_path, throttling(1) | {"proc/loadavg": "0.5 0 0"})) as watch:
        files(tmp_path, throttling(2))
    told = json.loads(json.dumps(watch.conditions.to_dict(), allow_nan=False))
    assert (told["before"]["load"], told["throttle_events"]) == (0.5, 1)
    assert told["reasons"] == [
        {"code": "throttled", "text": "the processor slowed itself down to cool (events: 1)"}
    ]


def test_a_reason_has_a_code_from_the_table() -> None:
    assert all(Reason(code, "text").to_dict() == {"code": code, "text": "text"} for code in REASONS)
    with pytest.raises(ValueError, match="no reason is called `tired`; known: undecided"):
        Reason("tired", "text")


class Library:
    """A stand-in for NVIDIA's library, with its pointers and error codes; it has one GPU, by index and by UUID."""

    NUMBERS: Mapping[tuple[str, tuple[int, ...]], int] = {
        ("nvmlDeviceGetClockInfo", (1,)): 1755,
        ("nvmlDeviceGetClockInfo", (2,)): 2619,
        ("nvmlDeviceGetTemperature", (0,)): 63,
        ("nvmlDeviceGetPowerUsage", ()): 345_678,
        ("nvmlDeviceGetCurrentClocksThrottleReasons", ()): 0x24,
    }

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        return 0 if index == 1 else 2

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: int) -> int:  # noqa: N802
        text.value = b"NVIDIA Something"
        return 0

    def __getattr__(self, question: str) -> Any:
        def answer(handle: Any, *asked: Any) -> int:
            *which, into = asked
            if (question, tuple(which)) not in self.NUMBERS:
                return 3  # not supported
            ctypes.cast(into, ctypes.POINTER(ctypes.c_uint))[0] = self.NUMBERS[question, tuple(which)]
            return 0

        return answer


def test_a_gpu_is_asked_and_what_it_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    expected = GpuState("NVIDIA Something", 1755, 2619, 63, 345.678, 0x24, None)
    assert gpu_state(Library(), 1) == expected
    assert gpu_state(Library(), 0) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0, GPU-1")
    assert gpu_state(Library(), 1) == expected


@pytest.mark.parametrize(
    ("visible", "place"), [("", 1), ("3,5", 5), ("GPU-a,GPU-b", "GPU-b"), ("3", 1), (" 0 , 2 ", 2)]
)
def test_a_gpu_is_found_although_the_environment_hides_others(visible: str, place: int | str) -> None:
    assert visible_as(1, {"CUDA_VISIBLE_DEVICES": visible}) == place


@pytest.mark.gpu
def test_a_real_gpu_tells_its_clocks() -> None:
    with watching() as watch:
        pass
    assert watch.conditions.after.gpu is not None
    assert watch.conditions.after.gpu.sm_mhz
