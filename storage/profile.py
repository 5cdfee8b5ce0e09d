"""Profile: what stands in the schema of a database never seen before, and a bounded sample of its rows.

Every statement is its own short read transaction: a writer with a rollback journal is not kept waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from storage.authorizer import authorize
from storage.errors import DatabaseAway
from storage.files import identity_of, is_mounted_alone
from storage.hints import PageHints
from storage.legacy import Busy, LegacyDatabase, connect, translated
from storage.names import quoted

SAMPLE_ROWS = 200
"""So many from each end of a table."""
SAMPLE_BYTES = 4 << 20
CELL_BYTES = 64 << 10
COUNTED_ROWS = 100_000
PATIENCE_MS = 3000
MOST_TABLES = 500
_PRAGMAS = frozenset({"foreign_key_list", "index_list", "index_info", "table_info"})

Cell = int | float | str | bytes | None
"""One value: TEXT as str, BLOB as bytes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as it was declared, and how the values of the sample are stored (`text`, `blob`, `integer` ...)."""

    name: str
    declared: str
    not_null: bool
    key: int
    """Place in the primary key, from 1; 0 when it is no part of it."""
    storage: dict[str, int] = field(default_factory=dict)
    oversize: int = 0
    """Values of the sample too long to be looked at."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that name a row of another table; `to` is its columns, empty for its primary key."""

    columns: tuple[str, ...]
    table: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its schema and a sample of its rows, in the order of the table."""

    name: str
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...]
    indexed: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]
    has_rowid: bool
    rows: int
    """Counted up to COUNTED_ROWS."""
    sample: tuple[tuple[Cell, ...], ...]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Its columns, in order."""
        return tuple(column.name for column in sorted(self.columns, key=lambda column: column.key) if column.key)

    def column(self, name: str) -> Column | None:
        """The column of a name, whatever its case."""
        return next((column for column in self.columns if column.name.lower() == name.lower()), None)

    def values(self, name: str) -> tuple[Cell, ...]:
        """The sampled values of a column."""
        place = [column.name for column in self.columns].index(name)
        return tuple(row[place] for row in self.sample)


