"""One WebSocket connection's side of the protocol: what its client may say, and what it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bridge import protocol
from bridge.filters import EVERYTHING, BadFilter, Filter
from bridge.outbox import Outbox
from bridge.protocol import BadFrame, Close, Cursor
from bridge.subscription import Subscription


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


class Session(Subscription):
    """A WebSocket connection, registered with the hub for one owner."""

    def __init__(
        self,
        owner: str,
        outbox: Outbox,
        close: Callable[[Close], None],
        position: Position,
        limits: Limits,
        *,
        resumable: bool,
        wanted: Filter = EVERYTHING,
    ) -> None:
        super().__init__(owner, outbox, close, protocol.resumable_form if resumable else protocol.plain_form, wanted)
        self.resumable, self.is_prunable = resumable, not resumable
        self._position, self._limits = position, limits
        self._bad = 0
        self._allowance, self._allowance_at = limits.frames_per_second, 0.0
        self._early: list[bytes] = []
        """Answers to what a client said before it was welcomed: the first frame is the welcome."""

    def send(self, frame: bytes) -> None:
        """As the base class; behind the welcome follow the answers that waited for it."""
        super().send(frame)
        if self._early and self._is_welcome:
            early, self._early = self._early, []
            self._held_size -= sum(map(len, early))
            for answer in early:
                super().send(answer)

    @property
    def _is_welcome(self) -> bool:
        """False while it is looked up what a client that resumes has missed."""
        return self._held is None or self._replayed is not None

    def _answer(self, frame: bytes) -> None:
        if self._is_welcome:
            self.send(frame)
        elif not self.is_closing:
            self._early.append(frame)
            self._held_size += len(frame)  # it waits, so it counts
            self.flush()

    def beat(self, now: float) -> None:
        """An empty ping, which every WebSocket peer answers."""
        self.send(protocol.PING_FRAME)

    def receive_text(self, text: str, now: float) -> None:
        """Answer one text frame. `now` is the loop's time in seconds."""
        if not self._is_within_rate(now):
            self.close(Close.RATE)
            return
        try:
            kind, fields = protocol.parse_request(text)
            if kind == "ping":
                cursor = self._cursor() if self.resumable else None
                self._answer(protocol.pong(fields.get("timestamp", b"null"), cursor))
            else:
                self._refilter(kind, protocol.conversation_of(fields))
        except (BadFrame, BadFilter) as bad:
            self._refuse(bad.code, str(bad))

    def _refilter(self, kind: str, conversation: str) -> None:
        """In effect for what comes from now on, and without an answer: the pong to a later ping proves it."""
        change = self.filter.subscribed if kind == "subscribe" else self.filter.unsubscribed
        self.filter = change(conversation)

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
        self._answer(protocol.error(code, message))
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
