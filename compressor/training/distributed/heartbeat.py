"""Detect a process that died, so that the others do not wait for it: each sends a heartbeat once a second.

gloo notices a closed connection at once, nccl does not, and neither notices a machine that is gone. So a thread counts
heartbeats in the store through which the processes found each other, and checks the heartbeat of the next process, a
failure reported by another one, and SIGTERM (torchrun sends it as soon as one process has failed; Python would handle
it only when the collective that waits for the dead process returns). The first process to claim a failure prints the
message; the others exit silently. Not detected: processes that send heartbeats and do not compute. The timeout of the
collective ends these.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from types import FrameType
from typing import Any

from compressor.base.console import complain

BEAT_S = 1.0
LOOK_S = 3.5
"""Time between two looks at all heartbeats: long enough for at least two of every living process."""
SILENT_S = 20.0
"""A neighbour without a heartbeat for this time is gone. Long computations in Python do not stop the thread."""
COMING_OUT_S = 5.0
"""Time for the main thread to fail by itself; then the thread ends the process."""
LEFT = 1 << 40
"""Added to the heartbeat count of a process that ended normally."""

HINT = (
    "run the same command again: it resumes from the last checkpoint, also with another number of processes"
)


class TerminatedError(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that no `except Exception` treats it as a failure of its own."""


class Watch:
    """Heartbeat thread of this process. ``doing``: the current step of the run, for error messages."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.doing = "the start"
        self._store, self._rank, self._size = store, rank, size
        self._over, self._failing, self._terminated = threading.Event(), False, False
        self._woken, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._before: Any = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the heartbeat; if called in the main thread, also handle SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self._waker, False)
            signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
            self._before = signal.signal(signal.SIGTERM, self._on_terminate)
        self._thread.start()

    def stop(self, *, well: bool) -> None:
        """Stop the heartbeat; with ``well`` the others see that this is not a failure."""
        self._over.set()
        if self._before is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self._before)
        if well:
            self._thread.join()
            self._ask(lambda: self._store.add(f"beat/{self._rank}", LEFT))

    def claim(self, message: str, code: int) -> bool:
        """Claim the right to report a failure; True for the first process, which must then print the message."""
        if self._ask(lambda: self._store.add("claimed", 1)) not in (1, None):
            return False
        self._ask(lambda: self._store.set("word", json.dumps([message, code])))
        return True

    def told(self) -> tuple[str, int] | None:
        """Message and exit code of the failure that another process reported."""
        word = self._ask(lambda: self._store.get("word") if self._store.check(["word"]) else None)
        if word is None:
            return None
        message, code = json.loads(word)
        return message, code

    def lost(self) -> str | None:
        """The reason, if this process must end because another one died or because of SIGTERM. Takes ``LOOK_S``."""
        self._failing = True
        before = self._beats()
        time.sleep(LOOK_S)
        after = self._beats()
        if before is None or after is None:  # the store is a process too: the first one, or torchrun
            return f"process 0 ended without an error message, in {self.doing}"
        gone = [rank for rank, beats in enumerate(after) if beats == before[rank] and beats < LEFT]
        if gone:
            names = f"process {gone[0]}" if len(gone) == 1 else f"processes {', '.join(map(str, gone))}"
            return f"{names} of 0 to {self._size - 1} ended without an error message, in {self.doing}"
        return f"stopped by SIGTERM in {self.doing}" if self._terminated else None

    def _run(self) -> None:
        neighbour, last_beats, since = (self._rank + 1) % self._size, -1, time.monotonic()
        while not self._over.is_set():
            woken, _, _ = select.select([self._woken], [], [], BEAT_S)
            if woken and signal.SIGTERM in os.read(self._woken, 64):
                self._terminated = True
                self._end()
                continue
            own_beats = self._ask(lambda: self._store.add(f"beat/{self._rank}", 1))
            beats = self._ask(lambda: self._store.add(f"beat/{neighbour}", 0))
            now = time.monotonic()
            if beats != last_beats:
                last_beats, since = beats, now
            silent = now - since > SILENT_S and (beats is None or beats < LEFT)
            if silent or (own_beats is not None and self.told() is not None):
                self._end()

    def _end(self) -> None:
        """End this process if its main thread does not: that may wait forever for the dead process."""
        until = time.monotonic() + COMING_OUT_S + LOOK_S
        while time.monotonic() < until:
            if self._over.wait(BEAT_S):
                return
            self._ask(lambda: self._store.add(f"beat/{self._rank}", 1))
        if self.told() is None:
            message = self.lost_beating() or f"another process failed in {self.doing}"
            if not self._over.is_set() and self.claim(message, 1):
                complain(message, HINT)
        os._exit(1)

    def lost_beating(self) -> str | None:
        """`lost`, called in the heartbeat thread: another thread sends the heartbeat meanwhile."""
        beating = threading.Event()

        def beat() -> None:
            while not beating.wait(BEAT_S):
                self._ask(lambda: self._store.add(f"beat/{self._rank}", 1))

        threading.Thread(target=beat, daemon=True).start()
        try:
            return self.lost()
        finally:
            beating.set()

    def _beats(self) -> list[int] | None:
        """Heartbeat counts of all processes, or None if the store is gone."""
        counts = [
            self._ask(lambda rank=rank: self._store.add(f"beat/{rank}", 0)) for rank in range(self._size)
        ]
        return None if None in counts else counts

    def _ask(self, question: Any) -> Any:
        """Result of a store operation, or None if the store is gone. Locked, because a client has one connection."""
        with self._lock:
            try:
                return question()
            except Exception:
                return None

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        if not self._failing:
            self._failing = True
            raise TerminatedError
