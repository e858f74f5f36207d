"""Who tells of a failure, and whom it is about."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import HashStore

from compressor.training.distributed import heartbeat
from compressor.training.distributed.heartbeat import Watch


@contextmanager
def beating(store: HashStore, *ranks: int) -> Iterator[None]:
    """Processes that live."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.2):
            for rank in ranks:
                store.add(f"beat/{rank}", 1)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_first_to_claim_tells_and_the_others_know_what_was_told() -> None:
    store = HashStore()
    first, second = Watch(store, 1, 2), Watch(store, 0, 2)
    assert second.told() is None
    assert first.claim("the disk is full", 1)
    assert not second.claim("a connection was closed", 1)
    assert second.told() == ("the disk is full", 1)


def test_a_process_that_beats_no_more_is_named_and_one_that_has_left_is_not() -> None:
    store = HashStore()
    mine = Watch(store, 0, 4)
    mine.doing = "`Distil`"
    for rank in range(4):
        store.add(f"beat/{rank}", 3)
    Watch(store, 3, 4)._store.add("beat/3", heartbeat.LEFT)
    with beating(store, 0, 1):
        assert mine.lost() == "process 2 of 0 to 3 ended without an error message, in `Distil`"
    with beating(store, 0, 1, 2):
        assert mine.lost() is None


def test_a_watch_beats_and_says_when_it_leaves() -> None:
    store = HashStore()
    mine = Watch(store, 0, 1)
    mine.start()
    until = time.monotonic() + 10
    while store.add("beat/0", 0) == 0:
        assert time.monotonic() < until
        time.sleep(0.05)
    mine.stop(well=True)
    assert store.add("beat/0", 0) > heartbeat.LEFT
