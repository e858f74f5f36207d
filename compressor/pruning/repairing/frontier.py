"""Values between two layers, for every batch: in memory while they are few, beyond that in temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from compressor.errors import CompressError

LIMIT = 2**30
"""Bytes that are held in memory; what is more goes to files, so that memory does not grow with the images."""

Values = dict[str, dict[int, Tensor]]


class Frontier:
    """Gives a batch's values out once for each time that they were put in."""

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
        """Keep the values of a batch."""
        size = _size_of(values)
        if sum(self._bytes.values()) + size <= LIMIT:
            self._held[batch], self._bytes[batch] = values, size
            return
        path = self._path(batch)
        try:
            torch.save(values, path)  # unlike safetensors it keeps views of the same memory together
        except (OSError, RuntimeError) as error:
            raise CompressError(
                f"cannot write the values between two layers to `{path.parent}`: {error}",
                "set TMPDIR to a folder with more room, or lower repair.images",
            ) from error

    def take(self, batch: int) -> Values:
        """The values of a batch, which are kept no longer."""
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
    """The bytes of all memory that the tensors are views of."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensors in values.values()
        for tensor in tensors.values()
    }
    return sum(storages.values())
