"""Wake: when to look. File events are hints; they may come early, late, twice, for nothing or not at all.

The folder is watched for the side files coming and going, and the database, `-wal` and `-journal` for writes, so
that our own state file beside them does not wake us. Where there is no inotify, or it is switched off, only the
timeout of `wait` wakes, and the caller polls `PRAGMA data_version`.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from pathlib import Path
from struct import Struct

from storage.files import beside

if sys.platform == "linux":
    from inotify_simple import INotify, flags, parse_events

    _MODIFY = int(flags.MODIFY)
    _COMING_AND_GOING = flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.ONLYDIR
else:
    INotify = None

SUFFIXES = ("", "-wal", "-journal")
READ_BYTES = 65_536
_EVENT = Struct("iI8x")
"""Watch descriptor and mask of an event without a name (inotify(7))."""


def be_punctual() -> None:
    """Make short sleeps of the calling thread as short as asked, where the system can (Linux, proc(5)).

    By default the kernel joins timers that lie within 50 µs, and a sleep of 50 µs takes twice as long or more.
    """
    with suppress(OSError):
        Path(f"/proc/{threading.get_native_id()}/timerslack_ns").write_text("1", encoding="ascii")


class Waker:
    """Waits for a file event, a call of `wake`, or a timeout. `wait` and `close` are one thread's; `wake` any's."""

    def __init__(self, path: Path, *, use_inotify: bool = True) -> None:
        self._path = path.absolute()
        self._pipe_out, self._pipe_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        self._poll = select.poll()
        self._poll.register(self._pipe_out, select.POLLIN)
        self._inotify = self._start() if use_inotify and INotify is not None else None
        self._files: set[int] = set()
        self._folders: dict[int, set[str]] = {}
        """Watched folders, and the names that matter in each."""
        self.has_moved = True
        """Whether files may have come or gone since this was last set to False."""
        if self._inotify is not None:
            self._poll.register(self._inotify.fileno(), select.POLLIN)
            self.rewatch()

    @staticmethod
    def _start() -> INotify | None:
        try:
            return INotify(nonblocking=True)
        except OSError:  # the system's limit of inotify instances is used up
            return None

    @property
    def has_file_events(self) -> bool:
        """Whether file events come at all; if not, poll often."""
        return self._inotify is not None and bool(self._folders)

    def rewatch(self) -> None:
        """Watch the folder and whatever files are there now. Idempotent: the kernel knows a watched inode."""
        if self._inotify is None:
            return
        files = [beside(self._path, suffix) for suffix in SUFFIXES]
        names: dict[Path, set[str]] = {}
        for path in (self._path, *files):  # the first is not among them where it is a symbolic link
            names.setdefault(path.parent, set()).add(path.name)
        for folder, wanted in names.items():
            with suppress(OSError):
                self._folders.setdefault(self._inotify.add_watch(folder, _COMING_AND_GOING), set()).update(wanted)
        for path in files:
            with suppress(OSError):
                self._files.add(self._inotify.add_watch(path, flags.MODIFY))

    def deafen(self) -> None:
        """Watch nothing until the next `rewatch`: each event costs a writer that never rests a little of its time."""
        if self._inotify is not None:
            for descriptor in [*self._files, *self._folders]:
                with suppress(OSError):  # its file is gone, and the watch with it
                    self._inotify.rm_watch(descriptor)
            self._files.clear()
            self._folders.clear()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; whether something happened to the files or `wake` was called."""
        ready = self._poll.poll(max(0.0, timeout * 1000))
        woken = False
        for descriptor, _ in ready:
            if descriptor == self._pipe_out:
                with suppress(BlockingIOError):
                    os.read(self._pipe_out, 4096)
                woken = True
            else:
                woken = self._drain() or woken
        return woken

    def _drain(self) -> bool:
        """Read the waiting events; whether any is ours."""
        assert self._inotify is not None
        try:
            data = os.read(self._inotify.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if len(data) == _EVENT.size and _EVENT.unpack(data)[1] == _MODIFY:  # the usual wake: the log was written to
            return True
        ours = coming = False
        for event in parse_events(data):
            if event.mask & flags.IGNORED:
                self._files.discard(event.wd)
                self._folders.pop(event.wd, None)
            elif event.mask & flags.Q_OVERFLOW:
                ours = coming = True
            elif event.wd in self._folders:
                coming = coming or event.name in self._folders[event.wd]
                ours = ours or event.name in self._folders[event.wd]
            else:
                ours = True
        if coming:
            self.has_moved = True
            self.rewatch()
        return ours

    def wake(self) -> None:
        """Make `wait` return now. From any thread."""
        with suppress(OSError):  # a full pipe wakes as well; a closed one has nobody to wake
            os.write(self._pipe_in, b"\0")

    def close(self) -> None:
        """Release the descriptors; safe to call twice."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        for descriptor in (self._pipe_out, self._pipe_in):
            with suppress(OSError):
                os.close(descriptor)
        self._pipe_out = self._pipe_in = -1
