"""Candidates: where a commit may have changed rows, and how pages become such places.

A leaf page of a table b-tree names its rowids. Whether it is a leaf of *this* table is asked of the table itself: the
rowids between its first and its last are exactly those of the page, or it is another table's page. What was deleted
from a leaf lies between its neighbours, since every leaf that covers a deleted rowid is rewritten by the deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from storage.btree import Page
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


Candidates = dict[int, Places]
"""Places by section number."""


def candidates_of(
    leaves: Sequence[Page], rowids: Iterable[int], readers: Sequence[SectionReader], *, other_trees: bool
) -> Candidates:
    """Ask each section's table which of the leaves are its own. `rowids` are candidates whose table is unknown.

    `other_trees` tells that index pages changed: a table WITHOUT ROWID lives in such pages.
    """
    unplaced = set(rowids)
    found: Candidates = {}
    for reader in readers:
        places = Places(locs=set(unplaced))
        if reader.rowid is None:
            places.needs_pass = other_trees
        else:
            for leaf in leaves:
                _claim(leaf, reader, places)
        found[reader.section.number] = places
    return found


def _claim(leaf: Page, reader: SectionReader, places: Places) -> None:
    if not leaf.rowids:
        places.needs_pass = places.needs_pass or reader.is_empty()  # the root of a table that was emptied
    elif reader.has_exactly(leaf.rowids):
        places.intervals.append(reader.neighbours(leaf.rowids[0], leaf.rowids[-1]))
