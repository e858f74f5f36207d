"""A training that is killed goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.distill import accuracy, checkpoint, train
from compressor.errors import CompressError

from .test_distill_loop import QUICK, one_thread, state_of, toy_data, toy_network  # noqa: F401


def log_of(trained):
    return [(epoch.loss, epoch.accuracy) for epoch in trained.history]


def killed_at(epoch, step):
    def progress(now):
        if (now.epoch, now.step) == (epoch, step):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("precision", "teacher", "threads"),
    [("fp32", None, 1), ("bf16", toy_network(7), 1), ("fp32", toy_network(7), 2)],
    ids=["labels", "teacher, bf16", "teacher, two threads"],
)
def test_a_killed_training_continued_ends_with_the_bits_of_an_unbroken_one(
    tmp_path, precision, teacher, threads
):
    torch.set_num_threads(threads)
    schedule = replace(QUICK, precision=precision, batch=140)
    run = (toy_network(), toy_data(), schedule)
    unbroken = train(*run, teacher=teacher, checkpoints=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(*run, teacher=teacher, checkpoints=tmp_path / "b", progress=killed_at(2, 2))
    continued = train(*run, teacher=teacher, checkpoints=tmp_path / "b")
    assert continued.resumed_from == 1
    assert unbroken.resumed_from is None
    assert state_of(continued.network) == state_of(unbroken.network)
    assert log_of(continued) == log_of(unbroken)
    tensors = [load_file(tmp_path / run / "last.safetensors") for run in "ab"]
    assert any(name.startswith("momentum.") for name in tensors[0])
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_checkpoints_do_not_change_the_training(tmp_path):
    without = train(toy_network(), toy_data(), QUICK)
    with_them = train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)
    assert state_of(without.network) == state_of(with_them.network)


@pytest.mark.parametrize("killed", ["best.safetensors", "last.safetensors"])
def test_a_training_killed_while_it_writes_either_file_goes_on(tmp_path, monkeypatch, killed):
    run = (toy_network(), toy_data(), replace(QUICK, learning_rate=0.003))
    unbroken = train(*run, checkpoints=tmp_path / "unbroken")
    assert unbroken.best_epoch > 1, "the toy must still improve when it is killed"
    written = []

    def killed_the_second_time(path, content):
        written.append(path.name)
        if written.count(killed) == 2:
            raise KeyboardInterrupt
        write(path, content)

    write = checkpoint.write_atomic
    monkeypatch.setattr(checkpoint, "write_atomic", killed_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        train(*run, checkpoints=tmp_path / "killed")
    monkeypatch.undo()
    continued = train(*run, checkpoints=tmp_path / "killed")
    assert continued.resumed_from == 1
    assert state_of(continued.network) == state_of(unbroken.network)
    best = [load_file(tmp_path / run / "best.safetensors") for run in ("killed", "unbroken")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[1])


def test_a_finished_training_is_not_run_again(tmp_path):
    run = (toy_network(), toy_data(), QUICK)
    first = train(*run, checkpoints=tmp_path)
    written = (tmp_path / "last.safetensors").stat().st_mtime_ns
    again = train(*run, checkpoints=tmp_path, progress=killed_at(1, 1))
    assert again.resumed_from == again.epochs == 3
    assert again.history == first.history
    assert state_of(again.network) == state_of(first.network)
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == written
    assert {path.name for path in tmp_path.iterdir()} == {"last.safetensors", "best.safetensors"}


def test_the_best_file_is_the_network_of_the_best_epoch(tmp_path):
    # A rate this high throws the network about, so that the last epoch need not be the best.
    trained = train(toy_network(), toy_data(), replace(QUICK, epochs=4), checkpoints=tmp_path)
    network = toy_network()
    network.load_state_dict(load_file(tmp_path / "best.safetensors"))
    assert accuracy(network, toy_data().test) == trained.best_accuracy
    assert trained.best_accuracy == max(epoch.accuracy for epoch in trained.history)
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        assert file.metadata()["epoch"] == str(trained.best_epoch)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schedule": replace(QUICK, learning_rate=0.01)}, "schedule"),
        ({"seed": 3}, "seed"),
        ({"network": toy_network(2)}, "network"),
        ({"teacher": toy_network(8)}, "teacher"),
        ({"teacher": None}, "teacher"),
        ({"data": replace(toy_data(), name="other")}, "data"),
        ({"network": toy_network(2), "seed": 3}, "seed, network"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path, change, named):
    given = {
        "network": toy_network(),
        "data": toy_data(),
        "schedule": replace(QUICK, epochs=2, batch=280),
        "teacher": toy_network(7),
        "seed": 0,
    }
    train(**given, checkpoints=tmp_path)
    with pytest.raises(CompressError, match=f"another training: it differs in {named}$") as caught:
        train(**given | change, checkpoints=tmp_path)
    assert "delete the folder" in caught.value.hint


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(CompressError, match=r"cannot read checkpoint `.*last\.safetensors`"):
        train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CompressError, match="is not a checkpoint of a training"):
        train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)


def test_tied_weights_and_unused_parameters_survive(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = toy_network()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.unused = nn.Linear(2, 2)

        def forward(self, images):
            return self.second(self.first(self.body(images)).relu())

    odd = Odd()
    unbroken = train(odd, toy_data(), QUICK)
    with pytest.raises(KeyboardInterrupt):
        train(odd, toy_data(), QUICK, checkpoints=tmp_path, progress=killed_at(3, 1))
    continued = train(odd, toy_data(), QUICK, checkpoints=tmp_path)
    assert state_of(continued.network) == state_of(unbroken.network)
    assert continued.network.first.weight is continued.network.second.weight
    assert torch.equal(continued.network.unused.weight, odd.unused.weight)
