"""Examine places of a section: read them, compare them with what is known, decide, record."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from storage.candidates import Places
from storage.chunk import BadRow, Chunk
from storage.compare import Comparison, compare, compare_children
from storage.later import is_left, leave_to_pass
from storage.reader import SectionReader
from storage.reading import NO_ROWS, Batch, Reading, bound
from storage.state import PRUNE_STEP, StateFile
from storage.types import NOWHERE, Change, Event, Known, Op, Outcome, Row, Value
from storage.watched import Progress, Watched

log = logging.getLogger("walcast.capture")

CHUNK_ROWS = 500
RECKONED = 1000
"""Waiting rows that may come and go before they are counted again, and rows that fail from which on they are not."""
EXAMINED_ROWS = 100_000
"""More than one page can hold, so that no row of a page is cut off."""

Decide = Callable[[Change], Outcome]
Publish = Callable[[str, list[Event]], None]
"""(epoch, events) of one transaction, in order."""


class Unsettled(Exception):
    """What was read leaves a question that only the snapshot it was read from can answer: read it again, and ask."""


class Silence:
    """While it lasts, an examiner may not ask. Not a generator: it is on the way of each commit."""

    __slots__ = ("_examiner",)

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def __enter__(self) -> None:
        self._examiner.may_ask = False

    def __exit__(self, *_: object) -> None:
        self._examiner.may_ask = True


class Recording:
    """A transaction of an examiner, for the length of a block."""

    __slots__ = ("_examiner",)

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def __enter__(self) -> None:
        self._examiner.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._examiner.end(is_good=kind is None)


class Examiner:
    """Reads inside the snapshot that the caller holds; examines inside or outside, records and publishes outside."""

    def __init__(self, state: StateFile, decide: Decide, publish: Publish) -> None:
        self._state, self._decide, self._publish = state, decide, publish
        self._unpublished: list[Event] | None = None
        self._recording, self._silence = Recording(self), Silence(self)
        self.may_ask = True
        """Whether a snapshot is open, so that the database can be asked."""
        self.rows_read = self.records = 0

    def transaction(self) -> Recording:
        """What is looked up and recorded inside is one transaction of the state file; published when it is through.

        Look-ups cost a third of what they cost one by one, and that counts where the writer waits for our snapshot.
        """
        return self._recording

    def begin(self) -> None:
        """Enter `transaction`."""
        self._state.transaction().begin()
        self._unpublished = []

    def end(self, *, is_good: bool) -> None:
        """Leave `transaction`: commit and publish, or take back what was done inside."""
        unpublished, self._unpublished = self._unpublished, None
        self._state.transaction().end(is_good=is_good)
        if unpublished and is_good:
            self._publish(self._state.epoch, unpublished)

    def asking_nothing(self) -> Silence:
        """No snapshot is open inside: what has to be asked of the database raises Unsettled."""
        return self._silence

    def places(self, watched: Watched, places: Places) -> Batch:
        """Read and examine the rows that stand, or are known to have stood, in these places. In a snapshot."""
        return self.examine(self.read(watched, places))

    def read(self, watched: Watched, places: Places, connection: sqlite3.Connection | None = None) -> Reading:
        """Read the rows that stand in these places. In a snapshot, or from a connection that shows one commit."""
        if not places.locs and not places.intervals:  # most commits concern one section
            return Reading(watched, NO_ROWS, places)
        if not places.intervals:
            return Reading(watched, _reader(watched, connection).at(sorted(places.locs)), places)
        rows: dict[int, list[Row]] = {}
        bad: dict[int, BadRow] = {}
        reader = _reader(watched, connection)
        for low, high in places.intervals:
            self._gather(reader.between(low, high, EXAMINED_ROWS), rows, bad)
        if left := places.locs - rows.keys() - bad.keys():
            self._gather(reader.at(sorted(left)), rows, bad)
        in_order = [row for loc in sorted(rows) for row in rows[loc]]
        return Reading(watched, Chunk(in_order, [*bad.values()], None), places)

    def examine(self, reading: Reading, *, is_all: bool = False) -> Batch:
        """Compare what was read of some places with what is known of them. Raises Unsettled.

        `is_all` if no newer row of a task that is among them stands elsewhere.
        """
        reading = reading.whole()
        watched, chunk, places = reading.watched, reading.chunk, reading.places
        if not places.locs and not places.intervals:
            return Batch(watched, [], [], {}, set(), 0)
        section = watched.section
        if not watched.again and watched.progress is None:
            watched.newly_broken.clear()
        known = self._state.known_at(section, places.locs)
        if places.intervals:
            for low, high in places.intervals:
                known += self._state.known_between(section, low, None if high is None else high - 1)
            known = [*{(entry.loc, entry.key): entry for entry in known}.values()]
        if not (chunk.rows or chunk.bad or known or watched.failed):
            return Batch(watched, [], [], {}, set(), 0)
        failed = self._failed_at(reading) if watched.failed else set()
        batch = self._compare(watched, chunk, known, failed)
        if not is_all:
            leave_to_pass(batch, known)
        return batch

    def _failed_at(self, reading: Reading) -> set[int]:
        """Rows among what was read that could not be rendered before, and those that are none any more."""
        watched, chunk, places = reading.watched, reading.chunk, reading.places
        locs = {row.loc for row in chunk.rows} | {bad.loc for bad in chunk.bad} | places.locs
        failed = self._failed_among(watched, locs)
        for low, high in places.intervals:  # one that was deleted is none any more
            failed |= self._state.failures(watched.section, low, None if high is None else high - 1).keys()
        return failed

    @staticmethod
    def _gather(chunk: Chunk, rows: dict[int, list[Row]], bad: dict[int, BadRow]) -> None:
        at: dict[int, list[Row]] = {}
        for row in chunk.rows:
            at.setdefault(row.loc, []).append(row)
        rows.update(at)
        bad.update((row.loc, row) for row in chunk.bad)

    def _failed_among(self, watched: Watched, locs: Iterable[int]) -> set[int]:
        return self._state.failures_at(watched.section, locs) if watched.failed else set()

    def gone(self, watched: Watched, missing: Sequence[Known], *, after_pass: bool = False) -> list[Change]:
        """Known rows that are nowhere in sight: deleted, or put elsewhere by a `REPLACE` that `where` leaves out."""
        reader, section = _reader(watched), watched.section
        moved: dict[bytes, int] = {}
        if missing and section.where is not None and reader.rowid is not None:
            moved = reader.out_of_sight({entry.key: entry.id for entry in missing}, everywhere=after_pass)
        return [
            Change(section, Op.GONE, None, entry)
            if entry.key not in moved
            else Change(section, Op.HIDDEN, None, entry, loc=moved[entry.key])
            for entry in missing
        ]

    def left(self, watched: Watched, progress: Progress) -> Batch:
        """Known rows that a whole pass did not find anywhere."""
        section, reader, limbo = watched.section, _reader(watched), progress.limbo
        if reader.rowid is None and section.each is None and self._state.count_known(section) != progress.rows:
            return Batch(watched, self._left_without_rowids(watched), [], {}, set(), 0)
        if reader.rowid is None and section.each is not None:
            there = reader.all_keys(filtered=False)
            limbo = [*limbo, *(one for one in self._state.known_between(section, None, None) if one.loc not in there)]
        if section.kind != "child":
            find = self._state.find
            limbo = [
                one
                for one in limbo
                if find(section, one.key) == one and not reader.holds(one.loc, one.key, filtered=False)
            ]
        batch = Batch(watched, [], limbo, {}, set(), 0)
        _shelter(batch, limbo)
        watched.newly_broken.clear()
        batch.changes = self.gone(watched, batch.missing, after_pass=True)
        return batch

    def _left_without_rowids(self, watched: Watched) -> list[Change]:
        """Rows that are gone, and rows that left the `where`: only the keys tell. Takes memory for each."""
        reader, section = _reader(watched), watched.section
        there = reader.all_keys(filtered=False)
        shown = there if section.where is None else reader.all_keys(filtered=True)
        is_child = section.kind == "child"  # known by its place alone
        # Where another row has the id from now on, the next pass says so.
        doubles = set() if is_child or reader.has_unique_id else set(there.values())
        changes = []
        for entry in self._state.known_between(section, None, None):
            if entry.loc not in there or not (is_child or there[entry.loc] in (None, entry.key)):
                if entry.key not in doubles:
                    changes.append(Change(section, Op.GONE, None, entry))
            elif entry.loc not in shown and entry.is_told:
                changes.append(Change(section, Op.HIDDEN, None, entry))
        return changes

    def read_chunk(
        self,
        watched: Watched,
        after: tuple[Value, ...] | None,
        rows: int,
        connection: sqlite3.Connection | None = None,
    ) -> Reading:
        """Read the next rows after a place. In a snapshot, or from a connection that shows one commit."""
        return Reading(watched, _reader(watched, connection).chunk(after, rows), Places(), after)

    def examine_chunk(self, reading: Reading, *, is_baseline: bool) -> Batch:
        """Compare the rows of a chunk with all that is known from its place to the last of them. Raises Unsettled."""
        watched, chunk, after = reading.watched, reading.chunk, reading.after
        reader, section = _reader(watched), watched.section
        if reader.rowid is None:
            locs = chunk.locs if chunk.locs is not None else {row.loc for row in chunk.rows}
            known, failed = self._state.known_at(section, locs), self._failed_among(watched, locs)
        else:
            low, high = bound(after), bound(chunk.last)
            known = self._state.known_between(section, low, high)
            failed = set(self._state.failures(section, low, high)) if watched.failed else set()
        batch = self._compare(watched, chunk, known, failed)
        batch.last, batch.is_baseline = chunk.last, is_baseline
        return batch

    def _compare(self, watched: Watched, chunk: Chunk, known: list[Known], failed: set[int]) -> Batch:
        section, reader = watched.section, _reader(watched)
        rows = len(chunk.rows) if section.each is None else len(chunk.locs or {row.loc for row in chunk.rows})
        self.rows_read += rows
        broken = {bad.loc: bad.reason for bad in chunk.bad} if chunk.bad else {}
        if section.kind == "child":
            changes = compare_children(section, chunk.rows, known)
            return Batch(watched, changes, [], broken, failed - broken.keys(), len(chunk.rows), chunk.last)
        found = compare(
            section, chunk.rows, [entry for entry in known if entry.loc not in broken] if broken else known,
            lambda key: self._state.find(section, key), lambda entry: self._stands(watched, entry),
        )  # fmt: skip
        watched.has_repeats = watched.has_repeats or found.has_repeats
        # A row that only left the `where` is still that row: coming back, it is not a new message.
        may_hide = found.missing if section.where is not None or section.each is not None else []
        self._require_answers(bool(may_hide))
        missing = found.missing
        if may_hide:
            hidden = dict.fromkeys(one for one in may_hide if reader.holds(one.loc, one.key, filtered=False))
            missing = [entry for entry in missing if entry not in hidden]
            found.changes.extend(Change(section, Op.HIDDEN, None, one) for one in hidden if is_left(watched, one))
        mended = failed - broken.keys() - _waiting(known, found) if failed else set()
        batch = Batch(watched, found.changes, missing, broken, mended, rows, chunk.last)
        if section.each is not None:
            self._require_answers(bool(broken))
            watched.newly_broken |= _broken_anew(reader, broken.keys() - failed - {entry.loc for entry in known})
            _shelter(batch, batch.missing)
        return batch

    def _require_answers(self, has_questions: bool) -> None:
        if has_questions and not self.may_ask:
            raise Unsettled

    def _stands(self, watched: Watched, entry: Known) -> bool:
        self._require_answers(True)
        reader, progress = _reader(watched), watched.progress
        if reader.rowid is not None or watched.section.each is not None:
            return reader.holds(entry.loc, entry.key, filtered=True)
        if progress is None:
            return False
        if progress.keys is None:
            progress.keys = reader.all_keys(filtered=True)
        return progress.keys.get(entry.loc) == entry.key

    def record_left(self, batches: Sequence[Batch]) -> None:
        """What a pass did not find, in portions that the log's pruning keeps up with, where nothing depends on it."""
        first, *dependent = batches
        if dependent:
            self.record(batches)
            return
        for start in range(0, max(1, len(first.changes)), PRUNE_STEP):
            self.record([replace(first, changes=first.changes[start : start + PRUNE_STEP])])

    def record(self, batches: Iterable[Batch]) -> None:
        """Decide and record in one transaction, then publish what came of it."""
        batches = [batch for batch in batches if not batch.is_void]
        if not batches:
            return
        outcomes = [(batch.watched, self._outcome(batch, change)) for batch in batches for change in batch.changes]
        events: list[Event] = []
        if self._unpublished is not None:
            self._unpublished += self._record(batches, outcomes)
        else:
            with self._state.transaction():
                events = self._record(batches, outcomes)
        for batch in batches:
            if batch.is_baseline and batch.watched.baseline != "done":
                batch.watched.position = bound(batch.last)  # not before that was kept
        self.records += 1
        self._count_waiting(outcomes)
        if events:
            self._publish(self._state.epoch, events)

    def _record(self, batches: list[Batch], outcomes: list[tuple[Watched, Outcome]]) -> list[Event]:
        """Inside a transaction of the state file."""
        events = self._state.record([outcome for _, outcome in outcomes])
        for batch in batches:
            watched, section = batch.watched, batch.watched.section
            problems = {
                o.change.row.loc: o.problem for w, o in outcomes if w is watched and o.problem and o.change.row
            }
            healed: set[int] = set()
            if watched.failed and section.each is None:  # else another element may fail
                healed = {o.change.row.loc for w, o in outcomes if w is watched and not o.problem and o.change.row}
            if batch.broken or problems or batch.mended or healed:
                more = self._state.set_failures(section, batch.broken | problems, batch.mended | healed)
                is_many = watched.failed > RECKONED  # to count them takes longer the more there are
                watched.failed = watched.failed + more if is_many else self._state.count_failures(section)
            if batch.sheltered:
                self._state.shelter(section, batch.sheltered)
            if batch.is_baseline and watched.baseline != "done":
                self._state.set_baseline(section, watched.baseline, watched.floor, bound(batch.last))
        return events

    def _count_waiting(self, outcomes: list[tuple[Watched, Outcome]]) -> None:
        """Counted and logged: most often the mapping looks for the owner in the wrong place.

        To count them takes a millisecond per thousand, so many are reckoned up, and counted once in a while.
        """
        moved: dict[int, tuple[Watched, list[Outcome]]] = {}
        for watched, outcome in outcomes:
            if outcome.pending or (outcome.change.known is not None and outcome.change.known.pending):
                moved.setdefault(id(watched), (watched, []))[1].append(outcome)
        for watched, some in moved.values():
            before = watched.waiting
            watched.reckoned += len(some)
            if min(before, RECKONED) > watched.reckoned:
                watched.waiting += sum(map(_waits_more, some))
            else:
                watched.waiting, watched.reckoned = self._state.count_pending(watched.section), 0
            if watched.waiting and not before:
                log.warning(
                    "%s has rows that nobody gets (no owner, or not renderable); they are pushed when that changes",
                    watched.section.title,
                )

    def _outcome(self, batch: Batch, change: Change) -> Outcome:
        if batch.is_silent(change):
            return Outcome(change, pending=change.known is not None and change.known.pending)
        if change.row is not None:
            batch.watched.remember(change.row)
        if change.section.kind == "child":
            return Outcome(change)
        if change.known is not None and change.known.is_told:
            change = change._replace(home=self._state.home(change.known))
        return self._decide(change)


