"""A server of pure parts over the real log, clients, and what each of them has to be told.

The state file and the queries of the replay are the program's own; sockets, threads and time are not there. What the
capture thread has logged and the loop has not been given yet is a state of its own here.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bridge.filters import Filter
from bridge.hub import Hub
from bridge.metrics import Metrics
from bridge.outbox import HIGH_WATER, Bound, Outbox
from bridge.protocol import Close, Cursor, Recovery, established
from bridge.replay import Replayer
from bridge.session import Limits, Session
from bridge.stream import Stream, preamble
from bridge.subscription import Subscription
from storage.eventlog import EventLog
from storage.state import StateFile
from storage.types import Change, Draft, Event, Op, Outcome, Row, Section, digest_of
from tests.bridge.fakes import Pause

SECTION = Section(0, "messages", "message", "m", (("id", "id"), ("owner", "o"), ("conversation_id", "c")))
OWNERS, CONVERSATIONS, TYPES = ("A", "B"), ("c1", "c2"), ("new_message", "task_update")
KEPT, REPLAY_LIMIT = 10, 8
BOUND = Bound(5000, 12)
FILTERS = (
    Filter.asked([], []), Filter.asked(["c1"], []), Filter.asked([], ["task_update"]),
    Filter.asked(["c2"], ["new_message"]),
)  # fmt: skip
Batch = list[tuple[set[str], str, str, int]]
"""(owners, conversation, type, size) of the events of a look."""


class StepLog(EventLog):
    """The event log's own queries, each with a moment before and after it at which anything may happen."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    async def _fetch(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        await Pause()
        found = self.sql.execute(sql, parameters).fetchall()
        await Pause()
        return found


@dataclass
class Wire:
    """A transport whose peer reads when it likes."""

    unread: bytearray = field(default_factory=bytearray)
    is_stuck: bool = False
    closing: bool = False

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self.unread += data

    def get_write_buffer_size(self) -> int:
        """Full as long as the peer reads nothing."""
        return HIGH_WATER if self.is_stuck else 0

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closing


@dataclass
class Client:
    """What one client wants and knows, over all its connections."""

    owner: str
    wanted: Filter
    is_sse: bool
    wire: Wire = field(default_factory=Wire)
    session: Subscription | None = None
    resuming: Coroutine[Any, Any, None] | None = None
    cursor: str | None = None
    asked: str | None = None
    have: int = 0
    """Everything that it wants up to this one has come, or was there when it fetched."""


