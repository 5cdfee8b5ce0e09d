"""Reads a rollback journal from bytes. Pure: no file, no SQL.

A journal holds the original of each page that a transaction changes (sqlite.org/fileformat2.html section 3). It is a
row of segments, each a header padded to the sector size and records of page number, page image and checksum. A
segment's magic and record count are written last, when its records are safe; until then they are 12 zero bytes. After
a spill of the writer's cache such an unfinished header always follows, so a journal caught in mid-transaction tells
so, but for `synchronous=OFF`: there the count is "up to the end of the file" from the start, and only the database's
change counter tells whether the transaction is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct, unpack_from

from storage.btree import lock_page, page_size_of

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEADER = Struct(">8s5I")
_UNFINISHED = bytes(12)
_WIPED = bytes(_HEADER.size)
_TO_THE_END = 0xFFFF_FFFF

Record = tuple[int, int]
"""A page number, and the offset in the journal of that page's image from before the transaction."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What a rollback journal says.

    `initial_pages` is the size of the database in pages before the transaction. `complete` means that all records the
    journal announces were read and were right, and nothing suggests more. `verified` is False for a journal read
    without its header: its records are likely but not proven, and `initial_pages` is 0 if unknown.
    """

    initial_pages: int
    page_size: int
    sector_size: int
    records: tuple[Record, ...]
    complete: bool
    verified: bool = True


@dataclass(frozen=True, slots=True)
class _Header:
    """One segment's header. `count` is None until the segment is finished."""

    count: int | None
    nonce: int
    initial_pages: int
    sector_size: int
    page_size: int

    def same_journal(self, other: _Header) -> bool:
        """All segments of a journal repeat these; only count and nonce are their own."""
        mine = (self.initial_pages, self.sector_size, self.page_size)
        return mine == (other.initial_pages, other.sector_size, other.page_size)


def parse_journal(data: bytes) -> Journal | None:
    """Reads a journal; None if it is empty, has a wiped header (`journal_mode=PERSIST` after the end) or is no journal.

    Records are read up to the first that is torn or has a wrong checksum.
    """
    first = _header(data, 0)
    if first is None:
        return None
    records, complete = _segments(data, 0, first)
    return Journal(first.initial_pages, first.page_size, first.sector_size, tuple(records), complete)


def parse_wiped_journal(data: bytes, page_size: int, sector_size: int) -> Journal | None:
    """Reads what a finished transaction left in a `journal_mode=PERSIST` journal, whose first 28 bytes are now zero.

    Best effort: the first segment's nonce is gone, so it is taken from the first record, and the next ones have to
    agree with it; a lone record proves nothing. Later segments have kept their headers. None if the header is there,
    or the sizes are impossible.
    """
    if len(data) < _HEADER.size or not data.startswith(_WIPED) or not _sizes_fit(page_size, sector_size):
        return None
    header = _Header(_TO_THE_END, _guess_nonce(data, sector_size, page_size), 0, sector_size, page_size)
    records, end = _records(data, sector_size, header, _capacity(data))
    at = _round_up(end, sector_size)
    following = _header(data, at)
    if following is not None and following.same_journal(replace(header, initial_pages=following.initial_pages)):
        header = following
        records += _segments(data, at, following)[0]
    return Journal(header.initial_pages, page_size, sector_size, tuple(records), complete=False, verified=False)


HEADER_BYTES = _HEADER.size


def segment_length(head: bytes) -> int | None:
    """Bytes of the segment that begins with `head`, padded to the next; None if its header is unfinished, says "up to
    the end of the file", or is no header."""
    header = _header(head, 0)
    if header is None or not header.count or header.count == _TO_THE_END:
        return None
    return _round_up(header.sector_size + header.count * (header.page_size + 8), header.sector_size)


def _segments(data: bytes, at: int, first: _Header) -> tuple[list[Record], bool]:
    """The records from the segment whose header is at `at` to the last, and whether they are complete."""
    records: list[Record] = []
    header: _Header | None = first
    while header is not None and header.same_journal(first):
        wanted = header.count if header.count and header.count != _TO_THE_END else _capacity(data)
        found, end = _records(data, at + header.sector_size, header, wanted)
        records += found
        if header.count is None:
            return records, False
        if header.count == _TO_THE_END:
            return records, end == len(data)
        if len(found) != header.count:
            return records, False
        at = _round_up(end, header.sector_size)
        header = _header(data, at)
    return records, True


def _header(data: bytes, at: int) -> _Header | None:
    if len(data) < at + _HEADER.size:
        return None
    magic, count, nonce, initial_pages, sector_size, page_size = _HEADER.unpack_from(data, at)
    unfinished = data.startswith(_UNFINISHED, at)
    if not (unfinished or magic == _MAGIC) or not _sizes_fit(page_size, sector_size):
        return None
    return _Header(None if unfinished else count, nonce, initial_pages, sector_size, page_size)


def _sizes_fit(page_size: int, sector_size: int) -> bool:
    sector_fits = 32 <= sector_size <= 65536 and sector_size & (sector_size - 1) == 0
    return sector_fits and page_size > 1 and page_size_of(page_size) is not None


def _records(data: bytes, at: int, header: _Header, wanted: int) -> tuple[list[Record], int]:
    """Up to `wanted` records from offset `at` that are whole and right, and the offset behind the last."""
    records: list[Record] = []
    size = header.page_size + 8
    locked = lock_page(header.page_size)
    last = min(len(data) - size, at + (wanted - 1) * size)
    while at <= last:
        (pgno,) = unpack_from(">I", data, at)
        # The lock page is never saved; its number marks the name of a super-journal, behind the last record.
        if pgno == 0 or pgno == locked or _checksum(data, at, header) != unpack_from(">I", data, at + size - 4)[0]:
            break
        records.append((pgno, at + 4))
        at += size
    return records, at


def _checksum(data: bytes, at: int, header: _Header) -> int:
    """The nonce and every 200th byte of the page, counted from its end and without its first (section 3)."""
    image = at + 4
    picked = data[image + header.page_size - 200 : image : -200]
    return (header.nonce + sum(picked)) & 0xFFFF_FFFF


def _guess_nonce(data: bytes, at: int, page_size: int) -> int:
    end = at + page_size + 8
    if end > len(data):
        return 0
    bare = _checksum(data, at, _Header(None, 0, 0, 0, page_size))
    return int((unpack_from(">I", data, end - 4)[0] - bare) & 0xFFFF_FFFF)


def _capacity(data: bytes) -> int:
    """More records than fit."""
    return len(data)


def _round_up(at: int, sector_size: int) -> int:
    return -(-at // sector_size) * sector_size
