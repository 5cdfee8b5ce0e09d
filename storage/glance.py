"""The usual commit: rows were appended, each to a leaf that is known, and nothing else was done.

Then the log alone says which rows are new, and they are read without a transaction. Each statement takes a snapshot for
itself; if the log ends afterwards where it ended before, they were all of that one state. What is not so simple is left
to a whole look.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from storage.candidates import Places
from storage.hints import Hints
from storage.legacy import LegacyDatabase
from storage.reading import Reading
from storage.watched import Watched

FEW = 50
"""Rows at most: more are read faster from one snapshot."""


class Glance:
    """A short look. Between the hints' `before` and their `take`."""

    def __init__(self, legacy: LegacyDatabase, hints: Hints, watched: Sequence[Watched]) -> None:
        self._legacy, self._hints, self._watched = legacy, hints, watched
        self._was_last = False
        """Whether what was taken last was taken without asking the database for its version."""

    def readings(self) -> list[Reading] | None:
        """The rows that were appended; None if it takes a whole look to tell what was done, and nothing is changed."""
        for watched in self._watched:
            if not watched.is_settled:
                return None
        if (appended := self._hints.appended()) is None:
            return None
        if sum(map(len, appended.values())) > FEW:
            return None
        readings: list[Reading] = []
        for watched in self._watched:
            locs = appended.get(watched.section.number)
            if locs is None or watched.reader is None:
                continue
            try:
                chunk = watched.reader.at(sorted(locs))
            except sqlite3.Error:
                return None  # a whole look says what is wrong
            readings.append(Reading(watched, chunk, Places(locs=set(locs))))
        self._was_last = self._hints.take_appended()
        return readings if self._was_last else None

    def forget(self) -> None:
        """A whole look has taken what there was, and the version with it."""
        self._was_last = False

    def tells_that_all_is_taken(self) -> bool:
        """Whether the last look was one of these and nothing was committed since, as far as the log tells."""
        if not self._was_last or not self._hints.is_quiet() or not self._legacy.is_wal() or self._legacy.is_replaced():
            return False
        self._was_last = False
        return True
