"""One event stream (SSE) and one long poll: clients that only listen."""

from __future__ import annotations

from collections.abc import Callable

from bridge.filters import EVERYTHING, Filter
from bridge.outbox import Bound, Outbox
from bridge.protocol import Close, Cursor, resumable_body
from bridge.session import Position
from bridge.subscription import Subscription
from storage.types import Event


def sse_form(event: Event, epoch: str, prev: int) -> bytes:
    """An event of the stream (WHATWG HTML, section 9.2): the object is that of `?resume=1`, and has no line break."""
    return b"id: %s:%d\nevent: %s\ndata: %s\n\n" % (
        epoch.encode(),
        event.seq,
        event.type.encode(),
        resumable_body(event, epoch, prev),
    )


def preamble(cursor: Cursor, retry_ms: int) -> bytes:
    """What a stream begins with: how long to wait before coming back, and where from, even before the first event."""
    return b"retry: %d\nid: %s\n\n" % (retry_ms, str(cursor).encode())


class Stream(Subscription):
    """An event stream. It cannot be heard, so it is never dead by silence."""

    kind = "sse"

    def __init__(
        self,
        owner: str,
        outbox: Outbox,
        close: Callable[[Close], None],
        position: Position,
        wanted: Filter = EVERYTHING,
    ) -> None:
        super().__init__(owner, outbox, close, sse_form, wanted)
        self._position = position
        self._epoch = position.cursor.epoch

    def put(self, frame: bytes, task: str | None = None) -> None:
        """As the base class; an event is what tells the client of its epoch."""
        self._epoch = self._position.cursor.epoch
        super().put(frame, task)

    def beat(self, now: float) -> None:
        """A comment that keeps proxies from closing, and the cursor, so that a quiet stream's does not grow old.

        No cursor of an epoch that no event has told of: the client would come back with it, and never be told to
        fetch anew.
        """
        self.last_heard = now
        cursor = self._position.cursor
        if self._held is None and cursor.epoch == self._epoch:
            self.send(b": heartbeat\nid: %s\n\n" % str(cursor).encode())
        else:
            self.send(b": heartbeat\n\n")


class Bell(Subscription):
    """A request that waits for something to arrive. It keeps nothing: the log has what arrived."""

    kind = "poll"

    def __init__(self, owner: str, ring: Callable[[], None], wanted: Filter = EVERYTHING) -> None:
        super().__init__(owner, Outbox(_Nothing(), Bound(0, 0)), lambda _: ring(), _no_form, wanted)
        self._ring = ring

    def put(self, frame: bytes, task: str | None = None) -> None:
        """Ring."""
        self._ring()

    def beat(self, now: float) -> None:
        """Nothing is sent while it waits."""
        self.last_heard = now


def _no_form(_event: Event, _epoch: str, _prev: int) -> bytes:
    return b""


class _Nothing:
    def write(self, data: bytes) -> None:
        """Nothing is ever written."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def is_closing(self) -> bool:
        """Never used."""
        return False
