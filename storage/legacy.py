"""The legacy database: opened read-only, kept open, never written, never closed by accident.

Two traps shape this module (sqlite.org/howtocorrupt.html section 2.2, sqlite.org/wal.html section "Read-Only
Databases"): closing any descriptor of the file in this process would drop SQLite's POSIX locks, so the file is opened
through SQLite alone; and a read transaction held between looks would stop the WAL from being reset, so a snapshot
lives no longer than its `with` block.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from storage.authorizer import authorize
from storage.btree import HEADER_SIZE, DatabaseHeader, parse_header
from storage.errors import DatabaseAway, DatabaseUnusable, WalcastError
from storage.files import Identity, beside, identity_of, is_mounted_alone
from storage.held import HELD, Held

WAL_VERSION = 2
"""What the header's read version says in WAL mode."""
REST = 10.0
"""Seconds without a write after which a database whose `-shm` was removed is read again, though no writer came."""
TRY_AGAIN = 0.00002
"""Seconds between tries."""
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")

log = logging.getLogger("walcast.capture")


class Busy(WalcastError):
    """The writer holds the database just now; try again in a moment. Never shown to an operator."""


class BeingPutBack(DatabaseAway):
    """Somebody removed the `-shm` under our open connection: the file is not to be looked at before it is whole."""


class Version(NamedTuple):
    """What a snapshot saw: `data` moves with every commit by others, `schema` with every change of the schema."""

    data: int
    schema: int


