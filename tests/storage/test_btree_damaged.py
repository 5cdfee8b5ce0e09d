"""Pages that nobody wrote: random, damaged, cut short. No reader raises, loops or believes too much."""

import struct
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from storage.btree import (
    Page,
    appended_rowids,
    leaf_rowids,
    overflow_next,
    parse_header,
    parse_page,
    parse_trunk,
    ptrmap_entry,
)
from tests.storage.test_btree import Database, connect, fill


@cache
def real_pages() -> tuple[tuple[int, bytes, int], ...]:
    """Some pages of each kind from real files, as (page number, page, usable size)."""
    found: dict[tuple[int, int], list[tuple[int, bytes, int]]] = {}
    for size in (512, 4096):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "real.db"
            with closing(connect(path)) as db:
                db.execute(f"PRAGMA page_size={size}")
                fill(db, size)
            file = Database(path)
        for pgno in range(1, file.header.page_count + 1):
            page = file.page(pgno)
            found.setdefault((size, page[100 if pgno == 1 else 0]), []).append((pgno, page, size))
    return tuple(sample for pages in found.values() for sample in pages[:3])


def check(page: Page | None, usable: int) -> None:
    """What every page that was read may be relied upon for, were its bytes right or not."""
    if page is None:
        return
    assert len(page.rowids) + len(page.children) <= usable // 4
    assert list(page.rowids) == sorted(set(page.rowids))
    assert list(page.keys) == sorted(set(page.keys))
    assert all(-(1 << 63) <= number < 1 << 63 for number in (*page.rowids, *page.keys))
    assert all(rowid in page.rowids and first > 1 for rowid, first in page.overflow)
    assert all(child > 1 and child != page.pgno for child in page.children)


@given(
    st.binary(max_size=1100) | st.builds(bytes.__add__, st.sampled_from([b"\x0d", b"\x05"]), st.binary(min_size=511)),
    st.integers(-1, 1 << 33),
    st.just(512) | st.integers(-5, 70000),
)
def test_bytes_that_are_no_page_do_no_harm(data: bytes, pgno: int, usable: int) -> None:
    """No reader raises, whatever it is given."""
    for number in (1, pgno):
        check(parse_page(data, number, usable), usable)
        leaf_rowids(data, number, usable)
        ptrmap_entry(data, number, usable)
    parse_header(data)
    parse_header(b"SQLite format 3\0" + data)
    parse_trunk(data, usable)
    overflow_next(data)


@given(st.data())
def test_a_damaged_page_is_refused_or_still_sound(data: st.DataObject) -> None:
    """Changed bytes give None or a page that keeps the promises of its type; a truncated page gives None."""
    pgno, page, usable = data.draw(st.sampled_from(real_pages()))
    spot = st.tuples(st.one_of(st.integers(0, 40), st.integers(100, usable - 1)), st.integers(0, 255))
    damaged = bytearray(page)
    for at, value in data.draw(st.lists(spot, min_size=1, max_size=6)):
        damaged[at] = value
    check(parse_page(bytes(damaged), pgno, usable), usable)
    leaf_rowids(bytes(damaged), pgno, usable)
    parse_trunk(bytes(damaged), usable)
    cut = page[: data.draw(st.integers(0, usable - 1))]
    assert parse_page(cut, pgno, usable) is None
    assert leaf_rowids(cut, pgno, usable) is None


def without_last(page: bytes, rows: int) -> bytes:
    """A leaf as it may have been before its last row was appended."""
    pointers = struct.unpack_from(f">{rows}H", page, 8)[:-1]
    return page[:3] + struct.pack(">2H", rows - 1, min(pointers)) + page[7:]


@given(st.data())
def test_rows_count_as_appended_only_where_all_others_are_as_they_were(data: st.DataObject) -> None:
    """Whatever became of a leaf: what is said to have come is what reading both images whole says."""
    leaves = [entry for entry in real_pages() if entry[1][0] == 0x0D and entry[0] > 1 and entry[1][4] > 1]
    pgno, page, usable = data.draw(st.sampled_from(leaves))
    before = without_last(page, page[4])
    known = parse_page(before, pgno, usable)
    assert known is not None
    assert known.rowids
    changed = bytearray(page)
    spot = st.tuples(st.one_of(st.integers(0, 40), st.integers(0, usable - 1)), st.integers(0, 255))
    for at, value in data.draw(st.lists(spot, max_size=3)):
        changed[at] = value
    now = parse_page(bytes(changed), pgno, usable)
    appended = appended_rowids(bytes(changed), before, len(known.rowids), known.rowids[-1], usable)
    if appended is not None:
        assert now is not None
        assert now.rowids == known.rowids + appended
        assert now.overflow == known.overflow
        assert list(now.cells.items())[: len(known.cells)] == list(known.cells.items())
    elif changed == page:
        assert now is None or now.overflow != known.overflow


@given(st.data())
def test_a_page_reads_the_same_beside_what_it_was_before(data: st.DataObject) -> None:
    """Cells that did not change are taken over, and no other."""
    pages = [entry for entry in real_pages() if entry[2] == 512]
    pgno, page, usable = data.draw(st.sampled_from(pages))
    changed = bytearray(data.draw(st.sampled_from([page, *(other for number, other, _ in pages if number > 1)])))
    spot = st.tuples(st.integers(0, usable - 1), st.integers(0, 255))
    for at, value in data.draw(st.lists(spot, max_size=6)):
        changed[at] = value
    known = parse_page(page, pgno, usable)
    alone = parse_page(bytes(changed), pgno, usable)
    beside = parse_page(bytes(changed), pgno, usable, known.cells if known else {})
    assert beside == alone
    assert alone is None or beside is None or dict(beside.cells) == dict(alone.cells)


def test_the_worst_page_costs_no_more_than_its_size() -> None:
    """Cells that are one endless varint each are read in bounded work: nine bytes for a number, not the page."""
    for kind in (0x0D, 0x05):
        head = struct.pack(">BHHHB", kind, 0, 8000, 40000, 0) + bytes(4 if kind == 0x05 else 0)
        page = (head + struct.pack(">H", 50000) * 8000).ljust(40000, b"\0").ljust(65536, b"\xff")
        assert parse_page(page, 3, 65536) is None
