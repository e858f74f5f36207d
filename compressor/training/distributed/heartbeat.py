"""A process that dies must not leave the others waiting: each beats once a second, and looks at its neighbour.

gloo notices a closed connection at once, nccl does not, and neither notices a machine that is gone. So a thread beats
in the store through which the processes found each other, and looks whether the next process beats too, whether another
has told of a failure, and whether SIGTERM came (torchrun sends it as soon as one process has failed; Python would hear
of it only when the collective that waits for the dead one returns). Whoever is the first to claim a failure tells the
user; the others leave without a word. Left out: processes that beat and do not compute. They end by the timeout of
the collective.
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
"""Long enough for every living process to beat at least twice."""
SILENT_S = 20.0
"""A neighbour that has not beaten for so long is gone. Python code that computes for long does not stop the thread."""
COMING_OUT_S = 5.0
"""So long the main thread may take to fail by itself; then the thread ends the process."""
LEFT = 1 << 40
"""Added to its beats by a process that has left as it should."""

HINT = "the same command goes on from the last checkpoint, also with another number of processes"


class TerminatedError(BaseException):
    """SIGTERM came. No `Exception`, because nothing on the way may take it for a failure of its own."""


class Watch:
    """The rule between calls: while it runs this process beats; ``doing`` is what to say of where it was."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.doing = "the start"
        self._store, self._rank, self._size = store, rank, size
        self._over, self._failing, self._terminated = threading.Event(), False, False
        self._woken, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._before: Any = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to beat, and take over SIGTERM where that can be done, in a main thread."""
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self._waker, False)
            signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
            self._before = signal.signal(signal.SIGTERM, self._on_terminate)
        self._thread.start()

    def stop(self, *, well: bool) -> None:
        """Beat no more; ``well`` tells the others that this is no failure."""
        self._over.set()
        if self._before is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, self._before)
        if well:
            self._thread.join()
            self._ask(lambda: self._store.add(f"beat/{self._rank}", LEFT))

    def claim(self, message: str, code: int) -> bool:
        """Whether this process is the first to tell of a failure; then it should."""
        if self._ask(lambda: self._store.add("claimed", 1)) not in (1, None):
            return False
        self._ask(lambda: self._store.set("word", json.dumps([message, code])))
        return True

    def told(self) -> tuple[str, int] | None:
        """What another process has told of, and the exit code of that."""
        word = self._ask(lambda: self._store.get("word") if self._store.check(["word"]) else None)
        if word is None:
            return None
        message, code = json.loads(word)
        return message, code

    def lost(self) -> str | None:
        """Why this process cannot go on, if it is for another one that is gone, or for a signal."""
        self._failing = True
        before = self._beats()
        time.sleep(LOOK_S)
        after = self._beats()
        if before is None or after is None:  # the store is a process too: the first one, or torchrun
            return f"process 0 ended without a word, in {self.doing}"
        gone = [rank for rank, beats in enumerate(after) if beats == before[rank] and beats < LEFT]
        if gone:
            who = f"process {gone[0]}" if len(gone) == 1 else f"processes {', '.join(map(str, gone))}"
            return f"{who} of 0 to {self._size - 1} ended without a word, in {self.doing}"
        return f"stopped by SIGTERM in {self.doing}" if self._terminated else None

    def _run(self) -> None:
        neighbour, seen, since = (self._rank + 1) % self._size, -1, time.monotonic()
        while not self._over.is_set():
            woken, _, _ = select.select([self._woken], [], [], BEAT_S)
            if woken and signal.SIGTERM in os.read(self._woken, 64):
                self._terminated = True
                self._end()
                continue
            mine = self._ask(lambda: self._store.add(f"beat/{self._rank}", 1))
            beats = self._ask(lambda: self._store.add(f"beat/{neighbour}", 0))
            now = time.monotonic()
            if beats != seen:
                seen, since = beats, now
            silent = now - since > SILENT_S and (beats is None or beats < LEFT)
            if silent or (mine is not None and self.told() is not None):
                self._end()

    def _end(self) -> None:
        """End this process if its main thread does not: it may wait for ever for the one that is gone."""
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
        """`lost`, from the thread that beats: it has to go on meanwhile."""
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
        found = [
            self._ask(lambda rank=rank: self._store.add(f"beat/{rank}", 0)) for rank in range(self._size)
        ]
        return None if None in found else found

    def _ask(self, question: Any) -> Any:
        """What the store says; nothing if it is gone. One at a time, because a client has one connection."""
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
