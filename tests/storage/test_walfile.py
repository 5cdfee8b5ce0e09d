"""Logs and wal-indexes as SQLite wrote them, against a simple count of our own; and damaged ones."""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.walfile import (
    FRAME_HEADER_SIZE,
    WAL_HEADER_SIZE,
    WAL_INDEX_SIZE,
    Frame,
    WalHeader,
    WalIndex,
    checksum,
    parse_wal_header,
    parse_wal_index,
    scan_frames,
)

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


@contextmanager
def writer(path: Path, page_size: int = 1024, options: str = "") -> Iterator[sqlite3.Connection]:
    """A connection in WAL mode to a new database with the table t(body) and nothing in the log's way."""
    with closing(sqlite3.connect(f"{path.as_uri()}{options}", uri=True, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t(body)")
        yield db


def log_of(path: Path) -> bytes:
    return Path(f"{path}-wal").read_bytes()


def header_of(data: bytes) -> WalHeader:
    header = parse_wal_header(data)
    assert header is not None
    return header


def index_of(path: Path) -> WalIndex:
    index = parse_wal_index(Path(f"{path}-shm").read_bytes())
    assert index is not None
    return index


def frames_of(data: bytes, *, verify: bool = True) -> list[Frame]:
    header = header_of(data)
    return list(scan_frames(data, header, seed=header.checksum if verify else None))


def counted(data: bytes) -> list[tuple[int, int]]:
    """Page number and commit size of all frames with the log's salts, read in the plainest way."""
    size = 24 + struct.unpack(">I", data[8:12])[0]
    pieces = [data[at : at + size] for at in range(32, len(data), size)]
    return [struct.unpack(">2I", piece[:8]) for piece in pieces if piece[8:16] == data[16:24]]


def naive_checksum(data: bytes, order: str, seed: tuple[int, int]) -> tuple[int, int]:
    s1, s2 = seed
    for first, second in struct.iter_unpack(f"{order}2I", data):
        s1 = (s1 + first + s2) % 2**32
        s2 = (s2 + second + s1) % 2**32
    return s1, s2


def spill(db: sqlite3.Connection) -> None:
    """A transaction that writes frames before it is known how it ends."""
    db.execute("PRAGMA cache_size=1")
    db.execute("BEGIN")
    db.executemany("INSERT INTO t VALUES (zeroblob(700))", [()] * 60)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_frames_are_those_that_a_plain_count_finds(tmp_path: Path, page_size: int) -> None:
    """Every frame is found with its page, its place and a checksum that continues the chain, for every page size."""
    path = tmp_path / "a.db"
    with writer(path, page_size) as db:
        db.executemany("INSERT INTO t VALUES (zeroblob(?))", [(size,) for size in (1, 300, 70000)])
        data, index = log_of(path), index_of(path)
        frames = frames_of(data)
        assert [(frame.pgno, frame.commit_size) for frame in frames] == counted(data)
        assert [frame.index for frame in frames] == list(range(1, index.max_frame + 1))
        assert index.page_size == header_of(data).page_size == page_size
        db.execute("PRAGMA wal_checkpoint(FULL)")
        last = {frame.pgno: data[frame.start : frame.start + page_size] for frame in frames}
        assert b"".join(image for _, image in sorted(last.items())) == path.read_bytes()


def test_the_index_agrees_with_the_log(tmp_path: Path) -> None:
    """Salts and checksum of the index are, as numbers, those of the log's header and of its last commit frame."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        for count in range(1, 4):
            before = index_of(path)
            db.executemany("INSERT INTO t VALUES (?)", [(count,)])
            data, index = log_of(path), index_of(path)
            header, frames = header_of(data), frames_of(data)
            assert index.change == before.change + 1
            assert index.salts == header.salts == frames[-1].salts
            assert index.frame_checksum == frames[-1].checksum
            assert (index.max_frame, index.page_count) == (frames[-1].index, frames[-1].commit_size)
            assert index.big_endian == header.big_endian


def test_checkpoints_and_readers_do_not_move_the_index(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with writer(path) as db, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        db.execute("INSERT INTO t VALUES (1)")
        before = index_of(path)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        reader.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert index_of(path) == before


def test_a_restarted_log_ends_where_its_salts_end(tmp_path: Path) -> None:
    """After a restart the old frames behind the new ones are not of this log; a truncated log is no log."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(20)])
        old = header_of(log_of(path))
        db.execute("PRAGMA wal_checkpoint(RESTART)")
        db.execute("INSERT INTO t VALUES (20)")
        data = log_of(path)
        new = header_of(data)
        assert new.salts != old.salts
        assert (new.checkpoint_seq, new.salts[0]) == (old.checkpoint_seq + 1, (old.salts[0] + 1) % 2**32)
        assert new.salts == index_of(path).salts
        assert len(frames_of(data, verify=False)) == len(frames_of(data)) == index_of(path).max_frame == 1
        assert len(data) > new.frame_offset(20)
        assert not list(scan_frames(data, old))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert parse_wal_header(log_of(path)) is None


def test_a_reader_resumes_behind_the_last_frame_it_saw(tmp_path: Path) -> None:
    """From frame n + 1 with the checksum of frame n, a piece of the file gives what a scan of the whole gives."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(9)])
        data = log_of(path)
    header, frames = header_of(data), frames_of(data)
    for seen in frames[:-1]:
        base = header.frame_offset(seen.index + 1)
        rest = list(scan_frames(data[base:], header, seen.index + 1, base, seed=seen.checksum))
        assert [replace(frame, start=frame.start + base) for frame in rest] == frames[seen.index :]
        assert not list(scan_frames(data[base:], header, seen.index + 1, base, seed=(1, 2)))
        assert list(scan_frames(data, header, last_frame=seen.index)) == frames[: seen.index]
    assert not list(scan_frames(data, header, 1, 40))
    assert not list(scan_frames(data, header, 0))


def test_a_torn_tail_is_not_a_frame(tmp_path: Path) -> None:
    """A frame counts when its last byte is there; nothing behind a hole counts."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(5)])
        data = log_of(path)
    header, frames = header_of(data), frames_of(data)
    ends = [frame.start + header.page_size for frame in frames]
    for cut in range(WAL_HEADER_SIZE, len(data) + 1, 7):
        assert len(frames_of(data[:cut])) == sum(end <= cut for end in ends)
    for cut in range(WAL_HEADER_SIZE):
        assert parse_wal_header(data[:cut]) is None
    hole = bytearray(data)
    hole[frames[2].start + 500] ^= 1
    assert len(frames_of(bytes(hole))) == 2
    assert len(frames_of(bytes(hole), verify=False)) == len(frames)


def test_a_rolled_back_spill_leaves_frames_that_only_the_checksums_refuse(tmp_path: Path) -> None:
    """Frames behind the last commit can have the right salts: the index or the checksums say where the log ends."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        spill(db)
        committed = index_of(path).max_frame
        assert len(frames_of(log_of(path))) > committed
        db.execute("ROLLBACK")
        db.execute("INSERT INTO t VALUES (1)")
        data, index = log_of(path), index_of(path)
    assert len(frames_of(data, verify=False)) > index.max_frame
    assert len(frames_of(data)) == index.max_frame
    assert len(list(scan_frames(data, header_of(data), last_frame=index.max_frame))) == index.max_frame


def test_a_spilled_commit_counts_once_and_its_chain_holds(tmp_path: Path) -> None:
    """A page written twice in one transaction is overwritten in its frame, and the checksums behind it are redone."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        before = index_of(path)
        spill(db)
        db.execute("UPDATE t SET body = zeroblob(701)")
        db.execute("COMMIT")
        frames, index = frames_of(log_of(path)), index_of(path)
        assert index.change == before.change + 1
        assert index.max_frame == len(frames)
        assert sum(frame.commit_size > 0 for frame in frames) == index.change


def test_a_writer_without_atomic_sectors_repeats_its_commit_frame(tmp_path: Path) -> None:
    """One commit can end in several commit frames of one page; the index counts it once."""
    path = tmp_path / "a.db"
    with writer(path, options="?psow=0") as db:
        db.execute("PRAGMA synchronous=FULL")
        before = index_of(path)
        db.execute("INSERT INTO t VALUES (1)")
        index, frames = index_of(path), frames_of(log_of(path))
        added = frames[before.max_frame :]
        assert index.change == before.change + 1
        assert sum(frame.commit_size > 0 for frame in added) > 1
        assert {frame.pgno for frame in added if frame.commit_size} == {2}


def test_a_recovery_starts_the_count_of_commits_anew(tmp_path: Path) -> None:
    """The index that a recovery builds from a log has the log's salts and frames, but counts commits from 0."""
    path, copy = tmp_path / "a.db", tmp_path / "b.db"
    with writer(path) as db:
        db.execute("INSERT INTO t VALUES (1)")
        crashed = index_of(path)
        copy.write_bytes(path.read_bytes())
        Path(f"{copy}-wal").write_bytes(log_of(path))
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (1,)
        recovered = index_of(copy)
    assert recovered.change == 0 < crashed.change
    assert (recovered.salts, recovered.max_frame) == (crashed.salts, crashed.max_frame)


@pytest.mark.parametrize("size", [0, 8, 24, 40, 128, 136, 512, 4096, 65536])
@pytest.mark.parametrize(("order", "big_endian"), [("<", False), (">", True)])
def test_the_checksum_is_the_plain_sum(size: int, order: str, big_endian: bool) -> None:
    """Folding gives what the format's loop gives, for both byte orders, any seed and the largest words."""
    for data in (bytes(index * 37 % 251 for index in range(size)), b"\xff" * size):
        for seed in ((0, 0), (0xFFFFFFFF, 0xFFFFFFFE), (1, 1 << 31)):
            assert checksum(data, big_endian, seed) == naive_checksum(data, order, seed)


def test_a_log_with_big_endian_checksums_is_read(tmp_path: Path) -> None:
    """A log that came from a machine of the other byte order has the other magic and checksums over swapped words."""
    path = tmp_path / "a.db"
    with writer(path) as db:
        db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(5)])
        data = log_of(path)
    swapped = swap(data)
    assert header_of(swapped).big_endian != header_of(data).big_endian
    assert [frame.pgno for frame in frames_of(swapped)] == [frame.pgno for frame in frames_of(data)]


