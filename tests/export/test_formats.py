from __future__ import annotations

import subprocess
import sys

import pytest

from compressor import export
from compressor.export import FORMATS, NEEDS, RUNNERS, TOLERANCES


def test_every_format_stands_under_its_own_name() -> None:
    assert {name: row.name for name, row in FORMATS.items()} == {name: name for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_writes_what_its_row_says(name: str) -> None:
    row = FORMATS[name]

    assert row.suffix.startswith(".")
    assert row.function.__name__.startswith("to_")
    assert row.precision in TOLERANCES


def test_every_row_runs_in_and_needs_what_there_are_rows_for() -> None:
    for row in FORMATS.values():
        assert set(row.runs_in) <= RUNNERS.keys()
        assert len(row.runs_in) > 0
        assert row.needs is None or row.needs in NEEDS
    assert {runner.needs for runner in RUNNERS.values()} - {None} <= NEEDS.keys()


def test_every_format_comes_from_the_network_in_the_end_and_no_two_share_a_file() -> None:
    for row in FORMATS.values():
        while row.of is not None:
            row = FORMATS[row.of]
        assert row.name in ("onnx", "executorch")
    assert len({row.suffix for row in FORMATS.values()}) == len(FORMATS)


def test_reading_every_public_name_that_needs_no_model_loads_no_heavy_package() -> None:
    program = (
        "import sys\n"
        "import compressor.export as export\n"  # `from compressor import export` is the function of the same name
        "export.FORMATS, export.Artifact, export.to_onnx, export.open_session\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stderr) == (0, "")


def test_every_public_name_is_there_and_is_not_a_module_of_the_same_name() -> None:
    for name in export.__all__:
        value = getattr(export, name)
        assert type(value).__name__ != "module", name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'to_clay'"):
        _ = export.to_clay
