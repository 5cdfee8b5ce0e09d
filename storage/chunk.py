"""Rows as one reading gave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.types import Row, Value


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row whose expressions fail: the rest of the section must not suffer for it."""

    loc: int
    reason: str


Record = tuple[Value, ...]
"""What SQLite gives of a row: its place, and then its values."""


class Chunk:
    """Rows in the order of the table. They are all that stand after the previous chunk and up to `last`.

    `last` is where the next chunk begins, None when this one reached the end of the table. `locs` are given where a
    row of the table may hold many of `rows`, or none: the places of those that were read.
    """

    __slots__ = ("_make", "_records", "_rows", "bad", "last", "locs")

    def __init__(
        self, rows: list[Row], bad: list[BadRow], last: tuple[Value, ...] | None, locs: frozenset[int] | None = None
    ) -> None:
        self._rows: list[Row] | None = rows
        self._records: Sequence[Record] = ()
        self._make: Callable[[Record], Row] | None = None
        self.bad, self.last, self.locs = bad, last, locs

    @classmethod
    def of(cls, records: Sequence[Record], make: Callable[[Record], Row], last: tuple[Value, ...] | None) -> Chunk:
        """Rows that are made when they are first asked for: for that no snapshot has to stay open, nor a lock held."""
        chunk = cls([], [], last)
        chunk._rows, chunk._records, chunk._make = None, records, make
        return chunk

    @property
    def rows(self) -> list[Row]:
        """The rows, in order."""
        if self._rows is None:
            assert self._make is not None
            self._rows = [self._make(record) for record in self._records]
            self._records = ()
        return self._rows
