"""The bridge's own file: what was seen of each row, and the event log, in one transaction per look.

Killing the process at any instruction therefore loses and repeats nothing: either a change is remembered *and* its
event is in the log, or neither. `synchronous=NORMAL` keeps that promise through a `kill -9` but may drop the last
transactions when the whole machine stops; a boot id that changed without a clean close tells, and then a new epoch
begins, since sequence numbers might be given a second time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

from storage.epochs import EpochReason, Epochs, FileVersion
from storage.errors import StateUnusable
from storage.failed import FailedRows
from storage.homes import Homes, home_out_of_sight
from storage.lock import FileLock
from storage.schema import APPEND, APPLICATION_ID, FORMAT, REMEMBER, ROUTE, SCHEMA, migrate
from storage.transaction import Transaction
from storage.types import Draft, Event, Known, Op, Outcome, Section, place_of
from storage.waiting import WaitingRows

_KNOWN = "loc, key, digest, place, pending, id, home"
_MAGIC = b"SQLite format 3\0"
_DISK_FAILS = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR
CHECKPOINT, RARE_CHECKPOINT = 4000, 16_000
"""Pages in our log when they are put into the file; the second beside a writer that never rests. Keys have no order,
so each commit writes to pages that others wrote to, and each of those is then synced once, on the writer's disk."""
PRUNE_STEP = 256
"""At most so many events leave the log per transaction, so that pruning never delays a look; or twice as many as come
with it, so that big commits do not outrun it."""


