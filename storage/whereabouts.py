"""Where the rows of a section are that are not where they stood: by id, and whether `where` holds or not."""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping

from storage.names import quoted
from storage.types import Section, Value, key_of


def is_row_error(error: sqlite3.OperationalError) -> bool:
    """Whether evaluating one row failed ("malformed JSON"), not the database or the statement."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH) and not re.match(
        r"no such (table|column|function)|near ", str(error)
    )


class Whereabouts(ABC):
    """The part of a section's reader that looks for ids."""

    section: Section
    has_unique_id: bool
    _connection: sqlite3.Connection
    _place: list[str]
    _filter: str

    @property
    @abstractmethod
    def _place_columns(self) -> str:
        """What tells a row's place."""

    @abstractmethod
    def _loc(self, place: tuple[Value, ...]) -> int:
        """The number that stands for a place."""

    def all_keys(self, *, filtered: bool) -> dict[int, bytes | None]:
        """The key of each row by its place, None where it cannot be told. For tables WITHOUT ROWID; all in memory."""
        select, table = f"SELECT {self._place_columns}", quoted(self.section.table)
        condition = self._filter if filtered else "1"
        try:
            found = self._connection.execute(f"{select}, {self._id} FROM {table} WHERE {condition}")
            return {self._loc(record[:-1]): key_of(record[-1]) for record in found}
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        return {self._loc(place): None for place in self._connection.execute(f"{select} FROM {table}")}

    def out_of_sight(self, ids: Mapping[bytes, str | int | float | None], *, everywhere: bool) -> dict[bytes, int]:
        """Rowids of the rows that `where` leaves out, of those with one of these ids, by key.

        Few look-ups where the id is a unique column; else the table is read. Not `everywhere`: it is enough to
        look at what the look that goes on has read.
        """
        table = quoted(self.section.table)
        select = f"SELECT {self._id}, {self._place[0]} FROM {table} WHERE ({self._filter}) IS NOT TRUE"
        try:
            if self.has_unique_id:
                asked = (self._connection.execute(f"{select} AND {self._id} = ?", (one,)) for one in ids.values())
                return {key_of(name): loc for found in asked for name, loc in found if key_of(name) in ids}
            return {key: loc for name, loc in self._connection.execute(select) if (key := key_of(name)) in ids}
        except sqlite3.OperationalError as error:
            if not is_row_error(error):
                raise
        return {}

    @property
    def _id(self) -> str:
        return f"({self.section.fields[0][1]}\n)"
