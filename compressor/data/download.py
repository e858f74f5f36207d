"""A file at an address on the web, brought into the cache once.

It appears there whole or not at all, and a process that finds another one at it waits. A line that
breaks is tried again; what the server says for certain is not. Left out: noticing that the file has
changed at its address since; remove the cache's copy for that.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock

from compressor.base.cache import cache_root, key_of
from compressor.errors import CompressError

PAUSES_S = (1.0, 5.0)
"""Seconds before the second try and the third."""

_SILENCE_S = 60.0
_PIECE = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}

# A certificate that fails and a line that breaks are errors of the system too, as a full disk is.
_NETWORK = (URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


def is_address(name: str) -> bool:
    """Whether this is to be downloaded."""
    return name.startswith(("http://", "https://"))


def downloaded(url: str) -> Path:
    """The cache's copy of the file at ``url``."""
    name, key = PurePosixPath(urlsplit(url).path).name, key_of({"url": url})
    file = cache_root() / "downloads" / f"{key}-{name}"
    lock = cache_root() / "locks" / f"{key}.lock"
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # its file stays: another process may be about to open it
            if not file.exists():
                _fetched(url, file)
    except OSError as error:
        raise CompressError(
            f"cannot write `{file}`: {error.strerror or error}", "free space, or set COMPRESS_CACHE elsewhere"
        ) from error
    return file


def _fetched(url: str, file: Path) -> None:
    for pause in (*PAUSES_S, None):
        try:
            _fetch(url, file)
        except _NETWORK as error:
            certain = isinstance(error, HTTPError) and error.code not in _PASSING
            if pause is None or certain:
                tries = "" if certain else f", tried {len(PAUSES_S) + 1} times"
                raise CompressError(
                    f"cannot download `{url}`: {_said(error)}{tries}",
                    "or download it yourself, and name the files",
                ) from error
            time.sleep(pause)
        else:
            return


def _fetch(url: str, file: Path) -> None:
    with urlopen(url, timeout=_SILENCE_S) as answer, _appearing(file) as out:
        while piece := answer.read(_PIECE):
            out.write(piece)
        promised = answer.headers.get("Content-Length")
        # A line that ends too early ends as quietly as one that ends in time.
        if promised is not None and out.tell() != int(promised):
            raise ConnectionError(f"it ended after {out.tell():,} of {int(promised):,} bytes")


@contextmanager
def _appearing(file: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only if the block succeeds."""
    handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(scratch, file)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _said(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
