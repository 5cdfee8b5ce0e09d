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
    """Frames on their way to one peer. A frame that shows the whole state of a task replaces one that still waits."""

    __slots__ = ("_bound", "_frames", "_gaps", "_gone", "_sink", "_tasks", "size")

    def __init__(self, sink: Sink, bound: Bound) -> None:
        self._sink, self._bound = sink, bound
        self._frames: deque[bytes] = deque()
        self._gone = 0
        """How many frames have left: the place of `_frames[0]` in all that were ever put."""
        self._tasks: dict[str, int] = {}
        """The place of the newest frame of each task that was put since the outbox was last empty."""
        self._gaps = 0
        """Replaced frames stay as empty ones, until there are too many."""
        self.size = 0

    @property
    def portion(self) -> tuple[int, int]:
        """How much of a replay is put in at a time, in bytes and frames: live events need room beside it."""
        return min(HIGH_WATER, self._bound.size // 2), max(1, self._bound.frames // 2)

    def put(self, frame: bytes, task: str | None = None) -> None:
        """Add a frame at the end. Nothing leaves before `flush`."""
        if task is not None:
            self._replace(task)
        self._frames.append(frame)
        self.size += len(frame)

    def _replace(self, task: str) -> None:
        place = self._tasks.get(task, -1) - self._gone
        if place >= 0:
            self.size -= len(self._frames[place])
            self._frames[place] = b""
            self._gaps += 1
            if self._gaps > len(self):
                self._close_gaps()
        self._tasks[task] = self._gone + len(self._frames)

    def _close_gaps(self) -> None:
        """Half of the frames at least are gaps, so this costs each of them no more than a few steps."""
        places = {place - self._gone: task for task, place in self._tasks.items() if place >= self._gone}
        kept = [(place, frame) for place, frame in enumerate(self._frames) if frame]
        self._tasks = {places[place]: self._gone + at for at, (place, _) in enumerate(kept) if place in places}
        self._frames = deque(frame for _, frame in kept)
        self._gaps = 0

    def flush(self) -> bool:
        """Write what the peer can take; whether the rest is within the bound."""
        if self._frames and not self._sink.is_closing():
            room = HIGH_WATER - self._sink.get_write_buffer_size()
            if room > 0:
                self._sink.write(self._taken(room))
        return self.within(0, 0)

    def within(self, size: int, frames: int) -> bool:
        """Whether what waits here, and so much more, is within the bound."""
        return self.size + size <= self._bound.size and len(self) + frames <= self._bound.frames

    def _taken(self, room: int) -> bytes:
        """At least one frame, and no more than the room there is."""
        if self.size <= room:
            frames = b"".join(self._frames) if len(self._frames) > 1 else self._frames[0]
            self.clear()
            return frames
        taken: list[bytes] = []
        size = 0
        while self._frames and (not size or size + len(self._frames[0]) <= room):
            frame = self._frames.popleft()
            self._gone += 1
            self._gaps -= not frame
            size += len(frame)
            taken.append(frame)
        self.size -= size
        if len(self._tasks) > 2 * len(self._frames) + 64:
            self._tasks = {task: place for task, place in self._tasks.items() if place >= self._gone}
        return b"".join(taken)

    def clear(self) -> None:
        """Forget what waits."""
        self._frames.clear()
        self._tasks.clear()
        self._gone = self._gaps = self.size = 0

    def __len__(self) -> int:
        return len(self._frames) - self._gaps
