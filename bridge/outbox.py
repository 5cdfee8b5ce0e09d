"""The outbox of one connection: bounded, never waits, and what waits leaves in one write.

Prepared frames go to the transport itself, round the library's own back-pressure, so the transport's buffer is asked
before each write: up to HIGH_WATER bytes may wait there, the rest waits here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

HIGH_WATER = 256 * 1024


class Sink(Protocol):
    """What an outbox needs of a transport."""

    def write(self, data: bytes) -> None:
        """Take bytes; never blocks."""

    def get_write_buffer_size(self) -> int:
        """Bytes taken that the peer has not yet received."""

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much may wait."""

    size: int
    frames: int


class Outbox:
    """Frames on their way to one peer."""

    __slots__ = ("_bound", "_frames", "_sink", "size")

    def __init__(self, sink: Sink, bound: Bound) -> None:
        self._sink, self._bound = sink, bound
        self._frames: deque[bytes] = deque()
        self.size = 0

    def put(self, frame: bytes) -> None:
        """Add a frame. Nothing leaves before `flush`."""
        self._frames.append(frame)
        self.size += len(frame)

    def flush(self) -> bool:
        """Write what the peer can take; whether the rest is within the bound."""
        if self._frames and not self._sink.is_closing():
            room = HIGH_WATER - self._sink.get_write_buffer_size()
            if room > 0:
                self._sink.write(self._taken(room))
        return self.within(0, 0)

    def within(self, size: int, frames: int) -> bool:
        """Whether what waits here, and so much more, is within the bound."""
        return self.size + size <= self._bound.size and len(self._frames) + frames <= self._bound.frames

    def _taken(self, room: int) -> bytes:
        """At least one frame, and no more than the room there is."""
        if self.size <= room:
            frames = b"".join(self._frames) if len(self._frames) > 1 else self._frames[0]
            self.clear()
            return frames
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= room:
            frame = self._frames.popleft()
            size += len(frame)
            taken.append(frame)
        self.size -= size
        return b"".join(taken)

    def clear(self) -> None:
        """Forget what waits."""
        self._frames.clear()
        self.size = 0

    def __len__(self) -> int:
        return len(self._frames)
