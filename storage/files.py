"""Which file a path names, and where those stand that SQLite keeps beside it."""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import DatabaseAway

Identity = tuple[int, int]
"""(device, inode) of a file."""


def real_path(path: Path) -> Path:
    """The file itself, where the path is a symbolic link: SQLite follows it, and what it keeps stands beside the file
    (os_unix.c, unixFullPathname). A link in place of a folder makes no difference to anybody.

    Asked anew each time, since a link may be given another target while we run.
    """
    try:
        os.readlink(path)
    except OSError:  # the usual case, and the cheap one
        return path
    return Path(os.path.realpath(path))


def beside(path: Path, suffix: str) -> Path:
    """The `-wal`, `-shm` or `-journal` of a database."""
    real = real_path(path)
    return real.with_name(real.name + suffix)


def identity_of(path: Path) -> Identity:
    """Which file the path names now. Raises DatabaseAway if none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DatabaseAway(
            f"the database {path} is not there ({error.strerror})", "wait for the writer or check --db"
        ) from error
    return status.st_dev, status.st_ino
