"""Shards from the web: brought once and whole, tried again where that may help, and named where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from compressor.data import download, load_data
from compressor.data.download import downloaded
from compressor.errors import CompressError
from compressor.recipe import DataRecipe
from tests.compressor.pictures import write_shard, write_shards


class Web(SimpleHTTPRequestHandler):
    """A server of files, some of whose first answers go wrong."""

    asked: list[str] = []  # noqa: RUF012
    wrong: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        how = self.wrong.pop() if self.wrong else ""
        if how.isdigit():
            self.send_error(int(how))
        elif how == "short":
            self.send_response(200)
            self.send_header("Content-Length", "10000")
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        elif how == "silent":
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing among the tests."""


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the folder ``tmp_path/web``."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "web").mkdir()
    Web.asked.clear()
    Web.wrong.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=tmp_path / "web")) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _left(tmp_path: Path) -> list[str]:
    """What lies in the folder of downloads, by name, without the hash in front of it."""
    return sorted(file.name.partition("-")[2] for file in (tmp_path / "cache/downloads").iterdir())


def test_shards_at_addresses_are_downloaded_once(tmp_path: Path, web: str) -> None:
    write_shards(tmp_path / "web", 4, 3)
    recipe = DataRecipe(f"{web}/x-{{00..03}}.tar", size=8)
    data = load_data(recipe)
    assert len(data.train) + len(data.test) == 12
    assert sorted(Web.asked) == [f"/x-0{number}.tar" for number in range(4)]
    first = [batch.index.tolist() for batch in data.train.batches(3, shuffle=1)]
    assert first == [batch.index.tolist() for batch in load_data(recipe).train.batches(3, shuffle=1)]
    assert len(Web.asked) == 4
    assert _left(tmp_path) == [f"x-0{number}.tar" for number in range(4)]


def test_a_shard_is_named_by_its_address(tmp_path: Path, web: str) -> None:
    write_shards(tmp_path / "web", 2, 3)
    (tmp_path / "web/x-02.tar").write_bytes(b"no tar file" * 100)
    recipe = DataRecipe(f"{web}/x-{{01..02}}.tar", test=f"{web}/x-00.tar", size=8)
    (bad,) = load_data(recipe).train.bad
    assert bad.name == f"{web}/x-02.tar"


@pytest.mark.parametrize("how", ["short", "silent", "503", "429"])
def test_a_line_that_breaks_is_tried_again(tmp_path: Path, web: str, how: str) -> None:
    file = write_shard(tmp_path / "web/x.tar")
    Web.wrong.extend([how, how])
    assert downloaded(f"{web}/x.tar").read_bytes() == file.read_bytes()
    assert len(Web.asked) == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("short", r"it ended after 5,000 of 10,000 bytes, tried 3 times"),
        ("503", "HTTP 503 Service Unavailable, tried 3 times"),
    ],
)
def test_a_line_that_stays_broken_is_an_error_that_leaves_nothing(
    tmp_path: Path, web: str, how: str, said: str
) -> None:
    Web.wrong.extend([how] * 3)
    with pytest.raises(CompressError, match=f"cannot download `{web}/x.tar`: {said}"):
        downloaded(f"{web}/x.tar")
    assert _left(tmp_path) == []


def test_what_is_not_there_is_not_asked_for_again(web: str) -> None:
    with pytest.raises(CompressError, match=r"HTTP 404 File not found$"):
        load_data(DataRecipe(f"{web}/x-{{0..0}}.tar"))
    assert len(Web.asked) == 1


@pytest.mark.usefixtures("web")
def test_nobody_listening_is_an_error() -> None:
    with pytest.raises(CompressError, match=r"cannot download `http://127.0.0.1:1/x.tar`: .*refused"):
        downloaded("http://127.0.0.1:1/x.tar")


def test_those_who_ask_at_once_download_once(tmp_path: Path, web: str) -> None:
    write_shard(tmp_path / "web/x.tar")
    with ThreadPoolExecutor(6) as pool:
        files = set(pool.map(downloaded, [f"{web}/x.tar"] * 6))
    assert len(files) == len(Web.asked) == 1


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(CompressError, match="cannot write") as caught:
        downloaded(f"{web}/x.tar")
    assert "COMPRESS_CACHE" in str(caught.value.hint)
