"""The whole intent of a run, as one frozen value that survives TOML.

A recipe says everything that decides the outcome, so that ``recipe.toml`` in a run folder is enough
to repeat the run. Where results go, and how they are shown, is no part of it. An unknown key is an
error with the nearest right name: a misspelt setting that is silently ignored is a wrong result.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from compressor.errors import UsageError, unknown_name
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.recipe.names import (
    ALL,
    AUTO,
    DEFAULT_RUNTIMES,
    FORMAT_NAMES,
    INT8_WEIGHT_BITS,
    RUNTIME_PRECISIONS,
    runtimes_named,
)
from compressor.recipe.repair import Repairing
from compressor.recipe.saliency import Scoring
from compressor.recipe.setting import by_code, keys_and_sections, setting, values_by_code

T = TypeVar("T")

SECONDS_OF_A_BATCH = 6.0
"""Time for one batch size in all runtimes of a run; in it the built-in pair has all its rounds."""


@dataclass(frozen=True)
class ModelRecipe:
    """The teacher: a name, and its weights (a file, ``pretrained``, ``random``, or nothing).

    ``trust``: where the name is a student folder, import and call the code that it names.
    """

    name: str = setting("glyphnet", "torchvision name, timm:NAME, package.module:factory or student folder")
    weights: str = setting("", "File, `pretrained`, or `random`; empty: the built-in weights of a factory")
    trust: bool = setting(False, "Import and call the code that a student folder names")


@dataclass(frozen=True)
class DataRecipe:
    """The data: a name, a folder, shards or ``package.module:factory``; empty values mean the set's own defaults.

    ``test``: other shards, for the test half. ``unlabelled``: a folder of pictures to train on instead.
    ``normalise``: two lists, the mean of each channel and its standard deviation, for images in 0..1.
    ``teacher_augment``: what the teacher is shown, where that is not what the student sees; ``none`` asks it once.
    """

    name: str = setting(
        "glyphs", "Built-in name, folder, shards as in x-{00..12}.tar, or package.module:factory"
    )
    test: str = setting("", "Other shards for the test half; empty: some of the training half are held out")
    unlabelled: str = setting("", "Folder of pictures without classes to train on instead")
    root: str = setting("", "Folder of a torchvision data set")
    download: bool = setting(False, "Allow a torchvision data set to be downloaded into root")
    size: int | None = setting(None, "Side of the images in pixels; default: the size of the data set")
    normalise: tuple[tuple[float, ...], ...] = setting(
        (), "[[means], [standard deviations]] of the channels; empty: those of the data set"
    )
    classes: int | None = setting(
        None, "Number of classes of the built-in glyphs, or where the data does not say"
    )
    augment: str = setting("default", "default, none, randaugment, trivialaugment or autoaugment")
    teacher_augment: str = setting(
        "", "Augmentation for the teacher; empty: as the student; none: it runs once"
    )


@dataclass(frozen=True)
class ExportRecipe:
    """The formats (names of docs/exporting.md, ``auto`` or ``all``), how they are made, how far a file may be off.

    ``opset``: none is the exporter's own choice, which is recorded. ``free_size``: the ONNX file takes any height and
    width. ``max_accuracy_drop``: points of top-1.
    """

    opset: int | None = setting(None, "Operator set; default: that of the exporter")
    free_size: bool = setting(False, "The ONNX file takes any height and width")
    to: tuple[str, ...] = setting(
        (AUTO,),
        "Formats; auto: ONNX, and an engine where TensorRT is; all: what can be written",
    )
    int8_weight_bits: int = setting(7, "7, or 8 for processors with VNNI or AMX, and Arm")
    max_accuracy_drop: float = setting(0.5, "Points of top-1 that a file may lose")

    def __post_init__(self) -> None:
        names = (*FORMAT_NAMES, AUTO, ALL)
        for name in self.to:
            if name not in names:
                raise unknown_name("format", name, names)
        if not self.to:
            raise UsageError("export.to is empty, expected formats", f"some of {', '.join(names)}")
        if self.int8_weight_bits not in INT8_WEIGHT_BITS:
            raise UsageError(
                f"export.int8_weight_bits is {self.int8_weight_bits}, expected 7 or 8",
                "8 is for processors that add products in 32 bits: with VNNI or AMX, or Arm",
            )
        if not 0 <= self.max_accuracy_drop <= 100:
            raise UsageError(
                f"export.max_accuracy_drop is {self.max_accuracy_drop:g}, expected points from 0 to 100"
            )


@dataclass(frozen=True)
class ProfileRecipe:
    """Settings of the latency measurement. One image on one thread is the least noisy, and usual at the edge.

    ``runtimes``: none means the usual ones, as far as they take what is there.

    ``compress profile`` also sets ``precision`` (of PyTorch; a file has its own), ``cuda_graph`` (replay the work of a
    GPU as one graph) and ``budget_s``, the seconds for one batch size, after which no further round begins. They are
    no keys: a run measures what it ships, in the precision in which it ships it.
    """

    runtimes: tuple[str, ...] = setting(
        DEFAULT_RUNTIMES, 'Runtimes, or ["all"]; empty: the usual ones that fit'
    )
    batches: tuple[int, ...] = setting((1,), "Batch sizes")
    threads: int = setting(1, "Threads of every runtime")
    samples: int = setting(60, "Interleaved rounds; fewer where they take longer than 6 seconds")
    precision: str = by_code("fp32")
    cuda_graph: bool = by_code(False)
    budget_s: float = by_code(SECONDS_OF_A_BATCH)

    def __post_init__(self) -> None:
        runtimes_named(self.runtimes)
        if self.precision not in RUNTIME_PRECISIONS:
            raise unknown_name("precision", self.precision, RUNTIME_PRECISIONS)
        if not self.batches or min(self.batches) < 1:
            shown = ", ".join(str(batch) for batch in self.batches)
            raise UsageError(f"profile.batches is [{shown}], expected batches of at least 1 image")
        _at_least(1, "profile", threads=self.threads, samples=self.samples)
        if not 0 < self.budget_s < float("inf"):
            raise UsageError(f"budget_s is {self.budget_s:g}, expected seconds above 0")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run."""

    seed: int = setting(0, "Seed of everything random")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    budget: Budget = field(default_factory=Budget)
    saliency: Scoring = field(default_factory=Scoring)
    repair: Repairing = field(default_factory=Repairing)
    distil: Distilling = field(default_factory=Distilling)
    export: ExportRecipe = field(default_factory=ExportRecipe)
    profile: ProfileRecipe = field(default_factory=ProfileRecipe)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")
        if self.distil.method == "repair" and not self.repair.images:
            raise UsageError(
                "method `repair` fits the student on images, and repair.images is 0",
                "use at least 128, or choose cut-only",
            )
        if "latency" in self.budget.needs and "onnxruntime" not in runtimes_named(self.profile.runtimes):
            raise UsageError(
                f"widths are chosen by time in onnxruntime, and profile.runtimes is {list(self.profile.runtimes)}",
                "add `onnxruntime` to profile.runtimes, or choose widths by another cost",
            )
        timed = self.budget.timed_as
        if timed != Budget().timed_as and not {timed, ALL} & set(self.export.to):
            raise UsageError(
                f"widths are chosen by the time of `{timed}`, and export.to is {list(self.export.to)}",
                f"add `--to {timed}`",
            )
        schedule = self.distil.schedule
        for path, section in (
            ("budget", self.budget),
            ("distil.schedule", schedule),
            ("profile", self.profile),
        ):
            for name, value in values_by_code(section).items():
                raise UsageError(
                    f"{path}.{name} is {value!r}, and a recipe has no such key",
                    "leave it out; a run sets it itself",
                )
        if self.distil.student and self.budget.limits():
            raise _nothing_to_cut(self.distil.student, next(iter(self.budget.limits())))
        if self.distil.student and self.budget.of != Budget.of:
            raise _nothing_to_cut(self.distil.student, "of")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a setting that is not given (None) is left out, as TOML has no word for it."""
        value = typing.cast(dict[str, Any], _plain(self))
        if self.distil.student:  # nothing is removed, and a recipe that says so is refused
            del value["budget"]["remove"]
        return value

    def to_toml(self) -> str:
        """The text of ``recipe.toml``."""
        return tomli_w.dumps(self.to_dict())


def read_recipe(path: Path, changes: Mapping[str, Any] = types.MappingProxyType({})) -> Recipe:
    """The recipe in a TOML file, with ``changes`` by dotted path (``budget.remove``)."""
    try:
        value = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read recipe `{path}`: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe `{path}` is not TOML: {error}") from error
    return recipe_from(_with(value, changes))


def recipe_from(value: Mapping[str, Any]) -> Recipe:
    """The recipe that these plain values describe; what is not given keeps its default.

    Where limits are given and no share to remove, there is none: the default share would be a limit of its own.
    """
    budget, distil = value.get("budget"), value.get("distil")
    student = distil.get("student") if isinstance(distil, Mapping) else None
    if student and isinstance(budget, Mapping) and "remove" in budget:
        raise _nothing_to_cut(student, "remove")
    if (
        isinstance(budget, Mapping)
        and "remove" not in budget
        and any(key.startswith("max_") for key in budget)
    ):
        value = {**value, "budget": {**budget, "remove": 0.0}}
    return _build(Recipe, value, "")


def _nothing_to_cut(student: str, setting: str) -> UsageError:
    return UsageError(
        f"budget.{setting} is given, and so is the student `{student}`: nothing is cut from the teacher",
        "leave out --ratio, budget.of and the limits (budget.max_…), or --student",
    )


def recipe_with(changes: Mapping[str, Any]) -> Recipe:
    """The recipe of which only some settings are given, each by its dotted path (``budget.remove``)."""
    return recipe_from(_with({}, changes))


def _with(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain values in which some are replaced."""
    result = dict(value)
    for path, changed in changes.items():
        section, dot, rest = path.partition(".")
        below = result.get(section, {})
        # What is no section is left as it is, for the error that says so.
        result[section] = (
            (_with(below, {rest: changed}) if isinstance(below, Mapping) else below) if dot else changed
        )
    return result


