"""Capture: a commit of the legacy writer becomes changes, outcomes and events, each batch in one transaction.

Where to look is the hints' business; what is there is asked through SQL from one snapshot; whether it is new is asked
of the state file. A hint that says too much costs a look-up, one that says nothing costs a pass over the tables, and
none can make an event appear or vanish.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from storage.btree import DatabaseHeader
from storage.candidates import Candidates, Places
from storage.children import Children
from storage.elements import reader_for
from storage.epochs import FileVersion, Sequences
from storage.errors import DatabaseAway, MappingMisfit
from storage.examine import CHUNK_ROWS, Decide, Examiner, Publish, Unsettled
from storage.figures import Figures
from storage.hints import Hints
from storage.legacy import Busy, LegacyDatabase, Version, translated
from storage.pages import Moved
from storage.reader import SectionReader
from storage.reading import NO_ROWS, Batch, Reading
from storage.state import StateFile
from storage.tail import TailReader, ahead_of_tail, end_of
from storage.types import Section, Value
from storage.watched import Progress, Watched

PENDING_ROWS = 200
LIMBO_ROWS = 20_000
SEQUENCES_EVERY = 10.0
"""Seconds between looks that note how far the tables with AUTOINCREMENT have come."""


class Capture(Figures):
    """Owned by one thread. `attach` once, then `look` after each wake, and `step` while `is_behind`."""

    def __init__(
        self,
        legacy: LegacyDatabase,
        state: StateFile,
        sections: Sequence[Section],
        decide: Decide,
        publish: Publish,
        hints: Hints,
        others: Sequence[Section] = (),
    ) -> None:
        """`others` are sections that are not watched, but refused at the start if they do not fit."""
        examiner, watched = Examiner(state, decide, publish), [Watched(section) for section in sections]
        super().__init__(state, hints, examiner, watched)
        self._legacy, self._publish, self._others = legacy, publish, others
        self._children, self._tails = Children(state, self._examiner, self.watched), TailReader(state)
        self._version = Version(-1, -1)
        self.chunk_rows = CHUNK_ROWS
        """Rows of a pass that are read from one snapshot."""
        self._is_plain = all(one.each is None and one.kind != "child" for one in sections)
        self._unsettled: Candidates = {}
        """Places that were read but could not be examined without a snapshot."""
        self.is_passing = False
        """Whether the last step was of a pass, and not of something that is known to be new."""
        self._turns, self._next_sequences = 0, 0.0
        self._header: DatabaseHeader | None = None
        """The one that was noted last."""

    # -- opening

    def attach(self, *, existing_is_baseline: bool = True) -> None:
        """Open the database and take over what is known of it.

        `existing_is_baseline` is False when the database came into being while we waited for it: then its rows were
        all committed under our eyes. Raises DatabaseUnusable, DatabaseAway, Busy, MappingMisfit.
        """
        self._legacy.open()
        with self._legacy.snapshot() as version:
            self._fit(strict=True)
            self._state.adopt([one.section for one in self.watched], self._legacy.inode, self._file_version(version))
            self._legacy.is_put_back = False
            self._publish(self._state.epoch, [])  # a new epoch may have begun
            for watched in self.watched:
                self._prepare(watched, existing_is_baseline)
            self._version = Version(-1, version.schema)
        self._hints.reset(self._legacy)
        self._state.note_capture(self.mode, self.fallback_reasons)
        self.is_attached = True

    def _file_version(self, version: Version) -> FileVersion | None:
        """Inside a snapshot: all that tells of which state the database is."""
        self._next_sequences = time.monotonic() + SEQUENCES_EVERY
        last = self._legacy.sequences(watched.section.table for watched in self.watched)
        return FileVersion.of(self._legacy.header(), Sequences(version.schema, last))

    def _note_header(self, version: Version) -> None:
        """Inside a snapshot: what the header tells of which state the database is. In WAL mode it seldom changes."""
        header, is_due = self._legacy.header(), time.monotonic() > self._next_sequences
        if header is self._header and not is_due:
            return
        now = FileVersion.of(header)
        if self._state.is_earlier(now):
            self._judge_database(version)
            self._refit(version)
        self._state.note_version(self._file_version(version) if is_due else now)
        self._header = header

    def _readers(self) -> list[SectionReader]:
        return [watched.reader for watched in self.watched if watched.reader is not None]

    def _fit(self, *, strict: bool) -> None:
        """Make the statements for the present schema; a section that does not fit is refused at start, later paused."""
        for watched in self.watched:
            try:
                watched.reader, watched.misfit = reader_for(self._legacy.connection, watched.section), None
            except MappingMisfit as error:
                watched.reader, watched.misfit = None, str(error)
                if strict:
                    raise
        for other in self._others if strict else ():
            SectionReader(self._legacy.connection, other)
        self._children.fit(self._legacy.connection)

    def _prepare(self, watched: Watched, existing_is_baseline: bool) -> None:
        assert watched.reader is not None
        watched.baseline, watched.floor, watched.position = self._state.baseline(watched.section)
        if watched.baseline == "new":
            watched.baseline, watched.floor = (
                ("running", watched.reader.last_loc()) if existing_is_baseline else ("done", None)
            )
            self._state.set_baseline(watched.section, watched.baseline, watched.floor, None)
        if watched.section.kind != "child" and (watched.baseline != "running" or not watched.reader.has_unique_id):
            self._state.index_keys(watched.section)
        watched.rows_total = watched.reader.count() if watched.baseline != "done" else 0
        watched.failed = self._state.count_failures(watched.section)
        watched.waiting = self._state.count_pending(watched.section)
        watched.again = watched.tail = True  # whatever was committed while we were away

    # -- looking

    def look(self, *, thorough: bool = True, have_files_moved: bool = True) -> bool:
        """Take in what was committed since the last look; whether there was anything. Raises Busy, DatabaseAway.

        SQLite itself is asked only if `thorough`, or if the pages' own counters moved, since in rollback mode even the
        question takes a lock for a moment. Whether the file was replaced is asked if that is `thorough`, or if files
        may have come or gone.
        """
        if not self._legacy.is_open or ((thorough or have_files_moved) and self._legacy.is_replaced()):
            self._reopen()
        elif not thorough and self._version.data >= 0 and self._hints.is_quiet():
            return False
        if thorough and self._legacy.data_version() == self._version.data:
            return False
        try:
            with self._examiner.transaction():
                news = self._examine_news()
                if news is None:
                    return False
                self.looks += 1
                batches, hinted = news
                if hinted is None:
                    self._state.note_capture(self.mode, self.fallback_reasons)
                self._examiner.record(batches)
        finally:
            self._hints.after()
        if hinted is None:
            self._tails.end(self.watched)
        return True

    def _examine_news(self) -> tuple[list[Batch], Candidates | None] | None:
        """Read what the hints name, all from one snapshot that shows exactly the commits that the hints cover.

        None if nothing was committed. The snapshot is let go before the rows are compared, unless they are known to
        need it: meanwhile no checkpoint comes to its end, and in rollback mode no commit.
        """
        while True:
            self._tails.begin()
            self._hints.before(self._legacy)
            try:
                with self._legacy.snapshot() as version:
                    if version == self._version:
                        return None
                    self._note_header(version)
                    if version.schema != self._version.schema:
                        self._refit(version)
                    hinted = self._hints.take(self._readers())
                    self._version = version  # not before: Moved asks for another snapshot of the same commit
                    if self._unsettled or not self._is_plain:
                        batches = self._examine_hinted(hinted)
                        self._unsettled = {}
                        return batches, hinted
                    readings = [self._read(watched, hinted) for watched in self.watched if watched.reader is not None]
            except Moved:
                continue  # bounded: after a few the hints give up and ask for a pass
            except sqlite3.Error as error:
                raise self._failed(error) from error
            try:
                with self._examiner.asking_nothing():
                    return [self._examined(reading) for reading in readings], hinted
            except Unsettled:
                for reading in readings:
                    self._unsettled[reading.watched.section.number] = reading.places
                    reading.watched.tail = reading.watched.tail or hinted is None
                self._version = Version(-1, self._version.schema)

    def _examine_hinted(self, hinted: Candidates | None) -> list[Batch]:
        """First the children, since they name further rows of the sections that depend on them."""
        batches: list[Batch] = []
        named: dict[int, set[int]] = {}
        for watched in sorted(self.watched, key=lambda one: one.section.kind != "child"):
            if watched.reader is None:
                continue
            batch = self._examined(self._read(watched, hinted, named.get(watched.section.number, set())))
            for number, locs in self._children.parents(watched, batch.changes).items():
                named.setdefault(number, set()).update(locs)
            batches.append(batch)
        return batches

    def _reopen(self) -> None:
        """What is known stays and the rows are compared with it; but another file means that cursors begin anew.

        Whatever goes wrong in between leaves the database closed, so that all of this is done again.
        """
        self._legacy.open()
        try:
            with self._legacy.snapshot() as version:
                self._judge_database(version)
                self._refit(version)
        except BaseException:
            self._legacy.close()
            raise

    def _judge_database(self, version: Version) -> None:
        """Inside a snapshot: another file, or an earlier state of this one, voids the cursors given so far."""
        now, before = self._file_version(version), self._state.epoch
        self._state.replace_database(self._legacy.inode, now, is_put_back=self._legacy.is_put_back)
        self._legacy.is_put_back = False
        self._state.note_version(now)
        if self._state.epoch != before:
            self._publish(self._state.epoch, [])

    def _refit(self, version: Version) -> None:
        self._fit(strict=False)
        self._hints.reset(self._legacy)
        self._version, self._unsettled = Version(-1, version.schema), {}
        for watched in self.watched:
            watched.progress, watched.tail_after = None, None
            watched.again = watched.tail = True

    def _failed(self, error: sqlite3.Error) -> Exception:
        self.restart()
        return translated(error, self._legacy.path)

    def restart(self) -> None:
        """Something failed in the middle of a look: what it saw may not be recorded: look at everything again."""
        self._version, self._unsettled = Version(-1, self._version.schema), {}
        for watched in self.watched:
            watched.progress, watched.tail_after = None, None
            watched.again = watched.tail = True
        if self._legacy.is_open:
            with suppress(Busy, DatabaseAway, OSError):  # they go on where they were: passes find what was before
                self._hints.reset(self._legacy)

    def _read(self, watched: Watched, hinted: Candidates | None, named: Iterable[int] = ()) -> Reading:
        """The rows that a hint or a child names, those that wait for an owner, without a hint those changed lately."""
        assert watched.reader is not None
        places = None if hinted is None else hinted[watched.section.number]
        if places is not None and places.is_void and not named and watched.is_at_rest and not self._unsettled:
            return Reading(watched, NO_ROWS, places)  # most commits concern one section
        if places is None or places.needs_pass:
            watched.again = True
            places = Places(locs=set(watched.recent))
        if watched.reader.rowid is None:
            return self._examiner.read(watched, Places())
        if (left := self._unsettled.get(watched.section.number)) is not None:
            intervals, locs = [*places.intervals, *left.intervals], places.locs | left.locs
            places = Places(intervals, locs, is_exact=places.is_exact and left.is_exact)
        places.locs.update(named)
        reads_tail = hinted is None and self._is_plain and not watched.tail
        if watched.tail or reads_tail:
            places = ahead_of_tail(self._state, watched, places)
        places.locs.update(self._waiting(watched, None))
        places.locs.update(watched.doubtful)
        reading = self._examiner.read(watched, places)
        return self._tails.add(reading, self.chunk_rows) if reads_tail else reading

    def _examined(self, reading: Reading) -> Batch:
        """What is new in what was read. Raises Unsettled."""
        watched, places = reading.watched, reading.places
        batch = self._examiner.examine(reading)
        watched.doubtful.clear()
        if places.is_exact and not batch.missing:
            return batch
        if not places.is_exact:
            watched.doubtful.update(entry.loc for entry in batch.missing)
            self._version = Version(-1, self._version.schema)  # look again, even if nothing more is committed
        elif batch.missing and watched.may_repeat_ids:
            watched.again = True  # another row with the same id may stand elsewhere, and be it from now on
        elif not watched.again:  # the places cover every change, so a row that is in none of them is gone
            batch.changes.extend(self._examiner.gone(watched, batch.missing))
        return batch

    def _waiting(self, watched: Watched, after: int | None) -> list[int]:
        """The next rows that wait for an owner. Any commit may give them one: a join is not in the row."""
        locs = self._state.pending(watched.section, after, PENDING_ROWS) if watched.waiting else []
        watched.sweep = locs[-1] if len(locs) == PENDING_ROWS else None
        return locs

    # -- passes

    def step(self) -> bool:
        """One chunk of what some section is behind with; whether there was one. Raises Busy, DatabaseAway."""
        behind = [watched for watched in self.watched if watched.is_behind]
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
        places = Places(locs=set(self._waiting(watched, watched.sweep)))
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
            self.passes += 1
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
