"""Sections with `each`: one row of the table holds many messages or tasks, each an element of a JSON value in it.

Rows of the table are read one by one. So all elements of a row come together and in their order, a row whose JSON
cannot be read harms no other, and limits count rows of the table.
"""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from storage import reader as plain
from storage.chunk import BadRow, Chunk
from storage.errors import MappingMisfit
from storage.names import hint_for, quoted, reason_of
from storage.reader import ELEMENT_COLUMNS, SectionReader, source_of
from storage.types import NOWHERE, Row, Section, Value, key_of, place_of
from storage.whereabouts import is_row_error

KEPT_KEYS = 64
"""Rows of which the ids are kept for as long as nothing is committed."""
KEPT_PLACES = 100_000
"""Rows of a table WITHOUT ROWID of which the primary key is kept."""

_CALL = re.compile(r"\s*(json_each|json_tree)\s*\(", re.IGNORECASE)
_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`|--[^\n]*|/\*.*?\*/|.""",
    re.DOTALL,
)
_ALIAS = re.compile(r"\s*(?:(?:AS\s+)?([A-Za-z_]\w*))?\s*", re.IGNORECASE)
_NAME = re.compile(r"""\s*(?:"([^"]+)"|\[([^\]]+)\]|`([^`]+)`|([A-Za-z_]\w*))\s*""")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of json_each or json_tree. `name` is what its columns can be qualified with."""

    arguments: str
    name: str


def parse_call(text: str) -> Call | None:
    """The one call that an `each` is, None if it is anything else."""
    begin = _CALL.match(text)
    if begin is None:
        return None
    depth, end = 1, begin.end()
    for token in _TOKEN.finditer(text, end):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            end = token.start()
            break
    alias = _ALIAS.fullmatch(text, end + 1)
    arguments = text[begin.end() : end]
    if depth or alias is None or not arguments.strip():
        return None
    return Call(arguments, alias[1] or begin[1])


def call_of(section: Section) -> Call:
    """The call of a section with `each`. Raises MappingMisfit."""
    call = parse_call(section.each or "")
    if call is None:
        raise MappingMisfit(
            f'{section.named("each")} = "{section.each}": is not one call of json_each or json_tree',
            f"write json_each({section.table}.COLUMN, '$.PATH'); what else there is to say goes into where",
        )
    return call


def reader_for(connection: sqlite3.Connection, section: Section) -> SectionReader:
    """The reader for a section, with `each` or without. Raises MappingMisfit if the section does not fit."""
    return SectionReader(connection, section) if section.each is None else ElementReader(connection, section)


class ElementReader(SectionReader):
    """The statements of a section with `each`. A `Row` is one element, and the `loc` is that of the table's row."""

    def __init__(self, connection: sqlite3.Connection, section: Section) -> None:
        columns = plain.columns_of(connection, section)
        self.call = call_of(section)
        _check_call(connection, section, self.call)
        super().__init__(connection, _told_apart(connection, section, self.call, columns))
        self._order = f" ORDER BY {self.call.name}.rowid"
        self._version = -1
        self._read: deque[tuple[Value, ...]] = deque(maxlen=KEPT_KEYS)
        self._keys: dict[tuple[int, bool], frozenset[bytes] | None] = {}
        self._places: dict[int, tuple[Value, ...]] = {}

    def chunk(self, after: tuple[Value, ...] | None, limit: int) -> Chunk:
        """The elements of the next `limit` rows of the table. It never ends between two elements of a row."""
        rows: list[Row] = []
        bad: list[BadRow] = []
        locs: list[int] = []
        size, places = 0, self._places_after(after, limit)
        for place in places:
            begin = len(rows)
            self._read_one(place, rows, bad)
            locs.append(self._remembered(place))
            size += sum(len(value) for row in rows[begin:] for value in row.values if type(value) is bytes)
            if size > plain.CHUNK_BYTES:
                return Chunk(rows, bad, place, frozenset(locs))
        return Chunk(rows, bad, places[-1] if len(places) == limit else None, frozenset(locs))

    def _remembered(self, place: tuple[Value, ...]) -> int:
        loc = self._loc(place)
        if self.rowid is None:
            if len(self._places) >= KEPT_PLACES:
                self._places.clear()
            self._places[loc] = place
        return loc

    def _read_one(self, place: tuple[Value, ...], rows: list[Row], bad: list[BadRow]) -> None:
        self._refresh()
        self._read.append(place)
        found: list[Row] = []
        super()._read_one(place, found, bad)
        rows.extend(counting(self.section, found))

    def at(self, locs: Sequence[int]) -> Chunk:
        """The elements of the rows that stand at these rowids now."""
        rows: list[Row] = []
        bad: list[BadRow] = []
        for loc in sorted(locs):
            self._read_one((loc,), rows, bad)
        return Chunk(rows, bad, None)

    def between(self, low: int | None, high: int | None, limit: int) -> Chunk:
        """The elements of at most `limit` rows whose rowids lie strictly between two; None is open."""
        return self.at(self._rowids(*plain.inside(low, high), limit))

    def holds(self, loc: int, key: bytes, *, filtered: bool) -> bool:
        """Whether the element with this key is in the row at a place now. Of a row that cannot be read, each is."""
        self._refresh()
        if (loc, filtered) not in self._keys:
            self._keys[loc, filtered] = self._keys_at(loc, filtered=filtered)
        keys = self._keys[loc, filtered]
        return keys is None or key in keys

    def _refresh(self) -> None:
        """What was read is forgotten when something was committed since."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._read.clear()
        if version != self._version or len(self._keys) > KEPT_KEYS:
            self._keys.clear()
        self._version = version

    def all_keys(self, *, filtered: bool) -> dict[int, bytes | None]:
        """The places of all rows; which elements they hold is not told."""
        found = self._connection.execute(f"SELECT {self._place_columns} FROM {quoted(self.section.table)}")
        return {self._loc(place): None for place in found}

    def out_of_sight(self, ids: Mapping[bytes, str | int | float | None], *, everywhere: bool) -> dict[bytes, int]:
        """Rowids of the rows that hold an element which `where` leaves out, of those with one of these ids, by key."""
        places = [*self._read]
        if everywhere:
            places = self._connection.execute(f"SELECT {self._place[0]} FROM {quoted(self.section.table)}").fetchall()
        held = ((self._loc(place), self._keys_at(self._loc(place), filtered=False) or ()) for place in places)
        return {key: loc for loc, keys in held for key in ids if key in keys}

    def place_at(self, loc: int) -> bytes:
        """NOWHERE if only the elements tell the conversation."""
        conversation, table = self.section.fields[2][1], quoted(self.section.table)
        try:
            found = self._connection.execute(
                f"SELECT ({conversation}\n) FROM {table} WHERE {self._place[0]} = ?", (loc,)
            ).fetchone()
        except sqlite3.OperationalError:
            return NOWHERE
        return NOWHERE if found is None or self.rowid is None else place_of(self.section, (None, None, found[0]))

    def _keys_at(self, loc: int, *, filtered: bool) -> frozenset[bytes] | None:
        place = (loc,) if self.rowid else self._places.get(loc)
        if place is None:
            return frozenset()
        match, parameters = self._condition("IS", place)
        sql = f"SELECT ({self.section.fields[0][1]}\n) FROM {source_of(self.section)} WHERE {match}"
        try:
            found = self._connection.execute(f"{sql} AND {self._filter}" if filtered else sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
            # What `where` leaves out may well be what has no id: then only what is in sight can be told.
            return None if filtered else self._keys_at(loc, filtered=True)
        return frozenset(key_of(value) for (value,) in found)


def counting(section: Section, rows: Iterable[Row]) -> list[Row]:
    """Of the elements of one row, those that count: of one message id the first, of one task id the last."""
    by_key: dict[bytes, Row] = {}
    for row in rows:
        if section.kind == "task":
            by_key.pop(row.key, None)
            by_key[row.key] = row
        else:
            by_key.setdefault(row.key, row)
    return list(by_key.values())


# -- what a mapping may say


def _check_call(connection: sqlite3.Connection, section: Section, call: Call) -> None:
    """Compile the call, first over the table alone: a column of its own elements would silently give none."""
    place, table = f'{section.named("each")} = "{section.each}"', quoted(section.table)
    if plain.asks_for_now(call.arguments):
        raise MappingMisfit(
            f"{place}: asks for the present time", "an expression must give the same value at each look"
        )
    try:
        connection.execute(f"SELECT {call.arguments}\n FROM {table} LIMIT 0")
        connection.execute(f"SELECT 1 FROM {source_of(section)} LIMIT 0")
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        hint = hint_for(connection, section.table, call.arguments, str(error))
        raise MappingMisfit(f"{place}: {reason_of(error)}", hint) from error
    plain.check_quoted_names(connection, place, call.arguments, ())


def _told_apart(connection: sqlite3.Connection, section: Section, call: Call, columns: list[str]) -> Section:
    """The section with names told apart that both the table and the elements have, such as `id`.

    `key` and `value` are those of the element, any other is the table's; qualified names say it themselves.
    """
    shared = {name.lower(): name for name in columns if name.lower() in ELEMENT_COLUMNS}
    if not shared:
        return section
    source = {name: call.name if name in ("key", "value") else quoted(section.table) for name in shared}
    qualified = {name: f"{source[name]}.{quoted(column)}" for name, column in shared.items()}
    inner = ", ".join(f"{full} AS {quoted(shared[name])}" for name, full in qualified.items())

    def told_apart(field: str, expression: str) -> str:
        try:
            connection.execute(f"SELECT ({expression}\n) FROM {source_of(section)} LIMIT 0")
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if "ambiguous column name" not in str(error):
                return expression  # what is wrong with it is said where every expression is checked
        else:
            return expression
        if name := _NAME.fullmatch(expression):
            return qualified[(name[1] or name[2] or name[3] or name[4]).lower()]
        try:  # what stands in an inner FROM is found before what stands in an outer one
            connection.execute(
                f"SELECT 1 FROM {source_of(section)} "
                f"WHERE (SELECT 1 FROM (SELECT {inner}) WHERE ({expression}\n) IS NULL) LIMIT 0"
            )
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            place = f'{section.named(field)} = "{" ".join(expression.split())}"'
            hint = hint_for(connection, section.table, expression, str(error), ELEMENT_COLUMNS)
            raise MappingMisfit(f"{place}: {reason_of(error)}", hint) from error
        return f"(SELECT {expression}\n FROM (SELECT {inner}))"

    fields = tuple((name, told_apart(name, expression)) for name, expression in section.fields)
    return replace(section, fields=fields, where=section.where and told_apart("where", section.where))
