"""The tail of a section: the rows behind the last one known, which are read in their order before anything else."""

from __future__ import annotations

from storage.candidates import Interval, Places
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
