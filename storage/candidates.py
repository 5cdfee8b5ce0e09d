"""Candidates: where a commit may have changed rows, and how pages become such places.

A leaf page of a table b-tree names its rowids. Whether it is a leaf of *this* table is asked of the table itself: the
rowids between its first and its last are exactly those of the page, or it is another table's page. What was deleted
from a leaf lies between its neighbours, since every leaf that covers a deleted rowid is rewritten by the deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from storage.btree import Page
from storage.leaves import KnownLeaves
from storage.reader import SectionReader

Interval = tuple[int | None, int | None]
"""Rowids strictly between two rowids; None is open."""


@dataclass(slots=True)
class Places:
    """Where to look in one section. `needs_pass` when that cannot be told for this section alone.

    Not `is_exact` when something was committed while the snapshot was taken: then all that the snapshot shows is
    covered, but a row that is missing may have moved to a page of which only a later image is known.
    """

    intervals: list[Interval] = field(default_factory=list)
    locs: set[int] = field(default_factory=set)
    needs_pass: bool = False
    is_exact: bool = True

    @property
    def is_void(self) -> bool:
        """Whether there is nowhere to look."""
        return not (self.locs or self.intervals or self.needs_pass)


Candidates = dict[int, Places]
"""Places by section number."""


def candidates_of(
    leaves: Sequence[Page],
    rowids: Iterable[int],
    readers: Sequence[SectionReader],
    known: KnownLeaves,
    touched: Mapping[int, set[int]],
    *,
    other_trees: bool,
    is_structural: bool,
    is_exact: bool,
) -> Candidates:
    """Ask each section's table which of the leaves are its own. `rowids` are candidates whose table is unknown.

    `touched` are rows by leaf whose long values changed. `other_trees` tells that index pages changed: a table WITHOUT
    ROWID lives in such pages. `is_structural` tells that interior pages of tables changed, so that leaves may have
    changed hands; not `is_exact`, that the pages may be newer than the snapshot.
    """
    unplaced = set(rowids)
    found = {reader.section.number: Places(locs=set(unplaced), is_exact=is_exact) for reader in readers}
    for reader in readers:
        if reader.rowid is None:
            found[reader.section.number].needs_pass = other_trees
    with_rowids = [reader for reader in readers if reader.rowid is not None]
    for leaf in leaves:
        before = known.get(leaf.pgno)
        if before is not None and not is_structural and is_exact:
            sections = before.sections
            changed = before.changed(leaf) | touched.get(leaf.pgno, set())
            for number in sections:
                found[number].locs |= changed
        else:
            claimed = [reader for reader in with_rowids if _claim(leaf, reader, found[reader.section.number])]
            sections = tuple(reader.section.number for reader in claimed)
        if is_exact:
            known.put(leaf, sections)
        else:
            known.drop(leaf.pgno)
    return found


def _claim(leaf: Page, reader: SectionReader, places: Places) -> bool:
    """Whether the leaf may be of this table; then its rows and those that were deleted beside them are places."""
    if not leaf.rowids:
        is_empty = reader.is_empty()
        places.needs_pass = places.needs_pass or is_empty  # the root of a table that was emptied
        return is_empty
    if not reader.has_exactly(leaf.rowids):
        return False
    places.intervals.append(reader.neighbours(leaf.rowids[0], leaf.rowids[-1]))
    return True
