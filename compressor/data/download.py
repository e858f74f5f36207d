"""Download a file from the web into the cache, once.

It is written completely or not at all, and a process waits while another one downloads the same file.
A broken connection is tried again; a definite answer of the server, such as 404, is not. Not implemented:
detecting that the file at the address has changed; delete the cached copy for that.
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

# Listed because they are OSErrors too, and a full disk must not be retried as a network error.
_NETWORK = (URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


def is_address(name: str) -> bool:
    """True if ``name`` is a web address."""
    return name.startswith(("http://", "https://"))


def downloaded(url: str) -> Path:
    """Path of the cached copy of the file at ``url``, downloaded if needed."""
    name, key = PurePosixPath(urlsplit(url).path).name, key_of({"url": url})
    file = cache_root() / "downloads" / f"{key}-{name}"
    lock = cache_root() / "locks" / f"{key}.lock"
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # the lock file is not deleted: another process may be about to open it
            if not file.exists():
                _fetched(url, file)
    except OSError as error:
        raise CompressError(
            f"cannot write `{file}`: {error.strerror or error}",
            "free disk space, or set COMPRESS_CACHE to another folder",
        ) from error
    return file


def _fetched(url: str, file: Path) -> None:
    """Download, with a retry after each pause of ``PAUSES_S``."""
    for pause in (*PAUSES_S, None):
        try:
            _fetch(url, file)
        except _NETWORK as error:
            final = isinstance(error, HTTPError) and error.code not in _PASSING
            if pause is None or final:
                tries = "" if final else f", tried {len(PAUSES_S) + 1} times"
                raise CompressError(
                    f"cannot download `{url}`: {_reason(error)}{tries}",
                    "download it yourself, and give the path of the file instead of the address",
                ) from error
            time.sleep(pause)
        else:
            return


def _fetch(url: str, file: Path) -> None:
    with urlopen(url, timeout=_SILENCE_S) as answer, _appearing(file) as out:
        while piece := answer.read(_PIECE):
            out.write(piece)
        length = answer.headers.get("Content-Length")
        # A connection that is closed too early gives no error by itself.
        if length is not None and out.tell() != int(length):
            raise ConnectionError(f"it ended after {out.tell():,} of {int(length):,} bytes")


@contextmanager
def _appearing(file: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which gets its final name only if the block succeeds."""
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


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
