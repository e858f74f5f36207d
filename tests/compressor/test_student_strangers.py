"""Student folders from strangers: whatever is in them, loading runs nothing and ends in a network or a clear error."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.artifacts.student import apply_plan, load_student, save_student
from compressor.base.strict_json import parsed, readable, sealed
from compressor.commands.subjects import resolve
from compressor.errors import CompressError, UsageError
from compressor.models.names import ModelSource, build
from compressor.pruning.cutting import form_of
from compressor.recipe import ModelRecipe
from compressor.run.teacher import build_model
from tests.compressor.test_student import BROUGHT, student_of

TEACHERS = {"module": ModelSource("glyphnet", 5), "program": ModelSource("brought_by_strangers:fixed", 4)}
EVIL = """
import pathlib
pathlib.Path({mark!r}).write_text("imported")
import torch
def make(num_classes=5):
    pathlib.Path({mark!r}).write_text("called")
    return torch.nn.Linear(2, 2)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each form. Not to be changed."""
    home = tmp_path_factory.mktemp("saved")
    (home / "brought_by_strangers.py").write_text(BROUGHT)
    sys.path.insert(0, str(home))
    importlib.invalidate_caches()
    save_student(student_of(TEACHERS["module"]), home / "module")
    save_student(student_of(TEACHERS["program"], side=8), home / "program")
    sys.path.remove(str(home))
    return {"module": home / "module", "program": home / "program"}


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["module"], tmp_path / "student"))


@pytest.fixture
def program(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["program"], tmp_path / "program"))


def seal(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda value: None) -> None:
    """Change the plan as somebody would who knows how it is hashed."""
    value = json.loads((folder / "plan.json").read_text())
    for name in value["files"]:
        value["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(value)
    del value["sha256"]
    (folder / "plan.json").write_text(readable(sealed(value)))


def rewrite_program(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "program.json").read_text())
    change(value)
    (folder / "program.json").write_text(json.dumps(value))
    seal(folder)


def refused(folder: Path, words: str) -> None:
    with pytest.raises(CompressError) as caught:
        load_student(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '"plan"', "\x00", "nul", '{"schema": NaN}', '{"a": Infinity}', '{"a": 1e999}',
     '{"schema": 2, "schema": 2}', "[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000,
     "[" * 70 + "]" * 70, '{"a": "\\ud800"}', "1" * 5_000, '{"schema": true}', '{"schema": "2"}', '{"schema": 2.0}'],
)  # fmt: skip
def test_a_plan_that_is_no_plan_is_damaged(folder: Path, text: str) -> None:
    (folder / "plan.json").write_text(text)
    refused(folder, "plan.json` is damaged: ")
    with pytest.raises(CompressError, match=r"plan.json` is damaged: "):
        apply_plan(nn.Linear(2, 2), folder / "plan.json")


def test_a_plan_that_is_no_text_is_damaged(folder: Path) -> None:
    (folder / "plan.json").write_bytes(b'{"schema": "\xff"}')
    refused(folder, "plan.json` is damaged: ")


def test_what_is_wrong_with_the_json_is_said() -> None:
    for text, words in {
        '{"a": 1, "a": 2}': "it has the key `a` twice",
        "[NaN]": "it contains NaN",
        "[-1e999]": "it contains -1e999",
        "[" * 65 + "]" * 65: "deeper than 64 levels",
    }.items():
        with pytest.raises(ValueError, match=words):
            parsed(text.encode())


def test_an_edited_plan_is_noticed(folder: Path) -> None:
    value = json.loads((folder / "plan.json").read_text())
    value["about"]["top1"] = 0.9
    (folder / "plan.json").write_text(json.dumps(value))
    refused(folder, "plan.json` is damaged: it was changed after it was written")
    with pytest.raises(CompressError, match="it was changed after it was written"):
        apply_plan(build(ModelSource("glyphnet", 5)), folder)


def test_other_spaces_and_another_order_of_keys_are_no_edit(folder: Path) -> None:
    value = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(dict(reversed(value.items()))))
    load_student(folder)


@pytest.mark.parametrize(("schema", "hint"), [(1, "write it again"), (3, "update this one")])
def test_another_schema_is_refused_with_what_to_do(folder: Path, schema: int, hint: str) -> None:
    (folder / "plan.json").write_text(json.dumps({"schema": schema}))
    with pytest.raises(CompressError, match=f"has schema {schema}, this version reads 2") as caught:
        load_student(folder)
    assert hint in str(caught.value.hint)


ENTRIES = (
    "model input_shape about files layout teacher costs widths blocks inputs earlier slices form".split()
)


@pytest.mark.parametrize("key", ENTRIES)
def test_a_missing_entry_is_named(folder: Path, key: str) -> None:
    seal(folder, lambda value: value.pop(key))
    refused(folder, f"plan.json` is damaged: it has no entry `{key}`")


def test_an_unknown_entry_is_named(folder: Path) -> None:
    seal(folder, lambda value: value.update(run="rm"))
    refused(folder, "it has an unknown entry `run`")


WEIGHT = "stem.0.weight"


@pytest.mark.parametrize(
    "change",
    [
        *({key: wrong} for key in ENTRIES for wrong in (7, "text", [[1]])),
        *({key: {"a": []}} for key in ENTRIES if key != "about"),
        *({"slices": {WEIGHT: {"0": kept}}} for kept in (7, ["one"], [0.5], [-1], [9999], [2**70], [], [0, 0], [True])),
        *({"slices": {WEIGHT: {axis: [0]}}} for axis in ("first", "-1", "4", "99", "1_0", " 0", "٣")),
        {"model": {"name": 3, "classes": 5}},
        {"model": {"name": "glyphnet", "classes": -5}},
        {"model": {"name": "glyphnet", "classes": True}},
        {"model": {"name": "glyphnet", "classes": 5, "args": []}},
        {"input_shape": [3, 0, 2]},
        {"teacher": {WEIGHT: []}},
        {"teacher": {WEIGHT: ["load", 3]}},
        {"teacher": {WEIGHT: ["float32", -3]}},
        {"layout": {WEIGHT: [0, 0, 1, 2]}},
        {"layout": {WEIGHT: [0, 1]}},
        {"blocks": {WEIGHT: 0}},
        {"inputs": {"args": {"list": [{"tensor": [10**9, 10**9], "dtype": "float32"}]}, "kwargs": {"dict": {}}}},
        {"inputs": {"args": {"list": [{"tensor": [1], "dtype": "load"}]}, "kwargs": {"dict": {}}}},
        {"inputs": {"args": {"list": []}, "kwargs": {"dict": {}}}},
        {"files": {"weights.safetensors": "0" * 64, "../../../etc/passwd": "0" * 64}},
        {"files": {"../weights.safetensors": "0" * 64}},
        {"files": {"weights.safetensors": "0"}},
        {"files": {"weights.safetensors": "z" * 64}},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_of_the_wrong_kind_is_damage(folder: Path, change: dict[str, Any]) -> None:
    seal(folder, lambda value: value.update(change))
    refused(folder, " is damaged: ")


def test_indices_that_do_not_exist_name_the_tensor(folder: Path) -> None:
    seal(folder, lambda value: value["slices"].update({WEIGHT: {"0": [0, 9999]}}))
    refused(folder, "an index of axis 0 of `stem.0.weight` in `slices` is 9999, expected 0 to ")


def test_a_missing_tensor_is_named_with_its_shape(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    shape = tuple(weights.pop("head.weight").shape)
    save_file(weights, folder / "weights.safetensors")
    seal(folder)
    refused(folder, f"has no tensor `head.weight`, expected one of shape {shape}")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    weights = load_file(folder / "weights.safetensors")
    width = weights["head.weight"].shape[1]
    weights["head.weight"] = torch.zeros(9, width)
    save_file({**weights, "classes": torch.zeros(5)}, folder / "weights.safetensors")
    seal(folder)
    refused(folder, f"`head.weight` has shape (9, {width}), the network expects (5, {width})")


@pytest.mark.parametrize(
    "name",
    ["forward", "head.forward", "training", "_buffers", "__class__", "__dict__", "no.where", "head", "", "."],
)
def test_a_tensor_that_the_network_has_no_place_for_is_refused(folder: Path, name: str) -> None:
    weights = load_file(folder / "weights.safetensors")
    save_file({**weights, name: torch.zeros(5)}, folder / "weights.safetensors")
    seal(folder)
    refused(folder, "weights.safetensors` is damaged: ")


@pytest.mark.parametrize("form", ["module", "program"])
@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_torn_weights_are_damage_with_and_without_the_right_hash(
    saved: dict[str, Path], tmp_path: Path, form: str, keep: float
) -> None:
    torn = Path(shutil.copytree(saved[form], tmp_path / "torn"))
    weights = torn / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused(torn, "does not have the hash in plan.json")
    seal(torn)
    refused(torn, "weights.safetensors` is damaged: ")


@pytest.mark.parametrize("name", ["plan.json", "weights.safetensors", "program.json"])
def test_a_file_that_is_a_link_is_refused(program: Path, tmp_path: Path, name: str) -> None:
    (program / name).rename(tmp_path / name)
    (program / name).symlink_to(tmp_path / name)
    refused(program, f"{name}` is a symbolic link")


def test_a_file_that_is_missing_or_never_ends_is_refused(program: Path) -> None:
    (program / "program.json").unlink()
    refused(program, "cannot read `")
    os.mkfifo(program / "program.json")
    refused(program, "is not a regular file")


def test_a_changed_program_is_noticed(program: Path) -> None:
    file = program / "program.json"
    file.write_text(file.read_text() + " ")
    refused(program, "program.json` is damaged: it was changed after it was written")


@pytest.mark.parametrize(
    "name", ["evil_factory:make", "evil_factory:", "evil_factory:__class__", ":evil_factory"]
)
def test_code_that_a_folder_names_is_not_imported_unless_it_is_trusted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil_factory.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    seal(folder, lambda value: value["model"].update(name=name))
    loads: list[Callable[[Path], Any]] = [
        load_student,
        lambda path: resolve(ModelRecipe(str(path)), None, None),  # inspect, profile, export
        lambda path: build_model(ModelRecipe(str(path)), None),  # run
    ]
    for load in loads:
        with pytest.raises(
            UsageError, match=f"names code that would be imported and run: `{name}`"
        ) as caught:
            load(folder)
        assert "--trust" in str(caught.value.hint)
        assert "trust=True" in str(caught.value.hint)
    with pytest.raises(CompressError):
        apply_plan(build(ModelSource("glyphnet", 6)), folder)
    apply_plan(build(ModelSource("glyphnet", 5)), folder)
    assert not mark.exists()
    assert "evil_factory" not in sys.modules
    with pytest.raises(CompressError):
        load_student(folder, trust=True)
    assert mark.exists() == (name != ":evil_factory")
    sys.modules.pop("evil_factory", None)


def test_a_program_that_names_code_loads_without_it_and_is_saved_again_without_it(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil_program.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    seal(program, lambda value: value["model"].update(name="evil_program:make"))
    student = load_student(program)
    assert form_of(student.network) == "program"
    save_student(student, tmp_path / "again")
    load_student(tmp_path / "again")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../evil", "evil.py", "timm:../../evil", "timm:evil:make", "", "os.system"]
)
def test_a_model_that_is_no_name_of_one_is_refused(folder: Path, name: str) -> None:
    seal(folder, lambda value: value["model"].update(name=name))
    refused(folder, "unknown ")


def test_a_number_of_classes_from_a_file_does_not_fill_the_memory(folder: Path) -> None:
    seal(folder, lambda value: value["model"].update(classes=10**12))
    refused(
        folder, "has 1000000000000 classes in plan.json, but no tensor in weights.safetensors has that size"
    )


OPERATORS = [
    "aten.from_file.default", "aten.set_.source_Tensor", "aten.set_.default", "aten.resize_.default", "os.system",
    "torch.load", "builtins.eval", "aten.save.default", "aten._reshape_alias.default", "aten.add.out",
    "aten.add.__class__", "aten.add.__setattr__", "aten.add.__getattribute__", "aten.add.overloads", "aten.add.op",
    "aten.add", "aten.add.", "aten", "", ".", "..", "aten..default", "aten.__class__.default", "prim.add.default",
    "torchvision.__class__.mro", "aten.add.Tensor.x", "aten.relu_.__init__", "__import__", "profiler.add.default",
]  # fmt: skip


@pytest.mark.parametrize("operator", [*OPERATORS, None, 3, [], {"value": 0}])
def test_an_operator_that_no_program_may_call_is_refused(program: Path, operator: Any) -> None:
    rewrite_program(program, lambda value: value["program"]["steps"][0].__setitem__(0, operator))
    refused(program, "program.json` is damaged: ")
    if operator in OPERATORS:
        refused(program, f"names the operator `{operator}`, which is not one of those a program may call")


def steps(value: dict[str, Any]) -> list[Any]:
    return list(value["program"]["steps"])


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "value before it is given": lambda v: steps(v)[0][1].__setitem__(0, {"value": 10**6}),
    "negative value": lambda v: steps(v)[0][1].__setitem__(0, {"value": -1}),
    "value that is no number": lambda v: steps(v)[0][1].__setitem__(0, {"value": True}),
    "tensor that is not there": lambda v: steps(v)[0][1].__setitem__(1, {"tensor": "__class__"}),
    "tensor that is no text": lambda v: steps(v)[0][1].__setitem__(1, {"tensor": ["conv.weight"]}),
    "kind that is not known": lambda v: steps(v)[0][1].__setitem__(1, {"call": "os.system"}),
    "options among arguments": lambda v: steps(v)[0][1].__setitem__(1, {"options": {}}),
    "dtype that is none": lambda v: steps(v)[0][1].__setitem__(1, {"dtype": "load"}),
    "layout that is none": lambda v: steps(v)[0][1].__setitem__(1, {"layout": "os"}),
    "device that is named": lambda v: steps(v)[0][1].__setitem__(1, {"device": "cuda:7"}),
    "float that is text": lambda v: steps(v)[0][1].__setitem__(1, {"float": "1" * 10**6}),
    "number too large": lambda v: steps(v)[0][1].__setitem__(1, 2**70),
    "line that is no line": lambda v: steps(v)[0][1].__setitem__(1, {"per_batch": [1]}),
    "two kinds at once": lambda v: steps(v)[0][1].__setitem__(0, {"value": 0, "tensor": "conv.weight"}),
    "no kind": lambda v: steps(v)[0][1].__setitem__(0, {}),
    "arguments that are none": lambda v: steps(v)[0].__setitem__(1, {}),
    "options that are none": lambda v: steps(v)[0].__setitem__(2, []),
    "results that are none": lambda v: steps(v)[0].__setitem__(3, {"a": 1}),
    "result that is text": lambda v: steps(v)[0].__setitem__(3, ["1"]),
    "result twice": lambda v: steps(v)[0].__setitem__(3, [1, 1]),
    "result of another": lambda v: steps(v)[-1].__setitem__(3, [1]),
    "step too short": lambda v: steps(v)[0].pop(),
    "steps that are none": lambda v: v["program"].update(steps={}),
    "no inputs": lambda v: v["program"].update(inputs=0),
    "too many inputs": lambda v: v["program"].update(inputs=10**9),
    "another number of examples": lambda v: v["program"].update(inputs=2),
    "batch of none": lambda v: v["program"].update(batch=0),
    "example of nothing": lambda v: v["program"].update(example={"args": {"list": []}, "kwargs": {"dict": {}}}),
    "result of nothing": lambda v: v["program"].update(result=None),
    "result that nothing gave": lambda v: v["program"].update(result={"value": 999}),
    "result that is strange": lambda v: v["program"].update(result={"dict": {"a": {"tuple": 3}}}),
    "description without steps": lambda v: v["program"].pop("steps"),
    "description with more": lambda v: v["program"].update(code="print(1)"),
    "layer before its value": lambda v: v["program"]["layers"].append(["more", 0, None, 10**6]),
    "layer given what comes later": lambda v: v["program"]["layers"].append(["more", 0, 3, 1]),
    "layer after the end": lambda v: v["program"]["layers"].append(["more", 10**6, None, 1]),
    "layer too short": lambda v: v["program"]["layers"].append(["more", 0, 1]),
    "layer without a name": lambda v: v["program"]["layers"].append(["a..b", 0, None, 1]),
    "layer without end": lambda v: v["program"]["layers"].append([".".join("a" * 200), 0, None, 1]),
    "layer in a tensor": lambda v: v["program"]["layers"].append(["conv.weight.more", 0, None, 1]),
    "layers that are none": lambda v: v["program"].update(layers=None),
    "parameters that are a list": lambda v: v.update(parameters=list(v["parameters"])),
    "parameter that is none": lambda v: v["parameters"].update({"conv.weight": 1}),
    "parameter missing": lambda v: v["parameters"].pop("conv.weight"),
    "buffer twice": lambda v: v["buffers"].append(v["buffers"][0]),
    "buffers that are none": lambda v: v.update(buffers=7),
    "deep nesting": lambda v: steps(v)[0][1].__setitem__(0, json.loads("[" * 70 + "]" * 70)),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_program_that_is_none_is_refused_before_it_runs(
    program: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    rewrite_program(program, edit)
    refused(program, "program.json` is damaged: ")


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "training", "conv.training"],
)
def test_a_tensor_may_not_have_a_name_that_no_tensor_of_a_network_has(program: Path, name: str) -> None:
    weights = load_file(program / "weights.safetensors")
    save_file({**weights, name: torch.zeros(2)}, program / "weights.safetensors")
    rewrite_program(program, lambda value: value["buffers"].append(name))
    refused(program, "is damaged")


def test_a_program_in_the_place_of_a_module_is_refused(folder: Path, program: Path) -> None:
    seal(folder, lambda value: value.update(form="program"))
    refused(folder, "has no entry `program.json`")
    seal(program, lambda value: (value.update(form="module"), value["files"].pop("program.json")))
    refused(program, "names code")


STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -1e300, "", "x", "0", "-1", "../../x",
    "aten.add.Tensor", "os:system", "resnet18", "timm:resnet18", "program", "module", "conv.weight", "\x00", "üüü",
    [], {}, [[]], [0], [0, 1], [-1], {"value": 0}, {"value": 3}, {"tensor": "conv.weight"}, {"tensor": "head.bias"},
    {"dtype": "float32"}, {"per_batch": [1, 0]}, {"float": "inf"}, {"dict": {}}, {"tuple": []}, {"0": [0]},
)  # fmt: skip


ODD = st.sampled_from(STRANGE).map(copy.deepcopy)  # since a part that was put in may be changed next


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with a few of its parts replaced, left out, doubled or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        # Few parts are near the top, and these matter most.
        every = [place for place in places(value) if place]
        near = [place for place in every if len(place) <= 2]
        if not every:
            break
        place = draw(st.sampled_from(near) if near and draw(st.booleans()) else st.sampled_from(every))
        owner = value
        for key in place[:-1]:
            owner = owner[key]
        kind = draw(st.sampled_from(("replace", "replace", "remove", "exchange", "add")))
        if kind == "remove":
            del owner[place[-1]]
        elif kind == "exchange":
            found = value
            for key in draw(st.sampled_from(every)):
                found = found[key]
            owner[place[-1]] = copy.deepcopy(found)
        elif kind == "add" and isinstance(owner, list):
            owner.append(draw(ODD))
        elif kind == "add":
            owner[draw(st.sampled_from([each for each in STRANGE if isinstance(each, str)]))] = draw(ODD)
        else:
            owner[place[-1]] = draw(ODD)
    return value


@settings(max_examples=150, deadline=timedelta(seconds=20))
@given(
    data=st.data(), name=st.sampled_from(("module/plan.json", "program/plan.json", "program/program.json"))
)
def test_whatever_is_changed_loading_ends_in_a_network_or_a_clear_error(
    saved: dict[str, Path], data: st.DataObject, name: str
) -> None:
    form, _, file = name.partition("/")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(saved[form], Path(scratch) / "student"))
        value = json.loads((folder / file).read_text())
        value.pop("sha256", None)
        changed = data.draw(st.composite(mutated)(value))
        if file == "plan.json":
            (folder / file).write_text(json.dumps(sealed(changed) if isinstance(changed, dict) else changed))
        else:
            (folder / file).write_text(json.dumps(changed))
            seal(folder)
        teacher = build(TEACHERS[form])
        for use in (load_student, lambda folder: apply_plan(teacher, folder)):
            with contextlib.suppress(CompressError):
                use(folder)


@settings(max_examples=100, deadline=timedelta(seconds=20))
@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(("plan.json", "weights.safetensors", "program.json")),
)
def test_files_of_noise_are_refused(saved: dict[str, Path], content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(saved["program"], Path(scratch) / "student"))
        (folder / name).write_bytes(content)
        if name != "plan.json":
            seal(folder)
        with pytest.raises(CompressError):
            load_student(folder)
