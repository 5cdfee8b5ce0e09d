"""Catches rollback journals: a writer deletes its journal at the end of a commit, but not from under who has it open.

A thread that does nothing else opens each journal the moment it is created. No lock of SQLite's is on a journal, so
opening and closing it harms nobody. For a journal that stays from commit to commit, writes to it and to the database
are watched as well, and it is copied before its end.
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

from storage.files import beside
from storage.staying import Copied, StayingJournal

if sys.platform == "linux":
    from inotify_simple import INotify, flags, parse_events
else:
    INotify = None

MAX_BYTES = 64 << 20
PENDING = 512
EVENTS_BYTES = 1 << 16
HEAD = 28
"""Bytes at the head of a journal that are zero when its transaction has ended."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Journals whose transaction has ended: deleted ones, and the one that stays with its head wiped
    (`journal_mode=PERSIST`). And of those that stay, the copies that were made just before their end.

    `missed` journals were created and not caught. The journal of a transaction that was rolled back looks like that
    of a commit, so if even one was missed, those that were caught prove nothing.
    """

    missed: int
    ended: list[bytes]
    wiped: bytes | None
    copied: list[Copied]


class JournalCatcher:
    """`start`, then `take` what was caught; `stop` ends the thread."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._journal = beside(self._path, "-journal")
        self._caught: deque[int] = deque()
        self._lock = threading.Lock()
        self._pipe: tuple[int, ...] = os.pipe()
        self._thread = threading.Thread(target=self._run, name="walcast-journals", daemon=True)
        self._inotify: INotify | None = None
        self._watch: int | None = None
        self._created = self._opened = 0
        self._spent: list[int] = []
        self._last: tuple[int, int] | None = None
        """The journal caught last. While that is open, no other file can have its inode number."""
        self._database: int | None = None
        self._staying: StayingJournal | None = None
        self._watches: tuple[int, ...] = ()
        """Of the staying journal, and of the database."""

    @property
    def is_running(self) -> bool:
        """Whether journals are being caught."""
        return self._watch is not None

    def follow(self, database: int | None) -> None:
        """The descriptor of the database, to read its change counter from; it stays open until the next call."""
        if (journal := beside(self._path, "-journal")) != self._journal:  # the path is a link, and has another target
            self.pause()
            self._journal = journal
        with self._lock:
            self._leave()
            self._database = database
            self._stay()

    def start(self) -> bool:
        """Start catching, or go on after a pause; whether this system can."""
        if INotify is None or self._watch is not None:
            return self._watch is not None
        try:
            with self._lock:
                self._inotify = self._inotify or INotify(nonblocking=True)
                self._count_created()
                # Deletions are watched to keep creations apart: the kernel joins equal events that follow one another.
                mask = flags.CREATE | flags.DELETE | flags.ONLYDIR
                self._watch = self._inotify.add_watch(self._journal.parent, mask)
                self._created = self._opened = 0
                if (descriptor := self._open()) is not None:
                    self._caught.append(descriptor)
                    self._last = _identity(descriptor)
                    self._stay()
        except OSError:
            return False
        if self._thread.ident is None:
            self._thread.start()
        return True

    def pause(self) -> None:
        """Catch nothing until the next `start`: being woken for each commit costs a writer that never rests time."""
        with self._lock:
            if self._inotify is not None and self._watch is not None:
                with suppress(OSError):  # the folder is gone
                    self._inotify.rm_watch(self._watch)
                self._watch = None
                self._leave()
                self._spent += self._caught
                self._caught.clear()
                self._last = None
        self.release()

    def take(self) -> Caught:
        """What was caught since the last call. Call it while no commit is under way, and `release` when there is time.
        """
        with self._lock:
            self._catch()  # whatever has ended has been announced: count it before judging
            descriptors, self._caught = list(self._caught), deque()
            missed, self._created, self._opened = self._created - self._opened, 0, 0
            copied: list[Copied] = []
            if (staying := self._staying) is not None:
                missed, copied = missed + staying.missed, staying.copies
                staying.missed, staying.copies = 0, []
        ended: list[bytes] = []
        stays: list[int] = []
        for descriptor in descriptors:
            if os.fstat(descriptor).st_nlink:
                stays.append(descriptor)
            else:
                ended.append(_content(descriptor))
                self._spent.append(descriptor)
        wiped = _content(stays[-1]) if stays and not copied and _has_ended(stays[-1]) else None
        with self._lock:
            self._caught.extendleft(reversed(stays))
            self._last = _identity(self._caught[-1]) if self._caught else None
            if self._staying is not None and self._staying.journal not in stays:
                self._leave()
            self._stay()
        return Caught(missed, ended, wiped or None, copied)

    # -- a journal that stays

    def _stay(self) -> None:
        """If the journal is there while nothing is committed, watch the writes to it and to the database."""
        is_watching = self._inotify is not None and self._watch is not None and self._staying is None
        if not is_watching or self._database is None or not self._caught:
            return
        assert self._inotify is not None
        try:
            if _has_ended(self._caught[-1]):
                for path in (self._journal, self._path):
                    self._watches += (self._inotify.add_watch(path, flags.MODIFY),)
                self._staying = StayingJournal(self._database, self._caught[-1])
        except OSError:  # it is gone, or there are no watches left
            self._leave()

    def _leave(self) -> None:
        """The journal is gone, or nobody is to be told of it any more."""
        watches, self._watches, self._staying = self._watches, (), None
        for watch in watches:
            with suppress(OSError):  # its file is gone, and the watch with it
                if self._inotify is not None:
                    self._inotify.rm_watch(watch)

    def release(self) -> None:
        """Close what was taken. The file goes with its last descriptor, and that takes longer than reading it."""
        spent, self._spent = self._spent, []
        for descriptor in spent:
            os.close(descriptor)

    def stop(self) -> None:
        """End the thread and close what was caught; safe to call twice."""
        if self._thread.is_alive():
            os.write(self._pipe[1], b"\0")
            self._thread.join()
        # Each once: the number of a closed descriptor may be that of a database by now.
        closing, self._pipe = [*self._caught, *self._pipe], ()
        self.release()
        self._caught.clear()
        for descriptor in closing:
            os.close(descriptor)
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = self._watch = None

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
        """Open first, ask what happened later: the journal lives for a millisecond.

        Few calls of the system: after each, this thread may have to wait for those that compute.
        """
        if self._watch is None:
            if self._inotify is not None:
                self._count_created()  # what is left of before the pause
            return
        descriptor = self._open() if self._staying is None else None
        if not self._count_created():
            if descriptor is not None:
                os.close(descriptor)
        elif descriptor is None or not self._keep(descriptor):
            # It was created after we tried to open it: what wakes us is often the end of the one before.
            descriptor = self._open()
            if descriptor is not None:
                self._keep(descriptor)

    def _open(self) -> int | None:
        try:
            return os.open(self._journal, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def _count_created(self) -> int:
        """How many journals have been created since the last call."""
        assert self._inotify is not None
        try:
            events = parse_events(os.read(self._inotify.fileno(), EVENTS_BYTES))
        except BlockingIOError:
            return 0
        created = len([1 for event in events if event.name == self._journal.name and event.mask & flags.CREATE])
        self._created += created + sum(PENDING for event in events if event.mask & flags.Q_OVERFLOW)
        if self._staying is not None:
            self._copy(self._staying, [event.wd for event in events if event.mask & flags.MODIFY])
        return created

    def _copy(self, staying: StayingJournal, written: list[int]) -> None:
        of_journal, of_database = self._watches
        for watch in written:
            if watch == of_journal:
                staying.journal_written()
            elif watch == of_database:
                staying.database_written()
        with suppress(OSError):
            staying.look()

    def _keep(self, descriptor: int) -> bool:
        """Keep a journal that was just created; whether it is not the one that was caught last."""
        identity = _identity(descriptor)
        if identity == self._last:
            os.close(descriptor)
            return False
        self._last = identity
        self._opened += 1
        self._caught.append(descriptor)
        if len(self._caught) > PENDING:
            self._leave()
            os.close(self._caught.popleft())
            self._opened -= 1
        return True


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _has_ended(journal: int) -> bool:
    """Whether a journal is empty or wiped: its transaction has ended, if there was any."""
    return not any(os.pread(journal, HEAD, 0))


def _content(descriptor: int) -> bytes:
    """A journal from its start; empty if it is too big to be worth reading."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size <= MAX_BYTES else b""
