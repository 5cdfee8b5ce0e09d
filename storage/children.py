"""Child tables: a change in a row of one asks for another look at the rows that depend on it.

What a child's row refers to is remembered with its digest. When the row changes or goes, both what it refers to now and
what it referred to are looked for among the sections that depend on it, and those rows are read again in the same
snapshot; their own digests tell whether anything changed. Where such rows cannot be found by an index or by what
is known of them, their section gets a pass.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.candidates import Places
from storage.examine import Examiner
from storage.names import quoted
from storage.reader import SectionReader
from storage.reading import Batch
from storage.state import StateFile
from storage.tail import ahead_of_tail
from storage.types import NOWHERE, Change, key_of, referred
from storage.watched import Watched

PARENT_ROWS = 500
"""Beyond so many rows that depend on what one look found, a pass over them is as quick and needs less memory."""
_INTEGER = re.compile(rb"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Link:
    """How the rows of one section are found that depend on a child's row."""

    parent: Watched
    field: str
    select: str
    is_indexed: bool


class Children:
    """The sections that depend on each child table. `fit` after each change of the schema, the rest in a snapshot."""

    def __init__(self, state: StateFile, examiner: Examiner, watched: Sequence[Watched]) -> None:
        self._state, self._examiner = state, examiner
        self._watched = {one.section.number: one for one in watched}
        self._links: dict[int, list[Link]] = {}
        self._connection: sqlite3.Connection | None = None

    def fit(self, connection: sqlite3.Connection) -> None:
        """Make the statements for the schema that the sections' readers were made for."""
        self._connection = connection
        self._links = {
            number: [
                _link(connection, parent, field)
                for other, field in child.section.feeds
                if (parent := self._watched[other]).reader is not None
            ]
            for number, child in self._watched.items()
        }

    def parents(self, child: Watched, changes: Iterable[Change]) -> dict[int, set[int]]:
        """Where the rows stand that depend on changed rows of a child, by section. Asks for a pass where none tells."""
        links, found = self._links[child.section.number], dict[int, set[int]]()
        names = {name for change in changes for name in _names(change)} if links else set()
        for link in links if names else ():
            found.setdefault(link.parent.section.number, set()).update(self._locs(link, names))
        return found

    def dependent(self, batch: Batch) -> list[Batch]:
        """The rows that depend on what was found of a child. What its baseline takes in, `catch_up` looks after."""
        child, batches = batch.watched, []
        changes = (one for one in batch.changes if not (batch.is_baseline and child.is_baseline(one)))
        for number, locs in self.parents(child, changes).items():
            parent, places = self._watched[number], Places(locs=locs)
            batches.append(
                self._examiner.places(parent, ahead_of_tail(self._state, parent, places) if parent.tail else places)
            )
        return batches

    def _locs(self, link: Link, names: set[bytes]) -> set[int]:
        locs: set[int] = set()
        if len(names) <= PARENT_ROWS:
            for name in names:
                found = self._found(link, name, PARENT_ROWS - len(locs))
                if found is None:
                    link.parent.ask()
                locs.update(found or ())
        else:
            link.parent.ask()
        return locs

    def _found(self, link: Link, name: bytes, limit: int) -> list[int] | None:
        """The places of the rows of which a field is `name`; None if that cannot be told, or if they are too many."""
        assert self._connection is not None
        if name == NOWHERE:
            return []
        if link.is_indexed:
            found = [loc for (loc,) in self._connection.execute(link.select, (*_values(name), limit + 1))]
            return found if len(found) <= limit else None
        entry = self._state.find(link.parent.section, key_of(name)) if link.field == "id" and limit > 0 else None
        return [entry.loc] if entry is not None and link.parent.has_rowids else None

    def catch_up(self, child: Watched) -> None:
        """Rows that depend on a child may have been read before a change that its baseline took in."""
        for link in self._links[child.section.number]:
            link.parent.is_caught_up = False
            link.parent.ask()


def _names(change: Change) -> set[bytes]:
    now = {referred(change.row.values[0])} if change.row is not None else set()
    return now if change.known is None else now | {change.known.place}


def _values(name: bytes) -> tuple[bytes | int, ...]:
    """What may stand in a column for an id that is pushed as this text: a text, a BLOB, or a number."""
    return name, name, int(name) if _INTEGER.fullmatch(name) else name


def _link(connection: sqlite3.Connection, parent: Watched, field: str) -> Link:
    reader, section = parent.reader, parent.section
    assert reader is not None
    expression = dict(section.fields)[field]
    select = (
        f"SELECT {reader.rowid} FROM {quoted(section.table)} WHERE ({expression}\n) IN (CAST(? AS TEXT), ?, ?) LIMIT ?"
    )
    return Link(parent, field, select, _is_indexed(connection, reader, select))


def _is_indexed(connection: sqlite3.Connection, reader: SectionReader, select: str) -> bool:
    if reader.rowid is None:
        return False
    try:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {select}", (b"", b"", b"", 1)).fetchall()
    except sqlite3.OperationalError:  # an expression over more than a row of the table
        return False
    detail = str(plan[0][3], "utf-8", "replace")
    return detail.startswith("SEARCH ") and ("=?" in detail)
