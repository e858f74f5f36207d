"""Curves that TensorBoard reads."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compressor.errors import CompressError
from compressor.run.tensorboard import Events


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return found


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    events = Events(tmp_path)
    for step, loss in ((10, 2.5), (300, 0.125), (2_000_000_000_000, 0.0)):
        events.add("student", step, {"loss": loss, "accuracy": 1 - loss})
    found = read(tmp_path / "student")
    assert sorted(found.Tags()["scalars"]) == ["accuracy", "loss"]
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(10, 2.5), (300, 0.125), (2 * 10**12, 0.0)]
    assert found.Scalars("accuracy")[1].value == 0.875


def test_trainings_have_curves_of_their_own(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.add("student", 1, {"loss": 1})
    events.add("assistant-1", 1, {"loss": 2})
    assert [e.value for e in read(tmp_path / "assistant-1").Scalars("loss")] == [2]


def test_what_a_killed_process_wrote_ahead_of_its_checkpoint_is_not_shown_twice(tmp_path: Path) -> None:
    killed = Events(tmp_path)
    for step in (10, 20, 30):
        killed.add("student", step, {"loss": step})
    resumed = Events(tmp_path)
    for step in (20, 30, 40):
        resumed.add("student", step, {"loss": -step})
    assert [e.value for e in read(tmp_path / "student").Scalars("loss")] == [10, -20, -30, -40]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    with pytest.raises(CompressError, match="cannot write"):
        Events(tmp_path / "events").add("student", 1, {"loss": 1})
