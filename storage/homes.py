"""Where rows were told, kept once for all rows of a conversation: the table of their conversations and owners."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod

from storage.types import HIDDEN, NOBODY, Home, Known, Outcome, Row, Section, Value, key_of, text_of

CACHED = 10_000
SPARE = 10_000
"""Homes that may stand empty beside those that rows have, before they are cleared away."""


def home_out_of_sight(section: Section, known: Known) -> int | None:
    """The number of the home of a row that left the `where`. Of a task that is noted though nobody knew of the row."""
    return HIDDEN if known.is_told or section.kind == "task" else known.home


class Homes(ABC):
    """The part of the state file that is its `homes` table."""

    _numbers: dict[tuple[Value, Value], int]
    _made = SPARE
    """How many were made since they were last looked through."""

    @property
    @abstractmethod
    def _sql(self) -> sqlite3.Connection:
        """The open state file."""

    def forget_homes(self) -> None:
        """What is kept in memory is void: the transaction that made it was rolled back."""
        self._numbers = {}

    def home(self, known: Known) -> Home | None:
        """Where a row was told, None if nowhere, or not known."""
        if not known.is_told:
            return None
        found = self._sql.execute("SELECT conversation_id, owner FROM homes WHERE number = ?", (known.home,)).fetchone()
        return None if found is None else Home(*found)

    def remembered(self, outcome: Outcome, row: Row) -> tuple[str | int | float | None, int | None]:
        """(id, home) that `seen` keeps of a row after an outcome."""
        if outcome.change.section.kind == "child":
            return None, None
        value, known = row.values[0], outcome.change.known
        name = text_of(value) if isinstance(value, bytes) else value
        if not outcome.pending:
            _, owner, conversation = row.values[:3]
            return name, self._numbers.get((conversation, owner)) or self._number(conversation, owner)
        if known is None or known.is_hidden or outcome.farewell is not None:
            return name, NOBODY
        return name, known.home  # those who were told of it before it could not be rendered

    def _number(self, conversation: Value, owner: Value) -> int:
        values = text_of(conversation), owner
        found = self._sql.execute(
            "SELECT number FROM homes WHERE conversation_id IS ? AND owner IS ?", values
        ).fetchone()
        if found is None:
            self._made += 1
            made = self._sql.execute("INSERT INTO homes(conversation_id, owner) VALUES (?, ?)", values).lastrowid
            found = (made,)
        if len(self._numbers) >= CACHED:
            self._numbers.clear()
        number = self._numbers[conversation, owner] = int(found[0])
        return number

    def told_keys(self, most: int) -> set[bytes] | None:
        """Keys of all that was told; None if they are more than `most`. Reads the event log."""
        found = self._sql.execute("SELECT DISTINCT subject FROM events LIMIT ?", (most + 1,)).fetchall()
        return {key_of(subject) for (subject,) in found} if len(found) <= most else None

    def clear_homes(self) -> None:
        """Remove the homes of rows that are gone, when they have become many. A statement of its own."""
        if self._made < SPARE:
            return
        self._made = 0
        homes = self._sql.execute("SELECT count(*) FROM homes").fetchone()[0]
        if homes > SPARE and homes > 2 * self._sql.execute("SELECT count(*) FROM seen").fetchone()[0] + SPARE:
            self._sql.execute("DELETE FROM homes WHERE number NOT IN (SELECT home FROM seen WHERE home > 0)")
            self.forget_homes()
