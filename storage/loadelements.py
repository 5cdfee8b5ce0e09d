"""The statements of the initial load over a section with `each`: an element's place is its row's and its number there.

The elements of a row are read together, so that a page costs its documents once and not once for each element.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from storage.elements import call_of, counting, reader_for
from storage.errors import MappingMisfit
from storage.loadsql import Bindable, Place, Source, place_of_record
from storage.names import quoted
from storage.reader import SectionReader, source_of
from storage.types import Row, Section, digest_of
from storage.whereabouts import is_row_error

CONVERSATIONS = -1
"""The number of a section that tells conversations, and is not watched."""


def source_for(connection: sqlite3.Connection, section: Section) -> Source:
    """The statements of a section. Raises MappingMisfit if it does not fit."""
    if section.each is None:
        return Source(connection, section)
    if section.number == CONVERSATIONS:
        # Where a row tells its conversation by itself, nothing has to be asked of its elements.
        by_row = replace(reader_for(connection, section).section, each=None)
        for one in (by_row, replace(by_row, where=None)):
            with suppress(MappingMisfit):
                SectionReader(connection, one)
                return Source(connection, one)
    return ElementSource(connection, section)


class ElementSource(Source):
    """A `Place` is that of the row, and then the number of the element in it."""

    def __init__(self, connection: sqlite3.Connection, section: Section) -> None:
        super().__init__(connection, section)
        self._number = f"{call_of(section).name}.rowid"

    def check(self, place: Place) -> None:
        """Raises BadPlace if it cannot be one of this section."""
        super().check(place[:-1])

    # -- where elements stand

    def _statement(
        self, condition: str, values: Sequence[Bindable], below: Place | None, low: Place | None, limit: int
    ) -> tuple[str, tuple[Bindable, ...]]:
        columns = ", ".join(f"typeof({column}), {column}" for column in (*self._columns, self._number))
        order = ", ".join(f"{column} DESC" for column in (*self._columns, self._number))
        bounds, parameters = self._bounds(below, low)
        if below is not None:
            bounds += f" AND ({self._compared('<')} OR {self._number} < ?)"
            parameters += below
        sql = f"SELECT {columns} FROM {source_of(self._section)} WHERE {condition}{bounds} ORDER BY {order} LIMIT ?"
        return sql, (*values, *parameters, limit)

    def _bounds(self, below: Place | None, low: Place | None) -> tuple[str, tuple[Bindable, ...]]:
        """The rows of a window. That of `below` is one of them if elements of it stand before that place."""
        bounds, parameters = "", tuple[Bindable, ...]()
        for comparison, place in (("<=" if below is not None and below[-1] else "<", below), (">=", low)):
            if place is not None:
                bounds += f" AND {self._compared(comparison)}"
                parameters += place[:-1]
        return bounds, parameters

    def _rows_inside(self, below: Place | None, low: Place | None, limit: int, offset: int) -> list[Place]:
        columns = ", ".join(f"typeof({column}), {column}" for column in self._columns)
        order = ", ".join(f"{column} DESC" for column in self._columns)
        bounds, parameters = self._bounds(below, low)
        found = self._connection.execute(
            f"SELECT {columns} FROM {quoted(self._section.table)} WHERE 1{bounds} ORDER BY {order} LIMIT ? OFFSET ?",
            (*parameters, limit, offset),
        )
        return [(*place_of_record(record), 0) for record in found]

    def _inside(self, below: Place | None, low: Place | None) -> list[Place]:
        return self._rows_inside(below, low, -1, 0)

    def _nth(self, below: Place | None, number: int) -> Place | None:
        return next(iter(self._rows_inside(below, None, 1, number - 1)), None)

    def _has_several_owners(self) -> bool:
        owner = self._fields["owner"]  # an index answers only for what stands in the row itself
        sql = f"SELECT 1 FROM {quoted(self._section.table)} WHERE ({owner}\n) >= '[' AND ({owner}\n) < '\\' LIMIT 1"
        return self._connection.execute(sql).fetchone() is not None

    # -- elements

    def rows(self, places: Sequence[Place]) -> Iterator[tuple[Place, Row | None]]:
        """The element at each place; None where another of the same row counts for its id."""
        for row, group in groupby(places, key=lambda place: place[:-1]):
            listed = list(group)
            elements = self._elements(row, [place[-1] for place in listed])
            yield from ((place, elements.get(place[-1])) for place in listed)

    def _elements(self, row: Place, numbers: Sequence[Bindable]) -> dict[Bindable, Row]:
        fields = ", ".join(f"({expression}\n)" for _, expression in self._section.fields)
        source = f"FROM {source_of(self._section)} WHERE {self._compared('=')} AND {self._where}"
        order = f"ORDER BY {self._number}"
        try:
            ids = self._connection.execute(f"SELECT {self._number}, ({self._fields['id']}\n) {source} {order}", row)
            counted = {one.loc for one in counting(self._section, [Row(number, b"", (name,)) for number, name in ids])}
            found = self._connection.execute(
                f"SELECT {self._number}, {fields} {source} AND {self._number} IN (SELECT value FROM json_each(?))",
                (*row, json.dumps([number for number in numbers if number in counted])),
            ).fetchall()
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
            return {}
        return {number: Row(0, digest_of(values), tuple(values)) for number, *values in found}
