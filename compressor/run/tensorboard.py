"""Write scalars to TensorBoard event files, without TensorBoard.

    events/TRAINING/events.out.tfevents.SECONDS

A file is a sequence of records (length, checksum, content, checksum); a content is a protobuf `Event` with a time, a
step and scalars. Each process begins a new file, which tells TensorBoard to drop everything that an earlier, killed
process wrote from that step on. Pictures, histograms and graphs are not written.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from compressor.errors import CompressError

_VERSION = b"brain.Event:2"
_STARTED = b"\x08\x01"  # SessionLog.status = START


class Events:
    """The event files of one run, one for each training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}

    def add(self, training: str, step: int, scalars: Mapping[str, float]) -> None:
        """Write ``scalars`` of ``step``; they are on disk when this returns."""
        values = b"".join(
            _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in scalars.items()
        )
        try:
            if training not in self._files:
                self._files[training] = self._begun(training, step)
            self._files[training].write(_record(_event(step, _field(5, values))))
            self._files[training].flush()
        except OSError as error:
            raise CompressError(f"cannot write `{self.folder / training}`: {error.strerror}") from error

    def _begun(self, training: str, step: int) -> BinaryIO:
        folder = self.folder / training
        folder.mkdir(parents=True, exist_ok=True)
        number = int(time.time())
        while (path := folder / f"events.out.tfevents.{number}").exists():
            number += 1  # two processes in one second
        file = path.open("xb")
        file.write(_record(_event(0, _field(3, _VERSION))))
        file.write(_record(_event(step, _field(7, _STARTED))))
        return file


def _event(step: int, what: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + what


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, text or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*result, value))


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # CRC-32C, bits reversed
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def _checksum(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted as the format requires."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
