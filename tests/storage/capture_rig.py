"""A capture that a test can look with, stop, kill and fail, and the engines it is run with."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from bridge.decide import decide
from storage.candidates import Candidates, Places
from storage.capture import Capture
from storage.hints import Hints, NoHints, PageHints
from storage.legacy import Busy, LegacyDatabase
from storage.names import quoted
from storage.reader import SectionReader
from storage.state import StateFile
from storage.types import Change, Event, Outcome, Section
from tests.storage.oracle import Key, Payload, told


class Killed(BaseException):
    """The process ended here."""


class DiskFull(sqlite3.OperationalError):
    """The state file could not be written."""


class TrueHints:
    """The best engine that can be: names exactly the rowids whose rows changed, and some that did not."""

    mode = "true"
    commits = unseen = 0

    def __init__(self, path: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self._rows: dict[int, dict[int, tuple[object, ...]]] | None = None

    def reset(self, legacy: LegacyDatabase) -> None:
        """What was known is void."""
        self._legacy, self._rows = legacy, None

    def before(self, legacy: LegacyDatabase) -> None:
        """Nothing is noted."""

    def is_quiet(self) -> bool:
        """It cannot be seen."""
        return False

    def foresee(self) -> bool:
        """Nothing can be."""
        return False

    def take(self, readers: Sequence[SectionReader]) -> Candidates | None:
        """The difference to the last time."""
        before, self._rows = self._rows, {r.section.number: self._all(r) for r in readers if r.rowid}
        if before is None:
            return None
        found: Candidates = {reader.section.number: Places(needs_pass=reader.rowid is None) for reader in readers}
        for number, rows in self._rows.items():
            changed = {loc for loc in rows.keys() | before[number].keys() if rows.get(loc) != before[number].get(loc)}
            found[number].locs |= changed | {loc + 1 for loc in changed}
        return found

    def appended(self) -> dict[int, tuple[int, ...]] | None:
        """It takes a snapshot to tell."""
        return None

    def take_appended(self) -> bool:
        """Nothing was told."""
        return False

    def after(self) -> None:
        """Nothing is left to do."""

    def pause(self) -> None:
        """Nothing is told."""

    def resume(self) -> None:
        """Nothing is told."""

    def _all(self, reader: SectionReader) -> dict[int, tuple[object, ...]]:
        table = self._legacy.connection.execute(f"SELECT {reader.rowid}, * FROM {quoted(reader.section.table)}")
        return {row[0]: row[1:] for row in table}

    def close(self) -> None:
        """Nothing is held."""


ENGINES: dict[str, Callable[[Path], Hints]] = {"scan": lambda _: NoHints(), "true": TrueHints, "pages": PageHints}
"""Every engine keeps the same promises; a new one is added here."""


class Rig:
    """One bridge after another on one state file."""

    def __init__(self, database: Path, sections: Sequence[Section], make_hints: Callable[[Path], Hints]) -> None:
        self._database, self._sections, self._make_hints = database, sections, make_hints
        self.state_path = database.with_name("state")
        self._published: list[Event] = []
        self._read = 0
        self._epoch, self._last = "", dict[str, tuple[int, int]]()
        self.told: list[tuple[str, Any]] = []
        """(owner, event) of all events, also those that only come to who asks for them, as `events` found them."""
        self.chunk_rows: int | None = None
        """Rows of one step of a pass; None is the engine's own choice."""
        self.takes_rest_for_granted = False
        """Whether the writer is sure to rest while we turn, so that passes in rollback mode may read without locks."""
        self.fails_at: tuple[str, BaseException] | None = None

    def start(self, *, existing_is_baseline: bool = True) -> None:
        """A new instance on the state file that is there."""
        self.legacy = LegacyDatabase(self._database)
        self.state = StateFile(self.state_path, keep_events=10_000, keep_seconds=3600)
        self.state.open()
        self.state.record = self._recorded(self.state.record)  # type: ignore[method-assign]
        self.hints = self._make_hints(self._database)
        self.capture = Capture(self.legacy, self.state, self._sections, self._decided, self._taken, self.hints)
        self.capture.chunk_rows = self.chunk_rows or self.capture.chunk_rows
        if self.takes_rest_for_granted:
            self.capture._passes._still._is_old = lambda stamp: stamp.size > 0  # type: ignore[method-assign]
        self.capture.attach(existing_is_baseline=existing_is_baseline)

    def stop(self) -> None:
        """End it as the worker does."""
        self.legacy.close()
        self.hints.close()
        self.state.close()

    def kill(self) -> None:
        """End it as the system does: nothing is written any more, and the locks fall."""
        self.legacy.close()
        self.hints.close()
        if self.state._connection is not None:
            self.state._connection.close()
            self.state._connection = None
        self.state._lock.release()

    def _fail(self, where: str) -> None:
        if self.fails_at is not None and self.fails_at[0] == where:
            error, self.fails_at = self.fails_at[1], None
            raise error

    def _decided(self, change: Change) -> Outcome:
        self._fail("decide")
        return decide(change)

    def _recorded(self, record: Callable[..., list[Event]]) -> Callable[..., list[Event]]:
        def recorded(outcomes: object) -> list[Event]:
            events = record(outcomes)
            self._fail("record")
            return events

        return recorded

    def _taken(self, epoch: str, events: list[Event]) -> None:
        self._fail("publish")
        self._published.extend(events)

    def turn(self) -> bool:
        """One turn of the worker, which relies on the counters of the pages; whether there was anything to do."""
        news = self.capture.look(thorough=False)
        if not (news or self.capture.is_behind or self.fails_at):  # what is to fail is a look
            self.capture.rehearse()  # which is to leave no trace
        return self.capture.step() or news

    def settle(self) -> None:
        """Turn until there is nothing left to do."""
        for _ in range(2000):
            with suppress(Busy):
                if not self.turn():
                    return
        raise AssertionError("the capture never came to rest")

    def events(self) -> list[tuple[Key, Payload]]:
        """What the log has got since the last call, through a connection of our own."""
        with closing(sqlite3.connect(f"file:{self.state_path}?mode=ro", uri=True)) as log:
            since = "WHERE seq > ? ORDER BY seq"
            logged = log.execute(
                f"SELECT seq, type, subject, owners, body, optional FROM events {since}", (self._read,)
            ).fetchall()
            routes = log.execute(
                f"SELECT owner, seq, prev, wide, optional FROM routes JOIN events USING (seq) {since}", (self._read,)
            ).fetchall()
        self._check_log(logged, routes)
        self._read = logged[-1][0] if logged else self._read
        self.told += [(owner, json.loads(body)) for _, _, _, owners, body, _ in logged for owner in json.loads(owners)]
        return [
            (("message" if kind == "new_message" else "task", subject), (owner, told(json.loads(body))))
            for _, kind, subject, owners, body, optional in logged
            if not optional
            for owner in json.loads(owners)
        ]

    def _check_log(
        self,
        logged: list[tuple[int, str, str, str, bytes, int]],
        routes: list[tuple[str, int, int, int | None, int]],
    ) -> None:
        """Numbers without a gap, owners' chains without a gap, and nothing published that is not in the log."""
        assert [entry[0] for entry in logged] == list(range(self._read + 1, self._read + 1 + len(logged)))
        if self.state.epoch != self._epoch:
            self._epoch, self._last = self.state.epoch, {}
        for owner, seq, prev, wide, is_optional in routes:
            ordinary, latest = self._last.get(owner, (0, 0))
            assert prev == ordinary, f"{seq}: the event before it for {owner}"
            assert (prev if wide is None else wide) == latest, f"{seq}: the event before it of all for {owner}"
            self._last[owner] = ordinary if is_optional else seq, seq
        bodies = {entry[0]: entry[4] for entry in logged}
        for event in self._published:
            assert bodies.pop(event.seq, None) == event.body, f"{event.seq} was published twice, or never logged"
        self._published.clear()