def swap(data: bytes) -> bytes:
    """The same log as a machine of the other byte order would have written it."""
    header = header_of(data)
    order = "<" if header.big_endian else ">"
    head = struct.pack(">I", struct.unpack(">I", data[:4])[0] ^ 1) + data[4:24]
    sums = naive_checksum(head, order, (0, 0))
    out = head + struct.pack(">2I", *sums)
    for frame in frames_of(data):
        image = data[frame.start : frame.start + header.page_size]
        front = data[frame.start - FRAME_HEADER_SIZE : frame.start - 8]
        sums = naive_checksum(front[:8] + image, order, sums)
        out += front + struct.pack(">2I", *sums) + image
    return out


@cache
def real_log() -> tuple[bytes, bytes]:
    """A log with a restart and a spill in it, and its index."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.db"
        with writer(path, 512) as db:
            db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(20)])
            db.execute("PRAGMA wal_checkpoint(RESTART)")
            db.execute("INSERT INTO t VALUES (1)")
            spill(db)
            db.execute("COMMIT")
            return log_of(path), Path(f"{path}-shm").read_bytes()[:WAL_INDEX_SIZE]


def test_an_index_is_read_only_if_it_proves_itself() -> None:
    """A change of any bit in either copy of the index header, or a short file, gives None: a writer was at work."""
    _, real = real_log()
    assert parse_wal_index(real) is not None
    assert parse_wal_index(bytes(WAL_INDEX_SIZE)) is None
    for cut in range(WAL_INDEX_SIZE):
        assert parse_wal_index(real[:cut]) is None
    for bit in range(96 * 8):
        torn = bytearray(real)
        torn[bit // 8] ^= 1 << bit % 8
        assert parse_wal_index(bytes(torn)) is None
    for bit in range(40 * 8):
        both = bytearray(real)
        both[bit // 8] ^= 1 << bit % 8
        both[48 + bit // 8] ^= 1 << bit % 8
        assert parse_wal_index(bytes(both)) is None


def test_a_log_header_is_read_only_if_it_proves_itself() -> None:
    """A change of any bit of the log's header gives None."""
    real, _ = real_log()
    for bit in range(WAL_HEADER_SIZE * 8):
        torn = bytearray(real[:WAL_HEADER_SIZE])
        torn[bit // 8] ^= 1 << bit % 8
        assert parse_wal_header(bytes(torn)) is None


@given(st.data())
def test_a_damaged_log_gives_its_first_frames_or_none(data: st.DataObject) -> None:
    """With checksums, frames before the first damage are right and no other is given; without them, none is made up."""
    real, _ = real_log()
    header, frames = header_of(real), frames_of(real)
    end = frames[-1].start + header.page_size
    damaged = bytearray(real[: data.draw(st.integers(0, end))])
    places = st.integers(WAL_HEADER_SIZE, max(WAL_HEADER_SIZE, len(damaged) - 1))
    masks = (
        data.draw(st.dictionaries(places, st.integers(1, 255), max_size=4)) if len(damaged) > WAL_HEADER_SIZE else {}
    )
    for at, mask in masks.items():
        damaged[at] ^= mask
    first = min(masks, default=len(damaged))
    whole = [frame for frame in frames if frame.start + header.page_size <= first]
    assert list(scan_frames(bytes(damaged), header, seed=header.checksum)) == whole
    assert len(list(scan_frames(bytes(damaged), header))) <= len(real) // header.frame_size


@given(st.binary(max_size=3000), st.integers(-3, 1 << 40), st.integers(-100, 1 << 50), st.none() | st.integers(-3, 9))
def test_bytes_that_are_no_log_do_no_harm(data: bytes, first: int, base: int, last: int | None) -> None:
    """No reader raises, whatever it is given."""
    header = header_of(real_log()[0])
    parse_wal_header(data)
    parse_wal_header(real_log()[0][:8] + data)
    parse_wal_index(data)
    parse_wal_index(data[:48] * 2 + data)
    checksum(data, big_endian=True)
    for number, offset in ((first, base), (1, 0), (first, header.frame_offset(first))):
        found = list(scan_frames(data, header, number, offset, last_frame=last, seed=(0, 0)))
        assert len(found) <= len(data) // header.frame_size
