"""One instance per state file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from storage.errors import StateUnusable

try:
    import fcntl
except ImportError:  # no advisory locks on this system: SQLite's own locks still keep the file whole
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """An advisory lock on a file beside the state file; the system drops it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, message: str, hint: str) -> None:
        """Take the lock. Raises StateUnusable(message, hint) if another process has it, or the folder is read-only."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateUnusable(f"{self._path} cannot be written ({error.strerror})", hint) from error
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                raise StateUnusable(message, hint) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; safe to call twice. The file stays: removing it would race with the next instance."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
