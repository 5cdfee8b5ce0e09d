"""Rows that wait for an owner, or to be mended: which they are."""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable

from storage.types import Section


class WaitingRows(ABC):
    """The part of the state file that is the `pending` of its `seen` table."""

    @property
    @abstractmethod
    def _sql(self) -> sqlite3.Connection:
        """The open state file."""

    def count_pending(self, section: Section) -> int:
        """How many rows wait for an owner, or to be mended."""
        found = self._sql.execute(
            "SELECT count(*) FROM seen INDEXED BY seen_pending WHERE section = ? AND pending", (section.number,)
        )
        return int(found.fetchone()[0])

    def pending(self, section: Section, below: int | None, limit: int) -> list[int]:
        """Rowids of rows that wait for an owner, the last one first, below a rowid."""
        found = self._sql.execute(
            "SELECT DISTINCT loc FROM seen INDEXED BY seen_pending WHERE section = ? AND pending AND loc < ? "
            "ORDER BY loc DESC LIMIT ?",
            (section.number, (1 << 63) - 1 if below is None else below, limit),
        )
        return [loc for (loc,) in found]

    def pending_in(self, section: Section, places: Iterable[bytes], limit: int) -> list[int]:
        """Rowids of rows that wait in some conversations, the first one first."""
        found = self._sql.execute(
            "SELECT DISTINCT loc FROM seen INDEXED BY seen_pending WHERE section = ? AND pending "
            "AND hex(place) IN (SELECT value FROM json_each(?)) ORDER BY loc LIMIT ?",
            (section.number, json.dumps([place.hex().upper() for place in places]), limit),
        )
        return [loc for (loc,) in found]
