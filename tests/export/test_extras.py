"""A missing library is reported in one line, with the command that installs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compressor.errors import ExportError
from compressor.exporting import NEEDS, RUNNERS
from compressor.exporting.extras import load_tensorrt, require


@pytest.mark.parametrize("name", NEEDS)
def test_a_library_that_is_not_there_is_named_with_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in NEEDS[name].modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert NEEDS[name].missing
    with pytest.raises(ExportError, match=f"{NEEDS[name].title} is not installed") as caught:
        require(name, "do it")
    assert caught.value.hint == NEEDS[name].install
    assert "pip install" in NEEDS[name].install


@pytest.mark.parametrize("runner", [name for name, row in RUNNERS.items() if row.needs])
def test_a_file_is_not_opened_without_its_runtime(
    runner: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    needs = RUNNERS[runner].needs
    assert needs is not None
    for module in NEEDS[needs].modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ExportError, match="is not installed"):
        RUNNERS[runner].opens(tmp_path / "file")


def test_bindings_without_their_library_are_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so: cannot open shared object file')"
    )
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libtensorrt_rtx.so: no such file')")
    for module in NEEDS["tensorrt"].modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert NEEDS["tensorrt"].missing
    with pytest.raises(ExportError, match="cannot build `x`: TensorRT is not installed"):
        load_tensorrt("build `x`")
