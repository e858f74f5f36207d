"""Outputs of both sides: the interface must be the same, the numbers only if there is a limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.commands.check.exact import Finding
from compressor.commands.check.parity import ERROR, INPUTS, INTERFACE, compare_outputs
from compressor.commands.check.sides import Side, read_side
from compressor.errors import ExportError, ProfileError

IDENTITY = np.eye(3, dtype=np.float32)
KIND = TensorProto.FLOAT


def linear(path: Path, weight: np.ndarray, *, out: str = "out", free: str = "n", given: str = "x") -> Side:
    """Write a file that computes ``given`` times ``weight``."""
    nodes = [helper.make_node("MatMul", [given, "w"], [out])]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(given, KIND, [free, weight.shape[0]])],
        [helper.make_tensor_value_info(out, KIND, [free, weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return read_side(str(path))


def compared(first: Side, second: Side, most: float | None = None, batch: int = 4) -> dict[str, Finding]:
    return {finding.name: finding for finding in compare_outputs(first, second, most, batch)}


def test_a_file_is_equal_to_itself_bit_for_bit(tmp_path: Path) -> None:
    one = linear(tmp_path / "one.onnx", IDENTITY)
    found = compared(one, one, most=0.0)
    assert all(finding.passed for finding in found.values())
    assert (found[INTERFACE].candidate, found[ERROR].candidate) == (0, 0)
    assert found[ERROR].detail == f"arg-max of `out` the same in 100% of {4 * INPUTS}, on random inputs"


def test_the_error_is_a_share_of_the_baselines_largest_output(tmp_path: Path) -> None:
    one, scaled = linear(tmp_path / "one.onnx", 100 * IDENTITY), linear(tmp_path / "two.onnx", 101 * IDENTITY)
    for most, passed in ((None, True), (0.011, True), (0.009, False)):
        finding = compared(one, scaled, most)[ERROR]
        assert finding.candidate == pytest.approx(0.01, rel=1e-4)  # float32 rounds at 1e-7 of the output
        assert (finding.passed, finding.limit) == (passed, most)


def test_other_numbers_are_told_and_pass_where_nobody_set_a_limit(tmp_path: Path) -> None:
    one, turned = linear(tmp_path / "one.onnx", IDENTITY), linear(tmp_path / "two.onnx", -IDENTITY)
    finding = compared(one, turned)[ERROR]
    assert (finding.passed, finding.limit) == (True, None)
    assert finding.candidate == pytest.approx(2)
    assert "the same in 0% of" in finding.detail


@pytest.mark.parametrize(
    ("weight", "out", "words"),
    [
        (IDENTITY[:, :2], "out", "`out` float32 [4, 3] → float32 [4, 2]"),
        (IDENTITY, "logits", "`logits` missing → float32 [4, 3]; `out` float32 [4, 3] → missing"),
    ],
)
def test_another_interface_fails_whatever_was_asked(
    weight: np.ndarray, out: str, words: str, tmp_path: Path
) -> None:
    one, other = linear(tmp_path / "one.onnx", IDENTITY), linear(tmp_path / "two.onnx", weight, out=out)
    (finding,) = compared(one, other).values()
    assert (finding.name, finding.passed, finding.detail) == (INTERFACE, False, words)


def test_other_types_of_outputs_fail(tmp_path: Path) -> None:
    one = linear(tmp_path / "one.onnx", IDENTITY)
    model = onnx.load(tmp_path / "one.onnx")
    model.graph.node[0].output[0] = "single"
    model.graph.node.append(helper.make_node("Cast", ["single"], ["out"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, tmp_path / "double.onnx")
    (finding,) = compared(one, read_side(str(tmp_path / "double.onnx"))).values()
    assert finding.detail == "`out` float32 [4, 3] → float64 [4, 3]"


def test_how_a_free_batch_is_called_makes_no_difference(tmp_path: Path) -> None:
    one, other = (
        linear(tmp_path / "one.onnx", IDENTITY),
        linear(tmp_path / "two.onnx", IDENTITY, free="batch"),
    )
    assert compared(one, other, most=0.0)[ERROR].passed


def test_other_inputs_are_an_error(tmp_path: Path) -> None:
    one = linear(tmp_path / "one.onnx", IDENTITY)
    for other in (
        linear(tmp_path / "named.onnx", IDENTITY, given="image"),
        linear(tmp_path / "wide.onnx", np.ones((4, 3))),
    ):
        with pytest.raises(ProfileError, match=r"different inputs: x float32 \[·, 3\] in"):
            compared(one, other)


def test_what_is_not_finite_is_an_error_on_either_side(tmp_path: Path) -> None:
    one, broken = linear(tmp_path / "one.onnx", IDENTITY), linear(tmp_path / "two.onnx", IDENTITY * np.nan)
    for sides in ((one, broken), (broken, one)):
        with pytest.raises(ProfileError, match=r"output `out` of `.*two.onnx` is not finite"):
            compared(*sides)


def test_a_file_that_went_away_since_is_an_error(tmp_path: Path) -> None:
    one = linear(tmp_path / "one.onnx", IDENTITY)
    (tmp_path / "one.onnx").unlink()
    with pytest.raises(ExportError, match="no such file"):
        compared(one, one)