def connect(
    path: Path, *, busy_timeout_ms: int = 0, any_thread: bool = False, is_immutable: bool = False
) -> sqlite3.Connection:
    """A read-only connection that refuses everything but reading. TEXT comes as bytes.

    An immutable one takes no locks, and looks neither for a log nor for a journal nor whether anything has changed.

    Raises DatabaseUnusable if the file is no SQLite database, DatabaseAway if it cannot be opened now, Busy if the
    writer holds it exclusively.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if is_immutable else ''}",
            uri=True,
            isolation_level=None,
            check_same_thread=not any_thread,
            timeout=busy_timeout_ms / 1000,
        )
        connection.execute("PRAGMA query_only=1")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        # Built once, before the authorizer: building them asks for more than reading, using them does not.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").fetchone()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translated(error, path) from error
    connection.text_factory = bytes
    connection.set_authorizer(authorize)
    return connection


def probe(path: Path) -> None:
    """Raises DatabaseUnusable if this is no SQLite database, DatabaseAway if it is not there. Locked is no reason.

    Only for a program that has no other connection to the file.
    """
    identity_of(path)
    with suppress(Busy):
        connect(path).close()


def translated(error: sqlite3.Error, path: Path) -> WalcastError:
    """The same error in the operator's words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{path} is locked by its writer")
    if code == sqlite3.SQLITE_NOTADB:
        return DatabaseUnusable(
            f"{path} is not an SQLite database (or it is encrypted)", "point --db at the writer's database file"
        )
    if code == sqlite3.SQLITE_READONLY:
        return DatabaseAway(
            f"{path} was left by a crashed writer in the middle of a transaction",
            "it mends itself when the writer opens it again",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return DatabaseAway(
            f"{path} cannot be opened ({error})",
            "walcast's user needs to read the file and, in WAL mode, to write in its folder (for -wal and -shm)",
        )
    return DatabaseAway(f"{path} cannot be read ({error})", "it is tried again; check the disk and the writer")


class Snapshot:
    """A read transaction for the length of a block. Not a generator: it is on the way of each commit."""

    __slots__ = ("_legacy", "_since")

    def __init__(self, legacy: LegacyDatabase) -> None:
        self._legacy, self._since = legacy, 0.0

    def __enter__(self) -> Version:
        version = self._legacy.begin()
        self._since = time.monotonic()
        return version

    def __exit__(self, *_: object) -> None:
        try:
            self._legacy.connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.debug("the snapshot had ended already: %s", error)
        self._legacy.held = time.monotonic() - self._since


class LegacyDatabase:
    """One connection, used by the capture thread alone, and the identity of the file it is open on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: Identity = (0, 0)
        self._connection: sqlite3.Connection | None = None
        self.is_put_back = False
        """Whether the file was given other content while it was open. Whoever has acted on it sets it to False."""
        self._shm: Identity | None = None
        """What the open connection is attached to, in WAL mode, once a snapshot was taken."""
        self._lost: Identity | None = None
        """The one that was removed while we were attached to it, until what was put back is whole."""
        self._seen_resting: tuple[tuple[int, int], float] = (0, 0), 0.0
        self._held: Held | None = None
        self._raw_header = b""
        self._header: DatabaseHeader | None = None
        self.held = 0.0
        """Seconds for which the last snapshot was held."""
        self.patience = 0.0
        """Seconds for which a snapshot waits for the end of a commit in rollback mode. A writer that never rests leaves
        the lock alone for a twentieth of the time, and who asks now and then does not meet that."""
        self.before_open: Callable[[], None] = lambda: None
        """Closes what other connections this process has to the file: SQLite would have us share a lost `-shm`."""
        self.before_close: Callable[[], None] = lambda: None
        """Closes what was opened beside this connection, and belongs to its thread."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection. Raises DatabaseAway when closed."""
        if self._connection is None:
            raise DatabaseAway(f"the database {self.path} is not open")
        return self._connection

    @property
    def inode(self) -> str:
        """What the file is known by; a device number does not survive a remount."""
        return str(self.identity[1])

    @property
    def is_open(self) -> bool:
        """Whether a connection is open."""
        return self._connection is not None

    def open(self) -> None:
        """Open, or open anew. Raises as `connect`, and BeingPutBack: then it is closed, and to be tried again."""
        if self._has_lost_shm() and identity_of(self.path) == self.identity:
            self._lost = self._shm
            self._disconnect()  # at once, since our lock would keep a writer from going to WAL mode
            self.before_open()
        if self._lost is not None and identity_of(self.path) == self.identity:
            self._require_whole()
        self._lost, self._seen_resting = None, ((0, 0), 0.0)
        self.close()
        self.before_open()
        before = identity_of(self.path)
        connection = connect(self.path)
        if identity_of(self.path) != before:  # replaced while we opened it: which one we got cannot be told
            connection.close()
            raise Busy(f"{self.path} was replaced while it was being opened")
        self._connection, self.identity = connection, before
        with suppress(OSError):
            self._held = HELD.hold(self.path)

    def _shm_now(self) -> Identity | None:
        with suppress(OSError):
            status = os.stat(beside(self.path, "-shm"))
            return status.st_dev, status.st_ino
        return None

    def _has_lost_shm(self) -> bool:
        """Whether the `-shm` that we are attached to has another name now, or none.

        No program does that. In WAL mode an open connection holds a shared lock on the database for as long as it
        lives, so that the last writer to close can neither remove the log nor leave that mode; it is done by hand, by
        who puts a backup back. A reader of the removed one sees no commit any more.
        """
        return self._shm is not None and self._shm != self._shm_now()

    def _require_whole(self) -> None:
        """Raises BeingPutBack until somebody has opened what was put back: it may not even be copied yet.

        To open it would make a new `-shm`, and what is copied under that one nobody can notice.
        """
        if (shm := self._shm_now()) is not None:
            self.is_put_back = self.is_put_back and shm != self._lost  # moved away and back, and not removed
            return
        status, header, now = os.stat(self.path), self.header(), time.monotonic()
        if header is not None and header.read_version != WAL_VERSION and header.page_count_valid:  # a rollback backup
            is_whole = status.st_size >= header.page_count * header.page_size
        else:
            state = status.st_mtime_ns, status.st_size
            if state != self._seen_resting[0]:
                self._seen_resting = state, now
            is_whole = now - self._seen_resting[1] >= REST
        if not is_whole:
            raise BeingPutBack(
                f"the -shm of {self.path} was removed: it seems that a backup is being put back",
                "it is read again as soon as the writer has opened it",
            )

    @property
    def is_being_put_back(self) -> bool:
        """Whether nobody in this process is to open it now: that would make a new `-shm`. From any thread."""
        return self._lost is not None

    def _require_its_folder(self) -> None:
        """Raises DatabaseUnusable if the log that is written is not the one beside our file: we would see nothing."""
        if is_mounted_alone(self.path):
            raise DatabaseUnusable(
                f"{self.path} was mounted alone, without its folder, so the writer's -wal and -shm are out of sight",
                "mount the folder it lies in (docker run -v /srv/chat:/data instead of -v /srv/chat/chat.db:/data/...)",
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self.before_close()
            with suppress(DatabaseAway):
                self.is_put_back |= self._has_lost_shm() and identity_of(self.path) == self.identity
            self._connection.close()
            self._connection = self._shm = None

    def close(self) -> None:
        """Close; safe to call twice."""
        self._disconnect()
        if self._held is not None:
            HELD.release(self._held)
            self._held = None

    def header(self) -> DatabaseHeader | None:
        """The header in the file now; None if it has none. Inside a snapshot it is of a commit that will stay."""
        raw = b"" if self._held is None else os.pread(self._held.descriptor, HEADER_SIZE, 0)
        if raw != self._raw_header:
            self._raw_header, self._header = raw, parse_header(raw)
        return self._header

    @property
    def noted_header(self) -> DatabaseHeader | None:
        """As it was when it was last read."""
        return self._header

    def is_wal(self) -> bool:
        """Whether the file is in WAL mode, asked without any lock."""
        header = self.header()
        return header is not None and header.read_version == WAL_VERSION

    def is_replaced(self) -> bool:
        """Whether the path names another file than the one that is open, or its `-shm` does.

        Raises DatabaseAway if it names none.
        """
        return identity_of(self.path) != self.identity or self._has_lost_shm()

    def sequences(self, tables: Iterable[str]) -> dict[str, int]:
        """Of each of these tables that has AUTOINCREMENT the highest rowid it ever gave. Raises Busy, DatabaseAway."""
        wanted = {table.lower() for table in tables}
        try:
            found = self.connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such table: nothing here has AUTOINCREMENT
                return {}
            raise translated(error, self.path) from error
        named = {str(name, "utf-8", "replace").lower(): seq for name, seq in found if isinstance(name, bytes)}
        return {name: seq for name, seq in named.items() if name in wanted and isinstance(seq, int)}

    def data_version(self) -> int:
        """A number that moves when another connection has committed. Raises Busy, DatabaseAway."""
        try:
            return int(self.connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def journal_mode(self) -> str:
        """`wal`, or `delete` for every kind of rollback journal. Raises Busy, DatabaseAway."""
        try:
            self.connection.execute("PRAGMA schema_version").fetchone()  # else it may answer from what it read before
            return str(self.connection.execute("PRAGMA journal_mode").fetchone()[0], "ascii")
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def is_being_written(self) -> bool:
        """Whether a rollback journal is in use: a commit is under way, and reading now would only stand in its way.

        Asked without any lock: opening and closing the journal is harmless, it carries no locks of SQLite's.
        """
        try:
            journal = os.open(beside(self.path, "-journal"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.read(journal, len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
        except OSError:
            return False
        finally:
            os.close(journal)

    def snapshot(self) -> Snapshot:
        """One read transaction: every statement inside sees the same commit. Entering raises Busy, DatabaseAway."""
        return Snapshot(self)

    def begin(self) -> Version:
        """Open a read transaction, for `snapshot`. Raises Busy, DatabaseAway."""
        connection = self.connection
        try:
            connection.execute("BEGIN")
            # Reading the schema cookie takes the snapshot; data_version asked after it belongs to that snapshot.
            schema = self._schema_version()
            data = connection.execute("PRAGMA data_version").fetchone()[0]
            if self._shm is None and self.is_wal():  # asked here, since only what we are attached to cannot go away
                self._require_its_folder()
                self._shm = self._shm_now()
        except DatabaseUnusable:
            connection.execute("ROLLBACK")
            raise
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise translated(error, self.path) from error
        return Version(data, schema)

    def _schema_version(self) -> int:
        """With patience: a writer that never rests lets go of the database for a tenth of a millisecond at a time.

        Asked again and again rather than waited for: a thread that spins keeps the writer's own commit from its end.
        """
        give_up = time.monotonic() + self.patience
        while True:
            try:
                return int(self.connection.execute("PRAGMA schema_version").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                    raise
            time.sleep(TRY_AGAIN)
