from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from compressor.profiling import fingerprint
from compressor.profiling.machine import cpu_model, instruction_sets

SAPPHIRE_RAPIDS = """processor	: 0
model name	: Intel(R) Xeon(R) Platinum 8488C
flags		: fpu sse4_2 avx avx2 avx512f avx_vnni avx512_bf16 avx512_vnni amx_bf16 amx_tile
"""
OLD_LAPTOP = """model name	: Intel(R) Core(TM) i5-2520M CPU @ 2.50GHz
flags		: fpu sse4_2 avx
"""
GRAVITON_3 = """processor	: 0
Features	: fp asimd aes asimddp sve i8mm bf16
CPU implementer	: 0x41
"""
RASPBERRY_PI = """Features	: half thumb vfp neon vfpv4
Hardware	: BCM2711
"""


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "expected"),
    [
        (SAPPHIRE_RAPIDS, "x86_64", ["avx2", "avx512", "vnni", "bf16", "amx"]),
        (OLD_LAPTOP, "x86_64", []),
        (GRAVITON_3, "aarch64", ["bf16", "neon"]),
        (RASPBERRY_PI, "armv7l", ["neon"]),
        ("", "arm64", ["neon"]),
    ],
    ids=["sapphire-rapids", "old-laptop", "graviton-3", "raspberry-pi", "says-nothing"],
)
def test_instruction_sets_are_read_in_every_spelling(
    cpuinfo: str, architecture: str, expected: list[str]
) -> None:
    if not cpuinfo and sys.platform == "darwin":
        pytest.skip("macOS is asked by sysctl when there is no /proc/cpuinfo")
    assert instruction_sets(cpuinfo, architecture) == expected


def test_a_cpu_is_called_by_its_name() -> None:
    assert cpu_model(SAPPHIRE_RAPIDS) == "Intel(R) Xeon(R) Platinum 8488C"
    assert cpu_model(RASPBERRY_PI) == "BCM2711"


def test_the_fingerprint_survives_json_and_is_the_same_twice() -> None:
    assert json.loads(json.dumps(fingerprint())) == fingerprint()


def test_the_fingerprint_knows_what_is_installed_here() -> None:
    found = fingerprint()
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert str(packages["torch"]).split("+")[0] == torch.__version__.split("+")[0]
    assert found["torch_threads"] == torch.get_num_threads()
    assert (found["gpu"] is not None) is torch.cuda.is_available()
    assert found["logical_cores"] == os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_usable_cores_are_those_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert fingerprint()["usable_cores"] == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_is_named_with_its_driver() -> None:
    gpu = fingerprint()["gpu"]
    assert isinstance(gpu, dict)
    assert gpu["name"] == torch.cuda.get_device_name()
    assert gpu["cuda"] == torch.version.cuda
    assert gpu["driver"]


def test_measuring_and_fingerprinting_never_load_torch() -> None:
    code = (
        "import sys, profiles\n"
        "profiles.fingerprint()\n"
        "profiles.measure({'a': lambda: None}, samples=1, warmup_s=0)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "profiles.count\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists_and_no_other_is_invented() -> None:
    from compressor import profiling

    assert all(getattr(profiling, name) is not None for name in profiling.__all__)
    with pytest.raises(AttributeError, match="no attribute `counting`"):
        _ = profiling.counting  # type: ignore[attr-defined]
