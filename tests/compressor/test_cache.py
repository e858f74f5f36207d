"""The cache: what is put in comes out, and whatever is damaged counts as absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compressor.base.cache import cache_root, key_of, read_tensors, write_tensors


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def test_tensors_come_back_bit_for_bit() -> None:
    assert write_tensors("teachers", "key", TENSORS, {"seed": 0}) is None
    found = read_tensors("teachers", "key")
    assert found is not None
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_tied_and_transposed_tensors_can_be_stored() -> None:
    weight = torch.randn(4, 3)
    tied = {"a": weight, "b": weight, "t": weight.t()}
    assert write_tensors("teachers", "tied", tied, {}) is None
    found = read_tensors("teachers", "tied")
    assert found is not None
    assert all(torch.equal(found[name], tied[name]) for name in tied)


def test_what_is_not_there_is_absent() -> None:
    assert read_tensors("teachers", "nothing") is None


def test_kinds_and_keys_are_apart() -> None:
    write_tensors("teachers", "key", TENSORS, {})
    assert read_tensors("students", "key") is None
    assert read_tensors("teachers", "other") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"sha256": "0"}'])
def test_an_entry_with_a_damaged_description_is_absent(root: Path, content: str) -> None:
    write_tensors("teachers", "key", TENSORS, {})
    (root / "teachers" / "key" / "about.json").write_text(content)
    assert read_tensors("teachers", "key") is None


def test_an_entry_with_one_flipped_bit_is_absent_and_can_be_written_again(root: Path) -> None:
    write_tensors("teachers", "key", TENSORS, {})
    file = root / "teachers" / "key" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert read_tensors("teachers", "key") is None
    assert write_tensors("teachers", "key", TENSORS, {}) is None
    assert read_tensors("teachers", "key") is not None


def test_the_description_says_what_the_entry_was_made_of(root: Path) -> None:
    write_tensors("teachers", "key", TENSORS, {"seed": 7})
    assert json.loads((root / "teachers" / "key" / "about.json").read_text())["seed"] == 7


def test_a_cache_that_cannot_be_written_says_why_and_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "file"))
    reason = write_tensors("teachers", "key", TENSORS, {})
    assert reason is not None
    assert reason.startswith("cannot write")


def test_the_key_depends_on_every_ingredient_and_not_on_their_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert len({key_of({"a": 1}), key_of({"a": 2}), key_of({"b": 1}), key_of({"a": "1"})}) == 4


def test_the_usual_place_is_taken_when_none_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COMPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "compress-to-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "compress-to-edge"