def _at_least(least: int, section: str, **numbers: int) -> None:
    for key, number in numbers.items():
        if number < least:
            raise UsageError(f"{section}.{key} is {number}, expected at least {least}")


def _build(kind: type[T], value: Any, path: str) -> T:
    if not isinstance(value, Mapping):
        raise UsageError(f"recipe key `{path}` is {value!r}, expected a section [{path}]")
    types_of = typing.get_type_hints(kind)
    hints = {field.name: types_of[field.name] for field in keys_and_sections(kind)}
    for key in value:
        if key not in hints:
            raise unknown_name("recipe key" if not path else f"key in recipe section [{path}]", key, hints)
    given = {key: _setting(hints[key], each, f"{path}.{key}".strip(".")) for key, each in value.items()}
    return kind(**given)


def _setting(kind: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, path)
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    for each in allowed:
        if typing.get_origin(each) is tuple:
            items = value if isinstance(value, list | tuple) else [value]  # one alone needs no brackets
            return tuple(_setting(typing.get_args(each)[0], item, path) for item in items)
        if each is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if each in (int, float, str, bool) and type(value) is each:
            return value
        if each is type(None) and value is None:
            return None
    names = " or ".join(getattr(each, "__name__", str(each)) for each in allowed if each is not type(None))
    raise UsageError(f"recipe key `{path}` is {value!r}, expected {names}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = ((each.name, getattr(value, each.name)) for each in keys_and_sections(value))
        return {name: _plain(item) for name, item in pairs if item is not None}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
