"""Rows of a task that are not told as they are met, since a newer one may stand where nobody has looked yet.

Where ids may repeat, the row with the highest rowid is the task. When that one goes, an older one takes its place, and
which of them is the newest only a pass can tell: it meets them in their order, and remembers the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.reading import Batch
from storage.types import Change, Known, Op
from storage.watched import Progress, Watched

LATER_TASKS = 20_000
"""Of so many at once a pass remembers where the newest row stood; the others are left to the next pass."""


def put_off(progress: Progress, batch: Batch) -> None:
    """Take out of a chunk's changes the tasks that moved and owe somebody an event: a later chunk may have a newer.

    One that owes none is recorded, and found again from there.
    """
    watched, later = batch.watched, progress.later
    if watched.section.kind != "task" or not watched.has_rowids or (batch.last is None and not later):
        return
    kept = []
    for change in batch.changes:
        key, row = _key(change), change.row
        if row is None:  # it left the `where`; the row that takes its place may have been met
            kept += [change] if key not in later else []
        elif batch.last is None or not _is_otherwise(change) or batch.is_silent(change):
            later.pop(key, None)
            kept.append(change)
        elif key in later or len(later) < LATER_TASKS:
            later[key] = row.loc
        else:
            progress.is_sure = False
            watched.ask()
    batch.changes = kept


def leave_to_pass(batch: Batch, known: Sequence[Known]) -> None:
    """Take out of a look's changes the tasks of which an older row took the place of one that is gone, and ask for a
    pass. Where another row is `known` to have stood, it is no older row, but one that was put there just now."""
    watched = batch.watched
    if not batch.changes or watched.section.kind != "task" or not watched.may_repeat_ids:
        return
    kept, places = [], {entry.loc for entry in known}
    for change in batch.changes:
        is_older = _is_older(change)
        if is_older or change.op is Op.HIDDEN:
            watched.ask()
        if not is_older or (change.row is not None and change.row.loc in places):
            kept.append(change)
    batch.changes = kept


def is_left(watched: Watched, known: Known) -> bool:
    """Whether it matters that a row has left the `where` now: to those who know of it, or as another row of a task may
    take its place. Once noted it does not."""
    return known.is_told or (watched.section.kind == "task" and watched.may_repeat_ids and not known.is_hidden)


def _key(change: Change) -> bytes:
    known, row = change.known, change.row
    return known.key if known is not None else b"" if row is None else row.key


def _is_otherwise(change: Change) -> bool:
    known, row = change.known, change.row
    if change.op is not Op.MOVED or known is None or row is None:
        return False
    return known.digest != row.digest or known.pending or known.is_hidden


def _is_older(change: Change) -> bool:
    known, row = change.known, change.row
    return change.op is Op.MOVED and known is not None and row is not None and row.loc < known.loc
