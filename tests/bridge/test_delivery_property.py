"""Whatever happens to clients: nothing lost, nothing twice, nothing out of order, or they are told to fetch anew.

The hub, sessions, outboxes and the replay run as pure code: transports are lists, and a replay takes a step when it is
told to, so that publishing, pruning and dropping come at every point of it.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bridge.filters import DEFAULT_TYPES, EVENT_TYPES, EVERYTHING, Filter
from bridge.hub import Hub
from bridge.metrics import Metrics
from bridge.outbox import HIGH_WATER, Bound, Outbox
from bridge.protocol import Close, Cursor, established
from bridge.replay import Replayer
from bridge.session import Limits, Session
from storage.eventlog import EventLog
from storage.types import Event
from tests.bridge.fakes import ListLog, Pause

OWNERS = ("A", "B")
REPLAY_LIMIT = 12
BOUND = Bound(4000, 8)
ALL = Filter(frozenset(EVENT_TYPES))


batches = st.lists(
    st.tuples(
        st.sets(st.sampled_from(OWNERS)), st.sampled_from(["m", "t1", "t2", "edit", "end t1"]), st.integers(0, 700)
    ),
    min_size=1,
    max_size=6,
)
"""(owners, message or task, size) of each event of a look; some of them only for who asks for them."""
TYPES = {"m": "new_message", "edit": "message_update", "end t1": "task_deleted"}


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
    """What one client knows, over all its connections."""

    owner: str
    is_plain: bool
    wanted: Filter = EVERYTHING
    wire: Wire = field(default_factory=Wire)
    session: Session | None = None
    resuming: Coroutine[Any, Any, None] | None = None
    cursor: str | None = None
    have: int = 0
    """Every event of the owner up to this one has been received, or was there when it fetched."""
    since: int = 0
    due: int = 0
    """How many events the owner had between the cursor it came with and the place where it was registered."""
    got: list[int] = field(default_factory=list)


class Delivery(RuleBasedStateMachine):
    """Clients come, go, stall and resume while events are published and pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ListLog()
        self.hub = Hub(Metrics())
        self.hub.begin("e0", 0)
        self.epochs = 0
        self.replayer = Replayer(cast("EventLog", self.log), lambda: self.log.pruned, REPLAY_LIMIT)
        self.clients = [Client("A", False), Client("A", False, ALL), Client("A", True), Client("B", False)]
        self.clients += [Client("A", True, ALL)]
        for client in self.clients:
            self.open(client, None)
            self.receive(client)

    # -- the log

    @rule(batch=batches)
    def publish(self, batch: list[tuple[set[str], str, int]]) -> None:
        """What one look gives."""
        events = []
        for owners, what, size in batch:
            seq = len(self.log.all) + 1
            routes = tuple((owner, self.last(owner, seq, EVERYTHING)) for owner in sorted(owners))
            wide = {owner: self.last(owner, seq, ALL) for owner in owners}
            kind = TYPES.get(what, "task_update")
            subject = what.removeprefix("end ") if kind.startswith("task") else f"m{seq}"
            body = json.dumps({"type": kind, "n": seq, "to": sorted(owners), "x": "x" * size}).encode()
            events.append(Event(seq, kind, "c", subject, body, routes, kind not in DEFAULT_TYPES, wide))
            self.log.all.append(events[-1])
        self.hub.publish(f"e{self.epochs}", events)

    def last(self, owner: str, before: int, wanted: Filter) -> int:
        """The number of the last event of an owner before another, of those that are asked for."""
        return max((one.seq for one in self.log.of(owner, 0, before - 1) if wanted.wants(one)), default=0)

    def due(self, client: Client, after: int, last: int) -> list[Event]:
        """What a client is to get."""
        return [one for one in self.log.of(client.owner, after, last) if client.wanted.wants(one)]

    @rule(count=st.integers(1, 5))
    def prune(self, count: int) -> None:
        """The oldest events leave the log."""
        self.log.pruned = max(self.log.pruned, min(self.log.pruned + count, len(self.log.all) - 1))

    @precondition(lambda self: any(client.resuming is not None for client in self.clients))
    @rule(data=st.data(), beyond=st.integers(0, 8))
    def prune_under_a_replay(self, data: st.DataObject, beyond: int) -> None:
        """What is just being replayed leaves the log."""
        client = data.draw(st.sampled_from([client for client in self.clients if client.resuming is not None]))
        self.log.pruned = max(self.log.pruned, min(client.have + beyond, len(self.log.all) - 1))

    @rule()
    def begin_epoch(self) -> None:
        """Cursors given so far are void."""
        self.epochs += 1
        self.log.pruned = len(self.log.all)
        self.hub.publish(f"e{self.epochs}", [])

    # -- the clients

    @precondition(lambda self: any(client.session is None for client in self.clients))
    @rule(data=st.data(), is_new=st.booleans())
    def connect(self, data: st.DataObject, is_new: bool) -> None:
        """For the first time, or again from the last cursor."""
        client = data.draw(st.sampled_from([client for client in self.clients if client.session is None]))
        self.open(client, None if is_new or client.is_plain else client.cursor)

    def open(self, client: Client, since: str | None) -> None:
        """What the handler does."""
        client.wire = wire = Wire()
        outbox = Outbox(wire, BOUND)
        limits = Limits(bad_frames=3, frames_per_second=1e9)
        client.session = session = Session(
            client.owner,
            outbox,
            lambda code: self.closed(client, code),
            self.hub,
            limits,
            resumable=not client.is_plain,
            wanted=client.wanted,
        )
        position = self.hub.register(session)
        if since is None:
            client.got, client.since = [], position.seq
            session.send(established(client.owner, None if client.is_plain else position))
        else:
            session.hold()
            cursor = Cursor.parse(since)
            client.due = len(self.due(client, cursor.seq, position.seq)) if cursor else 0
            client.resuming = self.resume(client, session, since, position)

    async def resume(self, client: Client, session: Session, since: str, position: Cursor) -> None:
        """The order of calls of the handler."""
        recovery, span = await self.replayer.plan(client.owner, since, position, client.wanted)
        start = Cursor(span.epoch, span.after)
        session.resume_at(start)
        session.send(established(client.owner, start, recovery))
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

    def closed(self, client: Client, code: Close) -> None:
        """We gave up: only ever because the client was too slow."""
        assert code is Close.TOO_SLOW
        client.wire.closing = True

    @rule(data=st.data(), steps=st.integers(1, 4))
    def go_on_replaying(self, data: st.DataObject, steps: int) -> None:
        """A replay comes to its next await."""
        replaying = [client for client in self.clients if client.resuming is not None]
        if replaying:
            client = data.draw(st.sampled_from(replaying))
            for _ in range(steps):
                self.step(client)

    def step(self, client: Client) -> None:
        """One await further."""
        if client.resuming is not None:
            try:
                client.resuming.send(None)
            except StopIteration:
                client.resuming = None

    @rule(data=st.data(), part=st.integers(0, 3000) | st.none())
    def read(self, data: st.DataObject, part: int | None) -> None:
        """A client takes all that was sent, or some bytes of it."""
        self.receive(data.draw(st.sampled_from(self.clients)), part)

    @rule(data=st.data(), is_stuck=st.booleans())
    def stall(self, data: st.DataObject, is_stuck: bool) -> None:
        """A client stops taking anything, or begins again."""
        data.draw(st.sampled_from(self.clients)).wire.is_stuck = is_stuck
        self.hub.flush_congested()

    @rule(data=st.data())
    def ping(self, data: st.DataObject) -> None:
        """The cursor of a pong is as good as that of an event."""
        client = data.draw(st.sampled_from(self.clients))
        if client.session is not None:
            client.session.receive_text('{"type": "ping", "timestamp": 1}', 0.0)

    @rule(data=st.data(), comes_back=st.booleans())
    def drop(self, data: st.DataObject, comes_back: bool) -> None:
        """The connection breaks, what was not read is gone, and the client may be back at once."""
        client = data.draw(st.sampled_from(self.clients))
        self.leave(client)
        if comes_back:
            self.open(client, None if client.is_plain else client.cursor)

    def leave(self, client: Client) -> None:
        """What the handler does at its end."""
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
        limit = len(taken) if part is None else part
        while len(taken) >= 2:
            size, head = (taken[1], 2) if taken[1] < 126 else (int.from_bytes(taken[2:4], "big"), 4)
            if head + size > limit:
                break
            self.understand(client, json.loads(bytes(taken[head : head + size])))
            limit -= head + size
            del taken[: head + size]
        client.wire.unread[:0] = taken
        if client.wire.closing:
            self.leave(client)

    def understand(self, client: Client, said: dict[str, Any]) -> None:
        """Check one frame against everything that was ever published."""
        if said["type"] == "connection_established":
            self.welcomed(client, said)
        elif "n" in said:
            self.told(client, said)
        if client.is_plain:
            assert said.keys().isdisjoint({"cursor", "prev"})
        elif said.get("cursor") is not None:
            client.cursor = said["cursor"]
            seq = said["cursor"].partition(":")[2]
            missed = self.due(client, client.have, int(seq))
            assert not missed, f"a {said['type']} with a cursor beyond what was sent"
            client.have = max(client.have, int(seq))

    def welcomed(self, client: Client, said: dict[str, Any]) -> None:
        """Recovered with the right count, or told to fetch, and then not without a reason."""
        if client.is_plain or "recovered" not in said:
            client.have = client.since
            return
        assert client.cursor is not None
        cursor = Cursor.parse(client.cursor)
        assert cursor is not None
        if said["recovered"]:
            assert said["cursor"] == client.cursor
            assert said["replayed"] == client.due <= REPLAY_LIMIT
        else:
            now = Cursor.parse(said["cursor"])
            assert now is not None
            assert said["reason"] == ("epoch_changed" if now.epoch != cursor.epoch else "history_expired")
            expired = cursor.seq < self.log.pruned or len(self.due(client, cursor.seq, now.seq)) > REPLAY_LIMIT
            assert said["reason"] == "epoch_changed" or expired
            client.have = now.seq  # it fetches all that there is

    def told(self, client: Client, said: dict[str, Any]) -> None:
        """An event: mine, and the next one."""
        seq = said["n"]
        assert client.owner in said["to"]
        client.got.append(seq)
        if not client.is_plain:
            after = self.due(client, client.have, len(self.log.all))
            assert after, f"{seq} came twice"
            assert after[0].seq == seq, f"{seq} came where {after[0].seq} was due"
            assert said["prev"].partition(":")[2] == str(self.last(client.owner, seq, client.wanted))
            client.have = seq

    @invariant()
    def a_plain_client_gets_every_message_and_the_last_state_of_each_task(self) -> None:
        """In order, once; a task's waiting state may be replaced by a newer one."""
        for client in self.clients:
            assert client.got == sorted(set(client.got))
            if client.is_plain and client.session is not None and not client.wire.closing:
                self.check_plain(client)

    def check_plain(self, client: Client) -> None:
        """Up to the last one that it has."""
        last = client.got[-1] if client.got else client.since
        due = self.due(client, client.since, last)
        missing = [one for one in due if one.seq not in client.got]
        for one in missing:
            assert one.type == "task_update", f"{one.seq} was left out"
            newer = [
                other for other in self.due(client, one.seq, len(self.log.all))
                if (other.type, other.subject) == (one.type, one.subject)
            ]  # fmt: skip
            assert newer, f"the last state of {one.subject} was left out"

    def teardown(self) -> None:
        """All read again, all replays end, all come back: then everybody has everything."""
        for client in self.clients:
            client.wire.is_stuck = False
            for _ in range(3):
                if client.session is None and (client.is_plain or client.cursor is None):
                    break
                if client.session is None:
                    self.open(client, client.cursor)
                self.settle(client)
                if client.session is not None:
                    break
            if client.session is not None:
                due = [one.seq for one in self.due(client, client.have, len(self.log.all))]
                assert client.is_plain or due == [], "something never came"
                self.check_plain(client) if client.is_plain else None
            self.leave(client)

    def settle(self, client: Client) -> None:
        """Until its replay is over and everything is read."""
        while client.resuming is not None:
            self.receive(client)
            self.step(client)
        self.hub.flush_congested()
        self.receive(client)


@pytest.mark.timeout(0)
def test_every_client_gets_everything_once_and_in_order_or_is_told_to_fetch() -> None:
    """Promises 5, 6 and 7, at every interleaving."""
    run_state_machine_as_test(
        Delivery, settings=settings(max_examples=settings().max_examples * 2, stateful_step_count=40)
    )
