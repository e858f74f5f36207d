from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import NEEDS, Session, TensorSpec, open_openvino, open_session, to_onnx

from .networks import Residual, of_one_batch, settled
from .test_int8 import IMAGES
from .test_onnx import EXAMPLE


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    path = tmp_path_factory.mktemp("session") / "model.onnx"
    linear = nn.Linear(3, 2)
    nn.init.constant_(linear.weight, 2.0)
    nn.init.constant_(linear.bias, 1.0)
    return open_session(to_onnx(linear, torch.zeros(1, 3), path).path, threads=1)


def test_a_session_knows_its_inputs_and_outputs(session: Session) -> None:
    assert session.inputs == (TensorSpec("input", ("batch", 3), "float32"),)
    assert session.outputs == (TensorSpec("logits", ("batch", 2), "float32"),)


def test_named_arrays_go_in_and_come_out(session: Session) -> None:
    ones = np.ones((4, 3), np.float32)

    assert session(input=ones)["logits"].tolist() == [[7.0, 7.0]] * 4
    assert session.run({"input": ones})["logits"].tolist() == [[7.0, 7.0]] * 4


@pytest.mark.parametrize(
    "arrays",
    [
        {"picture": np.ones((1, 3), np.float32)},
        {"input": np.ones((1, 4), np.float32)},
        {"input": np.ones((1, 3), np.float64)},
        {},
    ],
    ids=["name", "shape", "type", "missing"],
)
def test_a_wrong_array_is_an_error_that_says_what_fits(
    session: Session, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ExportError, match="cannot run") as caught:
        session.run(arrays)

    assert "\n" not in str(caught.value)
    assert caught.value.hint == "it takes input: float32 ['batch', 3]"


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(ExportError, match=r"cannot open `nowhere\.onnx`: no such file"):
        open_session(Path("nowhere.onnx"))


def test_a_corrupt_file_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"this was a model once")

    with pytest.raises(ExportError, match="cannot open") as caught:
        open_session(tmp_path / "model.onnx")

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_is_not_here_is_refused_and_never_replaced(session: Session) -> None:
    with pytest.raises(ExportError, match="no provider `MagicExecutionProvider`") as caught:
        open_session(session.path, providers=["MagicExecutionProvider"])

    assert "CPUExecutionProvider" in str(caught.value.hint)


class Doubling:
    """A runtime that takes two or three images, and records the sizes of its batches."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def run(self, names: list[str], arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.given.append(len(arrays["input"]))
        return [arrays["input"] * 2]


@pytest.mark.parametrize(
    ("count", "batches", "given"),
    [(1, (2, 3), [2]), (3, (2, 3), [3]), (4, (2, 3), [3, 2]), (7, (1, None), [7]), (5, (2, 2), [2, 2, 2])],
)
def test_any_number_of_images_is_asked_in_batches_that_the_file_takes(
    count: int, batches: tuple[int, int | None], given: list[int]
) -> None:
    spec, runtime = TensorSpec("input", ("batch", 1), "float32"), Doubling()
    session = Session(Path("x"), (spec,), (TensorSpec("logits", ("batch", 1), "float32"),), runtime, batches)
    images = np.arange(count, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(session.answers(images), images * 2)
    assert runtime.given == given


def test_a_file_with_a_broken_name_is_one_line_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = to_onnx(nn.Linear(4, 2), torch.zeros(1, 4), tmp_path / "n.onnx").path
    model.write_bytes(model.read_bytes().replace(b"input", b"inp\xa1t"))
    with pytest.raises(ExportError) as caught:
        open_session(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_that_was_written_for_one_batch_answers_any_number_of_images(
    runtime: str, tmp_path: Path
) -> None:
    if runtime == "openvino" and NEEDS["openvino"].missing:
        pytest.skip("openvino is not installed")
    whole = to_onnx(settled(Residual()), EXAMPLE, tmp_path / "n.onnx").path
    opened = {"onnxruntime": open_session, "openvino": open_openvino}[runtime](of_one_batch(whole, 4))
    assert opened.batches == (4, 4)
    np.testing.assert_allclose(
        opened.answers(IMAGES[:7]), open_session(whole).answers(IMAGES[:7]), rtol=1e-4, atol=1e-5
    )
