"""What a hub and its sessions are tested with: a transport that is a list, and a clock that is a number."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any

from bridge.hub import Hub
from bridge.metrics import Metrics
from bridge.outbox import Bound, Outbox
from bridge.protocol import Close
from bridge.session import Limits, Session
from storage.eventlog import EVERY, Wanted
from storage.types import Event

ROOMY = Bound(1 << 20, 1000)
GENTLE = Limits(bad_frames=3, frames_per_second=1000)


class ListSink:
    """Keeps what is written; `stuck` bytes stay in its buffer until `drain`."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.buffered = 0
        self.is_stuck = False
        self.closing = False

    def write(self, data: bytes) -> None:
        """Take bytes."""
        self.writes.append(data)
        self.buffered += len(data) if self.is_stuck else 0

    def get_write_buffer_size(self) -> int:
        """What the peer has not taken."""
        return self.buffered

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closing

    def drain(self) -> None:
        """The peer reads again."""
        self.buffered, self.is_stuck = 0, False


def frames(writes: Sequence[bytes]) -> list[bytes]:
    """The payloads of the frames in some writes, read by hand (RFC 6455 section 5.2)."""
    data, found = b"".join(writes), []
    while data:
        size, head = data[1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[2:head], "big")
        assert len(data) >= head + size, "half a frame"
        found.append(data[head : head + size])
        data = data[head + size :]
    return found


class Peer:
    """A session over a list, and what its client has been told."""

    def __init__(
        self, hub: Hub, owner: str, *, resumable: bool = False, bound: Bound = ROOMY, limits: Limits = GENTLE
    ) -> None:
        self.sink, self.closed = ListSink(), list[Close]()
        self.session = Session(owner, Outbox(self.sink, bound), self.closed.append, hub, limits, resumable=resumable)

    @property
    def payloads(self) -> list[Any]:
        """Everything that was written, parsed."""
        return [json.loads(payload) if payload else None for payload in frames(self.sink.writes)]


def event(seq: int, *routes: tuple[str, int], kind: str = "new_message", size: int = 0) -> Event:
    """An event that says its own number."""
    body = json.dumps({"type": kind, "n": seq, "filler": "x" * size}, separators=(",", ":")).encode()
    return Event(seq, kind, "c", f"m{seq}", body, routes)


def new_hub() -> Hub:
    """A hub at the beginning of an epoch."""
    hub = Hub(Metrics())
    hub.begin("e1", 0)
    return hub


class Pause:
    """An await at which anything may happen."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class ListLog:
    """The event log as a list; what was pruned is kept aside for the test to know."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.pruned = 0

    def of(self, owner: str, after: int, last: int) -> list[Event]:
        """Everything there ever was."""
        return [one for one in self.all if after < one.seq <= last and owner in dict(one.routes)]

    def _there(self, owner: str, after: int, last: int, wanted: Wanted) -> list[Event]:
        return [
            one
            for one in self.of(owner, after, last)
            if one.seq > self.pruned
            and (wanted.types is None or one.type in wanted.types)
            and (wanted.optional or not one.is_optional)
        ]

    async def count(self, owner: str, after: int, last: int, wanted: Wanted = EVERY) -> int:
        """As EventLog."""
        await Pause()
        found = len(self._there(owner, after, last, wanted))
        await Pause()
        return found

    async def page(self, owner: str, after: int, last: int, limit: int, wanted: Wanted = EVERY) -> list[Event]:
        """As EventLog, in pages of three."""
        await Pause()
        found = self._there(owner, after, last, wanted)[: min(limit, 3)]
        await Pause()
        return found
