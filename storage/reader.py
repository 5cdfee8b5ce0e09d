"""Rows of one mapped section, read through SQL from the snapshot that is open.

Every statement is prepared once per schema, so that a mapping which does not fit is found before anything is served.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from copy import copy
from typing import Literal, Self

from storage.chunk import BadRow, Chunk, Record
from storage.errors import MappingMisfit
from storage.names import column_names, hint_for, nearest, quoted, reason_of, text
from storage.types import NOWHERE, Row, Section, Value, digest_of, key_of, text_of
from storage.whereabouts import Whereabouts, is_row_error

CHUNK_BYTES = 4 << 20
"""A chunk ends early when its rows exceed this: bounded memory however large the rows are."""
FETCHED_ROWS = 10
"""Rows between two looks at their size; fewer where they are big, judged by those before them."""


_NOW = re.compile(r"\b(date|time|datetime|julianday|strftime|unixepoch|timediff)\s*\(\s*(\)|[^)]*'now')", re.IGNORECASE)


def asks_for_now(expression: str) -> bool:
    """The present time is another one at each look, and every look would find every row changed."""
    return _NOW.search(expression) is not None


_LITERAL = (
    "CASE WHEN typeof({0}) = 'text' AND instr({0}, char(0)) "
    "THEN '+CAST(x''' || hex({0}) || ''' AS TEXT)' ELSE quote({0}) END"
)
"""A value as an SQL literal. quote() ends a text at a NUL; the plus takes away the affinity that only a cast has."""


ELEMENT_COLUMNS = ("key", "value", "type", "atom", "id", "parent", "fullkey", "path", "json", "root")
"""What json_each and json_tree give of an element (sqlite.org/json1.html)."""


def source_of(section: Section) -> str:
    """What stands after FROM."""
    return quoted(section.table) if section.each is None else f"{quoted(section.table)}, {section.each}\n"


class SectionReader(Whereabouts):
    """The statements of one section over one schema. Raises MappingMisfit if the section does not fit it."""

    _order = ""
    """The order of what stands in one place."""

    def __init__(self, connection: sqlite3.Connection, section: Section) -> None:
        self.section = section
        self._connection = connection
        self.columns = columns_of(connection, section)
        self.rowid = _rowid_alias(connection, section.table, self.columns)
        self.has_unique_id = section.each is None and _is_unique(connection, section.table, section.fields[0][1])
        for name, expression in section.fields:
            _check_expression(connection, section, name, expression)
        if section.where is not None:
            _check_expression(connection, section, "where", section.where)
        names = [self.rowid] if self.rowid else [quoted(name) for name in _primary_key(connection, section.table)]
        self._place = [f"{quoted(section.table)}.{name}" for name in names]
        self._select, self._filter = self._statement()
        self._one = f"{self._select} WHERE {self._place[0]} = ? AND {self._filter}"
        self.reads_others = _reads_others(connection, section.table, f"{self._select} WHERE {self._filter}")
        """Whether a row may come out otherwise without being written to: another table is asked for its fields."""

    def _statement(self) -> tuple[str, str]:
        fields = ", ".join([f"({expression}\n)" for _, expression in self.section.fields] + self._compared_columns())
        select = f"SELECT {self._place_columns}, {fields} FROM {source_of(self.section)}"
        condition = f"({self.section.where}\n)" if self.section.where else "1"
        try:
            self._connection.execute(f"{select} WHERE {condition} LIMIT 0")
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise MappingMisfit(f"{self.section.title} does not fit the database: {error}") from error
        return select, condition

    def _compared_columns(self) -> list[str]:
        """Whatever stands in a child's row may be part of its parent."""
        if self.section.kind != "child":
            return []
        stored = self._connection.execute(f"PRAGMA table_xinfo({quoted(self.section.table)})").fetchall()
        return [quoted(text(column[1])) for column in stored if not column[6]]  # not hidden, not generated

    @property
    def _place_columns(self) -> str:
        # quote() keeps the storage class of a key part, so that the next chunk can begin exactly behind it.
        return ", ".join(self._place if self.rowid else [_LITERAL.format(name) for name in self._place])

    def _loc(self, place: tuple[Value, ...]) -> int:
        """A table WITHOUT ROWID has no rowid: 63 bits of its primary key stand for the place."""
        if self.rowid and isinstance(place[0], int):
            return place[0]
        return int.from_bytes(digest_of(place)[:8], "big") >> 1

    def _row(self, record: Record) -> Row:
        width = len(self._place)
        values = record[width:]
        return Row(self._loc(record[:width]), digest_of(values), values[: len(self.section.fields)])

    def over(self, connection: sqlite3.Connection) -> Self:
        """The same statements over another connection, which shows the same schema."""
        other = copy(self)
        other._connection = connection
        return other

    def chunk(self, after: tuple[Value, ...] | None, limit: int) -> Chunk:
        """The next `limit` rows after a place (None: from the start)."""
        try:
            return self._chunk(after, limit)
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        return self._chunk_row_by_row(after, limit)

    def _condition(
        self, comparison: Literal[">", "IS"], place: tuple[Value, ...] | None
    ) -> tuple[str, tuple[Value, ...]]:
        if place is None:
            return "1", ()
        if self.rowid:
            return f"{self._place[0]} {comparison} ?", place
        literals = ", ".join(str(text_of(part)) for part in place)  # what quote() gave: SQL literals
        return f"({', '.join(self._place)}) {comparison} ({literals})", ()

    def _chunk(self, after: tuple[Value, ...] | None, limit: int) -> Chunk:
        condition, parameters = self._condition(">", after)
        cursor = self._connection.execute(
            f"{self._select} WHERE {condition} AND {self._filter} ORDER BY {', '.join(self._place)} LIMIT ?",
            (*parameters, limit),
        )
        records: list[Record] = []
        size, last, step = 0, None, 1
        while some := cursor.fetchmany(step):
            records += some
            size += sum([len(value) for record in some for value in record if type(value) is bytes])
            if size > CHUNK_BYTES or len(records) == limit:
                last = records[-1][: len(self._place)]
                break
            step = max(1, min(FETCHED_ROWS, (CHUNK_BYTES - size) * len(records) // (size + 1)))
        cursor.close()  # a statement left open would hold the snapshot
        return Chunk.of(records, self._row, last)

    def _places_after(self, after: tuple[Value, ...] | None, limit: int) -> list[tuple[Value, ...]]:
        condition, parameters = self._condition(">", after)
        return self._connection.execute(
            f"SELECT {self._place_columns} FROM {quoted(self.section.table)} WHERE {condition} "
            f"ORDER BY {', '.join(self._place)} LIMIT ?", (*parameters, limit),
        ).fetchall()  # fmt: skip

    def _chunk_row_by_row(self, after: tuple[Value, ...] | None, limit: int) -> Chunk:
        places = self._places_after(after, limit)
        rows: list[Row] = []
        bad: list[BadRow] = []
        for place in places:
            self._read_one(place, rows, bad)
        return Chunk(rows, bad, places[-1] if len(places) == limit else None)

    def _read_one(self, place: tuple[Value, ...], rows: list[Row], bad: list[BadRow]) -> None:
        match, parameters = self._condition("IS", place)
        try:
            sql = f"{self._select} WHERE {match} AND {self._filter}{self._order}"
            found = self._connection.execute(sql, parameters).fetchall()
            rows.extend(map(self._row, found))
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
            bad.append(BadRow(self._loc(place), str(error)))

    def at(self, locs: Sequence[int]) -> Chunk:
        """The rows that stand at these rowids now. Only for tables that have rowids."""
        try:
            if len(locs) == 1:  # the usual commit: one row
                records = self._connection.execute(self._one, locs).fetchall()
            else:
                records = self._connection.execute(
                    f"{self._select} WHERE {self._place[0]} IN (SELECT value FROM json_each(?)) AND {self._filter} "
                    f"ORDER BY {self._place[0]}",
                    (json.dumps(list(locs)),),
                ).fetchall()
            return Chunk.of(records, self._row, None)
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        rows: list[Row] = []
        bad: list[BadRow] = []
        for loc in sorted(locs):
            self._read_one((loc,), rows, bad)
        return Chunk(rows, bad, None)

    def between(self, low: int | None, high: int | None, limit: int) -> Chunk:
        """At most `limit` rows whose rowids lie strictly between two; None is open. Only for tables with rowids."""
        low, high = inside(low, high)
        try:
            records = self._connection.execute(
                f"{self._select} WHERE {self._place[0]} BETWEEN ? AND ? AND {self._filter} "
                f"ORDER BY {self._place[0]} LIMIT ?",
                (low, high, limit),
            ).fetchall()
            return Chunk.of(records, self._row, None)
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        return self.at(self._rowids(low, high, limit))

    def _rowids(self, low: int, high: int, limit: int) -> list[int]:
        found = self._connection.execute(
            f"SELECT {self._place[0]} FROM {quoted(self.section.table)} WHERE {self._place[0]} BETWEEN ? AND ? "
            f"ORDER BY {self._place[0]} LIMIT ?",
            (low, high, limit),
        )
        return [rowid for (rowid,) in found]

    def has_exactly(self, rowids: Sequence[int]) -> bool:
        """Whether the table's rowids from the first to the last of these are these."""
        return self._rowids(rowids[0], rowids[-1], len(rowids) + 1) == list(rowids)

    def neighbours(self, first: int, last: int) -> tuple[int | None, int | None]:
        """The rowids that stand next before and next after a range; None where there is none."""
        place, table = self._place[0], quoted(self.section.table)
        low, high = self._connection.execute(
            f"SELECT (SELECT max({place}) FROM {table} WHERE {place} < ?), "
            f"(SELECT min({place}) FROM {table} WHERE {place} > ?)",
            (first, last),
        ).fetchone()
        return low, high

    def is_empty(self) -> bool:
        """Whether the table has no row."""
        return self._connection.execute(f"SELECT 1 FROM {quoted(self.section.table)} LIMIT 1").fetchone() is None

    def key_at(self, loc: int, *, filtered: bool) -> bytes | None:
        """The key of the row that stands at a rowid now, None if there is none. `filtered` applies `where`."""
        condition = self._filter if filtered else "1"
        try:
            found = self._connection.execute(
                f"SELECT ({self.section.fields[0][1]}\n) FROM {quoted(self.section.table)} "
                f"WHERE {self._place[0]} = ? AND {condition}",
                (loc,),
            ).fetchone()
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
            return None
        return None if found is None else key_of(found[0])

    def holds(self, loc: int, key: bytes, *, filtered: bool) -> bool:
        """Whether the row with this key stands at a rowid now."""
        return self.rowid is not None and self.key_at(loc, filtered=filtered) == key

    def place_at(self, loc: int) -> bytes:
        """Which conversation a row with `each` is of, as `place_of` says it, though its elements cannot be read."""
        return NOWHERE

    def last_loc(self) -> int:
        """The highest rowid of the table, 0 if it is empty or has none."""
        if self.rowid is None:
            return 0
        found = self._connection.execute(f"SELECT max({self._place[0]}) FROM {quoted(self.section.table)}").fetchone()[
            0
        ]
        return 0 if found is None else int(found)

    def count(self) -> int:
        """How many rows the table has."""
        return int(self._connection.execute(f"SELECT count(*) FROM {quoted(self.section.table)}").fetchone()[0])


def inside(low: int | None, high: int | None) -> tuple[int, int]:
    """The first and the last rowid that lie strictly between two; None is open."""
    return -(1 << 63) if low is None else low + 1, (1 << 63) - 1 if high is None else high - 1


def columns_of(connection: sqlite3.Connection, section: Section) -> list[str]:
    """The columns of a section's table. Raises MappingMisfit if there is none."""
    tables = {
        text(name): text(kind)
        for name, kind in connection.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')")
    }
    kind = {name.lower(): kind for name, kind in tables.items()}.get(section.table.lower())
    if kind is None:
        raise MappingMisfit(
            f'{section.named("table")} = "{section.table}": no such table', nearest(section.table, tables, "tables")
        )
    if kind == "view":
        raise MappingMisfit(
            f'{section.named("table")} = "{section.table}" is a view',
            "name the table behind it and put the view's expressions into the fields",
        )
    return column_names(connection, section.table)


def _reads_others(connection: sqlite3.Connection, table: str, select: str) -> bool:
    """Whether a statement opens more than the table, or than one index of it (sqlite.org/opcode.html)."""
    roots = connection.execute("SELECT rootpage FROM sqlite_master WHERE lower(tbl_name) = lower(?)", (table,))
    own = {root for (root,) in roots.fetchall()}
    steps = connection.execute(f"EXPLAIN {select}").fetchall()
    opened = [step[3] for step in steps if step[1] in (b"OpenRead", b"ReopenIdx", b"VOpen")]
    return len(opened) != 1 or opened[0] not in own


def _rowid_alias(connection: sqlite3.Connection, table: str, columns: list[str]) -> str | None:
    taken = {column.lower() for column in columns}
    for alias in ("rowid", "_rowid_", "oid"):
        if alias not in taken:
            try:
                connection.execute(f"SELECT {alias} FROM {quoted(table)} LIMIT 0")
            except sqlite3.OperationalError:
                return None  # WITHOUT ROWID
            return alias
    return None


def _is_unique(connection: sqlite3.Connection, table: str, expression: str) -> bool:
    """Whether an id is a column that the schema itself keeps unique."""
    name = expression.strip().strip('"[]`').lower()
    keyed = [text(r[1]).lower() for r in connection.execute(f"PRAGMA table_xinfo({quoted(table)})") if r[5]]
    if keyed == [name]:
        return True
    for index in connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
        columns = connection.execute(f"PRAGMA index_info({quoted(text(index[1]))})").fetchall()
        if index[2] and not index[4] and [text(column[2] or b"").lower() for column in columns] == [name]:
            return True
    return False


def _primary_key(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of the primary key in its order; all columns if there is none."""
    records = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    keyed = sorted((int(record[5]), text(record[1])) for record in records if record[5])
    return [name for _, name in keyed] or [text(record[1]) for record in records]


def _check_expression(connection: sqlite3.Connection, section: Section, field: str, expression: str) -> None:
    """Compile one expression alone, so that the error names the field it stands in.

    In WHERE an aggregate is refused by SQLite; in a SELECT list it would silently fold the table into one row.
    """
    place = f'{section.named(field)} = "{" ".join(expression.split())}"'
    source, elements = source_of(section), () if section.each is None else ELEMENT_COLUMNS
    if asks_for_now(expression):
        hint = "an expression must give the same value at each look"
        raise MappingMisfit(f"{place}: asks for the present time", hint)
    try:
        width = len(connection.execute(f"SELECT ({expression}\n) FROM {source} LIMIT 0").description)
        connection.execute(f"SELECT 1 FROM {source} WHERE ({expression}\n) IS NULL LIMIT 0")
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        hint = hint_for(connection, section.table, expression, str(error), elements)
        raise MappingMisfit(f"{place}: {reason_of(error)}", hint) from error
    if width != 1:
        raise MappingMisfit(f"{place}: gives {width} values", "a field is one SQL expression")
    check_quoted_names(connection, place, expression, elements)


def check_quoted_names(connection: sqlite3.Connection, place: str, expression: str, elements: Sequence[str]) -> None:
    """Raises MappingMisfit if a name in double quotes is none of the database's, or of `elements`."""
    for name in re.findall(r'"((?:[^"]|"")+)"', re.sub(r"'(?:[^']|'')*'", "", expression)):
        _check_quoted(connection, place, name.replace('""', '"'), elements)


def _check_quoted(connection: sqlite3.Connection, place: str, name: str, elements: Sequence[str]) -> None:
    """SQLite takes a double-quoted name that does not exist for a string: then every row would carry that string."""
    known = {
        text(table).lower() for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    for table in list(known):
        known |= {text(record[1]).lower() for record in connection.execute(f"PRAGMA table_xinfo({quoted(table)})")}
    known.update(elements)
    if name.lower() not in known:
        raise MappingMisfit(
            f'{place}: no column "{name}"', nearest(name, known, "names") + " (text stands in 'single quotes')"
        )
