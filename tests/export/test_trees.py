"""Several inputs, and outputs in any form: a file names each tensor by the place where it stands."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.errors import CompressError, ExportError
from compressor.exporting import to_onnx
from compressor.exporting.trees import call_of, leaves

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.ones(2, 1, 6, 6)


@dataclass
class Found:
    boxes: Tensor
    scores: tuple[Tensor, Tensor]


class Tree(nn.Module):
    """Two convolutions, what they give in some form, and a second input that may be left out."""

    def __init__(self, form: Callable[[Tensor], Any] = lambda out: out) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.form = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3), form

    def forward(self, x: Tensor, more: Any = None, scale: float = 1.0) -> Any:
        out = self.a(x).relu() * scale
        if isinstance(more, dict):
            more = more["mask"] * more["pair"][0]
        return self.form(self.b(out if more is None else out * more))


FORMS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "a tensor": (lambda out: out, ["logits"]),
    "a tuple": (lambda out: (out, out.mean(1)), ["logits", "output_1"]),
    "a list": (lambda out: [out, out.mean(1)], ["logits", "output_1"]),
    "a dictionary": (lambda out: {"out": out, "aux": out.mean(1)}, ["out", "aux"]),
    "a dataclass": (lambda out: Found(out, (out.mean(1), out.sum(1))), ["boxes", "scores.0", "scores.1"]),
    "a nest": (lambda out: {"a": [out, {"b": out * 2}], "c": out.mean((1, 2, 3))}, ["a.0", "a.1.b", "c"]),
    "with nothing in places": (lambda out: {"out": out, "none": None, "number": 3}, ["out"]),
}


def run(path: Path, **arrays: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: tensor.numpy() for name, tensor in arrays.items()})
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize(("form", "names"), FORMS.values(), ids=FORMS)
def test_every_output_is_in_the_file_under_the_name_of_its_place(
    form: Callable[[Tensor], Any], names: list[str], tmp_path: Path
) -> None:
    network = Tree(form).eval()
    artifact = compressor.export(network, X, tmp_path / "tree.onnx")
    found = run(artifact.path, input=torch.cat([X, X, X]))
    assert list(found) == names
    with torch.no_grad():
        expected = dict(leaves(network(torch.cat([X, X, X])), ""))
    for (_, tensor), array in zip(expected.items(), found.values(), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("example", "names"),
    [
        ((X, Y), ["x", "more"]),
        ({"x": X, "more": Y}, ["x", "more"]),
        ({"more": Y, "x": X, "scale": 2.0}, ["more", "x"]),
        ((X, {"mask": Y, "pair": [Y * 2, None]}), ["x", "more.mask", "more.pair.0"]),
    ],
)
def test_several_inputs_have_the_names_of_their_arguments(
    example: Any, names: list[str], tmp_path: Path
) -> None:
    network = Tree().eval()
    artifact = compressor.export(network, example, tmp_path / "tree.onnx")
    session = onnxruntime.InferenceSession(str(artifact.path))
    assert [each.name for each in session.get_inputs()] == names
    assert all(each.shape[0] == "batch" for each in session.get_inputs())


def test_layers_keep_their_names_in_a_file_with_several_inputs(tmp_path: Path) -> None:
    import onnx

    artifact = to_onnx(Tree().eval(), (X, Y), tmp_path / "tree.onnx")
    model = onnx.load(artifact.path)
    assert {tensor.name for tensor in model.graph.initializer} == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert "a/Conv" in {node.name for node in model.graph.node}


def test_a_network_that_runs_one_batch_only_is_exported_for_it(tmp_path: Path) -> None:
    class One(nn.Module):
        only_batch = 2

        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1).relu()

    artifact = compressor.export(One().eval(), X, tmp_path / "one.onnx")
    assert onnxruntime.InferenceSession(str(artifact.path)).get_inputs()[0].shape == [2, 3, 8, 8]


def test_a_wrong_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    network = Tree(lambda out: {"out": out + next(calls)}).eval()
    with pytest.raises(CompressError, match=r"tree\.onnx equals PyTorch in ONNX Runtime: largest difference"):
        compressor.export(network, X, tmp_path / "tree.onnx")
    assert not list(tmp_path.iterdir())


def test_no_tensor_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the example has no tensor"):
        call_of(Tree(), (1, 2))
    with pytest.raises(ExportError, match="returns a int without a tensor"):
        compressor.export(Tree(lambda out: 3).eval(), X, tmp_path / "a.onnx")
