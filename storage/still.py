"""A database in rollback mode that nobody writes to just now, read without any lock.

In that mode a reader's lock keeps a commit from its end, and a pass over the tables takes many reads. So they are made
through a connection that locks nothing (`immutable=1`, sqlite.org/uri.html), and what they gave counts only if the file
cannot have been written to meanwhile. That is so if its times are those of before, and had been for a while by then; if
nobody held it exclusively, since a transaction that is too big for memory writes and then rests; and if no journal
waits to be rolled back.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from storage.btree import DatabaseHeader
from storage.errors import WalcastError
from storage.files import Identity
from storage.held import HELD, Held
from storage.legacy import LegacyDatabase, connect

if sys.platform == "linux":
    import fcntl

T = TypeVar("T")

IS_POSSIBLE = sys.platform == "linux"
"""Whether this system tells of locks without taking any."""
OLD, OLD_IN_SECONDS = 0.02, 2.5
"""Seconds for which we have to have seen the times of the file before they count: twice the longest tick of the clock
that they are taken from, whosever that is, so that whatever is written from then on gives it others. The second is for
file systems that keep no parts of a second."""
SECOND = 1_000_000_000
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
"""The bytes that a writer locks exclusively before it writes (sqlite.org/lockingv3.html, os.h)."""
_FLOCK = struct.Struct("@hhqqi0q")
"""struct flock: type, whence, start, length, process (fcntl(2))."""


class Stamp(NamedTuple):
    """What moves when a file is written to, as the system tells it; times in nanoseconds."""

    identity: Identity
    size: int
    modified: int
    changed: int


class State(NamedTuple):
    """The same, and what SQLite itself keeps."""

    stamp: Stamp
    header: DatabaseHeader | None


class StillDatabase:
    """The legacy database while it rests. Belongs to the capture thread, and is closed with its connection."""

    def __init__(self, legacy: LegacyDatabase) -> None:
        self._legacy = legacy
        self._connection: sqlite3.Connection | None = None
        self._shown: State | None = None
        """What the connection shows: it never looks whether its pages are still those of the file."""
        self._held: Held | None = None
        self._seen = Stamp((0, 0), 0, 0, 0), 0.0
        """And time.monotonic() since when."""
        legacy.before_close = self.close

    def is_resting(self) -> bool:
        """Whether it could be read now."""
        return self._state() is not None

    def read(self, take: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `take` reads, all of it from one commit; None if somebody writes or may have written meanwhile.

        None also for whatever SQLite objects to: a snapshot tells whether there is reason to.
        """
        if (state := self._state()) is None:
            return None
        taken: T | None = None
        with suppress(sqlite3.Error, WalcastError):
            taken = take(self._showing(state))
        if taken is None or self._state() != state:
            self._forget()
            return None
        return taken

    def _showing(self, state: State) -> sqlite3.Connection:
        if self._connection is None or state != self._shown:
            self._forget()
            self._connection, self._shown = connect(self._legacy.path, is_immutable=True), state
        return self._connection

    def _state(self) -> State | None:
        """What the file is like, if it rests."""
        legacy = self._legacy
        if not IS_POSSIBLE or not legacy.is_open or legacy.is_wal():
            return None
        with suppress(OSError):
            status = os.stat(legacy.path)
            identity = status.st_dev, status.st_ino
            stamp = Stamp(identity, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if not self._is_old(stamp) or identity != legacy.identity:
                return None
            if not self._is_locked(identity) and not legacy.is_being_written():
                return State(stamp, legacy.header())
        return None

    def _is_old(self, stamp: Stamp) -> bool:
        """Whether a write from now on gives the file another stamp."""
        now = time.monotonic()
        if stamp != self._seen[0]:
            self._seen = stamp, now
        has_parts = max(stamp.modified, stamp.changed) % SECOND
        return now - self._seen[1] >= (OLD if has_parts else OLD_IN_SECONDS)

    def _is_locked(self, identity: Identity) -> bool:
        """Whether another process holds the file exclusively. Raises OSError."""
        if self._held is None or self._held.identity != identity:
            old, self._held = self._held, HELD.hold(self._legacy.path)
            if old is not None:
                HELD.release(old)
        asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(self._held.descriptor, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._shown = None

    def close(self) -> None:
        """Close; safe to call twice."""
        self._forget()
        if self._held is not None:
            HELD.release(self._held)
            self._held = None
