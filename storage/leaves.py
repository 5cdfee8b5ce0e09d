"""Leaf pages as they were at the last look: what differs now is what the commits since then changed.

A leaf cannot change hands unless an interior page of a table is written: for the tree that it leaves or the one that it
joins, or its root becomes a leaf, and then it was none before. So where no interior page was written, whose a known
leaf is need not be asked again, and the rows whose cells are as they were need not be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage.btree import NO_CELLS, Cell, Page

MAX_LEAVES_BYTES = 4 << 20
OVERHEAD = 200
"""Bytes of memory that a cell takes beside its own, about."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The cells of a leaf by offset, and the numbers of the sections whose table it may be of."""

    cells: Mapping[int, Cell]
    sections: tuple[int, ...]
    size: int

    def changed(self, page: Page) -> set[int]:
        """The rowids whose cells differ, those that came and those that went."""
        return {rowid for rowid, _, _ in set(self.cells.values()).symmetric_difference(page.cells.values())}


class KnownLeaves:
    """The leaves written last, within a bound of bytes. Owned by the capture thread."""

    def __init__(self) -> None:
        self._leaves: OrderedDict[int, Leaf] = OrderedDict()
        self._size = 0

    def cells(self, number: int) -> Mapping[int, Cell]:
        """The cells of a page at the last look; none if they are not known."""
        leaf = self._leaves.get(number)
        return NO_CELLS if leaf is None else leaf.cells

    def get(self, number: int) -> Leaf | None:
        """How a page was at the last look; None if that is not known."""
        return self._leaves.get(number)

    def put(self, page: Page, sections: Iterable[int]) -> None:
        """How a page is now, which is what the open snapshot shows."""
        self.drop(page.pgno)
        size = sum([len(cell) + OVERHEAD for _, _, cell in page.cells.values()])
        self._leaves[page.pgno] = Leaf(page.cells, tuple(sections), size)
        self._size += size
        while self._size > MAX_LEAVES_BYTES:
            self._size -= self._leaves.popitem(last=False)[1].size

    def drop(self, number: int) -> None:
        """A page is no leaf any more, or its image is not what the snapshot shows."""
        leaf = self._leaves.pop(number, None)
        if leaf is not None:
            self._size -= leaf.size

    def clear(self) -> None:
        """Pages may have changed unseen."""
        self._leaves.clear()
        self._size = 0
