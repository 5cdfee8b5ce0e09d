"""Reads a database file's header and its b-tree, free-list and pointer-map pages from bytes. Pure: no file, no SQL.

What is read here only says where to look. Any page may come torn, stale or of another kind, so nothing in this module
raises on content or loops without bound: a page that contradicts itself is None. Section numbers are those of
sqlite.org/fileformat2.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from struct import Struct, unpack_from
from types import MappingProxyType

HEADER_SIZE = 100
"""Bytes of the database header, which stands in front of the b-tree header of page 1."""

_MAGIC = b"SQLite format 3\0"
_HEADER = Struct(">16s H 3B 3x 5I 8x 2I 32x I 4x")
_LOCK_BYTE = 1 << 30
_LONGEST = 0x7FFF_FFFF
_SMALLEST_ROWID = -(1 << 63)


@dataclass(frozen=True, slots=True)
class DatabaseHeader:
    """The first 100 bytes of a database file (section 1.3). Sizes in bytes, counts in pages, page numbers from 1.

    `write_version` and `read_version` are 1 for a rollback journal and 2 for WAL; `text_encoding` is 1 for UTF-8 and
    2 and 3 for UTF-16; `largest_root` is not 0 if and only if the database has pointer-map pages.
    """

    page_size: int
    write_version: int
    read_version: int
    reserved: int
    change_counter: int
    page_count: int
    freelist_trunk: int
    freelist_count: int
    schema_cookie: int
    largest_root: int
    text_encoding: int
    version_valid_for: int

    @property
    def usable_size(self) -> int:
        """Bytes of each page that SQLite itself uses; the rest belongs to extensions."""
        return self.page_size - self.reserved

    @property
    def page_count_valid(self) -> bool:
        """Whether `page_count` can be trusted: old writers did not keep it up (section 1.3.8)."""
        return self.page_count > 0 and self.change_counter == self.version_valid_for


class PageKind(IntEnum):
    """The first byte of a b-tree page's header (section 1.6)."""

    INDEX_INTERIOR = 0x02
    TABLE_INTERIOR = 0x05
    INDEX_LEAF = 0x0A
    TABLE_LEAF = 0x0D


Cell = tuple[int, int, bytes]
"""A cell of a table leaf: its rowid, the first page of its overflow chain or 0, and its bytes."""
NO_CELLS: Mapping[int, Cell] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Page:
    """One b-tree page. What its kind does not have is empty.

    `rowids` are those of a table leaf, ascending; `overflow` pairs a rowid of the same leaf with the first page of its
    overflow chain. `children` are the pages under an interior page from left to right, the right-most pointer
    included; `keys` are the rowids between the children of a table interior page, one fewer than children. `cells` are
    those of a table leaf, by their offset and in the order of `rowids`, and `image` is what they were read from.
    """

    pgno: int
    kind: PageKind
    rowids: tuple[int, ...] = ()
    overflow: tuple[tuple[int, int], ...] = ()
    children: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    cells: Mapping[int, Cell] = field(default_factory=dict, compare=False, repr=False)
    image: bytes = field(default=b"", compare=False, repr=False)


class PtrmapKind(IntEnum):
    """What a pointer-map entry says of its page (section 1.8)."""

    ROOT = 1
    FREE = 2
    OVERFLOW_FIRST = 3
    OVERFLOW_NEXT = 4
    BTREE = 5


@dataclass(frozen=True, slots=True)
class PtrmapEntry:
    """The pointer-map entry of page `pgno`.

    `parent` is the b-tree page whose cell owns the chain (OVERFLOW_FIRST), the page before it in the chain
    (OVERFLOW_NEXT), the parent in the tree (BTREE), or 0.
    """

    pgno: int
    kind: PtrmapKind
    parent: int


