"""Starting again in our own place: same process, same arguments, same listening socket, and what the files say now."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NoReturn

from bridge.discover import mapping_for, require_fit
from bridge.errors import CannotListen, ConfigurationError
from bridge.service import require_state
from bridge.settings import Settings

Load = Callable[[], Settings]
"""Reads the settings anew. Raises ConfigurationError."""

_UNPACK = "PYINSTALLER_RESET_ENVIRONMENT"
"""Tells the one-file build to unpack itself anew."""
_LEFT = "_WALCAST_LEFT"
"""What the run before leaves in the environment: descriptor, host and port of its listening socket."""


class Left:
    """What a run before this one has left us; nothing at a first start."""

    def __init__(self) -> None:
        descriptor, _, address = os.environ.pop(_LEFT, "").partition(" ")
        # A hangup that is ignored, as under nohup, stays so; after a new start it is we who had it ignored.
        self.may_hang_up = bool(descriptor) or signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        self._descriptor, self._address = int(descriptor or -1), address

    def listener(self, host: str, port: int) -> int | None:
        """The socket that has gone on listening, if this is still the address; else it is closed. Ask once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0 or self._address == f"{host} {port}":
            return descriptor if descriptor >= 0 else None
        os.close(descriptor)
        return None


class Signals:
    """What the program is told from outside: to end, or to start again."""

    def __init__(self, *, hangup: bool) -> None:
        self._caught = asyncio.Queue[int]()
        self.is_end = False
        """Whether it is to end, though nobody may have waited for that yet."""
        self._has_terminal = os.isatty(0)
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_end, number)
        if hangup:  # not the loop's: at its end it would let the next one kill us, just before the new start
            signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_end(self, number: int) -> None:
        self.is_end = True
        self._caught.put_nowait(number)

    def _on_hangup(self, number: int, _frame: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._caught.put_nowait, number)

    async def hung_up(self) -> bool:
        """Wait for a signal; True for SIGHUP. Where it says that the terminal is gone, it is an end like the others."""
        number = await self._caught.get()
        return number == signal.SIGHUP and (os.isatty(0) or not self._has_terminal)


def default_state(database: Path) -> Path:
    """Beside the database if that folder is writable, else in the user's state folder. Raises ConfigurationError."""
    beside = database.with_name(database.name + ".walcast")
    if os.access(database.absolute().parent, os.W_OK):
        return beside
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "walcast"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"the folder {home} for the state file cannot be made ({error.strerror})"
        raise ConfigurationError(reason, "give --state FILE in a writable folder") from error
    unique = blake2b(str(database.absolute()).encode(), digest_size=6).hexdigest()
    return home / f"{database.name}-{unique}.walcast"


def database_of(settings: Settings) -> Path:
    """The database, which has no default. Raises ConfigurationError."""
    if settings.db is None:
        raise ConfigurationError("no database given", "say --db FILE")
    return settings.db


def state_of(settings: Settings) -> Path:
    """The state file that is meant. Raises ConfigurationError."""
    return settings.state or default_state(database_of(settings))


def require_startable(load: Load, present: Settings) -> None:
    """Whatever would end the new run at its start ends it here, while the old one goes on. Raises WalcastError."""
    settings = load()
    database = database_of(settings)
    require_fit(database, mapping_for(database, settings.map, wait=settings.wait), wait=settings.wait)
    if settings.port and (settings.host, settings.port) != (present.host, present.port):
        require_free(settings.host, settings.port)
    if (state := state_of(settings)).resolve() != state_of(present).resolve():
        require_state(state)  # last, since what is not there is made


def require_free(host: str, port: int) -> None:
    """Raises CannotListen if an address that we do not have yet cannot be had."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        raise CannotListen(f"cannot listen on {host}:{port} ({error})", "choose another --port or --host") from error


def _program() -> tuple[int, int, int]:
    """Which file our program is: device, inode, and when it was written. Zeros if it is gone."""
    try:
        status = os.stat(sys.executable)
    except OSError:
        return 0, 0, 0
    return status.st_dev, status.st_ino, status.st_mtime_ns


_STARTED_FROM = _program()


def start_again(listener: int, host: str, port: int) -> NoReturn:
    """Become the new run. Does not return; raises OSError if our own program is gone.

    The one-file build consists of a process that unpacks it, waits, passes signals on and tidies up, and of one that
    does the work: us. We go on with what was unpacked, unless the file has been exchanged. Then the new one unpacks
    itself in our process and works in one more, and what the old one unpacked stays until the end.
    """
    if listener >= 0:
        os.set_inheritable(listener, True)
    os.environ[_LEFT] = f"{listener} {host} {port}"
    os.environ.pop(_UNPACK, None)
    if _program() != _STARTED_FROM:
        os.environ[_UNPACK] = "1"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a second one must not end us before we listen to it again
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = sys.argv[1:] if getattr(sys, "frozen", False) else sys.orig_argv[1:]
    os.execv(sys.executable, [sys.executable, *arguments])
