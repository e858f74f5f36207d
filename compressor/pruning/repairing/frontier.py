"""Store the values between two layers for every batch: in memory up to a limit, then in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from compressor.errors import CompressError

LIMIT = 2**30
"""Bytes held in memory; the rest goes to files, so that memory does not grow with the number of images."""

Values = dict[str, dict[int, Tensor]]


class Frontier:
    """A store of each batch's values; ``take`` removes them, so they must be put again to be taken again."""

    def __init__(self) -> None:
        self._held: dict[int, Values] = {}
        self._bytes: dict[int, int] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Frontier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, batch: int, values: Values) -> None:
        """Store the values of a batch."""
        size = _size_of(values)
        if sum(self._bytes.values()) + size <= LIMIT:
            self._held[batch], self._bytes[batch] = values, size
            return
        path = self._path(batch)
        try:
            torch.save(values, path)  # unlike safetensors it stores views of the same memory only once
        except (OSError, RuntimeError) as error:
            raise CompressError(
                f"cannot write the values between two layers to `{path.parent}`: {error}",
                "set TMPDIR to a folder with more space, or lower repair.images",
            ) from error

    def take(self, batch: int) -> Values:
        """Return the values of a batch and remove them from the store."""
        if batch in self._held:
            del self._bytes[batch]
            return self._held.pop(batch)
        values: Values = torch.load(self._path(batch), weights_only=True)
        return values

    def _path(self, batch: int) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="compress-repair-")
        return Path(self._folder.name) / f"{batch}.pt"


def _size_of(values: Values) -> int:
    """The bytes of all memory that the tensors refer to; shared memory counts once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensors in values.values()
        for tensor in tensors.values()
    }
    return sum(storages.values())
