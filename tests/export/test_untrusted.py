from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.errors import ExportError
from compressor.exporting import Asked, check_file, derived, open_stranger, to_onnx
from compressor.exporting.untrusted import ended, probe

from .fuzz import fuzz_onnx, fuzz_sidecars
from .networks import DepthwiseWithGate, Residual, settled
from .test_engine import engine  # noqa: F401
from .test_int8 import IMAGES
from .test_onnx import EXAMPLE


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_onnx(settled(Residual()), EXAMPLE, tmp_path_factory.mktemp("good") / "n.onnx").path


def changed(good: Path, folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(good)
    change(model)
    (folder / "n.onnx").write_bytes(model.SerializeToString())
    return folder / "n.onnx"


def test_an_honest_file_opens(good: Path) -> None:
    assert open_stranger(good, threads=1)(input=IMAGES[:1])["logits"].shape == (1, 5)


def test_an_honest_file_with_weights_beside_it_opens(good: Path, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(good),
        tmp_path / "n.onnx",
        save_as_external_data=True,
        location="n.data",
        size_threshold=500,
    )
    assert open_stranger(tmp_path / "n.onnx", threads=1)(input=IMAGES[:1])["logits"].shape == (1, 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"junk" * 9, "no ONNX file"), (b"\x08\x0a", "empty")],
    ids=["empty", "junk", "no graph"],
)
def test_what_is_no_model_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=words):
        check_file(tmp_path / "n.onnx")


def test_a_truncated_file_is_refused(good: Path, tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(good.read_bytes()[:-200])
    with pytest.raises(ExportError, match="cannot open"):
        open_stranger(tmp_path / "n.onnx")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.onnx", tmp_path):
        with pytest.raises(ExportError, match="cannot open"):
            check_file(path)


@pytest.mark.parametrize("opset", [0, 3, 99])
def test_an_operator_set_that_is_not_supported_is_refused(opset: int, good: Path, tmp_path: Path) -> None:
    path = changed(good, tmp_path, lambda model: setattr(model.opset_import[0], "version", opset))
    with pytest.raises(ExportError, match=f"operator set is {opset}, supported are 7 to"):
        check_file(path)


def test_a_weight_of_a_huge_or_negative_size_is_refused(good: Path, tmp_path: Path) -> None:
    for size in (1 << 40, -1):
        path = changed(good, tmp_path, lambda model: model.graph.initializer[0].dims.append(size))  # noqa: B023
        with pytest.raises(ExportError, match="has the shape"):
            check_file(path)


def test_an_input_of_a_huge_size_is_refused(good: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40

    with pytest.raises(ExportError, match="`input` has the shape"):
        check_file(changed(good, tmp_path, change))


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../secret", "outside the file's folder"),
        ("/etc/passwd", "outside the file's folder"),
        ("link", "outside the file's folder"),
        ("", "outside the file's folder"),
        ("nowhere", "is missing"),
        ("small", "reaches beyond the end"),
        ("a\0b", "is not valid"),
    ],
)
def test_weights_outside_the_folder_or_the_file_are_refused(
    location: str, words: str, good: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(100_000))
    (folder / "small").write_bytes(b"12")
    os.symlink(tmp_path / "secret", folder / "link")

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("length", "864")):
            tensor.external_data.add(key=key, value=value)

    with pytest.raises(ExportError, match=words) as caught:
        open_stranger(changed(good, folder, change))
    assert "\n" not in str(caught.value)


def test_names_of_a_stranger_are_told_in_one_printable_line(good: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].name = "\x1b[31m\n" * 100
        model.graph.initializer[0].dims[0] = -1

    with pytest.raises(ExportError) as caught:
        check_file(changed(good, tmp_path, change))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_file_that_takes_too_long_is_refused(good: Path) -> None:
    with pytest.raises(ExportError, match=r"took more than 0\.01 s"):
        probe(good, patience_s=0.01)


def test_what_a_runtime_refuses_is_told_in_its_words(good: Path, tmp_path: Path) -> None:
    path = changed(good, tmp_path, lambda model: setattr(model.graph.node[1], "op_type", "Wobble"))
    with pytest.raises(ExportError, match="Wobble") as caught:
        open_stranger(path)
    assert "\n" not in str(caught.value)


def test_a_crash_is_told_by_its_signal() -> None:
    assert "crashes on it (SIGSEGV)" in ended(Path("n.onnx"), -11, "")


def test_a_few_hundred_mutants_end_in_a_line_or_open(good: Path, tmp_path: Path) -> None:
    other = to_onnx(settled(DepthwiseWithGate()), EXAMPLE, tmp_path / "g.onnx").path
    int8 = derived("onnx-int8", good, tmp_path / "q.onnx", Asked((IMAGES,))).path
    seeds = [path.read_bytes() for path in (good, other, int8)]

    ends, failures = fuzz_onnx(seeds, tmp_path, 200, seed=int(np.random.default_rng().integers(1 << 30)))

    assert failures == []
    assert ends["refused"] > 20
    assert sum(ends.values()) == 200


def test_no_mutant_of_an_engine_or_its_sidecar_is_trusted(engine: Path) -> None:  # noqa: F811
    assert fuzz_sidecars(engine, 500) == []
