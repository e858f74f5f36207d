"""What the compiler makes of the kernel, read from the machine code: no GPU is needed to see a slow load or a spill.

Numbers alone would not show these: with a type as a run-time branch, with a generic pointer or without a register to
spare, the sums stay right and the kernel becomes several times slower; a contracted multiply-add changes bits between
a GPU and the processor that checks it.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from compressor.errors import CompressError
from compressor.pruning.scoring.kernels.builds import KERNELS, NAME, Instance, source
from compressor.pruning.scoring.kernels.nvrtc import compile_source, find_compiler
from compressor.pruning.scoring.kernels.tiles import LOAD_BYTES, SCALAR_BYTES, moment_mask

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120")
TAYLOR, SQUARES, ALL = moment_mask(["wg"]), moment_mask(["w2"]), 0b11111
INSTANCES = [
    Instance(*chosen) for chosen in itertools.product((TAYLOR, SQUARES, ALL), range(3), (True, False))
]
# Every build for some architecture and every architecture for some builds; all of them for all are marked slow.
SPREAD = [(ARCHITECTURES[i % len(ARCHITECTURES)], instance) for i, instance in enumerate(INSTANCES)]
REST = [case for case in itertools.product(ARCHITECTURES, INSTANCES) if case not in SPREAD]
ROWS_PER_WARP = 4
NUMBERS_PER_LANE = 16


@dataclass(frozen=True)
class Function:
    """A kernel as the device executes it."""

    instructions: list[str]
    stack_bytes: int
    local_bytes: int

    def using(self, pattern: str) -> list[str]:
        return [text for text in self.instructions if re.match(pattern, text)]

    def tensor_loads(self) -> Counter[str]:
        """Loads through the read-only path, which are those of weights, gradients and activations, by width."""
        loads = [text.split()[0] for text in self.using(r"LDG\S*\.CONSTANT")]
        return Counter("128" if ".128" in load else "64" if ".64" in load else "one" for load in loads)


def tool() -> Path:
    spec = find_spec("triton")
    path = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    if path is None or not path.exists():
        pytest.skip("no cuobjdump here: it comes with triton, which torch brings on Linux")
    return path


def compiled(text: str, architecture: str, options: Sequence[str]) -> bytes:
    try:
        find_compiler()
    except CompressError as error:
        pytest.skip(str(error))
    try:
        return compile_source(text, architecture, options, NAME)
    except CompressError as error:
        if "invalid value for --gpu-architecture" in str(error):
            pytest.skip(f"this NVRTC, {find_compiler().version}, does not know {architecture}")
        raise


def functions(code: bytes, folder: Path) -> dict[str, Function]:
    dump = tool()
    (folder / "kernel.cubin").write_bytes(code)

    def said(option: str) -> str:
        command = [dump, option, folder / "kernel.cubin"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    use = re.findall(r"Function (\w+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said("-res-usage"))
    memory = {name: (int(stack), int(local)) for name, stack, local in use}
    parts = re.split(r"Function : (\w+)", said("-sass"))[1:]
    return {
        name: Function(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+ )?([A-Z][^;]*);", text), *memory[name])
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def check(code: bytes, instance: Instance, folder: Path, spared_bytes: int = 0) -> None:
    found = functions(code, folder)
    assert set(found) == set(KERNELS)
    for name, function in found.items():
        assert len(function.instructions) > 20, f"{name}: the listing was not understood"
        assert function.stack_bytes <= spared_bytes, f"{name}: registers spill"
        assert function.local_bytes == 0, f"{name}: registers spill"
        assert len(function.using("LDL|STL")) <= spared_bytes // 4, f"{name}: registers spill"
        assert not function.using(r"ATOM|RED[G. ]"), f"{name}: the order of additions is open"
        assert not function.using("FFMA|DFMA"), f"{name}: multiply-adds are contracted"
        # The compiler also sets registers to constants with 0 * 0 + constant in half precision.
        assert all("RZ, RZ" in text for text in function.using("HFMA2")), f"{name}: half precision"
        assert not function.using(r"LD\.|LD "), f"{name}: loads through generic pointers"
        if name.endswith("totals"):
            continue
        expected = "128" if instance.vector else "one"
        assert set(function.tensor_loads()) == {expected}, f"{name}: width of loads {function.tensor_loads()}"
        assert function.tensor_loads()[expected] >= 4, f"{name}: loads are not under way together"

    numbers_per_load = LOAD_BYTES // SCALAR_BYTES[instance.scalar] if instance.vector else 1
    operands = 1 if instance.moments == SQUARES else 2
    # Five moments leave no registers to unroll the rows; one does, and the loads of a warp are under way together.
    rows = 1 if instance.moments == ALL else ROWS_PER_WARP
    loads = found["weight_tiles"].tensor_loads().total()
    assert loads == rows * operands * NUMBERS_PER_LANE // numbers_per_load, "each number is loaded once"


def named(case: tuple[str, Instance]) -> str:
    architecture, instance = case
    return f"{architecture}-{instance.moments}-{instance.scalar}-{'vector' if instance.vector else 'scalar'}"


def check_case(case: tuple[str, Instance], folder: Path) -> None:
    architecture, instance = case
    code = compiled(source(), architecture, instance.options())
    # The compiler of CUDA 13.0 keeps to 64 registers there, for a fourth block, and stores one register once a tile.
    one_register = architecture == "sm_120" and find_compiler().version < (13, 2)
    check(code, instance, folder, spared_bytes=8 if one_register else 0)


@pytest.mark.parametrize("case", SPREAD, ids=named)
def test_a_build_does_not_spill_nor_wait_for_small_loads(case: tuple[str, Instance], tmp_path: Path) -> None:
    check_case(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", REST, ids=named)
def test_no_build_for_any_architecture_spills_nor_waits_for_small_loads(
    case: tuple[str, Instance], tmp_path: Path
) -> None:
    check_case(case, tmp_path)


@pytest.mark.parametrize(
    ("finding", "in_source", "instead", "option"),
    [
        ("multiply-adds are contracted", "", "", "--fmad=true"),
        ("registers spill", "__launch_bounds__(256)", "__launch_bounds__(256, 8)", ""),
        ("width of loads", "", "", "-DVECTOR=0"),
        ("generic pointers", "ld.global.nc", "ld", ""),
        ("order of additions", "*place = total;", "atomicAdd(place, total);", ""),
    ],
)
def test_the_look_at_machine_code_sees_what_it_forbids(
    tmp_path: Path, finding: str, in_source: str, instead: str, option: str
) -> None:
    instance = Instance(TAYLOR, 0, True)
    name = option.split("=")[0]
    options = [kept for kept in instance.options() if kept.split("=")[0] != name] + [option] * bool(option)
    assert in_source in source()
    text = source().replace(in_source, instead) if in_source else source()
    code = compiled(text, "sm_90", options)
    with pytest.raises(AssertionError, match=finding):
        check(code, instance, tmp_path)
