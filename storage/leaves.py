"""Leaf pages as they were at the last look: what differs now is what the commits since then changed.

A leaf cannot change hands unless an interior page of a table is written: for the tree that it leaves or the one that it
joins, or its root becomes a leaf, and then it was none before. So where no interior page was written, whose a known
leaf is need not be asked again, and the rows whose cells are as they were need not be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage.btree import NO_CELLS, Cell, Page, appended_rowids, parse_page

MAX_LEAVES_BYTES = 4 << 20
OVERHEAD = 200
"""Bytes of memory that a cell takes beside its own, about."""


@dataclass(slots=True)
class Leaf:
    """A leaf as it was, and the numbers of the sections whose table it may be of."""

    pgno: int
    image: bytes
    count: int
    last: int
    """Its highest rowid; meaningless if `count` is 0."""
    is_plain: bool
    """Whether its rows have no overflow pages."""
    sections: tuple[int, ...]
    read: Mapping[int, Cell] | None
    """Its cells by offset, None where they were not read since rows were appended."""
    size: int = 0

    def appended(self, image: bytes, usable: int) -> tuple[int, ...] | None:
        """The rowids that came, if appending rows is all that was done to it since."""
        if not self.is_plain or not self.count or self.pgno == 1:
            return None
        return appended_rowids(image, self.image, self.count, self.last, usable)

    @property
    def cells(self) -> Mapping[int, Cell]:
        """Its cells by offset."""
        if self.read is None:
            page = parse_page(self.image, self.pgno, len(self.image))
            self.read = NO_CELLS if page is None else page.cells
        return self.read

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
        last = page.rowids[-1] if page.rowids else 0
        self._keep(
            Leaf(page.pgno, page.image, len(page.rowids), last, not page.overflow, tuple(sections), page.cells),
            sum([len(cell) + OVERHEAD for _, _, cell in page.cells.values()]),
        )

    def grow(self, leaf: Leaf, image: bytes, appended: tuple[int, ...]) -> None:
        """A leaf is as it was, but for rows that were appended. Its cells are read when they are asked for."""
        self.drop(leaf.pgno)
        usable, count = len(leaf.image), leaf.count + len(appended)
        self._keep(Leaf(leaf.pgno, image[:usable], count, appended[-1], True, leaf.sections, None), count * OVERHEAD)

    def _keep(self, leaf: Leaf, size: int) -> None:
        """`size` is that of the cells, also of those that are yet to be read."""
        leaf.size = size + len(leaf.image)
        self._leaves[leaf.pgno] = leaf
        self._size += leaf.size
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
