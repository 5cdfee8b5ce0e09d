"""Journals as SQLite wrote them, caught while they grow and after their end; and damaged ones."""

import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.journalfile import Journal, parse_journal, parse_wiped_journal

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
MAGIC = bytes.fromhex("d9d505f920a163d7")


class Writer:
    """A connection in a rollback-journal mode, and the files as they are at this moment."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self.db = db

    @property
    def journal(self) -> bytes:
        return Path(f"{self.path}-journal").read_bytes()

    def pages(self, page_size: int) -> dict[int, bytes]:
        data = self.path.read_bytes()
        return {at // page_size + 1: data[at : at + page_size] for at in range(0, len(data), page_size)}

    def begin(self, *, spilling: bool = False) -> None:
        """A small cache makes the writer journal, sync and write in the middle of a transaction."""
        self.db.execute(f"PRAGMA cache_size={1 if spilling else -2000}")
        self.db.execute("BEGIN IMMEDIATE")

    def update(self, last: int = 40) -> None:
        self.db.execute("UPDATE t SET body = randomblob(length(body)) WHERE rowid <= ?", (last,))

    @contextmanager
    def caught(self) -> Iterator[int]:
        """A descriptor of the journal, as someone holds it who opened it before the commit deletes it."""
        fd = os.open(f"{self.path}-journal", os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def writer(
    path: Path, page_size: int = 1024, mode: str = "DELETE", sync: str = "FULL", psow: int = 1
) -> Iterator[Writer]:
    """A database with 40 rows of half a page each and no transaction under way."""
    with closing(sqlite3.connect(f"{path.as_uri()}?psow={psow}", uri=True, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute(f"PRAGMA synchronous={sync}")
        db.execute("CREATE TABLE t(body)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (randomblob(?))", [(page_size // 2,)] * 40)
        db.execute("COMMIT")
        yield Writer(path, db)


def parsed(data: bytes) -> Journal:
    journal = parse_journal(data)
    assert journal is not None
    return journal


def images(journal: Journal, data: bytes) -> dict[int, bytes]:
    return {pgno: data[at : at + journal.page_size] for pgno, at in journal.records}


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def headers(data: bytes, sector_size: int = 512) -> list[int]:
    return [at for at in range(0, len(data), sector_size) if data.startswith(MAGIC, at)]


def check_before_images(journal: Journal, data: bytes, before: dict[int, bytes], after: dict[int, bytes]) -> None:
    """Each record is the page from before, and each page that changed and was there has its record."""
    found = images(journal, data)
    assert len(found) == len(journal.records)
    assert found == {pgno: before[pgno] for pgno in found}
    assert {pgno for pgno, image in before.items() if after.get(pgno) != image} <= found.keys()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("psow", [0, 1])
@pytest.mark.parametrize("sync", ["FULL", "NORMAL", "OFF"])
def test_a_journal_held_open_through_its_delete_has_all_old_pages(
    tmp_path: Path, page_size: int, psow: int, sync: str
) -> None:
    """Read after the commit, it is complete, and its records are the pages as they were before."""
    with writer(tmp_path / "a.db", page_size, sync=sync, psow=psow) as legacy:
        before = legacy.pages(page_size)
        legacy.begin()
        legacy.update()
        legacy.db.execute("INSERT INTO t VALUES (randomblob(?))", (3 * page_size,))
        with legacy.caught() as fd:
            legacy.db.execute("COMMIT")
            assert not Path(f"{legacy.path}-journal").exists()
            data = read_all(fd)
        journal = parsed(data)
        assert (journal.page_size, journal.sector_size) == (page_size, 512 if psow else 4096)
        assert (journal.complete, journal.verified) == (True, True)
        assert journal.initial_pages == len(before)
        check_before_images(journal, data, before, legacy.pages(page_size))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("psow", [0, 1])
@pytest.mark.parametrize("sync", ["FULL", "OFF"])
def test_a_spilling_transaction_is_read_through_all_its_segments(
    tmp_path: Path, page_size: int, psow: int, sync: str
) -> None:
    """Each spill ends a segment, unless nothing is synced; the records of all segments are found."""
    with writer(tmp_path / "a.db", page_size, sync=sync, psow=psow) as legacy:
        before = legacy.pages(page_size)
        legacy.begin(spilling=True)
        legacy.update()
        with legacy.caught() as fd:
            legacy.db.execute("COMMIT")
            data = read_all(fd)
        journal = parsed(data)
        found = headers(data, journal.sector_size)
        assert len(found) == 1 if sync == "OFF" else len(found) > 1
        assert journal.complete
        check_before_images(journal, data, before, legacy.pages(page_size))


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
@pytest.mark.parametrize("spilling", [False, True])
def test_a_journal_of_an_open_transaction_says_that_it_is_not_complete(
    tmp_path: Path, mode: str, spilling: bool
) -> None:
    """In mid-transaction the last header is not yet written, and the records so far are read by their checksums."""
    with writer(tmp_path / "a.db", mode=mode) as legacy:
        before = legacy.pages(1024)
        legacy.begin(spilling=spilling)
        legacy.update(20)
        data = legacy.journal
        journal = parsed(data)
        legacy.db.execute("ROLLBACK")
    assert not journal.complete
    assert len(journal.records) >= 9
    assert journal.initial_pages == len(before)
    assert images(journal, data) == {pgno: before[pgno] for pgno, _ in journal.records}


def test_without_syncs_the_count_is_to_the_end_from_the_start(tmp_path: Path) -> None:
    """With synchronous=OFF a growing journal cannot be told from a finished one; its records are right."""
    with writer(tmp_path / "a.db", sync="OFF") as legacy:
        legacy.begin()
        legacy.update(20)
        early = parsed(legacy.journal)
        legacy.update(40)
        late = parsed(legacy.journal)
        legacy.db.execute("ROLLBACK")
    assert late.records[: len(early.records)] == early.records
    assert len(late.records) > len(early.records)
    assert early.complete


@pytest.mark.parametrize("mode", ["TRUNCATE", "PERSIST"])
def test_a_journal_that_is_over_is_none(tmp_path: Path, mode: str) -> None:
    """After a commit or a rollback the file that stays behind has no header any more."""
    with writer(tmp_path / "a.db", mode=mode) as legacy:
        for ending in ("COMMIT", "ROLLBACK"):
            legacy.begin()
            legacy.update(10)
            legacy.db.execute(ending)
            assert parse_journal(legacy.journal) is None
        assert (len(legacy.journal) == 0) == (mode == "TRUNCATE")


@pytest.mark.parametrize("spilling", [False, True])
@pytest.mark.parametrize("psow", [0, 1])
@pytest.mark.parametrize("sync", ["FULL", "OFF"])
def test_a_wiped_journal_still_has_its_records(tmp_path: Path, spilling: bool, psow: int, sync: str) -> None:
    """What a PERSIST writer leaves has all old pages, marked as unverified, and not those of longer ones before it."""
    with writer(tmp_path / "a.db", mode="PERSIST", sync=sync, psow=psow) as legacy:
        for last in (40, 10, 3):
            before = legacy.pages(1024)
            legacy.begin(spilling=spilling)
            legacy.update(last)
            legacy.db.execute("COMMIT")
            data = legacy.journal
            journal = parse_wiped_journal(data, 1024, 512 if psow else 4096)
            assert journal is not None
            assert (journal.verified, journal.complete) == (False, False)
            assert journal.initial_pages in {0, len(before)}
            check_before_images(journal, data, before, legacy.pages(1024))


def test_a_wiped_journal_needs_the_right_sizes(tmp_path: Path) -> None:
    """With a header, or with sizes that no database has, there is nothing to read."""
    with writer(tmp_path / "a.db", mode="PERSIST") as legacy:
        wiped = legacy.journal
        legacy.begin()
        legacy.update()
        live = legacy.journal
        legacy.db.execute("ROLLBACK")
    assert parse_wiped_journal(wiped, 1024, 512) is not None
    assert parse_wiped_journal(live, 1024, 512) is None
    assert parse_wiped_journal(b"", 1024, 512) is None
    assert all(parse_wiped_journal(wiped, *sizes) is None for sizes in ((0, 512), (1, 512), (1000, 512), (1024, 0)))


def test_a_shorter_transaction_in_a_persistent_journal_ends_where_it_ends(tmp_path: Path) -> None:
    """Old records and headers behind the new ones are not its own: their checksums have another nonce."""
    with writer(tmp_path / "a.db", mode="PERSIST") as legacy:
        legacy.begin(spilling=True)
        legacy.update(40)
        legacy.db.execute("COMMIT")
        before = legacy.pages(1024)
        legacy.begin()
        legacy.update(2)
        data = legacy.journal
        journal = parsed(data)
        legacy.db.execute("COMMIT")
        changed = {pgno for pgno, image in legacy.pages(1024).items() if image != before[pgno]}
    assert len(headers(data)) > 3
    # SQLite saves page 1 last, at the commit, when it moves the change counter.
    assert images(journal, data) == {pgno: before[pgno] for pgno in changed - {1}}


def test_the_name_of_a_super_journal_is_not_a_record(tmp_path: Path) -> None:
    """A commit over two databases appends a name to each journal; the pages before it are all there is."""
    for sync in ("FULL", "NORMAL"):
        with writer(tmp_path / f"{sync}.db", sync=sync) as legacy:
            legacy.db.execute("ATTACH ? AS other", (str(tmp_path / f"other_{sync}.db"),))
            legacy.db.execute(f"PRAGMA other.synchronous={sync}")
            legacy.db.execute("CREATE TABLE other.u(body)")
            before = legacy.pages(1024)
            legacy.begin()
            legacy.update(5)
            legacy.db.execute("INSERT INTO other.u VALUES (1)")
            with legacy.caught() as fd:
                legacy.db.execute("COMMIT")
                data = read_all(fd)
            journal = parsed(data)
            assert b"-mj" in data[-80:]
            assert journal.complete
            check_before_images(journal, data, before, legacy.pages(1024))


@cache
def real_journals() -> tuple[bytes, ...]:
    """Journals of one and of many segments, counted, uncounted, unfinished and wiped."""
    found = []
    with TemporaryDirectory() as folder:
        for sync in ("FULL", "OFF"):
            for spilling in (False, True):
                with writer(Path(folder) / f"{sync}{spilling}.db", 512, "PERSIST", sync) as legacy:
                    legacy.begin(spilling=spilling)
                    legacy.update(10)
                    with legacy.caught() as fd:
                        found.append(legacy.journal)
                        legacy.db.execute("COMMIT")
                        wiped = read_all(fd)
                    found += [wiped, legacy_header(found[-1]) + wiped[28:]]
    return tuple(found)


def legacy_header(unfinished: bytes) -> bytes:
    """The first header of a transaction that goes on, with its count, as a finished segment has it."""
    count = struct.unpack(">I", unfinished[8:12])[0] or len(parsed(unfinished).records)
    return MAGIC + struct.pack(">I", count) + unfinished[12:28]


def check(journal: Journal | None, data: bytes) -> None:
    """What holds for every journal that was read, were its bytes right or not."""
    if journal is None:
        return
    ends = [at + journal.page_size + 4 for _, at in journal.records]
    starts = [at for _, at in journal.records]
    assert all(pgno > 0 for pgno, _ in journal.records)
    assert all(end + 4 <= start for end, start in zip(ends, starts[1:], strict=False))
    assert not ends or ends[-1] <= len(data)


@given(st.data())
def test_a_damaged_journal_gives_only_records_that_were_there(data: st.DataObject) -> None:
    """Records before the first damage are read, none is made up, and the end of the data is never passed."""
    real = data.draw(st.sampled_from(real_journals()))
    damaged = bytearray(real[: data.draw(st.integers(0, len(real)))])
    places = st.integers(0, 40) | st.integers(0, len(real))
    for at, value in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=4)).items():
        damaged[at : at + 1] = bytes([value]) if at < len(damaged) else b""
    check(parse_journal(bytes(damaged)), bytes(damaged))
    check(parse_wiped_journal(bytes(damaged), 512, 512), bytes(damaged))
    check(parse_wiped_journal(bytes(28) + bytes(damaged[28:]), 1024, 32), bytes(damaged))


@given(st.data())
def test_a_truncated_journal_has_the_first_of_its_records(data: st.DataObject) -> None:
    """Whatever is cut off, what is left is read up to the cut."""
    real = data.draw(st.sampled_from([journal for journal in real_journals() if parse_journal(journal)]))
    cut = data.draw(st.integers(28, len(real)))
    kept = tuple((pgno, at) for pgno, at in parsed(real).records if at + 512 + 4 <= cut)
    assert parsed(real[:cut]).records == kept


@given(st.binary(max_size=3000), st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_bytes_that_are_no_journal_do_no_harm(data: bytes, page_size: int, sector_size: int) -> None:
    """No reader raises, whatever it is given."""
    for head in (b"", MAGIC, bytes(12), MAGIC + struct.pack(">5I", 0xFFFFFFFF, 0, 9, 32, 512)):
        check(parse_journal(head + data), head + data)
    check(parse_wiped_journal(bytes(28) + data, page_size, sector_size), bytes(28) + data)
    check(parse_wiped_journal(bytes(28) + data, 512, 32), bytes(28) + data)


def test_a_row_of_empty_segments_is_read_in_one_pass() -> None:
    """Headers that announce nothing cost one step each, and an endless count ends with the data."""
    empty = MAGIC + struct.pack(">5I", 0, 7, 9, 32, 512) + bytes(4)
    assert parsed(empty * 20000).records == ()
    assert parsed(MAGIC + struct.pack(">5I", 0xFFFFFFFE, 7, 9, 32, 512)).complete is False
