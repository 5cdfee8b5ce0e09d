"""Pages as SQLite wrote them, against what SQL says of the same file."""

import random
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.btree import (
    DatabaseHeader,
    Page,
    PageKind,
    PtrmapKind,
    appended_rowids,
    is_ptrmap,
    leaf_rowids,
    lock_page,
    overflow_next,
    parse_header,
    parse_page,
    parse_trunk,
    ptrmap_entry,
    ptrmap_page_for,
    read_varint,
)

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
POWERS = [sign << bits for bits in (*range(0, 63, 7), 62) for sign in (1, -1)]
EDGES = sorted({power + step for power in POWERS for step in (-1, 0, 1)})
ROWIDS = [*EDGES, (1 << 63) - 1, -(1 << 63)]


@dataclass
class Tree:
    """All that hangs under one root, found by following page numbers only. `owners` is page -> what points to it."""

    rowids: list[int] = field(default_factory=list)
    kinds: dict[int, str] = field(default_factory=dict)
    owners: dict[int, tuple[PtrmapKind, int]] = field(default_factory=dict)
    depth: int = 0


class Database:
    """A database file in memory, page by page."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        header = parse_header(self.data)
        assert header is not None
        self.header: DatabaseHeader = header
        self.usable = header.usable_size

    def page(self, pgno: int) -> bytes:
        size = self.header.page_size
        return self.data[(pgno - 1) * size : pgno * size]

    def parse(self, pgno: int) -> Page:
        page = parse_page(self.page(pgno), pgno, self.usable)
        assert page is not None
        assert page.pgno == pgno
        return page

    def walk(self, root: int) -> Tree:
        tree = Tree()
        self._descend(root, 1, tree)
        return tree

    def _descend(self, pgno: int, depth: int, tree: Tree) -> None:
        page = self.parse(pgno)
        tree.kinds[pgno] = "internal" if page.children else "leaf"
        tree.depth = max(tree.depth, depth)
        for child in page.children:
            tree.owners[child] = (PtrmapKind.BTREE, pgno)
            self._descend(child, depth + 1, tree)
        tree.rowids += page.rowids
        for rowid, first in page.overflow:
            assert rowid in page.rowids
            self._chain(pgno, first, tree)

    def _chain(self, owner: int, pgno: int, tree: Tree) -> None:
        kind = PtrmapKind.OVERFLOW_FIRST
        while pgno:
            tree.kinds[pgno] = "overflow"
            tree.owners[pgno] = (kind, owner)
            kind, owner, pgno = PtrmapKind.OVERFLOW_NEXT, pgno, overflow_next(self.page(pgno))

    def free_pages(self) -> Iterator[int]:
        trunk = self.header.freelist_trunk
        while trunk:
            parsed = parse_trunk(self.page(trunk), self.usable)
            assert parsed is not None
            yield trunk
            trunk, leaves = parsed
            yield from leaves


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def fill(db: sqlite3.Connection, page_size: int) -> None:
    """Tables of all kinds, with payloads from nothing to some pages, deep trees, and holes."""
    pick = random.Random(page_size)
    db.execute("BEGIN")
    db.execute("CREATE TABLE mixed(body)")
    db.execute("CREATE TABLE edges(id INTEGER PRIMARY KEY AUTOINCREMENT, body)")
    db.execute("CREATE TABLE small(body)")
    db.execute("CREATE TABLE keyed(id TEXT PRIMARY KEY, body) WITHOUT ROWID")
    db.execute("CREATE TABLE none(body)")
    db.execute("CREATE INDEX small_body ON small(body)")
    sizes = [pick.choice((0, 5, 100, page_size // 4, page_size, 3 * page_size)) for _ in range(250)]
    db.executemany("INSERT INTO mixed VALUES (?)", [(pick.randbytes(pick.randint(0, size)),) for size in sizes])
    db.executemany("INSERT INTO edges VALUES (?, ?)", [(rowid, "é" * pick.randint(0, 60)) for rowid in ROWIDS])
    db.executemany("INSERT INTO small VALUES (?)", [(str(number),) for number in range(6000)])
    db.executemany("INSERT INTO keyed VALUES (?, ?)", [(str(number), "x" * 40) for number in range(300)])
    db.execute("DELETE FROM mixed WHERE rowid % 3 = 0 OR rowid BETWEEN 100 AND 150")
    db.execute("DELETE FROM small WHERE rowid BETWEEN 1000 AND 3000")
    db.execute("COMMIT")


@pytest.fixture(params=PAGE_SIZES)
def page_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[0, 1, 2])
def filled(request: pytest.FixtureRequest, page_size: int, tmp_path: Path) -> Path:
    """A filled database of this page size, with each kind of auto_vacuum."""
    path = tmp_path / "filled.db"
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute(f"PRAGMA auto_vacuum={request.param}")
        fill(db, page_size)
    return path


def roots(db: sqlite3.Connection) -> list[tuple[str, int]]:
    return [("sqlite_schema", 1), *db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")]


def has_rowids(db: sqlite3.Connection, name: str) -> bool:
    kinds = db.execute("SELECT type, wr FROM pragma_table_list WHERE name = ?", (name,)).fetchall()
    return kinds == [("table", 0)] or name == "sqlite_schema"


def test_the_header_says_what_the_pragmas_say(filled: Path) -> None:
    """Every field of the header has the value that SQLite itself reports."""
    with closing(connect(filled)) as db:
        names = ("page_size", "page_count", "freelist_count", "schema_version", "auto_vacuum", "encoding")
        said = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    header = Database(filled).header
    assert said["page_size"] == header.page_size == header.usable_size
    assert (said["page_count"], header.page_count_valid) == (header.page_count, True)
    assert said["freelist_count"] == header.freelist_count
    assert said["schema_version"] == header.schema_cookie
    assert (said["auto_vacuum"] > 0) == (header.largest_root > 0)
    assert (said["encoding"], header.text_encoding) == ("UTF-8", 1)
    assert (header.write_version, header.read_version) == (1, 1)


def test_the_change_counter_moves_by_one_with_each_commit(tmp_path: Path) -> None:
    """A writer in rollback-journal mode adds one per commit, and nothing for a rollback."""
    path = tmp_path / "counted.db"
    counters = []
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE t(body)")
        for ending in ("COMMIT", "COMMIT", "ROLLBACK", "COMMIT"):
            counters.append(Database(path).header.change_counter)
            db.execute("BEGIN")
            db.execute("INSERT INTO t VALUES (1)")
            db.execute(ending)
    assert [counter - counters[0] for counter in counters] == [0, 1, 2, 2]


def test_all_rowids_of_every_table_are_on_its_leaves(filled: Path) -> None:
    """Walking from the root page gives the rowids that SELECT gives, in the same order, whatever the page size."""
    file = Database(filled)
    with closing(connect(filled)) as db:
        for name, root in roots(db):
            tree = file.walk(root)
            rows = db.execute(f"SELECT rowid FROM {name} ORDER BY rowid") if has_rowids(db, name) else ()
            assert tree.rowids == [rowid for (rowid,) in rows], name


def test_small_pages_make_deep_trees(tmp_path: Path) -> None:
    """The walk above has met interior pages that have interior children."""
    path = tmp_path / "deep.db"
    with closing(connect(path)) as db:
        db.execute("PRAGMA page_size=512")
        fill(db, 512)
        depths = {name: Database(path).walk(root).depth for name, root in roots(db)}
    assert depths["small"] >= 3
    assert depths["keyed"] >= 3


def test_every_page_of_the_file_is_accounted_for_once(filled: Path) -> None:
    """B-tree, overflow, free-list and pointer-map pages together are all pages; no index of this file overflows."""
    file = Database(filled)
    with closing(connect(filled)) as db:
        found = [pgno for _, root in roots(db) for pgno in file.walk(root).kinds]
    free = list(file.free_pages())
    every = range(1, file.header.page_count + 1)
    maps = [pgno for pgno in every if file.header.largest_root and is_ptrmap(pgno, file.usable)]
    assert len(free) == file.header.freelist_count
    assert sorted([*found, *free, *maps]) == list(every)


def test_dbstat_sees_the_same_pages(filled: Path) -> None:
    """SQLite's own page statistics name the same pages and kinds for every tree."""
    file = Database(filled)
    with closing(connect(filled)) as db:
        if ("ENABLE_DBSTAT_VTAB",) not in db.execute("PRAGMA compile_options").fetchall():
            pytest.skip("this SQLite has no dbstat")
        for name, root in roots(db):
            said = dict(db.execute("SELECT pageno, pagetype FROM dbstat WHERE name = ?", (name,)).fetchall())
            assert file.walk(root).kinds == said, name


