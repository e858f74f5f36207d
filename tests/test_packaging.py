"""The package as users install it: one name, and a user's own `export.py` does not get in its way."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "compressor": "compressor",
    "docs": "compressor/docs",
    "export": "compressor/exporting",
    "profiles": "compressor/profiling",
}
"""The folders of the source tree, and the places in the wheel."""
LINKS = ("docs", "exporting", "profiling")
QUIET = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without the links in `compressor/`, as a checkout on Windows may be."""
    pytest.importorskip("build", reason="the package `build` is not installed: pip install '.[dev]'")
    pytest.importorskip("setuptools", reason="the build backend setuptools is not installed")
    place = tmp_path_factory.mktemp("source")
    for name in (*FOLDERS, "tests"):
        without = ["__pycache__", *(LINKS if name == "compressor" else ())]
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns(*without))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    return place


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    command = ["build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", str(place)]
    run([sys.executable, "-m", *command, str(source)], place)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "source", "editable"])
def python(
    request: pytest.FixtureRequest, source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The interpreter of an environment in which the package is installed in this way, and what it needs as well."""
    place = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", "env"], place)
    interpreter = str(place / "env/bin/python")
    needs = place / "needs"
    needs.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "compress" not in entry.name and "_compressor" not in entry.name:
            (needs / entry.name).symlink_to(entry)
    packages = run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place)
    (Path(packages.strip()) / "needs.pth").write_text(f"{needs}\n")
    ways = {"wheel": [str(wheel)], "source": [str(source)], "editable": ["--editable", str(source)]}
    run(
        [sys.executable, "-m", "pip", "--python", interpreter, "install", *QUIET, *ways[request.param]], place
    )
    return interpreter


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_source_file_and_installs_one_name(wheel: Path) -> None:
    inside = {
        name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")
    }
    on_disk = {
        f"{inside_wheel}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside_wheel in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix != ".pyc"
        and not any(path.is_relative_to(ROOT / "compressor" / link) for link in LINKS)
        and (folder != "docs" or path.parent == ROOT / "docs")
    }
    assert inside == on_disk
    assert "compressor/py.typed" in inside
    assert {name.split("/")[0] for name in inside} == {"compressor"}


def test_the_wheel_carries_the_licence_and_the_console_script(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert any(name.endswith("LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "compress = compressor.cli:main" in archive.read(entry_points).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, as a checkout of YOLOv5 is."""
    for name in ("export", "profiles"):
        (tmp_path / f"{name}.py").write_text(f'raise SystemExit("the user\'s own {name}.py was run")\n')
    return tmp_path


PROGRAM = """
import compressor, compressor.exporting, compressor.profiling
from compressor import Budget, read_recipe
print(compressor.exporting.__name__, compressor.profiling.__name__)
"""
OURS = "compressor.exporting compressor.profiling"


def test_a_script_beside_a_file_named_export_imports_our_package(python: str, folder: Path) -> None:
    (folder / "script.py").write_text(PROGRAM)
    assert run([python, "script.py"], folder).strip() == OURS


def test_a_notebook_beside_a_file_named_export_imports_our_package(python: str, folder: Path) -> None:
    # A kernel has the notebook's folder first on its path, as `-c` has the current one.
    assert run([python, "-c", PROGRAM], folder).strip() == OURS


def test_python_m_compressor_runs_beside_a_file_named_export(python: str, folder: Path) -> None:
    run(
        [python, "-m", "compressor", "export", "squeezenet1_1", "--weights", "random", "--out", "x.onnx"],
        folder,
    )
    assert (folder / "x.onnx").is_file()


def test_torchrun_runs_our_program_beside_a_file_named_export(python: str, folder: Path) -> None:
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    assert "compress" in run([*torchrun, "-m", "compressor", "--version"], folder)


def test_the_console_script_runs_beside_a_file_named_export(python: str, folder: Path) -> None:
    assert "version" in run([str(Path(python).with_name("compress")), "--version"], folder)
