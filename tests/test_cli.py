"""The command line itself: what it loads, what it offers, and what it says when something breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import click
import pytest
from rich.console import Console
from torch import nn

from compressor import cli as command_line
from compressor.cli import cli
from compressor.commands.environment import PARTS
from compressor.errors import CompressError

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "PIL", "safetensors")

# A flag that is not in this table was not decided upon: it is a promise to users, and is documented.
FLAGS = {
    "run": """--weights --trust --data --size --unlabelled --ratio --max-macs --max-params --max-latency-ms --keep
              --method --epochs --lr --batch --teacher --student --criterion
              --to --out --json --recipe --set --device --seed --threads""",
    "recipe": "--set",
    "docs": "",
    "inspect": "--weights --classes --shape --trust --json",
    "profile": "--shape --runtime --batch --threads --precision --cuda-graph --layers --samples --trust --json",
    "export": """--to --out --weights --classes --shape --opset --free-size --data
                 --int8-weight-bits --max-accuracy-drop --trust --json""",
    "check": """--max-slowdown --max-growth --max-bytes --max-accuracy-drop --max-output-error --granule --batch
                --threads --processes --exact-only --any-device --strict --save --junit --json""",
    "evaluate": "--data --data-root --size --classes --seed --weights --retrieval --layer --device --trust --json",
    "report": "--json --markdown",
    "doctor": "--json",
}


def compress(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compressor", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def loaded_by(program: str) -> set[str]:
    """The modules that a program in a fresh process has loaded when it ends."""
    code = f"import sys, atexit\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in FLAGS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by(f"sys.argv = ['compress', *{arguments}]\nfrom compressor.cli import main\nmain()")
    assert "compressor.cli" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_usage_error_loads_nothing_heavy() -> None:
    program = "sys.argv = ['compress', 'run', '--ratio', '2']\nfrom compressor.cli import main\nmain()"
    assert loaded_by(program).isdisjoint({"torch", "onnx", "onnxruntime"})


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import compressor").isdisjoint(HEAVY)


def test_every_command_and_flag_is_in_the_table() -> None:
    found = {
        name: {flag for option in command.params if isinstance(option, click.Option) for flag in option.opts}
        for name, command in cli.commands.items()
    }
    assert found == {name: set(flags.split()) for name, flags in FLAGS.items()}


@pytest.mark.parametrize("name", FLAGS)
def test_every_command_says_in_a_sentence_what_it_does_and_every_flag_too(name: str) -> None:
    command = cli.commands[name]
    assert command.help is not None
    assert command.help.splitlines()[0].endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]} is not explained"


def test_the_list_of_commands_fits_the_terminal_whole() -> None:
    shown = compress("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]
    assert "compress run --ratio 0.7" in shown


def test_the_help_says_that_the_ratio_is_what_goes() -> None:
    assert "REMOVE: 0.7 leaves 30 %" in " ".join(compress("run", "--help").stdout.split())


def test_no_command_shows_the_help_and_is_a_wrong_request() -> None:
    done = compress()
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


def test_doctor_names_each_part_with_a_version_or_with_what_to_install() -> None:
    done = compress("doctor")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for part in PARTS:
        number = next(number for number, line in enumerate(lines) if line[4:].startswith(part))
        works = lines[number].startswith("ok  ")
        assert works or lines[number].startswith("--  ")
        assert works or lines[number + 1].strip(), f"{part} is missing and nothing is advised"


def test_inspect_shows_what_each_group_costs_and_what_stays_whole() -> None:
    done = compress("inspect", "resnet18")
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first == "resnet18 on 3×224×224: 1.81 G MACs, 11.7 M parameters, 12 groups can be cut"
    stem = next(row.split() for row in rows if row.startswith("conv1 "))
    assert stem[1] == "64"
    assert any(row.strip() == "fc: 1000 units, the network's output" for row in rows)


def deep() -> nn.Module:
    """A network whose layers have long names."""
    inner = nn.Sequential()
    inner.add_module("a_block_with_quite_a_long_name", nn.Conv2d(3, 16, 3))
    outer = nn.Sequential()
    outer.add_module("another_block_with_a_long_name", inner)
    return nn.Sequential(outer, nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))


def test_inspect_shows_long_names_and_all_columns_whole_in_a_narrow_terminal() -> None:
    from compressor.commands.inspection import inspected, print_inspection
    from compressor.recipe import ModelRecipe

    console = Console(file=StringIO(), width=40)
    print_inspection(inspected(ModelRecipe("tests.test_cli:deep"), None, (3, 8, 8)), console)
    shown = console.file.getvalue()
    assert "…" not in shown
    row = next(line for line in shown.splitlines() if "another_block_with_a_long_name" in line)
    assert row.split()[1:4] == ["16", "4", "2"]
    assert row.endswith(" %")


def test_an_error_of_ours_is_one_line_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ended(ZeroDivisionError("division by zero\nand a second line"), monkeypatch)
    said = capsys.readouterr().err.splitlines()
    assert code == 1
    assert said[0] == "error: ZeroDivisionError: division by zero"
    assert said[1].startswith("hint: this is our mistake")
    assert "--debug" in said[1]
    assert len(said) == 2


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(ZeroDivisionError("division by zero"), monkeypatch, "--debug")
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "in fail" in said


def test_an_error_of_several_lines_is_told_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(CompressError("one\ntwo", "a way out"), monkeypatch) == 1
    assert capsys.readouterr().err == "error: one two\nhint: a way out\n"


def test_ctrl_c_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize("command", [["doctor"], ["--help"], ["inspect", "glyphnet", "--json"]])
def test_a_reader_that_went_away_is_no_error_to_talk_about(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "compressor", *command],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""


def ended(error: BaseException, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The exit code of ``compress`` when a command of it raises."""

    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "fail", click.Command("fail", callback=fail))
    monkeypatch.setattr(sys, "argv", ["compress", *flags, "fail"])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    return int(stop.value.code or 0)
