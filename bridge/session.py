"""One connection's side of the protocol. It is handed an outbox and a way to close, never a socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bridge import protocol
from bridge.outbox import Outbox
from bridge.protocol import BadFrame, Close, Cursor
from storage.types import Event


class Position(Protocol):
    """Where the hub is in the log."""

    @property
    def cursor(self) -> Cursor:
        """The newest event that every session has been given."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may do to us."""

    bad_frames: int
    frames_per_second: float


class Session:
    """Registered with the hub for one owner. `close` is called at most once."""

    def __init__(
        self,
        owner: str,
        outbox: Outbox,
        close: Callable[[Close], None],
        position: Position,
        limits: Limits,
        *,
        resumable: bool,
    ) -> None:
        self.owner, self.outbox, self.resumable = owner, outbox, resumable
        self.is_closing = False
        self.last_heard = 0.0
        self._close, self._position, self._limits = close, position, limits
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._replayed: Cursor | None = None
        self._bad = 0
        self._allowance, self._allowance_at = limits.frames_per_second, 0.0

    # -- from the hub

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

    def put(self, frame: bytes) -> None:
        """Queue a frame of an event. `flush` sends what is queued."""
        if self.is_closing:
            return
        if self._held is None:
            self.outbox.put(frame)
        else:
            self._held.append(frame)
            self._held_size += len(frame)

    def flush(self) -> None:
        """Send what is queued, in one write. A peer that is too slow is closed, never waited for."""
        if not self.is_closing and not (
            self.outbox.flush() and self.outbox.within(self._held_size, len(self._held or ()))
        ):
            self.close(Close.TOO_SLOW)

    def send(self, frame: bytes) -> None:
        """Queue and send one frame that is no event."""
        if not self.is_closing:
            self.outbox.put(frame)
            self.flush()

    def replay(self, events: list[Event], epoch: str) -> None:
        """Send one page of a replay."""
        for event in events:
            self.outbox.put(self._frame(event, epoch))
            self._replayed = Cursor(epoch, event.seq)
        self.flush()

    def _frame(self, event: Event, epoch: str) -> bytes:
        previous = next(prev for owner, prev in event.routes if owner == self.owner)
        return protocol.resumable_event_frame(event, epoch, previous)

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

    # -- from the client

    def receive_text(self, text: str, now: float) -> None:
        """Answer one text frame. `now` is the loop's time in seconds."""
        if not self._is_within_rate(now):
            self.close(Close.RATE)
            return
        try:
            _, fields = protocol.parse_request(text)
        except BadFrame as bad:
            self._refuse(bad.code, str(bad))
        else:
            self.send(protocol.pong(fields.get("timestamp", b"null"), self._cursor() if self.resumable else None))

    def _cursor(self) -> Cursor | None:
        """What this client has been sent so far; during a replay that is less than what the hub has given out.

        None while a replay is held up before its first page: there is nothing that would be safe to resume from.
        """
        return self._position.cursor if self._held is None else self._replayed

    def receive_binary(self, now: float) -> None:
        """Binary frames are not part of the protocol."""
        if self._is_within_rate(now):
            self._refuse("binary", "send text frames; binary frames are not used")
        else:
            self.close(Close.RATE)

    def _refuse(self, code: str, message: str) -> None:
        self.send(protocol.error(code, message))
        self._bad += 1
        if self._bad >= self._limits.bad_frames:
            self.close(Close.BAD_FRAMES)

    def _is_within_rate(self, now: float) -> bool:
        """A token bucket of two seconds' worth of frames."""
        rate = self._limits.frames_per_second
        self._allowance = min(2 * rate, self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        self._allowance -= 1
        return self._allowance >= 0