TABLE_LEAF, INDEX_LEAF = int(PageKind.TABLE_LEAF), int(PageKind.INDEX_LEAF)
INDEX_INTERIOR = int(PageKind.INDEX_INTERIOR)
TABLE_INTERIOR = int(PageKind.TABLE_INTERIOR)


def page_size_of(stored: int) -> int | None:
    """Page size in bytes from its 16-bit field, where 1 stands for 65536; None if it is not a page size."""
    size = 65536 if stored == 1 else stored
    return size if 512 <= size <= 65536 and size & (size - 1) == 0 else None


def parse_header(data: bytes) -> DatabaseHeader | None:
    """Reads the database header at the start of `data`; None if it is short, foreign (encrypted, say) or impossible."""
    if len(data) < HEADER_SIZE or not data.startswith(_MAGIC):
        return None
    _, stored_size, write_version, read_version, reserved, *numbers = _HEADER.unpack_from(data)
    page_size = page_size_of(stored_size)
    if page_size is None or not _plausible(page_size - reserved):
        return None
    return DatabaseHeader(page_size, write_version, read_version, reserved, *numbers)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at offset `at` as an unsigned 64-bit number, and the offset behind it (section 1.6).

    Raises IndexError if `data` ends within it; the page readers here turn that into None.
    """
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def parse_page(data: bytes, pgno: int, usable_size: int, before: Mapping[int, Cell] = NO_CELLS) -> Page | None:
    """Reads b-tree page `pgno` from `data`, which starts with that page. None if it is no b-tree page or contradicts
    itself. `before` are cells that were read of a leaf of that size: those that stand where they stood are taken over.

    Index pages are read only as far as their kind and children: keys without a rowid are for SQL to read.
    """
    start = _start(data, pgno, usable_size)
    kind = _KINDS.get(data[start]) if start is not None else None
    if start is None or kind is None:
        return None
    if kind is PageKind.TABLE_LEAF:
        cells = _leaf_cells(data, start, usable_size, before)
        if cells is None:
            return None
        rowids = tuple([rowid for rowid, _, _ in cells.values()])
        overflow = tuple([(rowid, first) for rowid, first, _ in cells.values() if first])
        return Page(pgno, kind, rowids, overflow, cells=cells, image=data[:usable_size])
    if kind is PageKind.INDEX_LEAF:
        return None if _cell_pointers(data, start, 8, usable_size) is None else Page(pgno, kind)
    return _interior(data, pgno, start, kind, usable_size)


def leaf_rowids(data: bytes, pgno: int, usable_size: int) -> tuple[int, ...] | None:
    """The rowids of table leaf page `pgno`, ascending; None if it is any other page or contradicts itself."""
    start = _start(data, pgno, usable_size)
    if start is None or data[start] != PageKind.TABLE_LEAF:
        return None
    cells = _leaf_cells(data, start, usable_size, NO_CELLS)
    return None if cells is None else tuple(rowid for rowid, _, _ in cells.values())


def appended_rowids(data: bytes, before: bytes, count: int, last: int, usable_size: int) -> tuple[int, ...] | None:
    """The rowids that a table leaf has more than `before`, its image when it was read: then it had `count` rows up to
    rowid `last`. None unless all their cells stand where they stood and only rows without overflow follow them.

    Most commits append a row. Comparing bytes then takes a tenth of the time of reading every cell again. Not for
    page 1.
    """
    if len(before) != usable_size or len(data) < usable_size or data[0] != TABLE_LEAF:
        return None
    total, content, _, content_before = *unpack_from(">2H", data, 3), *unpack_from(">2H", before, 3)
    content, content_before, end = content or 65536, content_before or 65536, 8 + 2 * count
    if total <= count or not end + 2 * (total - count) <= content <= content_before:
        return None
    if not data.startswith(before[8:end], 8) or data[content_before:usable_size] != before[content_before:]:
        return None
    pointers: tuple[int, ...] = unpack_from(f">{total - count}H", data, end)
    if not content <= min(pointers) <= max(pointers) <= usable_size - 4:
        return None
    try:
        cells = _read_leaf_cells(data, pointers, usable_size, NO_CELLS, last)
    except IndexError:
        return None
    if cells is None:
        return None
    rowids = []
    for rowid, first, _ in cells.values():
        if first:
            return None
        rowids.append(rowid)
    return tuple(rowids)


def overflow_next(data: bytes) -> int:
    """The page after an overflow page in its chain; 0 at the end of the chain or if `data` is short (section 1.6)."""
    return int.from_bytes(data[:4]) if len(data) >= 4 else 0


def parse_trunk(data: bytes, usable_size: int) -> tuple[int, tuple[int, ...]] | None:
    """Reads a free-list trunk page: the next trunk page (0 for the last) and the free leaf pages (section 1.5)."""
    if not _plausible(usable_size) or len(data) < usable_size:
        return None
    following, count = unpack_from(">2I", data)
    if count > usable_size // 4 - 2 or following == 1:
        return None
    leaves: tuple[int, ...] = unpack_from(f">{count}I", data, 8)
    return None if leaves and min(leaves) < 2 else (following, leaves)


def lock_page(usable_size: int) -> int:
    """The page that holds the lock bytes at 1 GiB; it holds no content in any database (section 1.4)."""
    # Reserved bytes are at most 255 and a page is a power of two from 512, so the usable size tells the page size.
    return _LOCK_BYTE // (1 << (usable_size - 1).bit_length()) + 1


def ptrmap_page_for(pgno: int, usable_size: int) -> int:
    """The pointer-map page with the entry of page `pgno` in an auto-vacuum database; 0 for page 1, which has none.

    A pointer-map page gives itself. The first is page 2, and the lock page pushes its neighbour by one (section 1.8).
    """
    if pgno < 2 or not _plausible(usable_size):
        return 0
    group = usable_size // 5 + 1
    page = (pgno - 2) // group * group + 2
    return page + (page == lock_page(usable_size))


def is_ptrmap(pgno: int, usable_size: int) -> bool:
    """Whether `pgno` is a pointer-map page, given that the database has them."""
    return pgno >= 2 and ptrmap_page_for(pgno, usable_size) == pgno


def ptrmap_entry(data: bytes, pgno: int, usable_size: int) -> PtrmapEntry | None:
    """The entry of page `pgno`; `data` is page `ptrmap_page_for(pgno, usable_size)`. None if there is no valid one."""
    at = 5 * (pgno - ptrmap_page_for(pgno, usable_size) - 1)
    if pgno < 3 or at < 0 or at + 5 > min(len(data), usable_size):
        return None
    kind, parent = unpack_from(">BI", data, at)
    return PtrmapEntry(pgno, PtrmapKind(kind), parent) if 1 <= kind <= 5 and (kind > 2) == (parent > 0) else None


_KINDS = {int(kind): kind for kind in PageKind}


def _plausible(usable_size: int) -> bool:
    return 480 <= usable_size <= 65536


def _start(data: bytes, pgno: int, usable_size: int) -> int | None:
    """Where the b-tree header of the page begins, or None if there cannot be one."""
    if pgno < 1 or not _plausible(usable_size) or len(data) < usable_size:
        return None
    return HEADER_SIZE if pgno == 1 else 0


def _cell_pointers(data: bytes, start: int, header_size: int, usable_size: int) -> tuple[int, ...] | None:
    """The offsets of the cells in key order; None unless all lie in the cell content area."""
    count, content = unpack_from(">2H", data, start + 3)
    content = content or 65536
    array = start + header_size
    if not array + 2 * count <= content <= usable_size:
        return None
    pointers: tuple[int, ...] = unpack_from(f">{count}H", data, array)
    # No cell takes fewer than 4 bytes.
    return pointers if not pointers or content <= min(pointers) <= max(pointers) <= usable_size - 4 else None


def _leaf_cells(data: bytes, start: int, usable_size: int, before: Mapping[int, Cell]) -> dict[int, Cell] | None:
    """The cells of a table leaf by offset, in the order of their rowids."""
    pointers = _cell_pointers(data, start, 8, usable_size)
    if pointers is None:
        return None
    try:
        return _read_leaf_cells(data, pointers, usable_size, before)
    except IndexError:
        return None


def _read_leaf_cells(
    data: bytes,
    pointers: tuple[int, ...],
    usable_size: int,
    before: Mapping[int, Cell],
    previous: int = _SMALLEST_ROWID - 1,
) -> dict[int, Cell] | None:
    """`previous` is the rowid that stands before them."""
    cells: dict[int, Cell] = {}
    longest_local = usable_size - 35
    # Every look runs this loop over every page of a commit. Varints are decoded in place, because a call for each
    # costs as much as all the rest of the cell.
    for start in pointers:
        cell = before.get(start)
        if cell is not None and data.startswith(cell[2], start):
            if cell[0] <= previous:
                return None
            previous = cell[0]
            cells[start] = cell
            continue
        size = data[start]
        at = start + 1
        if size >= 0x80:
            byte = data[at]
            if byte < 0x80:
                size = (size & 0x7F) << 7 | byte
                at += 1
            else:
                size, at = read_varint(data, at - 1)
        rowid = data[at]
        at += 1
        if rowid >= 0x80:
            rowid &= 0x7F
            for byte in data[at : at + 7]:
                at += 1
                rowid = rowid << 7 | byte & 0x7F
                if byte < 0x80:
                    break
            else:
                rowid = _signed(rowid << 8 | data[at])
                at += 1
        if size > longest_local:
            at += _local_size(size, usable_size)
            first = int.from_bytes(data[at : at + 4])
            if size > _LONGEST or first < 2:
                return None
            at += 4
        else:
            first = 0
            at += size
        if at > usable_size or rowid <= previous:
            return None
        previous = rowid
        cells[start] = rowid, first, data[start:at]
    return cells if len(cells) == len(pointers) else None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _local_size(payload: int, usable_size: int) -> int:
    """How much of a table leaf's payload, too long to stay whole, stays in the cell (section 1.6: M and K)."""
    least = (usable_size - 12) * 32 // 255 - 23
    fitting = least + (payload - least) % (usable_size - 4)
    return fitting if fitting <= usable_size - 35 else least


