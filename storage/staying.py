"""A rollback journal that stays from commit to commit (`journal_mode=TRUNCATE` and `PERSIST`), copied before its end.

A writer finishes the journal first, then writes the changed pages into the database, page 1 with the change counter
ahead of all others, and empties or wipes the journal last. So a journal that is read between the second and the third
is whole, and the counter that the database has by then is proof of it: page 1 is in use for as long as the
transaction lasts, and is never written early to make room in the writer's cache.

A writer that dies at that moment leaves a commit that never was, and the next one is again of the counter that its
journal tells of. So the writes to the two files are counted as well: the counter has to have moved by one each time
that the database was written after the journal was. If it did not, something was missed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from storage.journalfile import HEADER_BYTES, segment_length

COUNTER_AT, COUNTER_BYTES = 24, 4
COUNTERS = 1 << 32
AT_ONCE = 1 << 18
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Copied:
    """The content of a journal at an instant at which the database had the change counter of its commit."""

    change_counter: int
    content: bytes


class StayingJournal:
    """Told of each write to the two files in turn, it copies the journal of each commit that it hears of in time."""

    def __init__(self, database: int, journal: int) -> None:
        """Two descriptors to read from; neither is closed here. Raises OSError."""
        self._database, self.journal = database, journal
        self._is_journal_next = False
        self._commits = 0
        self._counter = self._present()
        self.copies: list[Copied] = []
        self.missed = 0
        """Times when the writes did not agree with the change counter."""

    def _present(self) -> int:
        return int.from_bytes(os.pread(self._database, COUNTER_BYTES, COUNTER_AT), "big")

    def journal_written(self) -> None:
        """The journal was written to, emptied or wiped."""
        self._is_journal_next = False

    def database_written(self) -> None:
        """The database was written to."""
        if not self._is_journal_next:
            self._is_journal_next = True
            self._commits += 1

    def look(self) -> None:
        """After all writes that are known of: copy the journal if the last one was of a commit. Raises OSError."""
        if not self._commits:
            return
        commits, self._commits, before = self._commits, 0, self._counter
        self._counter = self._present()
        steps = (self._counter - before) % COUNTERS
        if steps != commits:
            self.missed += 1
        if steps and (content := _present_content(self.journal)):
            self.copies.append(Copied(self._counter, content))


def _present_content(journal: int) -> bytes:
    """What its present transaction wrote, and perhaps more; empty if it was cut off meanwhile or is too big.

    What once was a long transaction leaves a long file (`journal_mode=PERSIST`), so a long one is read by its headers.
    """
    size = os.fstat(journal).st_size
    if size <= AT_ONCE:
        content = os.pread(journal, size, 0)
        return content if len(content) == size else b""
    end = 0
    while (length := segment_length(os.pread(journal, HEADER_BYTES, end))) is not None and end + length <= MAX_BYTES:
        end += length
    return os.pread(journal, end + HEADER_BYTES, 0) if end else b""
