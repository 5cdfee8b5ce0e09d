"""Catches rollback journals: a writer deletes its journal at the end of a commit, but not from under who has it open.

A thread that does nothing else opens each journal the moment it is created. No lock of SQLite's is on a journal, so
opening and closing it harms nobody. A journal that is emptied in place (`journal_mode=TRUNCATE`) cannot be caught: what
is read of it before its end does not prove that nothing was added after.
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
    from inotify_simple import Event, INotify, flags
else:
    INotify = None

MAX_BYTES = 64 << 20
PENDING = 512
MAGIC = 8
"""Bytes at the head of a journal that are zero when its transaction has ended."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Journals whose transaction has ended: deleted ones, and the one that stays with its head wiped
    (`journal_mode=PERSIST`).

    `missed` journals were created and not caught. The journal of a transaction that was rolled back looks like that
    of a commit, so if even one was missed, those that were caught prove nothing.
    """

    missed: int
    ended: list[bytes]
    wiped: bytes | None


class JournalCatcher:
    """`start`, then `take` what was caught; `stop` ends the thread."""

    def __init__(self, path: Path) -> None:
        self._journal = Path(f"{path.absolute()}-journal")
        self._caught: deque[int] = deque()
        self._lock = threading.Lock()
        self._pipe: tuple[int, ...] = os.pipe()
        self._thread = threading.Thread(target=self._run, name="walcast-journals", daemon=True)
        self._inotify: INotify | None = None
        self._created = self._opened = 0

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
            # Deletions are watched to keep creations apart: the kernel joins equal events that follow one another.
            self._inotify.add_watch(self._journal.parent, flags.CREATE | flags.DELETE | flags.ONLYDIR)
        except OSError:
            self._inotify = None
            return False
        if (descriptor := self._open()) is not None:
            self._caught.append(descriptor)
        self._thread.start()
        return True

    def take(self) -> Caught:
        """What was caught since the last call. Call it while no commit is under way."""
        with self._lock:
            self._catch()  # whatever has ended has been announced: count it before judging
            descriptors, self._caught = list(self._caught), deque()
            missed, self._created, self._opened = self._created - self._opened, 0, 0
        ended: list[bytes] = []
        stays: list[int] = []
        for descriptor in descriptors:
            if os.fstat(descriptor).st_nlink:
                stays.append(descriptor)
            else:
                ended.append(_content(descriptor))
                os.close(descriptor)
        wiped = self._look_at(stays[-1]) if stays else None
        with self._lock:
            self._caught.extendleft(reversed(stays))
        return Caught(missed, ended, wiped)

    @staticmethod
    def _look_at(descriptor: int) -> bytes | None:
        """A journal that is still there: in use, or one that stays from commit to commit."""
        return None if any(os.pread(descriptor, MAGIC, 0)) else _content(descriptor) or None

    def stop(self) -> None:
        """End the thread and close what was caught; safe to call twice."""
        if self._thread.is_alive():
            os.write(self._pipe[1], b"\0")
            self._thread.join()
        # Each once: the number of a closed descriptor may be that of a database by now.
        closing, self._pipe = [*self._caught, *self._pipe], ()
        self._caught.clear()
        for descriptor in closing:
            os.close(descriptor)
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    # -- the thread

    def _run(self) -> None:
        assert self._inotify is not None
        with suppress(OSError, AttributeError):  # a journal lives for a millisecond: be first in line, if we may
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.register(self._pipe[0], select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._pipe[0] in ready:
                return
            with self._lock:
                self._catch()

    def _catch(self) -> None:
        """Open first, ask what happened later: the journal lives for a millisecond."""
        if self._inotify is None:
            return
        descriptor = self._open()
        events = list(self._inotify.read(timeout=0))
        self._note(events, descriptor)

    def _open(self) -> int | None:
        try:
            return os.open(self._journal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def _note(self, events: list[Event], descriptor: int | None) -> None:
        """Count the journals that were created, and keep the one that was opened if it is not kept already."""
        created = [event for event in events if event.name == self._journal.name and event.mask & flags.CREATE]
        self._created += len(created) + sum(PENDING for event in events if event.mask & flags.Q_OVERFLOW)
        spare = descriptor
        if created and descriptor is not None and not self._is_kept(descriptor):
            self._opened += 1
            self._caught.append(descriptor)
            spare = None
            if len(self._caught) > PENDING:
                spare = self._caught.popleft()
                self._opened -= 1
        if spare is not None:
            os.close(spare)

    def _is_kept(self, descriptor: int) -> bool:
        """Whether it is the journal caught last. While that is open, no other file can have its inode number."""
        if not self._caught:
            return False
        mine, last = os.fstat(descriptor), os.fstat(self._caught[-1])
        return (mine.st_dev, mine.st_ino) == (last.st_dev, last.st_ino)


def _content(descriptor: int) -> bytes:
    """A journal from its start; empty if it is too big to be worth reading."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size <= MAX_BYTES else b""
