"""How a student begins: cut, proved, repaired, and the repair kept with the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.artifacts.student import same_bits
from compressor.data.split import Data, Part
from compressor.methods import start as starting
from compressor.methods.start import begun, images_of
from compressor.recipe.distilling import Distilling
from compressor.recipe.repair import Repairing
from compressor.training import accuracy

from .stripes import SCHEDULE, task_for


def test_a_repaired_student_is_right_before_it_learns(teacher: nn.Module, data: Data, tmp_path: Path) -> None:
    task = task_for(teacher, data, tmp_path, Distilling("kd", schedule=SCHEDULE))
    start = begun(task)
    merely = begun(replace(task, repairing=Repairing(0)))
    assert start.is_repaired
    assert start.repair is not None
    assert start.repair["images"] == 128
    assert start.accuracy == accuracy(start.network, data.test)
    assert merely.accuracy is not None
    assert start.accuracy >= merely.accuracy
    assert merely.repair is None
    names = [check.name for check in start.checks]
    assert names[-1] == "repaired network computes what was fitted"
    assert "cut equals silenced teacher" in names[:-1]  # proved before anything was fitted


def test_a_repair_is_kept_with_the_run_and_made_again_where_the_file_is_damaged(
    teacher: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_for(teacher, data, tmp_path, Distilling("kd", schedule=SCHEDULE))
    once = begun(task)
    (kept,) = (tmp_path / "student").glob("repaired-*.safetensors")
    content = bytearray(kept.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(starting, "repaired", None)  # it would be an error to call it
        again = begun(task)
    assert same_bits(once.network, again.network)
    assert again.repair == once.repair
    content[-3] ^= 1
    kept.write_bytes(content)
    anew = begun(task)
    assert same_bits(once.network, anew.network)
    other = begun(replace(task, repairing=Repairing(64)))
    assert other.repair is not None
    assert other.repair["images"] == 64


def test_images_are_as_many_as_asked_for_each_once_and_in_pieces_for_many_processes(data: Data) -> None:
    numbered = list(images_of(data, 70, 3))
    assert [first for first, _ in numbered] == [0, 32, 64]
    assert [len(inputs.tensors[0]) for _, inputs in numbered] == [32, 32, 6]
    whole = torch.cat([inputs.tensors[0] for _, inputs in numbered])
    pieces: dict[int, torch.Tensor] = {}
    for number in range(3):
        found = images_of(data, 70, 3, Part(number, 3))
        pieces |= {first: inputs.tensors[0] for first, inputs in found}
    assert torch.equal(torch.cat([pieces[first] for first in sorted(pieces)]), whole)
