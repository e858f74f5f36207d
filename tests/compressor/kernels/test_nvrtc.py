"""Compiling without a GPU, and the folder that remembers what was compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.errors import CompressError
from compressor.pruning.scoring.kernels.nvrtc import COMMON_OPTIONS, compile_source, cubin, find_compiler

SOURCE = """
#ifndef FACTOR
#define FACTOR 2.0f
#endif
extern "C" __global__ void scale(float* values) { values[threadIdx.x] = FACTOR * values[threadIdx.x] + 1.0f; }
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        find_compiler()
    except CompressError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(root: Path) -> list[Path]:
    return sorted(root.rglob("*.cubin"))


def test_the_compiler_is_the_one_of_torchs_cuda_version(root: Path) -> None:
    assert find_compiler().version[0] == int(str(torch.version.cuda).split(".")[0])


def test_a_source_becomes_machine_code_for_the_architecture_asked_for(root: Path) -> None:
    codes = {name: compile_source(SOURCE, name) for name in ("sm_80", "sm_90")}
    assert all(code.startswith(b"\x7fELF") and b"scale" in code for code in codes.values())
    assert codes["sm_80"] != codes["sm_90"]


def test_what_the_compiler_says_is_the_error(root: Path) -> None:
    with pytest.raises(
        CompressError, match=r'(?s)cannot compile `broken` for sm_90: .*"nothing" is undefined'
    ) as caught:
        cubin("__global__ void f() { nothing(); }", "sm_90", name="broken")
    assert "--gpu-architecture=sm_90" in str(caught.value.hint)
    assert stored(root) == []


def test_an_architecture_that_the_compiler_does_not_know_is_an_error_in_its_words(root: Path) -> None:
    with pytest.raises(CompressError, match=r"for sm_13: .*gpu-architecture"):
        compile_source(SOURCE, "sm_13")


def test_the_second_time_it_comes_from_the_cache(root: Path) -> None:
    first = cubin(SOURCE, "sm_90")
    second = cubin(SOURCE, "sm_90")
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.code == first.code


def test_everything_that_the_code_depends_on_is_in_its_name(root: Path) -> None:
    cubin(SOURCE, "sm_90")
    cubin(SOURCE, "sm_80")
    cubin(SOURCE, "sm_90", [*COMMON_OPTIONS, "-DFACTOR=3.0f"])
    cubin(SOURCE + "\n", "sm_90")
    assert len(stored(root)) == 4


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty"])
def test_a_damaged_entry_is_compiled_again_and_mended(root: Path, damage: str) -> None:
    whole = cubin(SOURCE, "sm_90")
    (file,) = stored(root)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes({"flipped": bytes(content), "cut short": bytes(content[:-9]), "empty": b""}[damage])
    again = cubin(SOURCE, "sm_90")
    assert not again.from_cache
    assert again.code == whole.code
    assert cubin(SOURCE, "sm_90").from_cache


def test_a_cache_that_cannot_be_written_costs_time_only_and_says_why(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "file"))
    made = cubin(SOURCE, "sm_90")
    assert made.code.startswith(b"\x7fELF")
    assert "cannot write" in str(made.not_stored)