@dataclass(frozen=True, slots=True)
class Profile:
    """A database as one look saw it."""

    path: Path
    journal_mode: str
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """The table of a name, whatever its case."""
        return next((table for table in self.tables if table.name.lower() == name.lower()), None)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that may also ask for keys and indexes. Raises DatabaseUnusable, DatabaseAway."""
    identity_of(path)
    try:
        with closing(connect(path, busy_timeout_ms=PATIENCE_MS)) as connection:
            connection.set_authorizer(_authorize)
            try:
                yield connection
            except sqlite3.DatabaseError as error:
                raise translated(error, path) from error
    except Busy as error:
        hint = "try again; a writer in PRAGMA locking_mode=EXCLUSIVE lets nobody else read"
        raise DatabaseAway(f"{path} is locked by its writer and stays so", hint) from error


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return authorize(action, first, second, database, trigger)


def capture_engine(path: Path) -> str:
    """The engine that would say where to look: `wal-pages`, `journal-pages` or `scan`."""
    if is_mounted_alone(path):
        return "scan"
    legacy, hints = LegacyDatabase(path), PageHints(path)
    try:
        legacy.open()
        hints.reset(legacy)
        return hints.mode
    except Busy:
        return "scan"
    finally:
        legacy.close()
        hints.close()  # after the connection: closing a descriptor would drop its locks


def read_profile(connection: sqlite3.Connection, path: Path) -> Profile:
    """Read the schema and samples."""
    mode = _text(connection.execute("PRAGMA journal_mode").fetchone()[0])
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    virtual = [_text(name) for name, sql in found if _text(sql).lower().startswith("create virtual")]
    names = [_text(name) for name, _ in found]
    kept = [
        name
        for name in names
        if name not in virtual and not name.lower().startswith("sqlite_")
        and not any(name.startswith(f"{owner}_") for owner in virtual)
    ]  # fmt: skip
    return Profile(path, mode, tuple(_table(connection, name) for name in kept[:MOST_TABLES]))


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns = [
        Column(_text(record[1]), _text(record[2]), bool(record[3]), int(record[5]))
        for record in connection.execute(f"PRAGMA table_xinfo({quoted(name)})")
        if record[6] != 1  # hidden columns belong to virtual tables
    ]
    has_rowid = _has_rowid(connection, name, columns)
    unique, indexed = _indexes(connection, name)
    sample, storage, oversize = _sample(connection, name, columns, has_rowid)
    return Table(
        name,
        tuple(
            Column(column.name, column.declared, column.not_null, column.key, storage[place], oversize[place])
            for place, column in enumerate(columns)
        ),
        tuple(unique),
        tuple(indexed),
        tuple(_foreign_keys(connection, name)),
        has_rowid,
        int(
            connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {quoted(name)} LIMIT {COUNTED_ROWS})").fetchone()[
                0
            ]
        ),
        sample,
    )


def _has_rowid(connection: sqlite3.Connection, name: str, columns: list[Column]) -> bool:
    taken = {column.name.lower() for column in columns}
    alias = next((alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken), None)
    if alias is None:
        return False
    try:
        connection.execute(f"SELECT {alias} FROM {quoted(name)} LIMIT 0")
    except sqlite3.OperationalError:
        return False
    return True


def _indexes(connection: sqlite3.Connection, name: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    unique: list[tuple[str, ...]] = []
    indexed: list[tuple[str, ...]] = []
    for record in connection.execute(f"PRAGMA index_list({quoted(name)})").fetchall():
        parts = connection.execute(f"PRAGMA index_info({quoted(_text(record[1]))})").fetchall()
        if any(part[2] is None for part in parts):
            continue  # over an expression
        columns = tuple(_text(part[2]) for part in parts)
        is_partial = len(record) > 4 and bool(record[4])
        (unique if record[2] and not is_partial else indexed).append(columns)
    return unique, indexed


def _foreign_keys(connection: sqlite3.Connection, name: str) -> list[ForeignKey]:
    found: dict[int, list[tuple[str, str, str | None]]] = {}
    for record in connection.execute(f"PRAGMA foreign_key_list({quoted(name)})").fetchall():
        to = None if record[4] is None else _text(record[4])
        found.setdefault(int(record[0]), []).append((_text(record[2]), _text(record[3]), to))
    return [
        ForeignKey(tuple(part[1] for part in parts), parts[0][0], tuple(part[2] for part in parts if part[2]))
        for parts in found.values()
    ]


def _sample(
    connection: sqlite3.Connection, name: str, columns: list[Column], has_rowid: bool
) -> tuple[tuple[tuple[Cell, ...], ...], list[dict[str, int]], list[int]]:
    order = _order(columns, has_rowid)
    cells = ", ".join(
        f"typeof({c}), CASE WHEN length(CAST({c} AS BLOB)) > {CELL_BYTES} THEN NULL ELSE {c} END"
        for c in (quoted(column.name) for column in columns)
    )
    first = _rows(connection, f"SELECT {cells} FROM {quoted(name)} ORDER BY {order} LIMIT {SAMPLE_ROWS}")
    reverse = ", ".join(f"{part} DESC" for part in order.split(", "))
    last = _rows(connection, f"SELECT {cells} FROM {quoted(name)} ORDER BY {reverse} LIMIT {SAMPLE_ROWS}")
    seen = set(first)
    records = first + [record for record in reversed(last) if record not in seen]
    storage: list[dict[str, int]] = [{} for _ in columns]
    oversize = [0] * len(columns)
    rows: list[tuple[Cell, ...]] = []
    for record in records:
        row: list[Cell] = []
        for place in range(len(columns)):
            kind, value = _text(record[2 * place]), record[2 * place + 1]
            storage[place][kind] = storage[place].get(kind, 0) + 1
            oversize[place] += value is None and kind != "null"
            row.append(value.decode("utf-8", "replace") if isinstance(value, bytes) and kind == "text" else value)
        rows.append(tuple(row))
    return tuple(rows), storage, oversize


def _order(columns: list[Column], has_rowid: bool) -> str:
    taken = {column.name.lower() for column in columns}
    if has_rowid:
        return next(alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken)
    keyed = sorted((column for column in columns if column.key), key=lambda column: column.key)
    return ", ".join(quoted(column.name) for column in keyed) or "1"


def _rows(connection: sqlite3.Connection, statement: str) -> list[tuple[int | float | bytes | None, ...]]:
    """Rows until their bytes are enough."""
    rows: list[tuple[int | float | bytes | None, ...]] = []
    size = 0
    cursor = connection.execute(statement)
    for record in cursor:
        rows.append(record)
        size += sum(len(value) for value in record if type(value) is bytes)
        if size > SAMPLE_BYTES // 2:
            break
    cursor.close()  # a statement left open would hold the snapshot
    return rows


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
