"""The shape of the program: packages, layers, imports, sizes, options and keys.

    python benchmarks/house.py [--json FILE]

A package is what a reader sees first: a folder or file directly in ``compressor/``. Its floor is one above the highest
package that it imports; an arrow back up is an import from a lower layer of the contract in ``pyproject.toml`` to a
higher one.
"""

from __future__ import annotations

import argparse
import ast
import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compressor.cli import cli
from compressor.recipe import Recipe
from compressor.recipe.listing import keys_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compressor"
Graph = Mapping[str, set[str]]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", type=Path)
    where = options.parse_args().json
    figures = measured()
    for name, value in figures.items():
        print(f"{name:<24} {value}")
    if where:
        where.write_text(json.dumps(figures, indent=2) + "\n")


def measured() -> dict[str, Any]:
    """All figures by name."""
    modules = dict(sources())
    imports = {name: set(imported(tree, name, modules)) for name, (_, tree) in modules.items()}
    rooms = between_rooms(imports)
    functions = sorted(functions_of(modules), reverse=True)
    files = sorted((path.read_text().count("\n"), path.name) for path, _ in modules.values())
    keys = [path for path, _, _ in keys_of(Recipe())]
    return {
        "rooms": len(rooms),
        "floors": max(floors(rooms).values()),
        "arrows between rooms": sum(map(len, rooms.values())),
        "arrows back up": back_up(rooms),
        "circles of modules": circles(imports),
        "layers of the contract": len(contract()),
        "modules": len(modules),
        "lines": sum(lines for lines, _ in files),
        "longest function": f"{functions[0][0]} lines: {functions[0][1]}",
        "functions over 60 lines": [f"{name} ({lines})" for lines, name in functions if lines > 60],
        "longest file": f"{files[-1][0]} lines: {files[-1][1]}",
        "files over 400 lines": [name for lines, name in files if lines > 400],
        "functions with over 7 parameters": sorted(many_parameters(modules)),
        "names of several modules": sorted(repeated(modules)),
        "options of compress run": len(cli.commands["run"].params) - 1,
        "recipe keys": len(keys),
    }


def sources() -> Iterator[tuple[str, tuple[Path, ast.Module]]]:
    """Every module of the package by its dotted name; links lead to folders beside the package."""
    folders = [(PACKAGE, "compressor")] + [
        (link.resolve(), f"compressor.{link.name}") for link in PACKAGE.iterdir() if link.is_symlink()
    ]
    for folder, name in folders:
        for path in sorted(folder.rglob("*.py")):
            if not any(parent.is_symlink() for parent in (path, *path.parents) if parent != folder):
                dotted = ".".join([name, *path.relative_to(folder).with_suffix("").parts])
                yield dotted.removesuffix(".__init__"), (path, ast.parse(path.read_text()))


def imported(tree: ast.Module, own: str, modules: Mapping[str, Any]) -> Iterator[str]:
    """The modules that this one imports when it runs; what only type checkers read is left out."""
    for node in running(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found = next((name for name in names if name in modules), None)
        for name in names if found is None else [found]:
            if name in modules and name != own:
                yield name


def running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from running(node)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def between_rooms(imports: Graph) -> Graph:
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, others in imports.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module), "__init__"}
    return rooms


def floors(rooms: Graph) -> dict[str, int]:
    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in rooms.get(room, ())), default=0)

    return {room: floor(room) for room in rooms if room != "__init__"}


def contract() -> list[set[str]]:
    """The layers of the import contract, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(each["layers"] for each in settings["contracts"] if each["type"] == "layers")
    return [{name.strip() for name in layer.split("|")} for layer in layers]


def back_up(rooms: Graph) -> list[str]:
    height = {name: -number for number, layer in enumerate(contract()) for name in layer}
    return [
        f"{room} -> {other}"
        for room, others in rooms.items()
        for other in others
        if room in height and other in height and height[other] > height[room]
    ]


def circles(imports: Graph) -> list[list[str]]:
    """Groups of modules that import each other in a loop (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in imports.get(module, ()):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in order:
            visit(module)
    return found


def functions_of(modules: Mapping[str, tuple[Path, ast.Module]]) -> Iterator[tuple[int, str]]:
    """Lines and name of every function; decorators (a command's options) do not count."""
    for name, (_, tree) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield (node.end_lineno or 0) - node.lineno + 1, f"{name}.{node.name}"


def many_parameters(modules: Mapping[str, tuple[Path, ast.Module]]) -> Iterator[str]:
    for name, (_, tree) in modules.items():
        if ".cli." in name or ".kernels." in name:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([each for each in given if each.arg not in ("self", "cls")])
                if count > 7:
                    yield f"{name}.{node.name} ({count})"


def repeated(modules: Mapping[str, Any]) -> Iterator[str]:
    leaves: dict[str, list[str]] = defaultdict(list)
    for name in modules:
        leaves[name.rpartition(".")[2]].append(name)
    for names in leaves.values():
        if len(names) > 1:
            yield " = ".join(names)


if __name__ == "__main__":
    main()