def test_the_pointer_map_names_what_points_to_a_page(tmp_path: Path, page_size: int) -> None:
    """In an auto-vacuum database each page but the first has an entry with its kind and its parent."""
    path = tmp_path / "mapped.db"
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        fill(db, page_size)
        tops = roots(db)
    file = Database(path)
    expected = {root: (PtrmapKind.ROOT, 0) for _, root in tops if root > 1}
    for _, root in tops:
        expected |= file.walk(root).owners
    expected |= dict.fromkeys(file.free_pages(), (PtrmapKind.FREE, 0))
    assert {kind for kind, _ in expected.values()} == set(PtrmapKind)
    for pgno, pair in expected.items():
        entry = ptrmap_entry(file.page(ptrmap_page_for(pgno, file.usable)), pgno, file.usable)
        assert entry is not None
        assert (entry.pgno, entry.kind, entry.parent) == (pgno, *pair)


def test_pointer_map_pages_and_page_one_have_no_entry() -> None:
    """Page 1 is in no map, a map is not in itself, and a map never lies on the lock page but behind it."""
    assert (ptrmap_page_for(1, 4096), is_ptrmap(1, 4096)) == (0, False)
    assert (ptrmap_page_for(2, 4096), ptrmap_page_for(3, 4096), ptrmap_page_for(821, 4096)) == (2, 2, 2)
    assert ptrmap_page_for(822, 4096) == 822
    assert ptrmap_entry(bytes([5, 0, 0, 0, 7]) * 800, 2, 4096) is None
    assert (lock_page(512), lock_page(480), lock_page(65536)) == (2097153, 2097153, 16385)
    pushed = next(usable for usable in range(1024, 768, -1) if (lock_page(usable) - 2) % (usable // 5 + 1) == 0)
    locked = lock_page(pushed)
    assert not is_ptrmap(locked, pushed)
    assert is_ptrmap(locked + 1, pushed)
    assert ptrmap_entry(bytes([5, 0, 0, 0, 7]) * 200, locked, pushed) is None


def test_interior_keys_part_the_children(filled: Path) -> None:
    """Everything under a child is at most its key and more than the key before it."""
    file = Database(filled)
    with closing(connect(filled)) as db:
        tables = [root for name, root in roots(db) if has_rowids(db, name)]
    for root in tables:
        for page in [file.parse(pgno) for pgno, kind in file.walk(root).kinds.items() if kind == "internal"]:
            assert (page.kind, len(page.keys) + 1) == (PageKind.TABLE_INTERIOR, len(page.children))
            spans = [file.walk(child).rowids for child in page.children]
            limits = [-(1 << 63) - 1, *page.keys, 1 << 63]
            assert all(
                low < span[0] <= span[-1] <= high for low, span, high in zip(limits, spans, limits[1:], strict=False)
            )


def test_the_fast_path_reads_table_leaves_and_nothing_else(filled: Path) -> None:
    """`leaf_rowids` gives what the whole page gives, and None for every other page."""
    file = Database(filled)
    for pgno in range(1, file.header.page_count + 1):
        page = parse_page(file.page(pgno), pgno, file.usable)
        expected = page.rowids if page is not None and page.kind is PageKind.TABLE_LEAF else None
        assert leaf_rowids(file.page(pgno), pgno, file.usable) == expected


def test_an_appended_row_is_read_without_the_others(tmp_path: Path, page_size: int) -> None:
    """A leaf that grew gives the new rowid alone; one that was changed in any other way has to be read."""
    path = tmp_path / "x.db"
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body)")
        db.execute("INSERT INTO t VALUES (1, 'first')")
        for rowid in range(2, 6):
            before = Database(path)
            db.execute("INSERT INTO t VALUES (?, 'next')", (rowid,))
            after = Database(path)
            assert appended_rowids(after.page(2), before.page(2), rowid - 1, rowid - 1, after.usable) == (rowid,)
            assert appended_rowids(after.page(2), after.page(2), rowid, rowid, after.usable) is None
        for change in (
            "UPDATE t SET body = 'neXt' WHERE id = 3",
            "UPDATE t SET body = 'longer' WHERE id = 5",
            "DELETE FROM t WHERE id = 5",
            "INSERT INTO t VALUES (0, 'before')",
            f"INSERT INTO t VALUES (9, zeroblob({page_size}))",
            "BEGIN; INSERT INTO t VALUES (7, 'next'); UPDATE t SET body = 'nExt' WHERE id = 2; COMMIT",
        ):
            before = Database(path)
            page = parse_page(before.page(2), 2, before.usable)
            assert page is not None
            db.executescript(change)
            after = Database(path)
            count, last = len(page.rowids), page.rowids[-1]
            assert appended_rowids(after.page(2), before.page(2), count, last, after.usable) is None, change


@pytest.mark.parametrize("reserved", [0, 32])
def test_a_payload_spills_exactly_where_the_format_says(tmp_path: Path, page_size: int, reserved: int) -> None:
    """Around every edge of the spill arithmetic each chain is its row's, and together they leave no page over."""
    path = tmp_path / "spilled.db"
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("VACUUM")
    reserve(path, page_size, reserved)
    usable = page_size - reserved
    near = {edge + step for edge in (usable - 35, usable - 4, 2 * usable - 8, 3 * usable) for step in range(-12, 12)}
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(size, bytes([size % 251 + 1]) * size) for size in sorted(near)])
        db.execute("COMMIT")
        root = dict(roots(db))["t"]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file = Database(path)
    tree = file.walk(root)
    assert (file.usable, tree.rowids) == (usable, sorted(near))
    for pgno, kind in tree.kinds.items():
        for rowid, first in file.parse(pgno).overflow if kind == "leaf" else ():
            assert file.page(first)[4] == rowid % 251 + 1
    assert len(tree.kinds) + 1 == file.header.page_count


def reserve(path: Path, page_size: int, reserved: int) -> None:
    """Takes bytes off the end of each page of a database that has but its first, empty page."""
    page = bytearray(path.read_bytes())
    assert len(page) == page_size
    page[20] = reserved
    page[105:107] = struct.pack(">H", (page_size - reserved) % 65536)
    path.write_bytes(page)


@given(st.integers(0, (1 << 64) - 1))
def test_a_varint_reads_back_as_it_was_written(value: int) -> None:
    """Up to eight bytes carry seven bits each, and a ninth carries eight."""
    if value >> 56:
        parts = [0x80 | value >> 8 + 7 * place & 0x7F for place in range(7, -1, -1)] + [value & 0xFF]
    else:
        count = max(1, -(-value.bit_length() // 7))
        parts = [0x80 | value >> 7 * place & 0x7F for place in range(count - 1, -1, -1)]
        parts[-1] &= 0x7F
    assert read_varint(bytes([7, *parts, 9]), 1) == (value, len(parts) + 1)
