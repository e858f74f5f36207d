"""A training that is killed goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compressor.errors import CompressError
from compressor.training import checkpoint, course, train

from .test_training_loop import QUICK, one_thread, state_of, toy_data, toy_network  # noqa: F401


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(course, "CHECKPOINT_S", 0.0)


def log_of(trained):
    return [(epoch.loss, epoch.accuracy) for epoch in trained.history]


def killed_at(epoch, step):
    def progress(now):
        if (now.epoch, now.step) == (epoch, step):
            raise KeyboardInterrupt

    return progress


def files(folder):
    return sorted(path.name for path in folder.iterdir())


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
    assert continued.resumed_from == 2  # steps: one epoch of two
    assert unbroken.resumed_from is None
    assert state_of(continued.network) == state_of(unbroken.network)
    assert log_of(continued) == log_of(unbroken)
    name = "000003-00000000.safetensors"
    tensors = [load_file(tmp_path / run / name) for run in "ab"]
    assert any(name.startswith("optimizer.momentum_buffer.") for name in tensors[0])
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.003},
        {"mix": ("mixup=0.2", "cutmix=1.0")},
        {"optimizer": "rmsprop", "learning_rate": 0.003, "label_smoothing": 0.1},
    ],
    ids=["sgd", "adamw", "mixed pictures", "rmsprop"],
)
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_training_killed_within_an_epoch_goes_on_at_that_very_step(tmp_path, often, step, change):
    run = (toy_network(), toy_data(), replace(QUICK, epochs=2, **change))
    unbroken = train(*run, teacher=toy_network(7))
    with pytest.raises(KeyboardInterrupt):
        train(*run, teacher=toy_network(7), checkpoints=tmp_path, progress=killed_at(2, step))
    steps = []
    continued = train(
        *run,
        teacher=toy_network(7),
        checkpoints=tmp_path,
        progress=lambda now: steps.append((now.epoch, now.step)),
    )
    assert continued.resumed_from == 8 + step - 1  # the checkpoint of the step comes after it is told
    assert steps[0] == (2, step)
    assert state_of(continued.network) == state_of(unbroken.network)
    assert log_of(continued) == log_of(unbroken)


def test_checkpoints_do_not_change_the_training(tmp_path, often):
    without = train(toy_network(), toy_data(), QUICK)
    with_them = train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)
    assert state_of(without.network) == state_of(with_them.network)


@pytest.mark.parametrize("killed", [".safetensors", ".json"])
def test_a_training_killed_while_it_writes_either_file_goes_on(tmp_path, monkeypatch, killed):
    run = (toy_network(), toy_data(), QUICK)
    unbroken = train(*run)
    written = []

    def killed_the_third_time(path, content):
        written.append(path.suffix)
        if written.count(killed) == 3:
            raise KeyboardInterrupt
        write(path, content)

    write = checkpoint.write_atomic
    monkeypatch.setattr(checkpoint, "write_atomic", killed_the_third_time)
    with pytest.raises(KeyboardInterrupt):
        train(*run, checkpoints=tmp_path)
    monkeypatch.undo()
    continued = train(*run, checkpoints=tmp_path)
    assert continued.resumed_from == 8
    assert state_of(continued.network) == state_of(unbroken.network)


def test_a_finished_training_is_not_run_again_and_two_checkpoints_stay(tmp_path):
    run = (toy_network(), toy_data(), QUICK)
    first = train(*run, checkpoints=tmp_path)
    names = files(tmp_path)
    assert names == [
        f"{name}{suffix}"
        for name in ("000002-00000000", "000003-00000000")
        for suffix in (".json", ".safetensors")
    ]
    written = (tmp_path / names[-1]).stat().st_mtime_ns
    again = train(*run, checkpoints=tmp_path, progress=killed_at(1, 1))
    assert again.resumed_from == 24
    assert again.history == first.history
    assert state_of(again.network) == state_of(first.network)
    assert (tmp_path / names[-1]).stat().st_mtime_ns == written


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "gone"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, suffix, damage):
    run = (toy_network(), toy_data(), QUICK)
    unbroken = train(*run)
    with pytest.raises(KeyboardInterrupt):
        train(*run, checkpoints=tmp_path, progress=killed_at(3, 2))
    last = tmp_path / f"000002-00000000{suffix}"
    content = bytearray(last.read_bytes())
    if damage == "gone":
        last.unlink()
    elif damage == "cut short":
        last.write_bytes(content[: len(content) // 2])
    else:
        content[-20] ^= 1
        last.write_bytes(content)
    silent = damage == "gone" and suffix == ".json"  # a checkpoint without its description was never finished
    if damage == "a flipped bit" and suffix == ".json":
        pytest.skip(
            "a description has no checksum; whatever JSON makes of the bit is another history or an error"
        )
    continued = train(*run, checkpoints=tmp_path)
    assert continued.resumed_from == 8
    assert state_of(continued.network) == state_of(unbroken.network)
    assert bool(continued.warnings) is not silent
    if not silent:
        assert "`000002-00000000`" in continued.warnings[0]
        assert "resumed from `000001-00000000`, the one before" in continued.warnings[0]


def test_a_folder_in_which_every_checkpoint_is_damaged_is_refused(tmp_path):
    train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"half a file")
    with pytest.raises(CompressError, match=r"`000003-00000000` in `.*` is damaged .* no other is left"):
        train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps({"schema": 0}))
    with pytest.raises(CompressError, match="its JSON file is not of this version"):
        train(toy_network(), toy_data(), QUICK, checkpoints=tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schedule": replace(QUICK, epochs=2, batch=280, learning_rate=0.01)},
         "`schedule.learning_rate` differs: 0.05 in the checkpoint, 0.01 now"),
        ({"seed": 3}, "`seed` differs: 0 in the checkpoint, 3 now"),
        ({"network": toy_network(2)}, "`network` differs"),
        ({"teacher": toy_network(8)}, "`teacher` differs"),
        ({"teacher": None}, "`teacher` differs"),
        ({"data": replace(toy_data(), name="other")}, "`data` differs"),
        ({"network": toy_network(2), "seed": 3}, "`seed` differs: 0 in the checkpoint, 3 now"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused_by_the_first_key_that_differs(tmp_path, change, named):
    given = {
        "network": toy_network(),
        "data": toy_data(),
        "schedule": replace(QUICK, epochs=2, batch=280),
        "teacher": toy_network(7),
        "seed": 0,
    }
    train(**given, checkpoints=tmp_path)
    with pytest.raises(CompressError, match=f"belong to another training: {named}") as caught:
        train(**given | change, checkpoints=tmp_path)
    assert "delete the folder" in caught.value.hint


def test_an_optimizer_whose_state_no_checkpoint_holds_is_named(tmp_path):
    class Remembering(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["past"] = [1]

    torch.optim.Remembering = Remembering
    try:
        with pytest.raises(
            CompressError, match="optimizer `Remembering` has a list \\(`past`\\) in its state"
        ):
            train(toy_network(), toy_data(), replace(QUICK, optimizer="remembering"), checkpoints=tmp_path)
    finally:
        del torch.optim.Remembering


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
