"""The wheel: what is in it, and that it works where a user's own files have the names of our packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("compressor", "export", "profiles")


@pytest.mark.parametrize("name", PACKAGES)
def test_no_benchmark_hides_a_package(name: str) -> None:
    # Python looks beside a script first: there, `import export` would find a file of that name.
    assert not (ROOT / "benchmarks" / f"{name}.py").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that an old ``build/`` cannot add to it."""
    pytest.importorskip("build", reason="the package `build` is not installed: pip install '.[dev]'")
    pytest.importorskip("setuptools", reason="the build backend setuptools is not installed")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = ["build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", str(place)]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(source)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The wheel installed alone, as a folder."""
    target = wheel.parent / "site"
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *pip], capture_output=True, timeout=120, check=True)
    return target


def test_the_wheel_holds_every_source_file_of_the_three_packages_and_nothing_else(wheel: Path) -> None:
    inside = {
        name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")
    }
    on_disk = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert inside == on_disk
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside


def test_the_wheel_carries_the_licence_and_the_console_script(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert any(name.endswith("LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "compress = compressor.cli:main" in archive.read(entry_points).decode()


def test_a_file_named_export_where_the_user_stands_does_not_hide_our_package(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "export.py").write_text('raise SystemExit("the wrong export")\n')
    (tmp_path / "profiles.py").write_text('raise SystemExit("the wrong profiles")\n')
    script = site / "bin" / "compress"
    program = (
        f"import sys; sys.path.insert(1, {str(site)!r}); sys.argv[0] = {str(script)!r}\n"
        "import export, profiles, compressor.cli\n"
        "print(export.__file__, profiles.__file__, compressor.cli.__file__)\n"
    )
    # A script's folder, not the current one, comes first on the path of what it imports.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/script.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "elsewhere/script.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(place.startswith(str(site)) for place in done.stdout.split())


def test_the_console_script_of_the_wheel_exports_from_such_a_folder(site: Path, tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text('raise SystemExit("the wrong export")\n')
    bare = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            str(site / "bin" / "compress"),
            "export",
            "squeezenet1_1",
            "--weights",
            "random",
            "--out",
            "x.onnx",
        ],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.onnx").is_file()
