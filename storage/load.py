"""Reads for the initial load: rows of one owner or conversation, newest first, beside the capture and never in its way.

Any number of threads share one read-only connection; it is kept, with its statements, and opened anew when the file
was replaced. Each statement runs in a read transaction of a few milliseconds: with an index it reads what it
returns, without one it goes through the table window by window and, in rollback mode, lets the writer in between.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from storage.errors import DatabaseAway
from storage.files import Identity, beside, identity_of
from storage.held import HELD, Held
from storage.legacy import Busy, LegacyDatabase, connect, translated
from storage.loadelements import source_for
from storage.loadsql import Place, Sought, Source
from storage.types import Row, Section

T = TypeVar("T")

PAGE_BYTES = 4 << 20
"""A page ends early when its rows exceed this."""
BUDGET = 1.0
"""Seconds after which a page that had to search a table ends, with the place where the next one goes on."""
BUSY_MS = 250
PATIENCE = 2.0
"""Seconds for which a database that its writer holds is tried."""
TURN_ROWS = 50
SHORT, LONG = 0.001, 0.004
"""Seconds that a window should take."""
WINDOW = (64, 512, 65_536)
"""Rows of a window: at least, at first, at most."""
WINDOW_OF_DOCUMENTS = (2, 8)
"""Of rows that hold many messages each."""
SHM = "-shm"
LET_IN = 9
"""In rollback mode all reads together rest so many times as long as they read."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What was taken of rows, each with its place; `below` is where to go on, None at the end of the table."""

    items: list[tuple[Place, T]]
    below: Place | None


