"""Rows against what is known of them: pure decisions, no I/O but the two questions passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from storage.types import Change, Known, Op, Row, Section


@dataclass(frozen=True, slots=True)
class Comparison:
    """`changes` in the order of the rows; `missing` are known rows that do not stand where they stood."""

    changes: list[Change]
    missing: list[Known]


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
    """
    at = {entry.loc: entry for entry in known}
    # A row that took the place of another, which is not yet known to be gone, makes two that are known in one place.
    crowded = [entry for entry in known if at[entry.loc] is not entry]
    by_key = {entry.key: entry for entry in known}

    def find_here(key: bytes) -> Known | None:
        return by_key.get(key) or find(key)

    changes: dict[bytes, Change] = {}
    for row in rows:
        here = at.get(row.loc)
        if here is not None and here.digest == row.digest and not here.is_hidden:
            del at[row.loc]  # the digest covers the id
            continue
        key = row.key
        if here is not None and here.key != key:
            here = next((entry for entry in crowded if entry.loc == row.loc and entry.key == key), None)
        if here is not None:
            _discard(at, crowded, here)
            if here.digest != row.digest or here.is_hidden:
                changes[key] = Change(section, Op.CHANGED, row, here)
        elif (change := _stranger(section, row, changes.get(key), find_here, stands)) is not None:
            changes.pop(key, None)  # to the end: rows are pushed in the order of their places
            changes[key] = change
    moved = {change.known.key for change in changes.values() if change.known is not None}
    return Comparison(list(changes.values()), [entry for entry in (*at.values(), *crowded) if entry.key not in moved])


def _discard(at: dict[int, Known], crowded: list[Known], entry: Known) -> None:
    if at.get(entry.loc) is entry:
        del at[entry.loc]
    else:
        crowded.remove(entry)


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