def _waits_more(outcome: Outcome) -> int:
    """1 for a row that waits from now on, -1 for one that does so no more."""
    change = outcome.change
    did = change.known is not None and change.known.pending
    if change.op is Op.GONE:
        return -did
    return (outcome.pending if change.row is not None else did) - did


def _waiting(known: list[Known], found: Comparison) -> set[int]:
    """Rows that could not be rendered and are what they were: read again while they wait, they fail as before."""
    settled = {change.known for change in found.changes} | {*found.missing}
    return {entry.loc for entry in known if entry.pending and entry not in settled}


def _broken_anew(reader: SectionReader, locs: Iterable[int]) -> dict[bytes, int]:
    """Of rows of which nothing is known, those that say whose elements they hold."""
    return {place: loc for loc in sorted(locs) if (place := reader.place_at(loc)) != NOWHERE}


def _shelter(batch: Batch, entries: list[Known]) -> None:
    """REPLACE gives a row another place. If its JSON cannot be read from then on, its elements are not gone."""
    broken = batch.watched.newly_broken
    batch.sheltered = [(entry, broken[entry.place]) for entry in entries if entry.place in broken]
    batch.missing = [entry for entry in entries if entry.place not in broken]


def _reader(watched: Watched, connection: sqlite3.Connection | None = None) -> SectionReader:
    assert watched.reader is not None, "a paused section is not examined"
    return watched.reader if connection is None else watched.reader.over(connection)
