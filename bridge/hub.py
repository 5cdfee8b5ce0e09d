"""The hub: events to the sessions of their owners. Synchronous from end to end; nothing here waits for a client.

A session registers and takes its position with no await between, so that a replay up to that position and the live
events after it meet without a gap and without an overlap (the ordering rule of centrifuge and of Phoenix channels).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bridge.decide import MESSAGE_UPDATE, TASK_UPDATE
from bridge.filters import EVERYTHING
from bridge.metrics import Metrics
from bridge.protocol import Close, Cursor, Form
from bridge.subscription import Kind, Subscription, nobody
from storage.types import Event


class Hub:
    """All sessions, by owner. Used on the event loop alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sessions: dict[str, set[Subscription]] = {}
        self._congested: set[Subscription] = set()
        self._epoch, self._seq = "", 0
        self.counts: Counter[Kind] = Counter()
        self.on_congested: Callable[[], None] = lambda: None
        self.later: Callable[[Callable[[], None]], object] = _at_once
        """Calls what can wait until the frames have left: a transport writes when the callback that filled it is over.
        """

    @property
    def count(self) -> int:
        """How many sessions there are, of every kind."""
        return self.counts.total()

    @property
    def cursor(self) -> Cursor:
        """The newest event that has been given to the sessions."""
        return Cursor(self._epoch, self._seq)

    def begin(self, epoch: str, seq: int) -> None:
        """Where the log stands before the first `publish`."""
        self._epoch, self._seq = epoch, seq

    def register(self, session: Subscription) -> Cursor:
        """Add a session; everything after the cursor returned reaches it live."""
        self._sessions.setdefault(session.owner, set()).add(session)
        session.on_congested = self._note_congested
        self.counts[session.kind] += 1
        self._metrics.connected(session.kind, 1)
        return self.cursor

    def unregister(self, session: Subscription) -> None:
        """Remove a session; safe to call twice."""
        of_owner = self._sessions.get(session.owner)
        if of_owner is not None and session in of_owner:
            of_owner.discard(session)
            if not of_owner:
                del self._sessions[session.owner]
            self.counts[session.kind] -= 1
            self._metrics.connected(session.kind, -1)
        session.on_congested = nobody
        self._congested.discard(session)

    def _note_congested(self, session: Subscription) -> None:
        if session not in self._congested:
            self._congested.add(session)
            self.on_congested()

    def connections_of(self, owner: str) -> int:
        """How many sessions an owner has."""
        return len(self._sessions.get(owner, ()))

    def publish(self, epoch: str, events: Sequence[Event]) -> None:
        """Give events to their owners' sessions: each encoded once, all frames of a session in one write."""
        self._epoch = epoch
        touched: dict[Subscription, None] = {}
        delivered = 0
        for event in events:
            self._seq = event.seq
            delivered += self._route(event, touched)
        for session in touched:
            self.flush(session)
        if events:
            self.later(partial(self._count, events, delivered))  # which is dearer than the hand-over itself

    def _count(self, events: Sequence[Event], delivered: int) -> None:
        for event in events:
            self._metrics.event(event.type)
        self._metrics.delivered.inc(delivered)

    def _route(self, event: Event, touched: dict[Subscription, None]) -> int:
        """How many sessions got it."""
        is_ordinary = EVERYTHING.wants(event)  # asked once: nearly every client wants just that
        whole = _whole(event)
        delivered = 0
        for owner, previous in event.routes:
            wide = event.wide.get(owner)
            made: dict[Form, bytes] = {}
            made_wide: dict[Form, bytes] = {}
            for session in self._sessions.get(owner, ()):
                if not (is_ordinary if session.filter is EVERYTHING else session.filter.wants(event)):
                    continue
                before, frames = (wide, made_wide) if wide is not None and session.filter.is_wide else (previous, made)
                frame = frames.get(session.form)
                if frame is None:
                    frame = frames[session.form] = session.form(event, self._epoch, before)
                session.put(frame, whole)
                touched[session] = None
                delivered += 1
        return delivered

    def flush(self, session: Subscription) -> None:
        """Send what is queued for a session; what its peer cannot take now is tried again later."""
        session.flush()
        if not session.is_congested:
            self._congested.discard(session)

    def flush_congested(self) -> bool:
        """Try again to send what waits for slow peers; whether something still waits."""
        for session in list(self._congested):
            self.flush(session)
        return bool(self._congested)

    def sweep(self, now: float, heartbeat: float) -> Iterator[Subscription]:
        """The sessions that have been silent for two heartbeats. The others are pinged, each in its way."""
        for session in [session for of_owner in self._sessions.values() for session in of_owner]:
            if now - session.last_heard > 2 * heartbeat:
                yield session
            elif now - session.last_heard > heartbeat / 2:
                session.beat(now)

    def close_all(self, code: Close) -> None:
        """Close every session."""
        for session in [session for of_owner in self._sessions.values() for session in of_owner]:
            session.close(code)


def _at_once(call: Callable[[], None]) -> None:
    call()


def _whole(event: Event) -> str | None:
    """What the event shows the whole state of, so that a newer one may replace it while it waits."""
    if event.type not in (TASK_UPDATE, MESSAGE_UPDATE):
        return None
    return "\0".join((event.type, event.conversation_id, event.subject))  # an id may stand in two conversations