class Reads:
    """Reads for any number of threads. `close` belongs after the last of them."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, LegacyDatabase(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity = (0, 0)
        self._held: dict[str, Held] = {}
        self._lost: Identity | None = None
        self._schema = -1
        self._sources: dict[Section, Source] = {}
        self._free_at = 0.0
        self._mode: Literal["wal", "rollback"] = "rollback"
        self.is_closed = False
        self.is_barred: Callable[[], bool] = lambda: False
        """Whether the database must not be opened now."""

    def close(self) -> None:
        """Close for good; safe to call twice."""
        with self._lock:
            self.is_closed = True
            self._drop()

    def forget(self) -> None:
        """Close until the next read, since the database is about to be opened anew. From any thread."""
        with self._lock:
            self._lost = None
            self._drop()

    def _drop(self) -> None:
        self._sources.clear()
        self._schema = -1
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for held in self._held.values():
            HELD.release(held)
        self._held.clear()

    def page(
        self,
        section: Section,
        sought: Sought,
        below: Place | None,
        limit: int,
        take: Callable[[Section, Row], T | None],
        deadline: float | None = None,
    ) -> Found[T]:
        """At most `limit` items of rows before a place. Raises DatabaseUnusable, MappingMisfit, Busy, BadPlace.

        `take` makes an item of a row, or None where the row is not for whom it is read. `deadline` is a time of
        `time.monotonic`; after it the page ends with what there is.
        """
        deadline = time.monotonic() + BUDGET if deadline is None else deadline
        items: list[tuple[Place, T]] = []
        size, (least, window) = 0, WINDOW[:2] if section.each is None else WINDOW_OF_DOCUMENTS
        while True:
            with self._turn(section) as source:
                started = time.monotonic()
                rows, below = _rows(source, sought, below, min(limit - len(items), TURN_ROWS), window)
                took = time.monotonic() - started
            for place, row in rows:
                size += _size(row)
                item = take(section, row)
                if item is not None:
                    items.append((place, item))
            if size > PAGE_BYTES:
                return Found(items, below)
            if below is None or len(items) >= limit or time.monotonic() > deadline:
                return Found(items, below)
            window = (
                min(WINDOW[2], window * 2) if took < SHORT else max(least, window // 2) if took > LONG else window
            )

    def is_indexed(self, section: Section, sought: Sought) -> bool:
        """Whether such rows are found without a search of the table. Raises as `page`."""
        with self._turn(section) as source:
            return source.is_indexed(sought)

    # -- one read transaction

    @contextmanager
    def _turn(self, section: Section) -> Iterator[Source]:
        """The lock and one snapshot, with the section's statements over the schema it shows."""
        with self._lock:
            connection, started = self._begin(), time.monotonic()
            try:
                yield self._source(connection, section)
            except sqlite3.Error as error:
                raise translated(error, self._path) from error
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("COMMIT")
                if self._mode == "rollback":
                    now = time.monotonic()
                    self._free_at = now + (now - started) * LET_IN

    def _begin(self) -> sqlite3.Connection:
        gives_up = time.monotonic() + PATIENCE
        while True:
            self._stay_out_of_the_way(gives_up)
            try:
                return self._snapshot(self._opened())
            except Busy:
                if time.monotonic() > gives_up:
                    raise
                time.sleep(0.01)

    def _stay_out_of_the_way(self, gives_up: float) -> None:
        """In rollback mode a reader blocks the writer: rest after each read, and let a commit that is under way end."""
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        while self._mode == "rollback" and self._file.is_being_written() and time.monotonic() < gives_up - PATIENCE / 2:
            time.sleep(0.002)

    def _opened(self) -> sqlite3.Connection:
        if self.is_closed:
            raise DatabaseAway("the bridge is stopping")
        if self._has_lost_its_log():
            self._lost = self._held[SHM].identity
            self._drop()
        identity = identity_of(self._path)
        if self._lost is not None and HELD.is_held(self._lost) and identity == self._identity:
            # The capture's connection would share what it has of the log with ours.
            raise DatabaseAway(f"{self._path} was put back in place a moment ago", "it is opened anew at once")
        self._lost = None
        if self._connection is None or identity != self._identity:
            if self.is_barred():
                raise DatabaseAway(f"a backup of {self._path} is being put back", "it is read as soon as that is done")
            self._drop()
            self._connection, self._identity = connect(self._path, busy_timeout_ms=BUSY_MS, any_thread=True), identity
            self._hold("")
        return self._connection

    def _hold(self, suffix: str) -> None:
        """Share the descriptor that the capture reads from: the last to let go closes it, and so drops all locks."""
        with suppress(OSError):
            self._held[suffix] = HELD.hold(beside(self._path, suffix))

    def _has_lost_its_log(self) -> bool:
        """Who puts a backup back removes the `-shm`, and a reader of the removed one sees no commit any more."""
        if SHM not in self._held:
            return False
        try:
            return identity_of(beside(self._path, SHM)) != self._held[SHM].identity
        except DatabaseAway:
            return True

    def _snapshot(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        try:
            connection.execute("BEGIN")
            schema = int(connection.execute("PRAGMA schema_version").fetchone()[0])
            if schema != self._schema:
                self._sources.clear()
                self._schema = schema
            self._mode = "wal" if connection.execute("PRAGMA journal_mode").fetchone()[0] == b"wal" else "rollback"
            if self._mode == "wal" and SHM not in self._held:
                self._hold(SHM)
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise translated(error, self._path) from error
        return connection

    def _source(self, connection: sqlite3.Connection, section: Section) -> Source:
        if section not in self._sources:
            self._sources[section] = source_for(connection, section)
        return self._sources[section]


def _rows(
    source: Source, sought: Sought, below: Place | None, limit: int, window: int
) -> tuple[list[tuple[Place, Row]], Place | None]:
    """Rows before a place, and where to go on. Raises BadPlace."""
    if below is not None:
        source.check(below)
    places, below = source.places(sought, below, limit, window)
    rows: list[tuple[Place, Row]] = []
    size = 0
    for place, row in source.rows(places):
        if row is not None:
            rows.append((place, row))
            size += _size(row)
        if size > PAGE_BYTES:
            return rows, place
    return rows, below


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values if isinstance(value, bytes))
