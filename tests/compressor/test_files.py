"""Nothing half-written is ever seen under its final name."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest

from compressor.base.files import folder_appearing_whole, sha256_of, write_atomic, write_json
from compressor.errors import CompressError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["text é\n", b"\x00\xff", ""])
def test_content_is_written_as_it_is_and_folders_are_made(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "a long old text")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_write_that_fails_leaves_what_was_there_and_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # a file cannot replace a folder that holds something
    (tmp_path / "file" / "old").write_text("old")
    with pytest.raises(CompressError, match=r"cannot write `.*file`: ") as caught:
        write_atomic(tmp_path / "file", "new")
    assert "existing files are unchanged" in str(caught.value.hint)
    assert (tmp_path / "file" / "old").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"a": object()})
    assert json.loads((tmp_path / "file").read_text()) == {"a": 1}
    assert names(tmp_path) == ["file"]


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_parent_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "parent").touch()
    with pytest.raises(CompressError, match=r"cannot write `.*parent/file`: "):
        write_atomic(tmp_path / "parent" / "file", "")
    with (
        pytest.raises(CompressError, match=r"cannot write `.*parent/folder`: "),
        folder_appearing_whole(tmp_path / "parent" / "folder"),
    ):
        pytest.fail("there is no place to write to")


def test_json_is_readable_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"name": "é"})
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{\n  "name": "é"\n}\n'


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with folder_appearing_whole(tmp_path / "folder") as scratch:
        (scratch / "one").touch()
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["one"]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_a_folder_replaces_an_old_one_completely(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with folder_appearing_whole(tmp_path / "folder") as scratch:
            (scratch / name).touch()
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


def fail_halfway(path: Path, error: type[BaseException]) -> None:
    with folder_appearing_whole(path) as scratch:
        (scratch / "new").touch()
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with folder_appearing_whole(tmp_path / "folder") as scratch:
        (scratch / "old").touch()
    with pytest.raises(error):
        fail_halfway(tmp_path / "folder", error)
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["folder"]


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
