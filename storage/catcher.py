"""Catches rollback journals: a writer deletes its journal at the end of a commit, but not from under who has it open.

A thread that does nothing else opens each journal the moment it is created, and reads one that is emptied in place
(`journal_mode=TRUNCATE`) while it is being filled. No lock of SQLite's is on a journal, so opening and closing it harms
nobody. What is missed is noticed by the change counter, not here.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "linux":
    from inotify_simple import INotify, flags
else:
    INotify = None

MAX_BYTES = 64 << 20
PENDING = 512
MAGIC = 8
"""Bytes at the head of a journal that are zero when its transaction has ended."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Journals whose transaction has ended: deleted ones, the one that stays with its head wiped
    (`journal_mode=PERSIST`), and readings of one that is emptied in place, taken while it was being filled."""

    ended: list[bytes]
    wiped: bytes | None
    filled: list[bytes]


class JournalCatcher:
    """`start`, then `take` what was caught; `stop` ends the thread."""

    def __init__(self, path: Path) -> None:
        self._journal = Path(f"{path.absolute()}-journal")
        self._caught: deque[int] = deque()
        self._filled: deque[bytes] = deque(maxlen=PENDING)
        self._lock = threading.Lock()
        self._pipe = os.pipe()
        self._thread = threading.Thread(target=self._run, name="walcast-journals", daemon=True)
        self._inotify: INotify | None = None
        self._file = -1
        self._truncated: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether journals are being caught."""
        return self._inotify is not None

    def start(self) -> bool:
        """Start catching; whether this system can."""
        if INotify is None or self._inotify is not None:
            return self._inotify is not None
        try:
            self._inotify = INotify(nonblocking=True)
            self._inotify.add_watch(self._journal.parent, flags.CREATE | flags.MOVED_TO | flags.ONLYDIR)
        except OSError:
            self._inotify = None
            return False
        if (descriptor := self._open()) is not None:
            self._keep(descriptor)
        self._thread.start()
        return True

    def take(self) -> Caught:
        """What was caught since the last call. Call it while no commit is under way."""
        with self._lock:
            descriptors, self._caught = list(self._caught), deque()
            filled = list(self._filled)
            self._filled.clear()
        ended: list[bytes] = []
        stays: list[int] = []
        for descriptor in descriptors:
            if os.fstat(descriptor).st_nlink:
                stays.append(descriptor)
            else:
                ended.append(_content(descriptor))
                if descriptor == self._truncated:
                    self._truncated = None
                os.close(descriptor)
        wiped = self._look_at(stays[-1]) if stays else None
        with self._lock:
            self._caught.extendleft(reversed(stays))
        return Caught(ended, wiped, filled)

    def _look_at(self, descriptor: int) -> bytes | None:
        """A journal that is still there: in use, or one that stays from commit to commit."""
        head = os.pread(descriptor, MAGIC, 0)
        if any(head):
            return None
        if self._truncated is None and not head:
            self._truncated = descriptor
            self._watch_file()
        return _content(descriptor) or None

    def stop(self) -> None:
        """End the thread and close what was caught; safe to call twice."""
        if self._thread.ident is not None:
            os.write(self._pipe[1], b"\0")
            self._thread.join()
        for descriptor in (*self._caught, *self._pipe):
            with suppress(OSError):
                os.close(descriptor)
        self._caught.clear()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    # -- the thread

    def _run(self) -> None:
        inotify = self._inotify
        assert inotify is not None
        poll = select.poll()
        poll.register(inotify.fileno(), select.POLLIN)
        poll.register(self._pipe[0], select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._pipe[0] in ready:
                return
            # Open first, ask what happened later: the journal lives for a millisecond.
            descriptor = self._open()
            events = list(inotify.read(timeout=0))
            created = any(event.name == self._journal.name for event in events)
            if descriptor is not None and created:
                self._keep(descriptor)
            elif descriptor is not None:
                os.close(descriptor)
            if any(event.wd == self._file and not event.mask & flags.IGNORED for event in events):
                self._read_filling()

    def _open(self) -> int | None:
        try:
            return os.open(self._journal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def _keep(self, descriptor: int) -> None:
        with self._lock:
            self._caught.append(descriptor)
            spare = self._caught.popleft() if len(self._caught) > PENDING else None
        if spare is not None:
            os.close(spare)

    def _watch_file(self) -> None:
        """A journal that stays is written in place: watch it for as long as it is there."""
        assert self._inotify is not None
        with suppress(OSError):
            self._file = self._inotify.add_watch(self._journal, flags.MODIFY)

    def _read_filling(self) -> None:
        """What a journal that is emptied in place holds just now."""
        with self._lock:
            if self._truncated is not None and (content := _content(self._truncated)):
                self._filled.append(content)


def _content(descriptor: int) -> bytes:
    """A journal from its start; empty if it is too big to be worth reading."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size <= MAX_BYTES else b""
