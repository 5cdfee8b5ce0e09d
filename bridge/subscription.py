"""One client's place at the hub, whatever it is connected by: what it wants, in which form, and what waits for it.

It is handed an outbox and a way to close, never a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bridge.filters import EVERYTHING, Filter
from bridge.outbox import Outbox
from bridge.protocol import Close, Cursor, Form
from storage.types import Event

Kind = Literal["websocket", "sse", "poll"]


def nobody(_session: Subscription) -> None:
    """Tries again."""


class Subscription:
    """Registered with the hub for one owner. `close` is called at most once."""

    kind: Kind = "websocket"
    is_prunable = False
    """Whether a waiting `task_update` may make room for a newer one. Only for who gets no cursors: see `put`."""

    def __init__(
        self,
        owner: str,
        outbox: Outbox,
        close: Callable[[Close], None],
        form: Form,
        wanted: Filter = EVERYTHING,
    ) -> None:
        self.owner, self.outbox, self.form, self.filter = owner, outbox, form, wanted
        self.is_closing = False
        self.last_heard = 0.0
        self._close = close
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._replayed: Cursor | None = None
        self.on_congested: Callable[[Subscription], None] = nobody
        """Told when a peer does not take all that it was sent; the hub tries again."""

    def hold(self) -> None:
        """Keep live events back until `release`: a replay comes first."""
        self._held = []

    def resume_at(self, cursor: Cursor) -> None:
        """Where the replay begins."""
        self._replayed = cursor

    def release(self) -> None:
        """Live events that came during the replay follow it."""
        held, self._held, self._replayed = self._held or [], None, None
        for frame in held:
            self.outbox.put(frame)
        self._held_size = 0

    def put(self, frame: bytes, task: str | None = None) -> None:
        """Queue a frame of an event; `flush` sends what is queued. `task` names the task whose whole state it is.

        A client that gets cursors is sent every event: leaving one out would make the `prev` of the next one name an
        event that it was never sent, which is what a gap looks like.
        """
        if self.is_closing:
            return
        if self._held is None:
            self.outbox.put(frame, task if self.is_prunable else None)
        else:
            self._held.append(frame)
            self._held_size += len(frame)

    def flush(self) -> None:
        """Send what is queued, in one write. A peer that is too slow is closed, never waited for."""
        if not self.is_closing and not (
            self.outbox.flush() and self.outbox.within(self._held_size, len(self._held or ()))
        ):
            self.close(Close.TOO_SLOW)
        if self.is_congested:
            self.on_congested(self)

    def send(self, frame: bytes) -> None:
        """Queue and send one frame that is no event."""
        if not self.is_closing:
            self.outbox.put(frame)
            self.flush()

    def beat(self, now: float) -> None:
        """Say something to a peer that has not been heard of for a while."""

    def replay(self, events: list[Event], epoch: str) -> None:
        """Send one page of a replay."""
        for event in events:
            self.outbox.put(self._frame(event, epoch))
            self._replayed = Cursor(epoch, event.seq)
        self.flush()

    def _frame(self, event: Event, epoch: str) -> bytes:
        return self.form(event, epoch, event.previous(self.owner, wide=self.filter.is_wide))

    @property
    def is_congested(self) -> bool:
        """Whether frames wait for the peer."""
        return len(self.outbox) > 0

    def close(self, code: Close) -> None:
        """Give up the outbox and close the connection."""
        if not self.is_closing:
            self.is_closing = True
            self.outbox.clear()
            self._held = None
            self._close(code)
