"""What users get wrong: one line that says so, the nearest right name, an exit code, and nothing damaged."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.compressor.check.files import network
from tests.e2e.shell import warm_shell
from tests.e2e.test_whole_run import contents

CANNOT, WRONG = 1, 2
"""The exit codes: it cannot be done, and the request itself is wrong."""


@dataclass(frozen=True)
class Mistake:
    """A command, its exit code, and words that the complaint must contain."""

    name: str
    command: str
    code: int
    words: tuple[str, ...]


BY_TIME, IN_INT8 = "--set budget.of=latency", "--set budget.of=latency-int8"


def usual(options: str, model: str = "mypkg:teacher", data: str = "mypkg:data", share: str = "0.5") -> str:
    return f"run {model} --data {data} --ratio {share} --epochs 1 {options}"


MISTAKES = [
    Mistake("no ratio", "run mypkg:teacher --data mypkg:data", WRONG, ("--ratio 0.7 removes",)),
    Mistake("unknown command", "rnu --ratio 0.5", WRONG, ("rnu", "run")),
    Mistake("unknown option", "run --ration 0.5", WRONG, ("--ration", "--ratio")),
    Mistake("ratio that is no number", usual("", share="half"), WRONG, ("--ratio", "half")),
    Mistake("ratio 0", usual("", share="0"), WRONG, ("cannot remove 0", "above 0 and below 1")),
    Mistake("ratio 1", usual("", share="1"), WRONG, ("cannot remove 1", "above 0 and below 1")),
    Mistake("ratio 1.5", usual("", share="1.5"), WRONG, ("cannot remove 1.5", "above 0 and below 1")),
    Mistake("ratio below 0", usual("", share="-0.1"), WRONG, ("cannot remove -0.1", "above 0 and below 1")),
    Mistake("ratio nan", usual("", share="nan"), WRONG, ("cannot remove nan", "above 0 and below 1")),
    Mistake("no MACs allowed", usual("--max-macs 0"), WRONG, ("budget.max_macs is 0", "more than 0")),
    Mistake("fewer bytes than must stay", usual("--set budget.max_bytes=5"), WRONG,
            ("cannot meet --set budget.max_bytes=5", "use --set budget.max_bytes=")),
    Mistake("fewer than no bytes", usual("--set budget.max_bytes=-5"), WRONG, ("budget.max_bytes is -5",)),
    Mistake("no time allowed", usual("--max-latency-ms 0"), WRONG, ("budget.max_latency_ms is 0",)),
    Mistake("time that is no number", usual("--max-latency-ms nan"), WRONG, ("budget.max_latency_ms is nan",)),
    Mistake("time of no file", usual("--set budget.of=latency-int9"), WRONG, ("`latency-int8`",)),
    Mistake("time of a file not written", usual(IN_INT8), WRONG, ("--to onnx-int8",)),
    Mistake("unknown cost", usual("--set budget.of=time"), WRONG, ("`time`", "latency")),
    Mistake("fewer parameters than must stay", usual("--max-params 3"), WRONG, ("cannot meet --max-params 3",)),
    Mistake("unreachable ratio", usual("", share="0.999"), WRONG, ("can be removed", "use --ratio 0.")),
    Mistake("unknown model", usual("--weights random", model="resnt18"), WRONG, ("`resnt18`", "`resnet18`")),
    Mistake("model without weights", usual("", model="resnet18"), WRONG, ("no weights", "--weights FILE")),
    Mistake("unknown factory", usual("", model="mypkg:teachr"), WRONG, ("teachr", "`mypkg:teacher`")),
    Mistake("unknown package", usual("", model="mypk:teacher"), WRONG, ("no module named `mypk`",)),
    Mistake("folder that is no student", usual("", model="one"), WRONG, ("`one`", "plan.json")),
    Mistake("unknown data", usual("", data="glyhps"), WRONG, ("`glyhps`", "`glyphs`")),
    Mistake("unknown data factory", usual("", data="mypkg:dat"), WRONG, ("dat", "`mypkg:data`")),
    Mistake("no such data folder", usual("", data="./nowhere"), WRONG, ("no folder `./nowhere`",)),
    Mistake("data folder with one class", usual("", data="one/"), CANNOT, ("1 class folders", "at least 2")),
    Mistake("class without pictures", usual("", data="hollow/"), CANNOT, ("`hollow/test/b`", "no pictures")),
    Mistake("data without test", usual("", data="untested/"), CANNOT, ("neither val/ nor test/",)),
    Mistake("empty test half", usual("", data="mypkg:empty_test"), CANNOT, ("(test) is empty",)),
    Mistake("unreadable sample", usual("--criterion gate", data="mypkg:unreadable"), CANNOT, ("sample 7", "truncated")),
    Mistake("unreadable pictures", usual("--size 8", data="wrecked/"), CANNOT,
            ("more than 10 samples are unreadable: `wrecked/val/b/", ".png`")),
    Mistake("labels needed where there are none", usual("--size 8 --unlabelled torn/a", data="torn/"), WRONG,
            ("the pictures of `torn` have no labels", "teacher_weight to 1")),
    Mistake("criterion that needs labels", usual("--size 8 --unlabelled torn/a --criterion taylor", data="torn/"),
            WRONG, ("criterion `taylor` needs labels",)),
    Mistake("teacher at chance", usual("--size 8", data="torn/"), WRONG, ("which is chance (50.0%)",)),
    Mistake("data of another shape", usual("", data="mypkg:small_data"), CANNOT, ("(1, 12, 12)",)),
    Mistake("unknown criterion", usual("--criterion tailor"), WRONG, ("`tailor`", "`taylor`")),
    Mistake("unknown cost", usual("--set budget.of=mac"), WRONG, ("`mac`", "`macs`")),
    Mistake("unknown device", usual("--device cud"), WRONG, ("`cud`", "cuda")),
    Mistake("missing device", usual("--device cuda:99"), WRONG, ("cuda:99", "not available")),
    Mistake("fewer than no assistants", usual("--set distil.assistants=-1"), WRONG, ("assistants is -1", "at least 0")),
    Mistake("no epochs", usual("--epochs 0"), WRONG, ("`epochs` is 0", "at least 1")),
    Mistake("unknown section", usual("--recipe section.toml"), WRONG, ("recipe key `distill`", "`distil`")),
    Mistake("unknown key", usual("--recipe key.toml"), WRONG, ("[budget] `remov`", "`remove`")),
    Mistake("value of another kind", usual("--recipe kind.toml"), WRONG, ("`seed`", "'three'", "expected int")),
    Mistake("recipe that is no TOML", usual("--recipe mypkg.py"), WRONG, ("`mypkg.py` is not TOML",)),
    Mistake("no recipe", usual("--recipe nowhere.toml"), WRONG, ("`nowhere.toml`", "No such file")),
    Mistake("no weights file", usual("--weights no.safetensors"), WRONG, ("no weights file `no.safetensors`",)),
    Mistake("weights of another shape", usual("--weights narrow.safetensors"), CANNOT,
            ("narrow.safetensors", "`0.weight`", "(8, 3, 3, 3)", "(16, 3, 3, 3)")),
    Mistake("weights of another network", usual("--weights other.safetensors"), CANNOT,
            ("no tensor `0.weight`", "(16, 3, 3, 3)")),
    Mistake("weights that are pickled code", usual("--weights pickled.pt"), CANNOT, ("pickled.pt", "safely")),
    Mistake("weights that are no weights", usual("--weights mypkg.py"), CANNOT, ("cannot read weights `mypkg.py`",)),
    Mistake("run folder of another recipe", usual("--out runs/other"), WRONG,
            ("another recipe", "`seed` is 3 there and 0 here", "choose another --out")),
    Mistake("out is a folder of something else", usual("--out one"), WRONG, ("`one` exists", "nothing was changed")),
    Mistake("out is a file", usual("--out key.toml"), WRONG, ("`key.toml` exists",)),
    Mistake("out lies under a file", usual("--out key.toml/x"), CANNOT, ("cannot write `key.toml/x",)),
    Mistake("no such model to inspect", "inspect mobilenet_v4", WRONG, ("mobilenet_v4", "`mobilenet_v2`")),
    Mistake("no numbers for a shape", "inspect mypkg:teacher --shape 3,a", WRONG, ("`3,a`", "3,224,224")),
    Mistake("no such file to profile", "profile nowhere.onnx", WRONG, ("no file `nowhere.onnx`",)),
    Mistake("no images to profile", "profile mypkg:teacher --shape 3,8,8 --batch 0", WRONG, ("batches is [0]",)),
    Mistake("a batch that is no number", "profile mypkg:teacher --shape 3,8,8 --batch 1,x", WRONG, ("`1,x`", "1,8")),
    Mistake("unknown runtime", "profile mypkg:teacher --shape 3,8,8 --runtime onxruntime", WRONG, ("`onnxruntime`",)),
    Mistake("unknown precision", "profile mypkg:teacher --precision fp61", WRONG, ("`fp61`", "`fp16`")),
    Mistake("precision of a file", "profile mypkg:teacher --shape 3,8,8 --runtime ort --precision fp16", WRONG,
            ("`onnxruntime`", "fp16 is for pytorch")),
    Mistake("runtime of networks for a file", "profile good.onnx --shape 3,8,8 --runtime torch", WRONG,
            ("`pytorch` runs networks", "the teacher is an ONNX file", "openvino")),
    Mistake("file that is no ONNX to profile", "profile some.onnx --shape 3,8,8", CANNOT, ("`some.onnx`",)),
    Mistake("no threads to profile", "profile mypkg:teacher --shape 3,8,8 --threads 0", WRONG, ("threads is 0",)),
    Mistake("unknown format", "export mypkg:teacher --shape 3,8,8 --to onxx", WRONG, ("`onxx`", "`onnx`")),
    Mistake("unknown format among known ones", "export mypkg:teacher --shape 3,8,8 --to onnx,onnx-fp61", WRONG,
            ("`onnx-fp61`", "`onnx-fp16`")),
    Mistake("an ONNX file as ONNX", "export good.onnx", WRONG, ("`good.onnx` is an ONNX file already", "--to")),
    Mistake("junk to export", "export junk.onnx --shape 3,8,8 --to onnx-fp16", CANNOT, ("`junk.onnx`",)),
    Mistake("a target under a file", "export mypkg:teacher --shape 3,12,12 --out key.toml/x.onnx", CANNOT,
            ("cannot write `key.toml/x.onnx`",)),
    Mistake("no such run to report", "report runs/nowhere", WRONG, ("no report in `runs/nowhere`",)),
    Mistake("unfinished run to report", "report runs/other", WRONG, ("not finished", "to continue")),
    Mistake("nothing to check against", "check good.onnx", WRONG, ("nothing to compare with", "--save")),
    Mistake("no such file to check", "check good.onnx nowhere.onnx", WRONG, ("no file `nowhere.onnx`",)),
    Mistake("junk to check", "check good.onnx junk.onnx", CANNOT, ("`junk.onnx`", "no ONNX file")),
    Mistake("empty file to check", "check empty.onnx good.onnx", CANNOT, ("`empty.onnx`", "no ONNX file")),
    Mistake("torn file to check", "check torn.onnx good.onnx", CANNOT, ("`torn.onnx`", "no ONNX file")),
    Mistake("folder that is no run to check", "check good.onnx one", WRONG, ("no report in `one`",)),
    Mistake("unfinished run to check", "check good.onnx runs/other", WRONG, ("not finished", "to continue")),
    Mistake("engine to check", "check good.onnx model.engine", WRONG, ("`model.engine`", "TensorRT", "ONNX file")),
    Mistake("plan to check", "check model.plan good.onnx", WRONG, ("`model.plan` is a TensorRT engine",)),
    Mistake("opset of the future", "check good.onnx future.onnx", CANNOT, ("Opset 999", "an older opset")),
    Mistake("format of the future", "check good.onnx format.onnx", CANNOT, ("IR version: 99", "update onnxruntime")),
    Mistake("other inputs to check", "check good.onnx smaller.onnx", CANNOT,
            ("different inputs", "[·, 3, 24, 24] in `good.onnx`", "[·, 3, 24, 16] in `smaller.onnx`")),
    Mistake("free axis to check", "check free.onnx free.onnx", CANNOT, ("axis 2", "`x` is free", "fixed size")),
    Mistake("candidate of NaN", "check good.onnx nan.onnx", CANNOT, ("`out` of `nan.onnx` is not finite",)),
    Mistake("baseline of NaN", "check nan.onnx good.onnx --exact-only", CANNOT, ("`nan.onnx` is not finite",)),
    Mistake("baseline of another schema", "check later.json good.onnx", CANNOT,
            ("`later.json` has schema 9", "reads 1", "--save")),
    Mistake("baseline that is no JSON", "check torn.json good.onnx", CANNOT, ("`torn.json`", "not JSON")),
    Mistake("baseline that is something else", "check report.json good.onnx", CANNOT, ("`report.json` is no",)),
    Mistake("no such baseline", "check nowhere.json good.onnx", WRONG, ("no baseline at `nowhere.json`",)),
    Mistake("slowdown without per cent", "check good.onnx good.onnx --max-slowdown 0.02", WRONG, ("0.02", "2.5%")),
    Mistake("slowdown below 0", "check good.onnx good.onnx --max-slowdown -1%", WRONG, ("--max-slowdown", "-1%")),
    Mistake("growth below 0", "check good.onnx good.onnx --max-growth -1%", WRONG, ("--max-growth", "-1%")),
    Mistake("no bytes", "check good.onnx good.onnx --max-bytes 0", WRONG, ("--max-bytes is 0", "at least 1")),
    Mistake("drop below 0", "check good.onnx good.onnx --max-accuracy-drop -1", WRONG, ("drop is -1", "at least 0")),
    Mistake("output error below 0", "check good.onnx good.onnx --max-output-error -0.1", WRONG, ("error is -0.1",)),
    Mistake("granule 0", "check good.onnx good.onnx --granule 0", WRONG, ("--granule is 0",)),
    Mistake("no images to check", "check good.onnx good.onnx --batch 0", WRONG, ("--batch is 0",)),
    Mistake("no threads to check", "check good.onnx good.onnx --threads 0", WRONG, ("--threads is 0",)),
    Mistake("two processes", "check good.onnx good.onnx --processes 2", WRONG, ("--processes is 2", "at least 3")),
    Mistake("accuracy that is not known", "check good.onnx good.onnx --max-accuracy-drop 1", WRONG, ("not known",)),
    Mistake("save over a network", "check good.onnx --save nan.onnx", WRONG, ("`nan.onnx` exists", "another name")),
    Mistake("save over a folder", "check good.onnx --save one", WRONG, ("`one` exists", "no baseline")),
    Mistake("save over other JSON", "check good.onnx --save report.json", WRONG, ("`report.json` exists",)),
    Mistake("save under a file", "check good.onnx --save key.toml/b.json", WRONG, ("key.toml` is no folder",)),
    Mistake("JUnit into no folder", "check good.onnx good.onnx --junit no/x.xml", WRONG, ("no folder `no`",)),
    Mistake("JUnit over a network", "check good.onnx good.onnx --junit nan.onnx", WRONG, ("`nan.onnx` exists",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong in it."""
    from tests.e2e.conftest import user_folder

    home = user_folder(tmp_path_factory.mktemp("user"))
    pictures(home / "one", {"a": 3})
    pictures(home / "untested/train", {"a": 2, "b": 2})
    for half in ("train", "test"):
        pictures(home / "hollow" / half, {"a": 2, "b": 0 if half == "test" else 2})
    pictures(home / "torn", {"a": 4, "b": 4})
    for half in ("train", "val"):
        pictures(home / "wrecked" / half, {"a": 12, "b": 12})
    for name in ("torn/b", "wrecked/val/b"):
        for picture in (home / name).iterdir():
            picture.write_bytes(picture.read_bytes()[:60])
    (home / "section.toml").write_text("[distill]\nassistants = 0\n")
    (home / "key.toml").write_text("[budget]\nremov = 0.5\n")
    (home / "kind.toml").write_text('seed = "three"\n')
    (home / "runs/other").mkdir(parents=True)
    (home / "runs/other/recipe.toml").write_text("seed = 3\n")
    (home / "runs/other/plan.json").write_text("{}")
    (home / "some.onnx").write_bytes(b"a model, once")
    save_file({"0.weight": torch.zeros(8, 3, 3, 3)}, home / "narrow.safetensors")
    save_file({"stem.weight": torch.zeros(8, 3, 3, 3)}, home / "other.safetensors")
    torch.save(torch.nn.Linear(2, 2), home / "pickled.pt")
    files_to_check(home)
    return home


