"""The statements of the initial load over one section: where rows of an owner or a conversation stand, and a row."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence

from storage.elements import reader_for
from storage.names import quoted
from storage.types import Row, Section, Value, digest_of
from storage.whereabouts import is_row_error

Bindable = int | float | str | bytes | None
Place = tuple[Bindable, ...]
"""Where a row stands: its rowid, or its primary key in a table that has none."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class BadPlace(ValueError):
    """A place that cannot be one of this table."""


class Sought:
    """Rows of which one field has a value, given as the text it is pushed as."""

    __slots__ = ("field", "text")

    def __init__(self, field: str, text: str) -> None:
        self.field, self.text = field, text

    @property
    def values(self) -> list[Bindable]:
        """What may stand in the column for this text. A column with an affinity would take either for the other."""
        return [self.text, int(self.text)] if _INTEGER.fullmatch(self.text) else [self.text]


class Source:
    """One section over one schema. Raises MappingMisfit if it does not fit."""

    def __init__(self, connection: sqlite3.Connection, section: Section) -> None:
        reader = reader_for(connection, section)
        self._connection, self._section = connection, reader.section
        section = reader.section
        names = [reader.rowid] if reader.rowid else [quoted(name) for name in self._primary_key()]
        self._columns = [f"{quoted(section.table)}.{name}" for name in names]
        self._fields = dict(section.fields)
        self._where = f"({section.where}\n)" if section.where else "1"
        self._indexed: dict[str, bool] = {}

    def _primary_key(self) -> list[str]:
        records = self._connection.execute(f"PRAGMA table_xinfo({quoted(self._section.table)})").fetchall()
        return [str(name, "utf-8") for _, name in sorted((record[5], record[1]) for record in records if record[5])]

    # -- where rows stand

    def places(self, sought: Sought, below: Place | None, limit: int, window: int) -> tuple[list[Place], Place | None]:
        """The first `limit` places before `below`, newest first, and where to go on; None at the end of the table.

        Without an index only the next `window` rows of the table are searched.
        """
        if self.is_indexed(sought) and not (sought.field == "owner" and self._has_several_owners()):
            try:
                places = self._select(f"{self._equals(sought)} AND {self._where}", sought.values, below, None, limit)
            except sqlite3.OperationalError as error:
                if not is_row_error(error):
                    raise
            else:
                return places, places[-1] if len(places) == limit else None
        low = self._nth(below, window)
        places = self._matching(sought, below, low, limit)
        return places, places[-1] if len(places) == limit else low

    def is_indexed(self, sought: Sought) -> bool:
        """Whether SQLite finds such rows by an index, so that it reads no others."""
        if sought.field not in self._indexed:
            sql, parameters = self._statement(self._equals(sought), sought.values, None, None, 1)
            plan = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            detail = str(plan[0][3], "utf-8")
            self._indexed[sought.field] = detail.startswith("SEARCH ") and "=?" in detail
        return self._indexed[sought.field]

    def _has_several_owners(self) -> bool:
        """Whether any row names its owners as an array; an index on them is then of no use."""
        owner = self._fields["owner"]
        sql = f"SELECT 1 FROM {quoted(self._section.table)} WHERE ({owner}\n) >= '[' AND ({owner}\n) < '\\' LIMIT 1"
        return self._connection.execute(sql).fetchone() is not None

    def _equals(self, sought: Sought) -> str:
        marks = ", ".join("?" for _ in sought.values)
        return f"({self._fields[sought.field]}\n) " + (f"= {marks}" if len(sought.values) == 1 else f"IN ({marks})")

    def _matching(self, sought: Sought, below: Place | None, low: Place | None, limit: int) -> list[Place]:
        """Matches of a window, which is halved until a row whose expressions fail stands alone and hides no other."""
        field = f"({self._fields[sought.field]}\n)"
        condition = f"({self._equals(sought)} OR {field} = CAST(? AS BLOB)"
        condition += f" OR substr({field}, 1, 1) = '[')" if sought.field == "owner" else ")"
        try:
            return self._select(f"{condition} AND {self._where}", [*sought.values, sought.text], below, low, limit)
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        inside = self._inside(below, low)
        if len(inside) < 2:
            return []
        middle = inside[len(inside) // 2 - 1]
        newer = self._matching(sought, below, middle, limit)
        return newer + self._matching(sought, middle, low, limit - len(newer)) if len(newer) < limit else newer

    def _inside(self, below: Place | None, low: Place | None) -> list[Place]:
        """The places of all rows of a window, whatever they are."""
        return self._select("1", [], below, low, -1)

    def _nth(self, below: Place | None, number: int) -> Place | None:
        """The place of the last of the next rows, whatever they are; None if there are no more."""
        sql, parameters = self._statement("1", [], below, None, 1)
        found = self._connection.execute(f"{sql} OFFSET ?", (*parameters, number - 1)).fetchone()
        return None if found is None else place_of_record(found)

    def _select(
        self, condition: str, values: Sequence[Bindable], below: Place | None, low: Place | None, limit: int
    ) -> list[Place]:
        sql, parameters = self._statement(condition, values, below, low, limit)
        return [place_of_record(record) for record in self._connection.execute(sql, parameters)]

    def _statement(
        self, condition: str, values: Sequence[Bindable], below: Place | None, low: Place | None, limit: int
    ) -> tuple[str, tuple[Bindable, ...]]:
        """Places in [low, below), newest first."""
        columns = ", ".join(f"typeof({column}), {column}" for column in self._columns)
        order = ", ".join(f"{column} DESC" for column in self._columns)
        bounds, parameters = "", tuple(values)
        for comparison, place in (("<", below), (">=", low)):
            if place is not None:
                bounds += f" AND {self._compared(comparison)}"
                parameters += place
        sql = f"SELECT {columns} FROM {quoted(self._section.table)} WHERE {condition}{bounds} ORDER BY {order} LIMIT ?"
        return sql, (*parameters, limit)

    def _compared(self, comparison: str) -> str:
        marks = ", ".join("?" for _ in self._columns)
        return f"({', '.join(self._columns)}) {comparison} ({marks})"

    # -- a row

    def check(self, place: Place) -> None:
        """Raises BadPlace if it cannot be one of this table."""
        if len(place) != len(self._columns):
            raise BadPlace(place)

    def rows(self, places: Sequence[Place]) -> Iterator[tuple[Place, Row | None]]:
        """The row at each place, one after another."""
        for place in places:
            yield place, self.row(place)

    def row(self, place: Place) -> Row | None:
        """The row at a place; None if there is none, or if its expressions fail."""
        fields = ", ".join(f"({expression}\n)" for _, expression in self._section.fields)
        sql = f"SELECT {fields} FROM {quoted(self._section.table)} WHERE {self._compared('=')} AND {self._where}"
        try:
            found: tuple[Value, ...] | None = self._connection.execute(sql, place).fetchone()
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
            return None
        return None if found is None else Row(0, digest_of(found), found)


def place_of_record(record: Sequence[Bindable]) -> Place:
    """TEXT and BLOB both come as bytes; as a parameter each has to be what it is."""
    pairs = zip(record[::2], record[1::2], strict=True)
    return tuple(
        value.decode("utf-8", "replace") if kind == b"text" and isinstance(value, bytes) else value
        for kind, value in pairs
    )
