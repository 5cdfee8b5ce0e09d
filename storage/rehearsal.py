"""A look in vain: after a rest the first time is slow, and while nothing is committed nobody waits for it.

Between two commits of a writer that goes on, the processor's caches lose what a look needs. Done once more meanwhile,
with the row that came last and without a trace, the next one is quicker.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from storage.examine import Decide, Publish
from storage.reading import Reading
from storage.state import StateFile
from storage.types import Change, Op, Row
from storage.watched import Watched

SMALL = 16_384
"""Bytes and characters of a row that is worth it: the time goes into what is the same for each row."""


class Rehearsal:
    """Owned by the capture's thread. `note` and `keep` what a look has read, `run` while nothing is to be seen."""

    def __init__(self, state: StateFile, decide: Decide, publish: Publish) -> None:
        self._state, self._decide, self._publish = state, decide, publish
        self._readings: Sequence[Reading] = ()
        self._last: tuple[Watched, Row] | None = None

    def note(self, readings: Sequence[Reading]) -> None:
        """What is being examined."""
        self._readings = readings

    def keep(self) -> None:
        """When that is sent: the last of its rows is the one to do it with."""
        readings, self._readings = self._readings, ()
        for reading in readings:
            for row in reading.chunk.rows[-1:]:
                size = sum(len(value) for value in row.values if isinstance(value, str | bytes))
                self._last = (reading.watched, row) if size <= SMALL else None

    def run(self) -> None:
        """Read the row, make its event, record both in a transaction that is given up, and wake who would send it."""
        if self._last is None:
            return
        watched, row = self._last
        if watched.reader is None:
            return
        with suppress(sqlite3.Error):  # a look says what is wrong
            watched.reader.at([row.loc])
        draft = self._decide(Change(watched.section, Op.NEW, row, None)).draft
        if draft is not None:
            self._state.rehearse(watched.section, draft)
            self._publish(self._state.epoch, [])