def files_to_check(home: Path) -> None:
    """A good ONNX file, and others with one thing wrong in each; and what stands where a baseline should."""
    network(home / "good.onnx")
    network(home / "nan.onnx", value=float("nan"))
    good = onnx.load(home / "good.onnx")
    for name in ("future", "format", "smaller", "free"):
        model = copy.deepcopy(good)
        height, width = model.graph.input[0].type.tensor_type.shape.dim[2:]
        if name == "future":
            model.opset_import[0].version = 999
        elif name == "format":
            model.ir_version = 99
        elif name == "smaller":
            width.dim_value = 16
        else:
            height.dim_param = "h"
        onnx.save(model, home / f"{name}.onnx")
    whole = (home / "good.onnx").read_bytes()
    (home / "torn.onnx").write_bytes(whole[: len(whole) // 2])
    for name, content in {"junk.onnx": b"junk\x00\xff" * 99, "empty.onnx": b"", "torn.json": b"{"}.items():
        (home / name).write_bytes(content)
    for name in ("model.engine", "model.plan"):
        (home / name).write_bytes(b"an engine")
    (home / "later.json").write_text('{"kind": "compress baseline", "schema": 9}')
    (home / "report.json").write_text('{"schema": 1}')


def pictures(folder: Path, classes: dict[str, int]) -> None:
    """A folder of class folders, each with so many pictures."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for each in range(number):
            Image.effect_noise((16, 16), 50).save(folder / name / f"{each}.png")


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_explained_in_one_line_and_a_hint(mistake: Mistake, user: Path) -> None:
    before = contents(user)
    command = mistake.command
    if command.startswith("run ") and "--out" not in command:
        command += f" --out new/{mistake.name.replace(' ', '-')}"

    shown = warm_shell(user, *command.split())

    assert shown.code == mistake.code, shown.err
    error, *hint = shown.complaint
    assert error.startswith("error: ")
    assert all(line.startswith("hint: ") for line in hint), shown.err
    assert len(hint) <= 1
    said = " ".join(shown.complaint)
    assert [word for word in mistake.words if word not in said] == [], said
    assert "Traceback" not in shown.err
    assert "our mistake" not in shown.err
    assert shown.out == ""
    after = contents(user)
    assert {name: after.get(name) for name in before} == before, "something that was there is changed"


def test_the_largest_reachable_ratio_is_one_that_works(user: Path) -> None:
    shown = warm_shell(user, *usual("--out new/unreachable", share="0.999").split())
    largest = shown.complaint[-1].partition("use --ratio ")[2].split()[0]
    command = usual("--recipe quick.toml --set distil.assistants=0 --out new/reachable", share=largest)
    assert warm_shell(user, *command.split()).code == 0


def test_a_mistake_before_the_run_leaves_no_folder(user: Path) -> None:
    warm_shell(user, *usual("--out new/untouched", model="resnt18").split())
    assert not (user / "new/untouched").exists()
