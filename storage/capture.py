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
from storage.examine import Decide, Examiner, Publish, Unsettled
from storage.figures import Figures
from storage.glance import Glance
from storage.hints import Hints
from storage.legacy import Busy, LegacyDatabase, Version, translated
from storage.pages import Moved
from storage.passes import Passes
from storage.reader import SectionReader
from storage.reading import NO_ROWS, Batch, Reading
from storage.rehearsal import Rehearsal
from storage.state import StateFile
from storage.tail import TailReader, ahead_of_tail
from storage.types import Section
from storage.watched import TOLD_TASKS, Watched

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
        self._passes = Passes(legacy, state, self._examiner, self._children, self.watched, self._failed)
        self._glance = Glance(legacy, hints, self.watched)
        self._rehearsal = Rehearsal(state, decide, publish)
        self._version = Version(-1, -1)
        self._is_plain = all(one.each is None and one.kind != "child" for one in sections)
        self._unsettled: Candidates = {}
        """Places that were read but could not be examined without a snapshot."""
        self._next_sequences = 0.0
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
        if watched.baseline == "running" and watched.section.kind == "task":
            watched.told = self._state.told_keys(TOLD_TASKS)
        if watched.baseline != "done":
            watched.rows_total = watched.reader.count()
            is_resumed = watched.baseline == "running" and watched.position is not None
            watched.rows_before = self._state.count_known(watched.section) if is_resumed else 0
        watched.failed = self._state.count_failures(watched.section)
        watched.waiting = self._state.count_pending(watched.section)
        watched.begin_again()  # whatever was committed while we were away

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
            if self._hints.foresee():
                self._state.rehearse(self.watched[0].section)
            return False
        if thorough and self._is_version_the_same():
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
            self._rehearsal.keep()
        if hinted is None:
            self._tails.end(self.watched)
        return True

    def rehearse(self) -> None:
        """While nothing is to be seen, do once more what the last look did, so that the next one is quicker.

        Only in WAL mode, where whoever reads keeps nobody from a commit.
        """
        if self._legacy.is_open and self._legacy.is_wal():
            self._rehearsal.run()

    def _is_version_the_same(self) -> bool:
        data = self._legacy.data_version()
        if self._version.data >= 0 and self._glance.tells_that_all_is_taken():
            self._version = Version(data, self._version.schema)
        return data == self._version.data

    def _examine_news(self) -> tuple[list[Batch], Candidates | None] | None:
        """Read what the hints name, all from one snapshot that shows exactly the commits that the hints cover.

        None if nothing was committed. The snapshot is let go before the rows are compared, unless they are known to
        need it: meanwhile no checkpoint comes to its end, and in rollback mode no commit.
        """
        while True:
            self._tails.begin()
            self._hints.before(self._legacy)
            hinted: Candidates | None = {}
            readings = self._glance.readings() if self._is_usual() else None
            if readings is None:
                try:
                    with self._legacy.snapshot() as version:
                        if version == self._version:
                            return None
                        hinted = self._take_hints(version)
                        if self._unsettled or not self._is_plain:
                            return self._examine_hinted(hinted), hinted
                        readings = [self._read(watched, hinted) for watched in self.watched if watched.reader]
                except Moved:
                    continue  # bounded: after a few the hints give up and ask for a pass
                except sqlite3.Error as error:
                    raise self._failed(error) from error
            self._rehearsal.note(readings)
            try:
                with self._examiner.asking_nothing():
                    return [self._examined(reading) for reading in readings], hinted
            except Unsettled:
                for reading in readings:
                    self._unsettled[reading.watched.section.number] = reading.places
                    reading.watched.tail = reading.watched.tail or hinted is None
                self._version = Version(-1, self._version.schema)

    def _is_usual(self) -> bool:
        """Whether a glance may do: nothing is left from before, and the header is as it was noted."""
        is_plain = self._is_plain and not self._unsettled and self._version.data >= 0
        return is_plain and self._legacy.noted_header is self._header and time.monotonic() < self._next_sequences

    def _take_hints(self, version: Version) -> Candidates | None:
        """Inside a snapshot."""
        self._note_header(version)
        if version.schema != self._version.schema:
            self._refit(version)
        hinted = self._hints.take(self._readers())
        self._version = version  # not before: Moved asks for another snapshot of the same commit
        self._glance.forget()
        return hinted

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
        self._unsettled = {}
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
        self._begin_again(version.schema)

    def _begin_again(self, schema: int) -> None:
        self._version, self._unsettled = Version(-1, schema), {}
        for watched in self.watched:
            watched.begin_again()

    def _failed(self, error: sqlite3.Error) -> Exception:
        self.restart()
        return translated(error, self._legacy.path)

    def restart(self) -> None:
        """Something failed in the middle of a look: what it saw may not be recorded: look at everything again."""
        self._begin_again(self._version.schema)
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
            watched.ask()
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
        places.locs.update(watched.doubtful)
        waiting = set(self._passes.waiting(watched)) - places.locs
        places.locs.update(waiting)
        reading = self._examiner.read(watched, places)
        if watched.has_to_sweep and (helped := self._passes.helped(reading)):
            places.locs.difference_update(waiting - helped)
            places.locs.update(helped)
            reading = self._examiner.read(watched, places)
        return self._tails.add(reading, self._passes.snapshot_rows) if reads_tail else reading

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
            watched.ask()  # another row with the same id may stand elsewhere, and be it from now on
        elif not watched.again:  # the places cover every change, so a row that is in none of them is gone
            batch.changes.extend(self._examiner.gone(watched, batch.missing))
        return batch

    # -- passes

    def step(self) -> bool:
        """One chunk of what some section is behind with; whether there was one. Raises Busy, DatabaseAway."""
        return self._passes.step()

    @property
    def passes(self) -> int:
        """How many passes have begun."""
        return self._passes.count

    @property
    def is_passing(self) -> bool:
        """Whether the last step was of a pass, and not of something that is known to be new."""
        return self._passes.is_passing

    @property
    def is_sweeping(self) -> bool:
        """Whether the last step was over rows that wait for an owner."""
        return self._passes.is_sweeping

    @property
    def has_locked(self) -> bool:
        """Whether the last step took a snapshot: in rollback mode a pass needs none while the writer rests."""
        return self._passes.has_locked

    def is_better_put_off(self) -> bool:
        """Whether the next step would not need a lock if it came when the writer rests. In rollback mode."""
        return self._passes.is_better_put_off()

    @property
    def chunk_rows(self) -> int:
        """Rows of a pass that are read at once."""
        return self._passes.chunk_rows

    @chunk_rows.setter
    def chunk_rows(self, rows: int) -> None:
        self._passes.chunk_rows = rows

    @property
    def locked_rows(self) -> int:
        """The most that are read from one snapshot."""
        return self._passes.locked_rows

    @locked_rows.setter
    def locked_rows(self, rows: int) -> None:
        self._passes.locked_rows = rows
