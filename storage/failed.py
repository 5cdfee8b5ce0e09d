"""Rows that cannot be read or rendered now: kept with the reason, and forgotten when they are mended."""

from __future__ import annotations

import json
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

from storage.types import Known, Section


class FailedRows(ABC):
    """The part of the state file that is its `failed` table."""

    @property
    @abstractmethod
    def _sql(self) -> sqlite3.Connection:
        """The open state file."""

    @abstractmethod
    def note_place(self, section: Section, loc: int) -> None:
        """A row is known at this rowid from now on."""

    def failures(self, section: Section, after: int | None, last: int | None) -> dict[int, str]:
        """Rows in (after, last] that could not be read or rendered, by rowid, with the reason."""
        low, high = -(1 << 63) if after is None else after, (1 << 63) - 1 if last is None else last
        return dict(
            self._sql.execute(
                "SELECT loc, reason FROM failed WHERE section = ? AND loc BETWEEN ? AND ? AND loc IS NOT ?",
                (section.number, low, high, after),
            )
        )

    def failures_at(self, section: Section, locs: Iterable[int]) -> set[int]:
        """Which of these rows could not be read or rendered."""
        found = self._sql.execute(
            "SELECT loc FROM failed WHERE section = ? AND loc IN (SELECT value FROM json_each(?))",
            (section.number, json.dumps(list(locs))),
        )
        return {loc for (loc,) in found}

    def shelter(self, section: Section, entries: Iterable[tuple[Known, int]]) -> None:
        """Take known rows to stand each where one cannot be read; they are looked for when that one is mended."""
        entries = list(entries)
        if not entries:
            return
        for _, loc in entries:
            self.note_place(section, loc)
        self._sql.executemany(
            "UPDATE OR REPLACE seen SET loc = ? WHERE section = ? AND loc = ? AND key = ?",
            [(loc, section.number, entry.loc, entry.key) for entry, loc in entries],
        )

    def count_failures(self, section: Section) -> int:
        """How many rows fail now."""
        return int(self._sql.execute("SELECT count(*) FROM failed WHERE section = ?", (section.number,)).fetchone()[0])

    def set_failures(self, section: Section, broken: dict[int, str], mended: Iterable[int]) -> int:
        """Record rows that fail now and forget those that do not any more; by how many there are more of them then."""
        mended = list(mended)
        if not broken and not mended:
            return 0
        before = self.failures_at(section, {*broken, *mended})
        now = int(time.time() * 1000)
        self._sql.executemany(
            "DELETE FROM failed WHERE section = ? AND loc = ?", [(section.number, loc) for loc in mended]
        )
        self._sql.executemany(
            "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?)",
            [(section.number, loc, reason, now) for loc, reason in broken.items()],
        )
        return len(broken) - len(before)
