"""Passes: what no hint names is found by reading the tables, a chunk at a time.

What is quick comes first: the tail, which is what a writer appended meanwhile, and the rows that wait for an owner.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from storage.candidates import Places
from storage.children import Children
from storage.examine import CHUNK_ROWS, Examiner, Unsettled
from storage.later import put_off
from storage.legacy import LegacyDatabase
from storage.reading import Batch, Reading
from storage.state import StateFile
from storage.still import IS_POSSIBLE, StillDatabase
from storage.tail import end_of
from storage.types import Value
from storage.watched import Progress, Watched

PENDING_ROWS, LATEST_PENDING_ROWS = 200, 50
"""Rows that wait for an owner: in one step of a sweep over them, and in a look, which takes those that came last."""
HELPED_ROWS = 1000
"""Rows at most that are read at once because one of their conversation has an owner now."""
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
        self._still = StillDatabase(legacy)
        self.chunk_rows = CHUNK_ROWS
        """Rows that are read at once."""
        self.locked_rows = CHUNK_ROWS
        """The most that are read from one snapshot: in rollback mode it keeps commits from their end."""
        self.has_locked = False
        """Whether the last step took a snapshot."""
        self.is_passing = False
        """Whether the last step was of a pass, and not of something that is known to be new."""
        self.is_sweeping = False
        """Whether it was over rows that wait for an owner."""
        self.count = 0
        """Passes begun so far."""

    @property
    def snapshot_rows(self) -> int:
        """Rows that are read from one snapshot."""
        return min(self.chunk_rows, self.locked_rows)

    def step(self) -> bool:
        """One chunk of what some section is behind with; whether there was one. Raises Busy, DatabaseAway."""
        if (watched := self._next()) is None:
            return False
        self._turns += 1
        watched.turn = self._turns
        self.has_locked = True
        self.is_sweeping = not watched.tail and watched.sweep is not None
        self.is_passing = not watched.tail and watched.sweep is None
        if watched.tail:
            self._read_tail(watched)
        elif watched.sweep is not None:
            self._look_at_waiting(watched)
        else:
            self._step(watched)
        return True

    def _next(self) -> Watched | None:
        """By turns, so that a section which is always behind starves no other."""
        behind = [watched for watched in self._watched if watched.is_behind]
        return min(behind, key=lambda one: one.turn, default=None)

    def is_better_put_off(self) -> bool:
        """Whether the next step would not need a lock if it came when the writer rests. In rollback mode."""
        watched = self._next()
        is_hasty = watched is None or watched.tail
        return IS_POSSIBLE and self._is_plain and not is_hasty and not self._still.is_resting()

    def _look_at_waiting(self, watched: Watched) -> None:
        locs = self._state.pending(watched.section, watched.sweep, PENDING_ROWS)
        if locs and watched.has_rowids:
            self._examiner.record([self._examine_waiting(watched, locs)])
        watched.sweep = locs[-1] if len(locs) == PENDING_ROWS else None  # not before: it may have been locked
        if watched.sweep is None and watched.has_to_sweep_again:
            watched.sweep, watched.has_to_sweep_again = (1 << 63) - 1, False

    def _examine_waiting(self, watched: Watched, locs: Sequence[int]) -> Batch:
        read = partial(self._read_waiting, watched, locs)
        if self._is_plain and (still := self._still.read(read)) is not None:
            with suppress(Unsettled), self._examiner.asking_nothing():
                batch = self._examiner.examine(still)
                self.has_locked = False
                return batch
        try:
            with self._legacy.snapshot():
                return self._examiner.examine(read(None))
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _read_waiting(self, watched: Watched, locs: Sequence[int], connection: sqlite3.Connection | None) -> Reading:
        reading = self._examiner.read(watched, Places(locs=set(locs)), connection)
        helped = self.helped(reading)
        return self._examiner.read(watched, Places(locs=helped), connection) if helped else reading

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
            asked_at, watched.asked_at = watched.asked_at or time.monotonic(), None
            resumed = watched.position if watched.baseline != "done" else None
            after, leaves_rest = None if resumed is None else (resumed,), resumed is not None
            if resumed is None:
                watched.rows_before = 0
            watched.progress = Progress(after, leaves_rest=leaves_rest, asked_at=asked_at)
        if not watched.progress.is_through:
            self._read_on(watched, watched.progress)
        elif watched.progress.later:
            self._tell_later(watched, watched.progress)
        if watched.progress.is_through and not watched.progress.later:
            self._finish(watched, watched.progress)

    def _read_on(self, watched: Watched, progress: Progress) -> None:
        batch = self._examine_chunk(watched, progress.after, progress, is_baseline=watched.baseline != "done")
        progress.after, progress.rows = batch.last, progress.rows + batch.rows
        room = LIMBO_ROWS - len(progress.limbo)
        progress.limbo.extend(batch.missing[:room])
        if len(batch.missing) > room:
            progress.leaves_rest = True
            watched.ask()
        progress.is_through = progress.after is None

    def _tell_later(self, watched: Watched, progress: Progress) -> None:
        """Some of the tasks that were put off. If one does not stand where it was met, another pass is to find it."""
        some = [*islice(progress.later.items(), self.snapshot_rows)]
        self.has_locked = True
        try:
            with self._legacy.snapshot():
                reading = self._examiner.read(watched, Places(locs={loc for _, loc in some}))
                batch = self._examiner.examine(reading, is_all=True)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._examiner.record([batch])
        if {key for key, _ in some} - {row.key for row in reading.chunk.rows}:
            progress.is_sure = False
            watched.ask()
        for key, _ in some:
            del progress.later[key]

    def _examine_chunk(
        self,
        watched: Watched,
        after: tuple[Value, ...] | None,
        progress: Progress | None = None,
        *,
        is_baseline: bool,
    ) -> Batch:
        """Read and compare one chunk of one commit, record it in one transaction. `progress` is that of a pass."""
        batches: list[Batch] = []
        has_snapshot = not self._is_plain
        if self._is_plain and (still := self._still.read(partial(self._read, watched, after))) is not None:
            self.has_locked = False
            with suppress(Unsettled), self._examiner.asking_nothing():
                batches = [self._examiner.examine_chunk(still, is_baseline=is_baseline)]
            self.has_locked = has_snapshot = not batches
        while not batches:
            try:
                with self._legacy.snapshot():
                    reading = self._examiner.read_chunk(watched, after, self.snapshot_rows)
                    if has_snapshot:
                        batch = self._examiner.examine_chunk(reading, is_baseline=is_baseline)
                        batches = [batch, *self._children.dependent(batch)]
            except sqlite3.Error as error:
                raise self._failed(error) from error
            if not has_snapshot:
                with suppress(Unsettled), self._examiner.asking_nothing():
                    batches = [self._examiner.examine_chunk(reading, is_baseline=is_baseline)]
                has_snapshot = True
        if progress is not None:
            put_off(progress, batches[0])
        self._examiner.record(batches)
        return batches[0]

    def _read(self, watched: Watched, after: tuple[Value, ...] | None, connection: sqlite3.Connection) -> Reading:
        return self._examiner.read_chunk(watched, after, self.chunk_rows, connection)

    def _finish(self, watched: Watched, progress: Progress) -> None:
        """Known rows that the whole pass did not find anywhere are gone; a baseline that went through is taken."""
        self.has_locked = True
        if not progress.is_sure:
            progress.limbo.clear()
        with self._legacy.snapshot():
            left = self._examiner.left(watched, progress)
            batches = [left, *self._children.dependent(left)]
        self._examiner.record_left(batches)
        if watched.baseline != "done":
            if watched.section.kind != "child":
                self._state.index_keys(watched.section)
            self._state.set_baseline(watched.section, "done", watched.floor, None)
            watched.baseline, watched.position = "done", None  # not before that was kept
            self._children.catch_up(watched)
        if progress.leaves_rest or not progress.is_sure:
            watched.ask()
        else:
            watched.is_caught_up = True
        watched.progress, watched.told = None, set()
        self._state.clear_homes()

    def waiting(self, watched: Watched) -> list[int]:
        """The latest of the rows that wait for an owner; the others are swept over in steps, again and again as long as
        there are commits. Any commit may give them one: a join is not in the row."""
        if not watched.has_to_sweep:
            return []
        locs = self._state.pending(watched.section, None, LATEST_PENDING_ROWS)
        if watched.sweep is not None:
            watched.has_to_sweep_again = True
        elif len(locs) == LATEST_PENDING_ROWS:
            watched.sweep = locs[-1]
        return locs

    def helped(self, reading: Reading) -> set[int]:
        """All that wait in the conversations of those that waited and are changed: messages come in their order.

        If that is too much at once it is the first of them, and the sweep goes on.
        """
        watched = reading.watched
        found = self._state.known_at(watched.section, {row.loc for row in reading.chunk.rows})
        known = {(entry.loc, entry.key): entry for entry in found if entry.pending}
        places = {
            entry.place
            for row in reading.chunk.rows
            if (entry := known.get((row.loc, row.key))) is not None and entry.digest != row.digest
        }
        if not places:
            return set()
        locs = self._state.pending_in(watched.section, places, HELPED_ROWS)
        if len(locs) == HELPED_ROWS:
            watched.has_to_sweep_again = True
        return set(locs)
