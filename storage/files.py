"""Which file a path names, and where those stand that SQLite keeps beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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


def is_mounted_alone(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the file alone was mounted from another folder, as containers can be given single files.

    Then what SQLite keeps beside it is not what the writer keeps beside it. A file that is mounted over itself, which
    is how it is made read-only for a service, has its own neighbours. False where the system does not tell (proc(5)).
    """
    real = os.path.realpath(path)
    folder, name = os.path.split(real)
    places: dict[str, tuple[str, str]] = {}
    try:
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            device, root, point = line.split(" ")[2:5]
            places[_unescaped(point)] = device, _unescaped(root)  # the last one covers those before
    except (OSError, ValueError):
        return False
    if real not in places:
        return False
    above = next((point for point in _upwards(folder) if point in places), None)
    if above is None:
        return True
    device, root = places[above]
    return places[real] != (device, os.path.normpath(os.path.join(root, os.path.relpath(folder, above), name)))


def _upwards(folder: str) -> Iterator[str]:
    yield folder
    while (parent := os.path.dirname(folder)) != folder:
        yield (folder := parent)


def _unescaped(text: str) -> str:
    """Without what stands for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