class World:
    """A server that logs, delivers, prunes, restarts and begins epochs, and its clients."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "state"
        self.all = list[Event]()
        self.epoch_of = dict[int, str]()
        self.rows = self.epochs = 0
        self.begin()
        self.clients = [
            Client("A", FILTERS[0], False), Client("A", FILTERS[1], False), Client("A", FILTERS[2], True),
            Client("B", FILTERS[0], True), Client("B", FILTERS[3], False),
        ]  # fmt: skip
        for client in self.clients:
            self.open(client, None)
            self.receive(client)

    # -- the server

    def begin(self) -> None:
        """Start the program."""
        self.state = StateFile(self.path, keep_events=KEPT, keep_seconds=1e9)
        self.state.open()
        self.log = StepLog(self.path)
        self.hub = Hub(Metrics())
        self.hub.begin(self.state.epoch, self.state.head)
        self.replayer = Replayer(self.log, lambda: self.state.pruned, REPLAY_LIMIT)
        self.waiting = deque[tuple[str, list[Event]]]()

    def end(self) -> None:
        """All connections break; what was logged and not delivered is in the log."""
        for client in self.clients:
            self.leave(client)
        self.log.sql.close()
        self.state.close()

    def restart(self) -> None:
        """Stopped and started again."""
        self.end()
        self.begin()

    def publish(self, batch: Batch, *, is_late: bool) -> None:
        """One look is logged; it may take a while until the loop is given it."""
        with self.state.transaction():
            events = self.state.record(self.outcome(*one) for one in batch)
        for event in events:
            self.all.append(event)
            self.epoch_of[event.seq] = self.state.epoch
        self.waiting.append((self.state.epoch, events))
        if not is_late:
            self.deliver()

    def outcome(self, owners: set[str], conversation: str, kind: str, size: int) -> Outcome:
        """A row that is new, and its event."""
        self.rows += 1
        values = (f"m{self.rows}".encode(), b"o", conversation.encode())
        change = Change(SECTION, Op.NEW, Row(self.rows, digest_of(values), values), None)
        body = json.dumps({"type": kind, "x": "x" * size}).encode()
        return Outcome(change, Draft(kind, conversation, f"m{self.rows}", body, tuple(sorted(owners))))

    def deliver(self) -> None:
        """The loop is given everything that waits, in its order."""
        while self.waiting:
            self.hub.publish(*self.waiting.popleft())

    def begin_epoch(self) -> None:
        """Another file took the database's place."""
        self.epochs += 1
        self.state.replace_database(f"database {self.epochs}", None)
        self.waiting.append((self.state.epoch, []))

    # -- the clients

    def open(self, client: Client, since: str | None) -> None:
        """What the handlers do."""
        client.wire, client.asked = Wire(), since
        outbox = Outbox(client.wire, BOUND)

        def close(code: Close) -> None:
            assert code is Close.TOO_SLOW
            client.wire.closing = True

        if client.is_sse:
            client.session = Stream(client.owner, outbox, close, self.hub, client.wanted)
        else:
            limits = Limits(bad_frames=3, frames_per_second=1e9)
            client.session = Session(
                client.owner, outbox, close, self.hub, limits, resumable=True, wanted=client.wanted
            )
        position = self.hub.register(client.session)
        if since is None:
            client.have = position.seq  # it fetches what there is
            client.cursor = str(position)
            first = preamble(position, 1000) if client.is_sse else established(client.owner, position)
            client.session.send(first)
        else:
            client.session.hold()
            client.resuming = self.resume(client, client.session, since, position)

    async def resume(self, client: Client, session: Subscription, since: str, position: Cursor) -> None:
        """The order of calls of the handlers."""
        recovery, span = await self.replayer.plan(client.owner, since, position, client.wanted)
        start = Cursor(span.epoch, span.after)
        if client.is_sse and recovery.reason is not None:
            self.told(client, recovery, position)
            client.wire.closing = True  # it is answered 409 or 410
            return
        session.resume_at(start)
        session.send(preamble(start, 1000) if client.is_sse else established(client.owner, start, recovery))
        try:
            async for page in self.replayer.pages(span):
                session.replay(page, span.epoch)
                while session.is_congested and not session.is_closing:
                    await Pause()
                    session.flush()
                if session.is_closing:
                    return
        except LookupError:
            session.close(Close.TOO_SLOW)
            return
        session.release()
        self.hub.flush(session)

    def step(self, client: Client) -> None:
        """One await further."""
        if client.resuming is not None:
            try:
                client.resuming.send(None)
            except StopIteration:
                client.resuming = None

    def read_all(self, client: Client) -> None:
        """Until its replay is over and everything is read."""
        client.wire.is_stuck = False
        while client.resuming is not None:
            self.receive(client)
            self.step(client)
        self.hub.flush_congested()
        self.receive(client)

    def beat(self, client: Client) -> None:
        """Cursors of heartbeats and pongs are as good as those of events."""
        if isinstance(client.session, Session):
            client.session.receive_text('{"type": "ping", "timestamp": 1}', 0.0)
        elif client.session is not None and client.resuming is None:
            client.session.beat(0.0)

    def leave(self, client: Client) -> None:
        """What the handlers do at their end."""
        if client.session is not None:
            self.hub.unregister(client.session)
        if client.resuming is not None:
            client.resuming.close()
        client.session = client.resuming = None

    # -- what a client sees

    def receive(self, client: Client, part: int | None = None) -> None:
        """Whole frames are understood; a broken-off one stays for later."""
        if client.session is None:
            return
        taken, client.wire.unread = client.wire.unread, bytearray()
        rest = taken[len(taken) if part is None else part :]
        del taken[len(taken) - len(rest) :]
        split = _events_of(taken) if client.is_sse else _frames_of(taken)
        for said in split:
            self.understand(client, said)
        client.wire.unread[:0] = taken + rest
        if client.wire.closing:
            self.leave(client)

    def understand(self, client: Client, said: dict[str, Any]) -> None:
        """Check one frame against everything that was ever logged."""
        cursor = Cursor.parse(said["cursor"]) if said.get("cursor") else None
        if said.get("recovered") is False:
            assert cursor is not None
            self.told(client, Recovery(cursor, reason=said["reason"]), cursor)
        elif said["type"] in TYPES:
            assert cursor is not None
            self.event(client, said, cursor)
        elif cursor is not None:
            assert said.get("recovered") is None or said["cursor"] == client.asked, "recovered from another cursor"
            self.moved(client, cursor)
            client.cursor, client.have = str(cursor), max(client.have, cursor.seq)

    def moved(self, client: Client, cursor: Cursor) -> None:
        """A cursor that comes without an event passes over nothing."""
        known = Cursor.parse(client.cursor or "")
        if known is not None and known.epoch == cursor.epoch:
            assert not self.due(client, client.have, cursor.seq), "a cursor beyond what was sent"

    def event(self, client: Client, said: dict[str, Any], cursor: Cursor) -> None:
        """Mine, wanted, whole, and the next one; or the first of another epoch, which says: fetch anew."""
        known = Cursor.parse(client.cursor or "")
        if known is None or known.epoch != cursor.epoch:
            client.have = cursor.seq - 1
        assert self.epoch_of[cursor.seq] == cursor.epoch
        due = self.due(client, client.have, len(self.all))
        assert due, f"{cursor} came twice"
        assert due[0].seq == cursor.seq, f"{cursor} came where {due[0].seq} was due"
        assert said["type"] == due[0].type
        previous = dict(due[0].routes)[client.owner]
        assert said["prev"] == f"{cursor.epoch}:{previous}"
        client.have, client.cursor = cursor.seq, str(cursor)

    def told(self, client: Client, recovery: Recovery, now: Cursor) -> None:
        """Not recovered: the reason is true, and the client fetches and goes on from the cursor it is given."""
        asked = Cursor.parse(client.asked or "")
        if asked is None:
            assert recovery.reason == "bad_cursor"
        elif recovery.reason == "epoch_changed":
            assert asked.epoch != now.epoch
        elif recovery.reason == "bad_cursor":
            assert asked.seq > now.seq
        else:
            assert recovery.reason == "history_expired"
            missed = len(self.due(client, asked.seq, now.seq))
            assert asked.seq < self.state.pruned or missed > REPLAY_LIMIT, "nothing had expired"
        client.cursor, client.have = str(recovery.cursor), recovery.cursor.seq

    def due(self, client: Client, after: int, last: int) -> list[Event]:
        """What a client has to be sent of (after, last]."""
        return [
            one
            for one in self.all
            if after < one.seq <= last and client.owner in dict(one.routes) and client.wanted.wants(one)
        ]

    def finish(self) -> None:
        """All is delivered and read, all come back as often as they have to: then everybody has everything."""
        self.deliver()
        for client in self.clients:
            for _ in range(4):
                if client.session is None:
                    self.open(client, client.cursor)
                self.read_all(client)
                if client.session is not None and not client.wire.closing:
                    break
            known = Cursor.parse(client.cursor or "")
            if known is not None and known.epoch == self.state.epoch:
                assert not self.due(client, client.have, len(self.all)), "something never came"
        self.end()
        with suppress(OSError):
            self.folder.cleanup()


def _frames_of(taken: bytearray) -> list[dict[str, Any]]:
    """The WebSocket frames that are whole, taken away."""
    found = list[dict[str, Any]]()
    while len(taken) >= 2:
        size, head = (taken[1], 2) if taken[1] < 126 else (int.from_bytes(taken[2:4], "big"), 4)
        if len(taken) < head + size:
            break
        found.append(json.loads(bytes(taken[head : head + size])))
        del taken[: head + size]
    return found


def _events_of(taken: bytearray) -> list[dict[str, Any]]:
    """The events of a stream that are whole, taken away; one without data is its id alone."""
    found = list[dict[str, Any]]()
    while (end := taken.find(b"\n\n")) >= 0:
        fields = dict(line.split(b": ", 1) for line in bytes(taken[:end]).split(b"\n") if not line.startswith(b":"))
        del taken[: end + 2]
        said = json.loads(fields[b"data"]) if b"data" in fields else {"type": "id"}
        found.append(said | ({"cursor": fields[b"id"].decode()} if b"id" in fields else {}))
    return found
