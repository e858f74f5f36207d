"""ExecuTorch programs: written, run, and refused with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import FORMATS, Asked, EngineAsk, open_program

from .networks import DepthwiseWithGate, Residual, settled
from .test_int8 import IMAGES
from .test_onnx import EXAMPLE

pytest.importorskip("executorch", reason="executorch is not installed")


@pytest.mark.parametrize("kind", [Residual, DepthwiseWithGate])
def test_a_program_answers_as_its_network_for_any_number_of_images(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    network = settled(kind()).eval()
    asked = Asked(engine=EngineAsk(batches=(1, 1, 4)))
    artifact = FORMATS["executorch"].function(network, EXAMPLE, tmp_path / "n.pte", asked)
    session = open_program(artifact.path)

    assert (artifact.format, artifact.precision) == ("executorch", "fp32")
    assert session.batches == (1, 4)
    images = np.concatenate([IMAGES[:6], IMAGES[:3]])
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    # Single precision, sums in another order.
    np.testing.assert_allclose(session.answers(images), expected, rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["n.pte"]


def test_more_images_than_were_planned_for_are_an_error_and_not_a_crash(tmp_path: Path) -> None:
    asked = Asked(engine=EngineAsk(batches=(1, 1, 2)))
    network = settled(Residual()).eval()
    path = FORMATS["executorch"].function(network, EXAMPLE, tmp_path / "n.pte", asked).path
    with pytest.raises(ExportError, match="cannot run"):
        open_program(path)(input=IMAGES[:5])


@pytest.mark.parametrize("content", [b"", b"no program", b"\x00" * 4096])
def test_what_is_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "n.pte").write_bytes(content)
    with pytest.raises(ExportError, match="cannot open"):
        open_program(tmp_path / "n.pte")


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        open_program(tmp_path / "n.pte")


class Counting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_network_that_cannot_be_captured_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot export `Counting` to ExecuTorch"):
        FORMATS["executorch"].function(Counting(), EXAMPLE, tmp_path / "n.pte", Asked())
    assert not list(tmp_path.iterdir())
