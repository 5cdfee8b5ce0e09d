"""The tail of a section: the rows behind the last one known, which are read in their order before anything else."""

from __future__ import annotations

from collections.abc import Iterable

from storage.candidates import Interval, Places
from storage.reading import Reading, bound
from storage.state import StateFile
from storage.watched import Watched


def end_of(state: StateFile, watched: Watched) -> int | None:
    """The last row known; the tail begins behind it."""
    floor = watched.floor if watched.baseline == "running" else None
    ends = [state.last_known_loc(watched.section), floor, watched.tail_after]
    return max((end for end in ends if end is not None), default=None)


def ahead_of_tail(state: StateFile, watched: Watched, places: Places) -> Places:
    """What was appended while nobody looked comes before what is appended now: the tail is read in its order."""
    end = end_of(state, watched)
    if end is None:
        return Places(is_exact=places.is_exact)
    intervals: list[Interval] = [
        (low, end + 1 if high is None else min(high, end + 1))
        for low, high in places.intervals
        if low is None or low < end
    ]
    return Places(intervals, {loc for loc in places.locs if loc <= end}, is_exact=places.is_exact)


class TailReader:
    """Reads the tail in the snapshot of a look that no hint has served: each snapshot of its own would stand in the
    way of one more commit."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._ends: dict[int, int | None] = {}
        """Of each section whose tail was read in this look: how far, None if to its end."""

    def begin(self) -> None:
        """Another look, or the same once more."""
        self._ends.clear()

    def add(self, reading: Reading, rows: int) -> Reading:
        """With the reading of the places ahead of it so many rows of the tail.

        Where no row is known, all of the table is tail, and that is the pass that is asked for anyway: to read it from
        its beginning at each look would leave that no turn.
        """
        watched, end = reading.watched, end_of(self._state, reading.watched)
        if watched.reader is None:
            return reading
        if end is None:
            self._ends[watched.section.number] = None
            return reading
        tail = watched.reader.chunk((end,), rows)
        self._ends[watched.section.number] = bound(tail.last)
        return reading._replace(tail=tail, end=end)

    def end(self, sections: Iterable[Watched]) -> None:
        """The look is recorded: what it did not read of the tails is still to be read."""
        for watched in sections:
            number = watched.section.number
            if not watched.tail:
                watched.tail_after = self._ends.get(number)
                watched.tail = number not in self._ends or watched.tail_after is not None