def boot_id() -> str | None:
    """What changes when the machine starts anew; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


class StateFile(FailedRows, WaitingRows, Homes, Epochs):
    """The writing side, used by the capture thread alone. `epoch`, `head` and `pruned` may be read by any thread."""

    def __init__(self, path: Path, *, keep_events: int, keep_seconds: float) -> None:
        super().__init__()
        self.path = path
        self._keep_events, self._keep_ms = keep_events, int(keep_seconds * 1000)
        real = Path(os.path.realpath(path))  # another name of the file is no other file
        self._lock = FileLock(real.with_name(real.name + ".lock"))
        self._connection: sqlite3.Connection | None = None
        self._keyed: set[int] = set()
        self._transaction: Transaction | None = None
        self._before = "", 0, 0, False
        """Epoch, head, pruned and whether the run is noted, as they were before the transaction that is open."""
        self._highest: dict[int, int] = {}
        """Of each section a rowid above which nothing is known."""
        self._oldest: tuple[int, int] | None = None
        """Number and time (ms) of the oldest event in the log, where they are known."""
        self.forget_homes()

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateUnusable(f"the state file {self.path} is not open")
        return self._connection

    def open(self) -> None:
        """Open or create. Raises StateUnusable: not writable, not ours, of another format, or in use."""
        self._lock.acquire(
            f"the state file {self.path} belongs to another running walcast", "give this one another --state"
        )
        try:
            self._open()
        except sqlite3.Error as error:
            self.close()
            raise StateUnusable(
                f"the state file {self.path} cannot be used ({error})", "give another --state in a writable folder"
            ) from error
        except StateUnusable:
            self.close()
            raise

    def _refuse_foreign(self) -> None:
        """SQLite takes a file of less than a page for an empty database, and would write over it."""
        with suppress(FileNotFoundError), open(self.path, "rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise StateUnusable(
                    f"{self.path} is not a walcast state file", "give another --state; nothing was written to it"
                )

    def _open(self) -> None:
        self._refuse_foreign()
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        sql = self._connection
        self._transaction = Transaction(sql, self._undo)
        if sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            found = sql.execute("PRAGMA application_id").fetchone()[0], sql.execute("PRAGMA user_version").fetchone()[0]
            if found[0] != APPLICATION_ID:
                raise StateUnusable(
                    f"{self.path} is not a walcast state file", "give another --state; nothing was written to it"
                )
            if not migrate(sql, found[1]):
                raise StateUnusable(
                    f"the state file {self.path} has format {found[1]}, this walcast reads {FORMAT}",
                    "give another --state",
                )
        else:
            sql.execute(f"PRAGMA application_id={APPLICATION_ID}")
            sql.execute(f"PRAGMA user_version={FORMAT}")
        sql.execute("PRAGMA journal_mode=WAL")
        self.spare_disk(is_on=False)
        sql.execute(f"PRAGMA journal_size_limit={CHECKPOINT * 4120}")  # what the rare ones made larger is cut again
        sql.execute("PRAGMA cache_size=-8000")
        sql.executescript(SCHEMA)
        boot = boot_id()
        sql.execute(f"PRAGMA synchronous={'NORMAL' if boot else 'FULL'}")
        self._begin(boot)

    def _begin(self, boot: str | None) -> None:
        """A file that can be read will do: `adopt` comes first of all that is written, and is tried until it can be."""
        self._read_epoch(boot)
        try:
            with self.transaction():
                self._note_run()
            self.clear_homes()
        except sqlite3.OperationalError as error:
            if not self.epoch or error.sqlite_errorcode & 0xFF not in _DISK_FAILS:
                raise

    def close(self) -> None:
        """Close cleanly; safe to call twice."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # a full disk must not keep us from closing
                self._connection.execute("PRAGMA synchronous=FULL")
                self._note_end()
            self._connection.close()
            self._connection = self._transaction = None
        self._lock.release()

    def transaction(self) -> Transaction:
        """One transaction for the length of a block. Inside another it is part of that one."""
        if self._transaction is None:
            raise StateUnusable(f"the state file {self.path} is not open")
        if not self._transaction.is_open:
            self._before = self.epoch, self.head, self.pruned, self._is_noted
        return self._transaction

    def rehearse(self, section: Section, draft: Draft | None = None) -> None:
        """Do in vain what the next look begins with, and with a draft all that it writes. Nothing is left of it, nor is
        anything that is kept in memory touched: after a rest the first time is slow, and now nobody waits."""
        with suppress(sqlite3.Error):
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                self.find(section, b"")
                if draft is not None:
                    self._write_in_vain(section, draft)
            finally:
                self._sql.execute("ROLLBACK")

    def _write_in_vain(self, section: Section, draft: Draft) -> None:
        seq, owners = self.head + 1, draft.owners
        nothing = (section.number, self._highest_known(section), b"", b"", b"", False, None, None)
        self._sql.executemany(REMEMBER, [nothing])
        names = (draft.type, draft.conversation_id, draft.subject)
        self._sql.execute(APPEND, (seq, 0, *names, _named(owners), draft.body, draft.is_optional))
        self._sql.executemany(ROUTE, [(owner, seq, 0, None) for owner in owners])

    def spare_disk(self, *, is_on: bool) -> None:
        """Whether to sync as seldom as can be, with a log of up to 66 MB. Nothing is safer or less safe for it."""
        with suppress(sqlite3.Error):  # a file that fails says so when it is written to
            self._sql.execute(f"PRAGMA wal_autocheckpoint={RARE_CHECKPOINT if is_on else CHECKPOINT}")

    def _undo(self) -> None:
        self.epoch, self.head, self.pruned, self._is_noted = self._before
        self._last.clear()
        self._written = self._written_capture = self._oldest = None
        self.forget_homes()

    # -- sections

    def adopt(
        self, sections: Sequence[Section], database: str, version: FileVersion | None = None
    ) -> EpochReason | None:
        """Take over what is known for these sections. Returns the reason of a new epoch, if one had to begin.

        A section whose identity changed is forgotten and taken as baseline anew; one whose other expressions changed
        keeps its rows, and their digests are taken anew without events.
        """
        known = {row[0]: row[1:] for row in self._sql.execute("SELECT number, identity, definition FROM sections")}
        reason: EpochReason | None = None
        with self.transaction():
            self._note_run()
            for number in known.keys() - {section.number for section in sections}:
                self._forget(number)
            for section in sections:
                identity, definition = known.get(section.number, (None, None))
                if identity != section.identity:
                    self._forget(section.number)
                    self._sql.execute(
                        "INSERT INTO sections(number, identity, definition, baseline) VALUES (?, ?, ?, 'new')",
                        (section.number, section.identity, section.definition),
                    )
                elif definition != section.definition:
                    self._sql.execute(
                        "UPDATE sections SET definition = ?, baseline = 'redigest', position = NULL WHERE number = ?",
                        (section.definition, section.number),
                    )
            if known and known != {section.number: (section.identity, section.definition) for section in sections}:
                reason = "mapping_changed"
            reason = self._adopt_database(database, version) or reason
            if reason:
                self._new_epoch(reason)
        return reason

    def _forget(self, number: int) -> None:
        for table in ("seen", "failed"):
            self._sql.execute(f"DELETE FROM {table} WHERE section = ?", (number,))
        self._sql.execute("DELETE FROM sections WHERE number = ?", (number,))
        self._sql.execute(f"DROP INDEX IF EXISTS seen_key_{number:d}")
        self._keyed.discard(number)

    def baseline(
        self, section: Section
    ) -> tuple[Literal["new", "running", "redigest", "done"], int | None, int | None]:
        """(`new` | `running` | `redigest` | `done`, highest rowid that is baseline, rowid up to which it was taken)."""
        found = self._sql.execute(
            "SELECT baseline, floor, position FROM sections WHERE number = ?", (section.number,)
        ).fetchone()
        return found[0], found[1], found[2]

    def set_baseline(self, section: Section, baseline: str, floor: int | None, position: int | None) -> None:
        """Record how far the baseline of a section has come."""
        self._sql.execute(
            "UPDATE sections SET baseline = ?, floor = ?, position = ? WHERE number = ?",
            (baseline, floor, position, section.number),
        )

    # -- known rows

    def _known(self, section: Section, condition: str, parameters: Sequence[object]) -> list[Known]:
        found = self._sql.execute(
            f"SELECT {_KNOWN} FROM seen WHERE section = ? AND {condition}", (section.number, *parameters)
        )
        return [Known(loc, key, digest, place, bool(pending), name, home)
                for loc, key, digest, place, pending, name, home in found]  # fmt: skip

    def known_between(self, section: Section, after: int | None, last: int | None) -> list[Known]:
        """Rows known in (after, last]; None is unbounded."""
        low, high = -(1 << 63) if after is None else after, (1 << 63) - 1 if last is None else last
        return self._known(section, "loc BETWEEN ? AND ? AND loc IS NOT ?", (low, high, after))

    def known_at(self, section: Section, locs: Iterable[int]) -> list[Known]:
        """Rows known at these rowids. Nothing has to be asked about a row that was just appended."""
        highest, locs = self._highest_known(section), list(locs)
        if not locs or min(locs) > highest:
            return []
        if len(locs) == 1:  # the usual commit: one row
            return self._known(section, "loc = ?", locs)
        return self._known(section, "loc IN (SELECT value FROM json_each(?))", (json.dumps(locs),))

    def _highest_known(self, section: Section) -> int:
        if section.number not in self._highest:
            last = self.last_known_loc(section)
            self._highest[section.number] = -(1 << 63) if last is None else last
        return self._highest[section.number]

    def note_place(self, section: Section, loc: int) -> None:
        """A row is known at this rowid from now on."""
        self._highest[section.number] = max(loc, self._highest_known(section))

    def find(self, section: Section, key: bytes) -> Known | None:
        """The row known under a key. None for all before `index_keys`."""
        if section.number not in self._keyed:
            return None
        # Without statistics the planner takes the primary key, and would read the whole section.
        found = self._sql.execute(
            f"SELECT {_KNOWN} FROM seen "
            f"INDEXED BY seen_key_{section.number:d} WHERE section = {section.number:d} AND key = ?",
            (key,),
        ).fetchone()
        if found is None:
            return None
        loc, known_key, digest, place, pending, name, home = found
        return Known(loc, known_key, digest, place, bool(pending), name, home)

    def index_keys(self, section: Section) -> None:
        """Make `find` work for a section. Over many rows it is made at once: in random order each costs a page."""
        self._sql.execute(
            f"CREATE INDEX IF NOT EXISTS seen_key_{section.number:d} ON seen(key) WHERE section = {section.number:d}"
        )
        self._keyed.add(section.number)

    def last_known_loc(self, section: Section) -> int | None:
        """The highest rowid known."""
        found = self._sql.execute("SELECT max(loc) FROM seen WHERE section = ?", (section.number,)).fetchone()[0]
        return None if found is None else int(found)

    def count_known(self, section: Section) -> int:
        """How many rows are known."""
        return int(self._sql.execute("SELECT count(*) FROM seen WHERE section = ?", (section.number,)).fetchone()[0])

    # -- the log

    def record(self, outcomes: Iterable[Outcome]) -> list[Event]:
        """Remember changes and append their events. Call it inside `transaction`."""
        events, forget, remember = [], [], []
        for outcome in outcomes:
            change = outcome.change
            section, row, known = change.section.number, change.row, change.known
            if known is not None and (row is None or known.loc != row.loc or known.key != row.key):
                forget.append((section, known.loc, known.key))
            if row is not None and change.op is not Op.GONE:
                place = place_of(change.section, row.values)
                name, home = self.remembered(outcome, row)
                remember.append((section, row.loc, row.key, row.digest, place, outcome.pending, name, home))
                self.note_place(change.section, row.loc)
            elif known is not None and change.op is Op.HIDDEN:
                loc, home = known.loc if change.loc is None else change.loc, home_out_of_sight(change.section, known)
                remember.append((section, loc, known.key, known.digest, known.place, known.pending, known.id, home))
                self.note_place(change.section, loc)
            events += [self._append(draft) for draft in (outcome.farewell, outcome.draft) if draft is not None]
        if forget:
            self._sql.executemany("DELETE FROM seen WHERE section = ? AND loc = ? AND key = ?", forget)
        self._sql.executemany(REMEMBER, remember)
        self._set_noted()
        if events:
            self._prune(max(PRUNE_STEP, 2 * len(events)))
        return events

    def _append(self, draft: Draft) -> Event:
        self.head += 1
        before = [(owner, *self._previous(owner)) for owner in draft.owners]
        event = Event(
            self.head, draft.type, draft.conversation_id, draft.subject, draft.body,
            tuple((owner, ordinary) for owner, ordinary, _ in before), draft.is_optional,
            {owner: latest for owner, ordinary, latest in before if latest != ordinary},
        )  # fmt: skip
        self._sql.execute(
            APPEND,
            (event.seq, int(time.time() * 1000), event.type, event.conversation_id, event.subject,
             _named(draft.owners), event.body, event.is_optional),
        )  # fmt: skip
        for owner, ordinary, _ in before:
            self._sql.execute(ROUTE, (owner, event.seq, ordinary, event.wide.get(owner)))
            self._last[owner] = ordinary if event.is_optional else event.seq, event.seq
        return event

    def _previous(self, owner: str) -> tuple[int, int]:
        """The last event of an owner that is not optional, and the last of all; 0 where there is none."""
        if owner not in self._last:
            if len(self._last) > 10_000:
                self._last.clear()
            found = self._sql.execute(
                "SELECT r.seq, r.prev, e.optional FROM routes r JOIN events e USING (seq) "
                "WHERE r.owner = ? AND r.seq > ? ORDER BY r.seq DESC LIMIT 1", (owner, self.pruned),
            ).fetchone()  # fmt: skip
            latest, before, is_optional = found or (0, 0, False)
            ordinary = latest if not is_optional else before if before > self.pruned else 0
            self._last[owner] = ordinary, latest
        return self._last[owner]

    def _prune(self, most: int) -> None:
        """Drop what is beyond retention or of an old epoch: at most so many events, never the newest.

        Always from the oldest on without a gap, so an event that was logged while the clock ran ahead holds back those
        behind it for as long; none goes before its time for it.
        """
        spent, expired = max(self.pruned, self.head - self._keep_events), int(time.time() * 1000) - self._keep_ms
        if self._oldest is not None and self._oldest[0] > spent and self._oldest[1] >= expired:
            return
        doomed, self._oldest = [], None
        oldest = "SELECT seq, at, owners FROM events WHERE seq < ? ORDER BY seq LIMIT ?"
        for seq, at, owners in self._sql.execute(oldest, (self.head, most)):
            if seq > spent and at >= expired:
                self._oldest = seq, at
                break
            doomed.append((seq, owners))
        if not doomed:
            return
        self._sql.executemany(
            "DELETE FROM routes WHERE owner = ? AND seq = ?",
            [(o, seq) for seq, owners in doomed for o in json.loads(owners)],
        )
        self._sql.execute("DELETE FROM events WHERE seq <= ?", (doomed[-1][0],))
        self.pruned = max(self.pruned, doomed[-1][0])
        self._set("pruned", self.pruned)


@lru_cache(maxsize=10_000)
def _named(owners: tuple[str, ...]) -> str:
    return json.dumps(owners)
