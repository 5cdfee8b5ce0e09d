"""Changed pages become places: the leaves that name rowids, and whom the overflow pages belong to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

from storage.btree import (
    HEADER_SIZE,
    INDEX_INTERIOR,
    INDEX_LEAF,
    TABLE_INTERIOR,
    DatabaseHeader,
    Page,
    PageKind,
    is_ptrmap,
    overflow_next,
    parse_page,
    parse_trunk,
)
from storage.candidates import Candidates, candidates_of
from storage.leaves import KnownLeaves, Leaf
from storage.reader import SectionReader

MAX_BYTES = 32 << 20
"""More changed pages than this are not worth reading: a pass over the tables is as quick and needs no memory."""
MAX_ROWS = 20_000
OWNERS = 65_536
STEPS = 20_000
MAX_TRUNKS = 256
MANY_PAGES = INDEX_INTERIOR << 23
"""In a database of fewer pages no page that begins with the number of another can look like one of a b-tree. Half of
what it takes, since the count may be that of the last checkpoint."""
_NO_LEAVES = frozenset((INDEX_LEAF, INDEX_INTERIOR, TABLE_INTERIOR))
OVERFLOW = "overflow"

Read = Callable[[int], bytes | None]
"""The present image of any page, None where it cannot be told."""


Growth = tuple[Leaf, bytes, tuple[int, ...]]
"""A leaf as it was, its image now, and the rowids that came."""


class Moved(Exception):
    """Something was committed while the snapshot was taken: take another."""


class Gap(Exception):
    """What was caught does not cover every commit since the last look; the argument says why."""


class OverflowOwners:
    """Which row an overflow page belonged to when it was last seen to hang on a leaf.

    An update of equal size may change an overflow page alone, and then nothing in the commit names the row.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[int, int] = OrderedDict()

    def own(self, number: int, rowid: int) -> None:
        """A page hangs on a row."""
        self._rows[number] = rowid
        self._rows.move_to_end(number)
        if len(self._rows) > OWNERS:
            self._rows.popitem(last=False)

    def of(self, pages: set[int], read: Read) -> set[int]:
        """The rows of pages that changed alone. Raises Gap if one is unknown.

        An auto-vacuum moves an overflow page and changes the link to it, so of pages that link to one another the
        first alone is sure to belong to whom it did before.
        """
        if pages - self._rows.keys():
            for number in pages:
                self._rows.pop(number, None)
            raise Gap(OVERFLOW)
        rows = {self._rows[number] for number in pages}
        links = {number: overflow_next(read(number) or b"") for number in pages}
        for number in pages - set(links.values()):
            row, moved = self._rows[number], links[number]
            while moved in pages and self._rows[moved] != row:
                self.own(moved, row)
                moved = links[moved]
        return rows | {self._rows[number] for number in pages}

    def clear(self) -> None:
        """Pages may have changed hands unseen."""
        self._rows.clear()


class Memory:
    """What is remembered of pages from look to look. Void as soon as one commit may have been missed."""

    def __init__(self) -> None:
        self.owners = OverflowOwners()
        self.leaves = KnownLeaves()

    def clear(self) -> None:
        """Begin anew."""
        self.owners.clear()
        self.leaves.clear()

    def gap(self, reason: str) -> None:
        """The last commits were not understood. After OVERFLOW every page was seen, so that owners still hold."""
        self.leaves.clear()
        if reason != OVERFLOW:
            self.owners.clear()


def growths_of(
    images: Mapping[int, bytes], header: DatabaseHeader, usable: int, memory: Memory
) -> list[Growth] | None:
    """What was appended, if that is all that the images tell of, beside changes of indexes; else None.

    The database is not asked, and nothing is remembered before `grow`.
    """
    growths: list[Growth] = []
    for number, image in images.items():
        if image[0] == INDEX_LEAF and header.page_count < MANY_PAGES:
            continue
        leaf = memory.leaves.get(number)
        appended = None if leaf is None else leaf.appended(image, usable)
        if leaf is None or appended is None:
            return None
        growths.append((leaf, image, appended))
    return growths


def grow(images: Mapping[int, bytes], growths: Sequence[Growth], memory: Memory) -> None:
    """Remember what `growths_of` these images told."""
    for number in images:
        memory.leaves.drop(number)
    for leaf, image, appended in growths:
        memory.leaves.grow(leaf, image, appended)