def interior_children(data: bytes, pgno: int, usable_size: int) -> tuple[int, ...] | None:
    """The pages that interior page `pgno` links to, in their order; None if it cannot be one. Its keys are not read."""
    start = _start(data, pgno, usable_size)
    pointers = None if start is None else _cell_pointers(data, start, 12, usable_size)
    if start is None or pointers is None:
        return None
    children = tuple([int.from_bytes(data[at : at + 4]) for at in (*pointers, start + 8)])
    # Page 1 is always a root.
    return None if min(children) < 2 or pgno in children else children


def _interior(data: bytes, pgno: int, start: int, kind: PageKind, usable_size: int) -> Page | None:
    children, pointers = interior_children(data, pgno, usable_size), _cell_pointers(data, start, 12, usable_size)
    if children is None or pointers is None:
        return None
    if kind is PageKind.INDEX_INTERIOR:
        return Page(pgno, kind, children=children)
    keys = _interior_keys(data, pointers, usable_size)
    return None if keys is None else Page(pgno, kind, children=children, keys=keys)


def _interior_keys(data: bytes, pointers: tuple[int, ...], usable_size: int) -> tuple[int, ...] | None:
    try:
        varints = [read_varint(data, at + 4) for at in pointers]
    except IndexError:
        return None
    keys = tuple(_signed(value) for value, _ in varints)
    inside = all(end <= usable_size for _, end in varints)
    return keys if inside and all(left < right for left, right in pairwise(keys)) else None
