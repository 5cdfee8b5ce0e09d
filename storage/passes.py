"""Passes: what no hint names is found by reading the tables, a chunk at a time.

What is quick comes first: the tail, which is what a writer appended meanwhile, and the rows that wait for an owner.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress

from storage.candidates import Places
from storage.children import Children
from storage.examine import CHUNK_ROWS, Examiner, Unsettled
from storage.legacy import LegacyDatabase
from storage.reading import Batch
from storage.state import StateFile
from storage.tail import end_of
from storage.types import Value
from storage.watched import Progress, Watched

PENDING_ROWS = 200
LIMBO_ROWS = 20_000


class Passes:
    """Owned by the capture's thread: `step` while something is behind."""

    def __init__(
        self,
        legacy: LegacyDatabase,
        state: StateFile,
        examiner: Examiner,
        children: Children,
        watched: Sequence[Watched],
        failed: Callable[[sqlite3.Error], Exception],
    ) -> None:
        """`failed` has everything looked at again and gives what is to be raised."""
        self._legacy, self._state, self._examiner, self._children = legacy, state, examiner, children
        self._watched, self._failed = watched, failed
        self._is_plain = all(one.section.each is None and one.section.kind != "child" for one in watched)
        self._turns = 0
        self.chunk_rows = CHUNK_ROWS
        """Rows that are read from one snapshot."""
        self.is_passing = False
        """Whether the last step was of a pass, and not of something that is known to be new."""
        self.count = 0
        """Passes begun so far."""

    def step(self) -> bool:
        """One chunk of what some section is behind with; whether there was one. Raises Busy, DatabaseAway."""
        behind = [watched for watched in self._watched if watched.is_behind]
        if not behind:
            return False
        # By turns, so that a section which is always behind starves no other; of each, what is quick comes first.
        watched = min(behind, key=lambda one: one.turn)
        self._turns += 1
        watched.turn = self._turns
        self.is_passing = not watched.tail and watched.sweep is None
        if watched.tail:
            self._read_tail(watched)
        elif watched.sweep is not None:
            self._look_at_waiting(watched)
        else:
            self._step(watched)
        return True

    def _look_at_waiting(self, watched: Watched) -> None:
        places = Places(locs=set(self.waiting(watched, watched.sweep)))
        if watched.reader is None or watched.reader.rowid is None or not places.locs:
            return
        try:
            with self._legacy.snapshot():
                batch = self._examiner.places(watched, places)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._examiner.record([batch])

    def _read_tail(self, watched: Watched) -> None:
        """Rows behind the last one known: what a writer appends is pushed before any pass comes to it."""
        if watched.reader is None or watched.reader.rowid is None:
            watched.tail = False
            return
        after = None if (end := end_of(self._state, watched)) is None else (end,)
        last = self._examine_chunk(watched, after, is_baseline=False).last
        watched.tail = last is not None
        watched.tail_after = last[0] if last is not None and isinstance(last[0], int) else None

    def _step(self, watched: Watched) -> None:
        if watched.progress is None:
            self.count += 1
            watched.again = False
            resumed = watched.position if watched.baseline != "done" else None
            watched.progress = Progress(after=None if resumed is None else (resumed,), is_resumed=resumed is not None)
        progress = watched.progress
        batch = self._examine_chunk(watched, progress.after, is_baseline=watched.baseline != "done")
        progress.after, progress.rows = batch.last, progress.rows + batch.rows
        room = LIMBO_ROWS - len(progress.limbo)
        progress.limbo.extend(batch.missing[:room])
        watched.again = watched.again or len(batch.missing) > room
        if progress.after is None:
            self._finish(watched, progress)

    def _examine_chunk(self, watched: Watched, after: tuple[Value, ...] | None, *, is_baseline: bool) -> Batch:
        """Read and compare one chunk in one snapshot, record it in one transaction."""
        batches: list[Batch] = []
        has_snapshot = not self._is_plain
        while not batches:
            try:
                with self._legacy.snapshot():
                    reading = self._examiner.read_chunk(watched, after, self.chunk_rows)
                    if has_snapshot:
                        batch = self._examiner.examine_chunk(reading, is_baseline=is_baseline)
                        batches = [batch, *self._children.dependent(batch)]
            except sqlite3.Error as error:
                raise self._failed(error) from error
            if not has_snapshot:
                with suppress(Unsettled), self._examiner.asking_nothing():
                    batches = [self._examiner.examine_chunk(reading, is_baseline=is_baseline)]
                has_snapshot = True
        self._examiner.record(batches)
        return batches[0]

    def _finish(self, watched: Watched, progress: Progress) -> None:
        """Known rows that the whole pass did not find anywhere are gone; a baseline that went through is taken."""
        with self._legacy.snapshot():
            left = self._examiner.left(watched, progress)
            batches = [left, *self._children.dependent(left)]
        self._examiner.record_left(batches)
        if watched.baseline != "done":
            if watched.section.kind != "child":
                self._state.index_keys(watched.section)
            self._state.set_baseline(watched.section, "done", watched.floor, None)
            watched.baseline, watched.position = "done", None  # not before that was kept
            # Resumed after a stop: what changed before the place it went on from is still to be seen.
            watched.again = watched.again or progress.is_resumed
            self._children.catch_up(watched)
        watched.progress = None
        self._state.clear_homes()

    def waiting(self, watched: Watched, after: int | None) -> list[int]:
        """The next rows that wait for an owner. Any commit may give them one: a join is not in the row."""
        locs = self._state.pending(watched.section, after, PENDING_ROWS) if watched.waiting else []
        watched.sweep = locs[-1] if len(locs) == PENDING_ROWS else None
        return locs
