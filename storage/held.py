"""Descriptors of the database and `-shm` that outlive SQLite's own.

Closing *any* descriptor of such a file in this process drops every POSIX lock that SQLite holds on it
(sqlite.org/howtocorrupt.html section 2.2.1). So a file is opened once, shared by whoever holds it, and closed when the
last holder lets go, which it does after its SQLite connection is closed.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from storage.files import Identity


@dataclass(frozen=True, slots=True)
class Held:
    """A descriptor to `pread` from. Never close it; `release` it."""

    descriptor: int
    identity: Identity


class HeldFiles:
    """Counts the holders of each file. From any thread."""

    def __init__(self) -> None:
        self._files: dict[Identity, tuple[Held, int]] = {}
        self._lock = threading.Lock()

    def hold(self, path: Path) -> Held:
        """Open a file read-only, or share the descriptor that is open on it. Raises OSError."""
        with self._lock:
            status = os.stat(path)
            known = self._files.get((status.st_dev, status.st_ino))
            if known is None:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                opened = os.fstat(descriptor)
                held = Held(descriptor, (opened.st_dev, opened.st_ino))
                known = self._files.get(held.identity, (held, 0))  # replaced meanwhile by one we hold: keep both open
            held, count = known
            self._files[held.identity] = held, count + 1
            return held

    def is_held(self, identity: Identity) -> bool:
        """Whether anybody holds this file."""
        return identity in self._files

    def release(self, held: Held) -> None:
        """Let go. Only after the SQLite connection that went with it is closed."""
        with self._lock:
            known, count = self._files[held.identity]
            if count > 1:
                self._files[held.identity] = known, count - 1
            else:
                del self._files[held.identity]
                os.close(known.descriptor)


HELD = HeldFiles()
"""One for the process, since the locks are the process's."""
