"""The hub: events to the sessions of their owners. Synchronous from end to end; nothing here waits for a client.

A session registers and takes its position with no await between, so that a replay up to that position and the live
events after it meet without a gap and without an overlap (the ordering rule of centrifuge and of Phoenix channels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bridge import protocol
from bridge.metrics import Metrics
from bridge.protocol import Close, Cursor
from bridge.session import Session
from storage.types import Event


class Hub:
    """All sessions, by owner. Used on the event loop alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._sessions: dict[str, set[Session]] = {}
        self._congested: set[Session] = set()
        self._epoch, self._seq = "", 0
        self.count = 0
        self.on_congested: Callable[[], None] = lambda: None

    @property
    def cursor(self) -> Cursor:
        """The newest event that has been given to the sessions."""
        return Cursor(self._epoch, self._seq)

    def begin(self, epoch: str, seq: int) -> None:
        """Where the log stands before the first `publish`."""
        self._epoch, self._seq = epoch, seq

    def register(self, session: Session) -> Cursor:
        """Add a session; everything after the cursor returned reaches it live."""
        self._sessions.setdefault(session.owner, set()).add(session)
        self.count += 1
        self._metrics.connections.inc()
        return self.cursor

    def unregister(self, session: Session) -> None:
        """Remove a session; safe to call twice."""
        of_owner = self._sessions.get(session.owner)
        if of_owner is not None and session in of_owner:
            of_owner.discard(session)
            if not of_owner:
                del self._sessions[session.owner]
            self.count -= 1
            self._metrics.connections.dec()
        self._congested.discard(session)

    def connections_of(self, owner: str) -> int:
        """How many sessions an owner has."""
        return len(self._sessions.get(owner, ()))

    def publish(self, epoch: str, events: Iterable[Event]) -> None:
        """Give events to their owners' sessions: each encoded once, all frames of a session in one write."""
        self._epoch = epoch
        touched: dict[Session, None] = {}
        for event in events:
            self._seq = event.seq
            self._metrics.event(event.type)
            self._route(event, touched)
        for session in touched:
            self._flush(session)

    def _route(self, event: Event, touched: dict[Session, None]) -> None:
        plain: bytes | None = None
        for owner, previous in event.routes:
            resumable: bytes | None = None
            for session in self._sessions.get(owner, ()):
                if session.resumable:
                    resumable = resumable or protocol.resumable_event_frame(event, self._epoch, previous)
                    session.put(resumable)
                else:
                    plain = plain or protocol.event_frame(event)
                    session.put(plain)
                touched[session] = None
                self._metrics.delivered.inc()

    def _flush(self, session: Session) -> None:
        session.flush()
        if session.is_congested and not session.is_closing:
            self._congested.add(session)
            self.on_congested()
        else:
            self._congested.discard(session)

    def flush_congested(self) -> bool:
        """Try again to send what waits for slow peers; whether something still waits."""
        for session in list(self._congested):
            self._flush(session)
        return bool(self._congested)

    def sweep(self, now: float, heartbeat: float) -> Iterator[Session]:
        """The sessions that have been silent for two heartbeats. The others are pinged, all with the same frame."""
        for session in [session for of_owner in self._sessions.values() for session in of_owner]:
            if now - session.last_heard > 2 * heartbeat:
                yield session
            elif now - session.last_heard > heartbeat / 2:
                session.send(protocol.PING_FRAME)

    def close_all(self, code: Close) -> None:
        """Close every session."""
        for session in [session for of_owner in self._sessions.values() for session in of_owner]:
            session.close(code)
