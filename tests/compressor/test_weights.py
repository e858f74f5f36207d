"""Weights from a file: every usual envelope, never code, and the first misfit named with both shapes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressor.errors import CompressError, UsageError
from compressor.models.weights import fit, load_weights, read_tensors


def network(seed: int = 0, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


ENVELOPES = {
    "nothing around it": lambda state: state,
    "a checkpoint": lambda state: {"state_dict": state, "epoch": 3},
    "a model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "a prefix of data parallel training": lambda state: {
        f"module.{name}": each for name, each in state.items()
    },
    "a checkpoint and the prefix": lambda state: {
        "model_state_dict": {f"module.{name}": each for name, each in state.items()}
    },
}


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_a_torch_file_is_read_from_its_envelope(tmp_path: Path, envelope: object) -> None:
    taught, fresh = network(1), network(2)
    torch.save(envelope(taught.state_dict()), tmp_path / "w.pth")  # type: ignore[operator]
    load_weights(fresh, tmp_path / "w.pth")
    assert same(taught, fresh)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_safetensors_file_is_read(tmp_path: Path, prefix: str) -> None:
    taught, fresh = network(1), network(2)
    save_file({prefix + name: each for name, each in taught.state_dict().items()}, tmp_path / "w.safetensors")
    load_weights(fresh, tmp_path / "w.safetensors")
    assert same(taught, fresh)


class Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.target, "owned"))


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, by_torch: bool) -> None:
    target, file = tmp_path / "owned", tmp_path / "w.pth"
    if by_torch:
        torch.save({"state_dict": Malice(target)}, file)
    else:
        file.write_bytes(pickle.dumps(Malice(target), protocol=2))
    with pytest.raises(CompressError, match=r"cannot read weights `.*w.pth` safely: ") as caught:
        read_tensors(file)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    assert "pickled modules are not loaded" in str(caught.value.hint)
    pickle.loads(pickle.dumps(Malice(target)))  # the trap does work on those who unpickle
    assert target.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pth")
    with pytest.raises(CompressError, match="safely") as caught:
        read_tensors(tmp_path / "w.pth")
    assert "save only the state dict" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CompressError, match=f"cannot read weights `.*{name}`"):
        read_tensors(tmp_path / name)


def test_no_file_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file") as caught:
        read_tensors(tmp_path / "absent.pth")
    assert "`pretrained`" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no weights file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1.0}, torch.zeros(2), {"state_dict": {"a": "b"}}])
def test_something_else_than_tensors_by_name_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(CompressError, match="expected a dictionary of tensors"):
        read_tensors(tmp_path / "w.pth")


def state() -> dict[str, Tensor]:
    return dict(network(1).state_dict())


def test_the_first_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    with pytest.raises(CompressError) as caught:
        fit(network(), network(classes=1000).state_dict(), "w.pth")
    assert (
        str(caught.value) == "w.pth does not fit: `3.weight` has shape (1000, 4), the network expects (5, 4)"
    )
    assert "another number of classes" in str(caught.value.hint)


def test_a_tensor_that_is_not_there_is_named() -> None:
    given = state()
    del given["0.bias"]
    with pytest.raises(CompressError, match=r"w.pth has no tensor `0.bias`, expected one of shape \(4,\)"):
        fit(network(), given, "w.pth")


def test_a_tensor_too_many_is_named() -> None:
    with pytest.raises(
        CompressError, match=r"has a tensor `9.weight` of shape \(2, 2\) that the network lacks"
    ):
        fit(network(), {**state(), "9.weight": torch.zeros(2, 2)}, "w.pth")


def test_old_files_without_the_counters_of_batch_norm_are_fine() -> None:
    given = state()
    del given["1.num_batches_tracked"]
    fresh = network(2)
    fit(fresh, given, "w.pth")
    assert torch.equal(fresh[3].weight, given["3.weight"])


def test_nothing_is_filled_in_when_something_does_not_fit() -> None:
    fresh, before = network(2), network(2)
    with pytest.raises(CompressError):
        fit(fresh, {**state(), "3.bias": torch.zeros(9)}, "w.pth")
    assert same(fresh, before)
