"""What one reading of a section gave, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from storage.candidates import Places
from storage.chunk import Chunk
from storage.types import Change, Known, Value
from storage.watched import Watched


@dataclass(slots=True)
class Batch:
    """What one reading of one section found. `last` is where the next chunk begins, None at the end of the table."""

    watched: Watched
    changes: list[Change]
    missing: list[Known]
    broken: dict[int, str]
    mended: set[int]
    rows: int
    last: tuple[Value, ...] | None = None
    is_baseline: bool = False
    sheltered: Sequence[tuple[Known, int]] = ()
    """Elements whose row is gone, each with the row of their conversation that cannot be read and may hold them now."""

    def is_silent(self, change: Change) -> bool:
        """Whether it is recorded as what was there before, and gives no event."""
        return self.watched.is_baseline(change) if self.is_baseline else self.watched.is_untaken(change)

    @property
    def is_void(self) -> bool:
        """Whether there is nothing to record."""
        return not (self.changes or self.broken or self.mended or self.is_baseline or self.sheltered)


NO_ROWS = Chunk([], [], None)


class Reading(NamedTuple):
    """Rows of some places, or of a chunk of the table, as one snapshot shows them."""

    watched: Watched
    chunk: Chunk
    places: Places
    after: tuple[Value, ...] | None = None
    tail: Chunk | None = None
    """Rows that stand behind `end`, if they were read as well."""
    end: int = 0

    def whole(self) -> Reading:
        """The same with the tail among its rows and places. Makes rows, so not for where a snapshot is open."""
        if self.tail is None:
            return self
        last = bound(self.tail.last)
        behind = self.end, None if last is None else last + 1
        places = replace(self.places, intervals=[*self.places.intervals, behind])
        chunk = Chunk([*self.chunk.rows, *self.tail.rows], [*self.chunk.bad, *self.tail.bad], None)
        return Reading(self.watched, chunk, places)


def bound(place: tuple[Value, ...] | None) -> int | None:
    """The rowid of a place, None if there is no place, or no rowid."""
    return place[0] if place is not None and isinstance(place[0], int) else None
