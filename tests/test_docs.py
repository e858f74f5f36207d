"""What the documents show is true: their Python runs, their commands parse, their links and paths lead somewhere.

A block of Python that cannot run here says why: ``<!-- not run: reason -->`` on the line before it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml

from compressor.cli import cli
from compressor.recipe import Recipe
from compressor.recipe.listing import keys_of, listed
from compressor.run.report.report import Report

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
SITE = sorted((ROOT / "docs").glob("**/*.md"))
FOLDERS = ("benchmarks", "compressor", "docs", "export", "profiles", "recipes", "tests")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UNBREAKABLE = re.compile(r"\]\([^)]*\)|`[^`]*`")
"""The address of a link, and code: they may make a line longer."""
GENERATED = re.compile(r"<!-- written by .*?<!-- end of what was written -->", re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """Fenced text on a page; ``excuse`` is why it is not run, if it says so."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        excuse = NOT_RUN.search(before)
        yield Block(page, before.count("\n") + 1, found[1], found[2], excuse[1] if excuse else None)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``compress …`` that a shell block shows, without comments, with where it stands."""
    for block in BLOCKS:
        if block.language in ("sh", "bash", "console"):
            for number, line in enumerate(block.text.replace("\\\n", " ").splitlines(), block.line + 1):
                for part in re.split(r"&&|;|\||>", line.partition(" #")[0].removeprefix("$ ")):
                    words = shlex.split(part)
                    if words[:1] == ["compress"]:
                        yield f"{block.page.relative_to(ROOT)}:{number}", words[1:]


COMMANDS = list(commands())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_on_a_page_runs_as_written(block: Block, tmp_path: Path) -> None:
    if block.excuse:
        pytest.skip(block.excuse)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block.text],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COMPRESS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_a_command_on_a_page_parses(where: str, words: list[str]) -> None:
    name, *rest = words
    command = cli.commands.get(name)
    assert command is not None, f"{where}: no command `{name}`"
    try:
        command.make_context(name, list(rest))  # parses, and runs nothing
    except click.exceptions.Exit:
        pass  # --help has printed the help
    except click.UsageError as error:
        pytest.fail(f"{where}: {error.format_message()}")


def test_settings_of_a_command_on_a_page_are_keys_of_a_recipe() -> None:
    keys = {path for path, _, _ in keys_of(Recipe())}
    settings = {
        (where, value.partition("=")[0])
        for where, words in COMMANDS
        for option, value in pairwise(words)
        if option == "--set"
    }
    assert settings
    assert [f"{where}: {key}" for where, key in sorted(settings) if key not in keys] == []


def test_the_readme_shows_every_command_and_a_python_example() -> None:
    readme = ROOT / "README.md"
    assert {words[0] for where, words in COMMANDS if where.startswith("README.md")} == set(cli.commands)
    assert any(block.language == "python" and not block.excuse for block in blocks(readme))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    broken = [
        target
        for target in targets
        if not target.startswith(("http://", "https://", "mailto:", "#"))
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.name)
def test_paths_of_this_repository_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:\w+/)+[\w./-]*)`", FENCE.sub("", page.read_text()))
    ours = [name for name in named if name.partition("/")[0] in FOLDERS]
    assert [name for name in ours if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    shown = [file for group in site["nav"] for entry in group.popitem()[1] for file in entry.values()]
    assert sorted(shown) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in SITE)


@pytest.mark.parametrize("page", [ROOT / "README.md", *SITE], ids=lambda page: page.name)
def test_prose_is_at_most_100_columns_wide(page: Path) -> None:
    prose = GENERATED.sub("", FENCE.sub("", page.read_text()))
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(UNBREAKABLE.sub("", line)) > 100] == []


def test_the_readme_is_shorter_than_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap_that_was_to_be_filled(page: Path) -> None:
    left = re.findall(r"^(?:TODO|FIXME|TBD|[A-Z]{5,})$", page.read_text(), re.MULTILINE)
    assert left == []


def test_the_fields_of_the_report_are_those_that_its_page_explains() -> None:
    page = (ROOT / "docs/report.md").read_text()
    table = page.partition("| field | meaning |")[2].partition("\n\n")[0]
    explained = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(explained) == sorted(field.name for field in dataclasses.fields(Report))


def test_the_recipe_on_its_page_is_what_the_command_prints() -> None:
    (shown,) = (block.text for block in blocks(ROOT / "docs/recipe.md") if block.language == "toml")
    assert shown == listed(Recipe()), "renew the page: python benchmarks/recipe_page.py"
