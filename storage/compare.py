"""Rows against what is known of them: pure decisions, no I/O but the two questions passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from storage.types import Change, Known, Op, Row, Section


@dataclass(frozen=True, slots=True)
class Comparison:
    """`changes` in the order of the rows; `missing` are known rows that do not stand where they stood.

    `has_repeats` when a row was met whose id another row has too.
    """

    changes: list[Change]
    missing: list[Known]
    has_repeats: bool = False


def compare(
    section: Section,
    rows: Iterable[Row],
    known: Sequence[Known],
    find: Callable[[bytes], Known | None],
    stands: Callable[[Known], bool],
) -> Comparison:
    """Compare all rows that stand in some places with all that is known of those places.

    `find` gives what is known under a key anywhere; `stands` tells whether a known row still stands where it stood.
    Several rows with one id are one row: of messages the first that was seen, of tasks the one with the highest rowid.
    Several may stand in one place, as the elements of a row do; no two of those have one id.
    """
    left: dict[tuple[int, bytes], Known] = {}
    same: dict[tuple[int, bytes], Known] = {}
    by_key: dict[bytes, Known] = {}
    if known:
        left = {(entry.loc, entry.key): entry for entry in known}
        same = {(entry.loc, entry.digest): entry for entry in known}
        by_key = {entry.key: entry for entry in known}

    def find_here(key: bytes) -> Known | None:
        return by_key.get(key) or find(key)

    changes: dict[bytes, Change] = {}
    has_repeats = False
    for row in rows:
        here = same.get((row.loc, row.digest))  # the digest covers the id, so that most rows need no key
        if here is None:
            here = left.get((row.loc, row.key))
        if here is not None:
            del left[here.loc, here.key]
            if here.digest != row.digest or here.is_hidden:
                changes[row.key] = Change(section, Op.CHANGED, row, here)
            continue
        key = row.key
        change = _stranger(section, row, changes.get(key), find_here, stands)
        has_repeats = has_repeats or change is None or key in changes
        if change is not None:
            changes.pop(key, None)  # to the end: rows are pushed in the order of their places
            changes[key] = change
    missing: list[Known] = []
    if left:
        moved = {change.known.key for change in changes.values() if change.known is not None}
        missing = [entry for entry in left.values() if entry.key not in moved]
    return Comparison(list(changes.values()), missing, has_repeats)


def _stranger(
    section: Section,
    row: Row,
    earlier: Change | None,
    find: Callable[[bytes], Known | None],
    stands: Callable[[Known], bool],
) -> Change | None:
    """A row whose id is not known in its place: new, moved here, or a further row of an id that is known."""
    newest_counts = section.kind == "task"
    if earlier is not None:
        if not newest_counts or earlier.row is None or row.loc < earlier.row.loc:
            return None
        return Change(section, Op.NEW if earlier.known is None else Op.MOVED, row, earlier.known)
    known = find(row.key)
    if known is None:
        return Change(section, Op.NEW, row, None)
    if stands(known) and (not newest_counts or row.loc < known.loc):
        return None
    return Change(section, Op.MOVED, row, known)


def compare_children(section: Section, rows: Iterable[Row], known: Iterable[Known]) -> list[Change]:
    """All rows that stand in some places against all that is known of those places.

    A child is known by where it stands: one that moved is gone from one place and new in another, which costs its
    parent a second look and nothing else. What cannot be read counts as gone until it can.
    """
    left = {entry.loc: entry for entry in known}
    changes = []
    for row in rows:
        entry = left.pop(row.loc, None)
        if entry is None:
            changes.append(Change(section, Op.NEW, row, None))
        elif entry.digest != row.digest:
            changes.append(Change(section, Op.CHANGED, row, entry))
    changes += [Change(section, Op.GONE, None, entry) for entry in left.values()]
    return changes