def places_of(
    images: Mapping[int, bytes],
    header: DatabaseHeader,
    usable: int,
    memory: Memory,
    readers: Sequence[SectionReader],
    read: Read,
    *,
    is_exact: bool = True,
) -> Candidates:
    """Where rows may have changed, given the images after the commits of all pages that the commits wrote.

    `header.freelist_trunk` is 0 where the free list is not known to have changed. Not `is_exact` if the images may be
    newer than the open snapshot. Raises Gap.
    """
    leaves: list[Page] = []
    grown: list[Growth] = []
    other: set[int] = set()
    owners = memory.owners
    has_index = is_structural = False
    may_grow, is_small = is_exact and not _has_interior(images), header.page_count < MANY_PAGES
    for number, image in images.items():
        kind = image[0]
        if kind in _NO_LEAVES and is_small and not (header.largest_root and is_ptrmap(number, usable)):
            has_index, is_structural = has_index or kind != TABLE_INTERIOR, is_structural or kind == TABLE_INTERIOR
            memory.leaves.drop(number)
            continue
        leaf = memory.leaves.get(number) if may_grow else None
        if leaf is not None and (appended := leaf.appended(image, usable)) is not None:
            grown.append((leaf, image, appended))
            continue
        page = parse_page(image, number, usable, memory.leaves.cells(number))
        if page is not None and page.kind is PageKind.TABLE_LEAF:
            leaves.append(page)
            continue
        memory.leaves.drop(number)
        if page is None:
            other.add(number)
        elif page.kind is PageKind.TABLE_INTERIOR:
            is_structural = True
        else:
            has_index = True
    if leaves and sum([len(leaf.rowids) for leaf in leaves]) > MAX_ROWS:
        raise Gap("burst")
    touched: dict[int, set[int]] = {}
    if leaves or other:
        touched = _settle_overflow(images, header, usable, leaves, other, owners, read)
    found = candidates_of(
        leaves, owners.of(other, read) if other else (), readers, memory.leaves, touched,
        other_trees=has_index, is_structural=is_structural, is_exact=is_exact,
    )  # fmt: skip
    for leaf, image, appended in grown:
        for section in leaf.sections:
            found[section].locs.update(appended)
        memory.leaves.grow(leaf, image, appended)
    return found


def _settle_overflow(
    images: Mapping[int, bytes],
    header: DatabaseHeader,
    usable: int,
    leaves: Sequence[Page],
    other: set[int],
    owners: OverflowOwners,
    read: Read,
) -> dict[int, set[int]]:
    """The rows whose long values changed, by leaf. Of `other`, pages of no b-tree, those that no row owns are left."""
    if not other and not any(leaf.overflow for leaf in leaves):
        return {}
    free = _free_pages(header.freelist_trunk, usable, read)
    other -= free
    doubtful = _listed(images, other, usable) - free
    if any(leaf.pgno in doubtful for leaf in leaves):
        owners.clear()
    free |= doubtful
    if header.largest_root:
        other -= {number for number in other if is_ptrmap(number, usable)}
    return _explain_chains([leaf for leaf in leaves if leaf.pgno not in free], other, owners, read)


def _has_interior(images: Mapping[int, bytes]) -> bool:
    """Whether leaves may have changed hands: see storage/leaves.py. Else whose a known one is need not be asked."""
    return TABLE_INTERIOR in [image[HEADER_SIZE if number == 1 else 0] for number, image in images.items()]


def _free_pages(trunk: int, usable: int, read: Read) -> set[int]:
    """Pages of the free list, from its head as far as its pages can be read.

    A leaf among them still looks like one, but its cells point to pages that belong to other rows now.
    """
    free: set[int] = set()
    for _ in range(MAX_TRUNKS):
        image = read(trunk) if trunk else None
        parsed = parse_trunk(image, usable) if image is not None else None
        if parsed is None:
            break
        free.add(trunk)
        free.update(parsed[1])
        trunk = parsed[0]
    return free


def _listed(images: Mapping[int, bytes], numbers: Iterable[int], usable: int) -> set[int]:
    """Pages that would be free if these were trunks: it is safer to distrust a leaf than to believe a free one."""
    trunks = (parse_trunk(images[number], usable) for number in numbers)
    return {leaf for trunk in trunks if trunk is not None for leaf in trunk[1]}


def _explain_chains(
    leaves: Sequence[Page], other: set[int], owners: OverflowOwners, read: Read
) -> dict[int, set[int]]:
    """An overflow page that hangs on a leaf that changed belongs to a row of that leaf: those rows, by leaf."""
    steps, written = 0, frozenset(other)
    touched: dict[int, set[int]] = {}
    for leaf in leaves:
        for rowid, first in leaf.overflow:
            owners.own(first, rowid)
            number = first
            while number and steps < STEPS and (image := read(number)) is not None:
                steps += 1
                other.discard(number)
                if number in written:  # also if another leaf, which may be free by now, points there too
                    touched.setdefault(leaf.pgno, set()).add(rowid)
                number = overflow_next(image)
                if number:
                    owners.own(number, rowid)
    if steps >= STEPS:
        owners.clear()  # chains that were not followed may hold pages that changed hands
    return touched
