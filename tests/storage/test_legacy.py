"""The legacy database is read and nothing else: nothing is written, no lock is lost, every error is told in words."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from storage.errors import DatabaseAway, DatabaseUnusable, WalcastError
from storage.files import identity_of
from storage.legacy import Busy, LegacyDatabase, connect, translated
from storage.wake import Waker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "legacy ?#%.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("CREATE TABLE m(x)")
        connection.execute("CREATE INDEX by_x ON m(x)")
        yield connection


@pytest.fixture
def legacy(path: Path, writer: sqlite3.Connection) -> Iterator[LegacyDatabase]:
    database = LegacyDatabase(path)
    database.open()
    yield database
    database.close()


# -- nothing but reading


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO m VALUES (1)",
        "UPDATE m SET x = 1",
        "DELETE FROM m",
        "CREATE TABLE n(x)",
        "CREATE TEMP TABLE n(x)",
        "CREATE TEMP TRIGGER t AFTER INSERT ON m BEGIN SELECT 1; END",
        "DROP TABLE m",
        "ALTER TABLE m ADD COLUMN y",
        "ANALYZE",
        "REINDEX by_x",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "ATTACH ':memory:' AS n",
        "DETACH main",
        "SAVEPOINT s",
        "PRAGMA user_version = 5",
        "PRAGMA wal_checkpoint",
        "PRAGMA optimize",
        "PRAGMA incremental_vacuum",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA synchronous = 0",
        "PRAGMA writable_schema = 1",
        "PRAGMA cache_size = 1",
        "SELECT load_extension('x')",
        "SELECT random()",
        "SELECT * FROM pragma_integrity_check",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
    ],
)
def test_whatever_does_more_than_read_is_denied(legacy: LegacyDatabase, path: Path, statement: str) -> None:
    """By the authorizer, before it runs; the file is as it was."""
    before = path.read_bytes() if sys.platform == "win32" else None
    with pytest.raises(sqlite3.Error, match=r"not authorized|prohibited|readonly|authorization denied|no such"):
        legacy.connection.execute(statement).fetchall()
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("statement", ["PRAGMA query_only = 0", "PRAGMA journal_mode = WAL"])
def test_a_pragma_that_is_let_through_cannot_be_used_to_write(legacy: LegacyDatabase, statement: str) -> None:
    """The connection is read-only by its name as well."""
    with suppress(sqlite3.Error):
        legacy.connection.execute(statement).fetchall()
    with pytest.raises(sqlite3.Error):
        legacy.connection.execute("INSERT INTO m VALUES (1)")
    assert legacy.journal_mode() == "delete"


@pytest.mark.parametrize(("mode", "then"), [("DELETE", "WAL"), ("WAL", "DELETE")])
def test_the_journal_mode_is_the_one_of_now(path: Path, mode: str, then: str) -> None:
    """Asked of SQLite and of the header alone, though our connection has not read anything since it was changed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode={mode}")
        writer.execute("CREATE TABLE m(x)")
        legacy = LegacyDatabase(path)
        if mode == "WAL":  # nobody else may have it open
            writer.execute(f"PRAGMA journal_mode={then}")
        legacy.open()
        try:
            if mode != "WAL":
                assert (legacy.journal_mode(), legacy.is_wal()) == ("delete", False)
                writer.execute(f"PRAGMA journal_mode={then}")
            assert (legacy.journal_mode(), legacy.is_wal()) == (then.lower(), then == "WAL")
        finally:
            legacy.close()


def test_text_comes_as_bytes(legacy: LegacyDatabase, writer: sqlite3.Connection) -> None:
    """A TEXT column may hold what is no UTF-8."""
    writer.execute("INSERT INTO m VALUES (CAST(x'ff' AS TEXT))")
    assert legacy.connection.execute("SELECT x FROM m").fetchall() == [(b"\xff",)]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_attaching_reading_and_leaving_change_no_byte(path: Path, writer: sqlite3.Connection, mode: str) -> None:
    """Not even a checkpoint: what is in the log stays there."""
    writer.execute(f"PRAGMA journal_mode={mode}")
    writer.execute("INSERT INTO m VALUES (1)")
    log = Path(f"{path}-wal")
    sizes = [file.stat().st_size for file in (path, log) if file.exists()]
    legacy = LegacyDatabase(path)
    legacy.open()
    with legacy.snapshot():
        assert legacy.connection.execute("SELECT count(*) FROM m").fetchone() == (1,)
    legacy.close()
    assert [file.stat().st_size for file in (path, log) if file.exists()] == sizes


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_we_do_takes_our_own_locks_away(path: Path, writer: sqlite3.Connection, mode: str) -> None:
    """Closing any descriptor of the database or `-shm` would drop them, and SQLite would not know."""
    writer.execute(f"PRAGMA journal_mode={mode}")
    writer.execute("INSERT INTO m VALUES (1)")
    legacy = LegacyDatabase(path)
    legacy.open()
    waker = Waker(path)
    Path(f"{path}-journal").write_bytes(b"")
    try:
        with legacy.snapshot():
            before = locks(path)
            assert before
            legacy.is_being_written()
            legacy.is_replaced()
            legacy.data_version()
            legacy.journal_mode()
            identity_of(path)
            waker.rewatch()
            waker.wait(0)
            with closing(connect(path)) as second:
                second.execute("SELECT * FROM m").fetchall()
            assert locks(path) == before
    finally:
        waker.close()
        legacy.close()


def locks(path: Path) -> list[str]:
    """The POSIX locks of this process on a database and its `-shm`."""
    inodes = {f":{file.stat().st_ino} " for file in (path, Path(f"{path}-shm")) if file.exists()}
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return sorted(
        line.split(":", 1)[1] for line in lines if f" {os.getpid()} " in line and any(i in line for i in inodes)
    )


# -- snapshots


def test_a_snapshot_sees_one_commit_and_ends_with_its_block(legacy: LegacyDatabase, writer: sqlite3.Connection) -> None:
    """Held in WAL mode, it would keep the log from being reset; in rollback mode, the writer from committing."""
    writer.execute("PRAGMA journal_mode=WAL")
    with legacy.snapshot() as first:
        writer.execute("INSERT INTO m VALUES (1)")
        assert legacy.connection.execute("SELECT count(*) FROM m").fetchone() == (0,)
    with legacy.snapshot() as second:
        assert legacy.connection.execute("SELECT count(*) FROM m").fetchone() == (1,)
    assert second.data != first.data
    assert second.schema == first.schema
    assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    writer.execute("ALTER TABLE m ADD COLUMN y")
    with legacy.snapshot() as third:
        assert third.schema != second.schema


def test_a_snapshot_ends_when_its_block_fails(legacy: LegacyDatabase, writer: sqlite3.Connection) -> None:
    """The next one can begin, and the writer can commit."""
    with pytest.raises(ZeroDivisionError), legacy.snapshot():
        _ = 1 / 0
    assert not legacy.connection.in_transaction
    writer.execute("INSERT INTO m VALUES (1)")


def test_a_locked_database_is_busy(legacy: LegacyDatabase, writer: sqlite3.Connection, path: Path) -> None:
    """At a look and at opening; afterwards it goes on."""
    version = legacy.data_version()
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Busy), legacy.snapshot():
        pass
    with pytest.raises(Busy):
        connect(path)
    writer.execute("INSERT INTO m VALUES (1)")
    writer.execute("COMMIT")
    assert legacy.data_version() != version


# -- which file it is


def test_another_file_under_the_name_is_noticed(legacy: LegacyDatabase, path: Path, tmp_path: Path) -> None:
    """Readers of the old one would see both."""
    assert not legacy.is_replaced()
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE m(x)")
    other.replace(path)
    assert legacy.is_replaced()
    legacy.open()
    assert not legacy.is_replaced()
    path.unlink()
    with pytest.raises(DatabaseAway, match="is not there"):
        legacy.is_replaced()


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """Reading a name that is not there must not create it."""
    path = tmp_path / "none.db"
    with pytest.raises(DatabaseAway):
        LegacyDatabase(path).open()
    with pytest.raises(DatabaseAway):
        connect(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"no database " * 100, b"SQLite format 3\0" + b"\xff" * 1000])
def test_what_is_no_database_is_unusable_and_left_open_nowhere(path: Path, content: bytes) -> None:
    """It will not mend itself, so it is not waited for: exit code 3."""
    path.write_bytes(content)
    with pytest.raises(DatabaseUnusable) as caught:
        connect(path)
    assert not isinstance(caught.value, DatabaseAway)
    assert caught.value.exit_code == 3


def test_a_closed_database_says_so(path: Path) -> None:
    """And closing twice is no error."""
    legacy = LegacyDatabase(path)
    legacy.close()
    assert not legacy.is_open
    with pytest.raises(DatabaseAway, match="is not open"):
        legacy.data_version()


# -- in words


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, Busy, "locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Busy, "locked"),
        (sqlite3.SQLITE_LOCKED, Busy, "locked"),
        (sqlite3.SQLITE_NOTADB, DatabaseUnusable, "not an SQLite database"),
        (sqlite3.SQLITE_READONLY_ROLLBACK, DatabaseAway, "crashed writer"),
        (sqlite3.SQLITE_CANTOPEN, DatabaseAway, "cannot be opened"),
        (sqlite3.SQLITE_PERM, DatabaseAway, "cannot be opened"),
        (sqlite3.SQLITE_IOERR_READ, DatabaseAway, "cannot be read"),
        (sqlite3.SQLITE_CORRUPT, DatabaseAway, "cannot be read"),
    ],
)
def test_every_error_is_told_in_words(path: Path, code: int, kind: type[WalcastError], words: str) -> None:
    """By its primary code, whatever the extended one is; with the file's name and, but for a busy one, a hint."""
    error = sqlite3.OperationalError("raw")
    error.sqlite_errorcode = code
    told = translated(error, path)
    assert type(told) is kind
    assert words in str(told)
    assert str(path) in str(told)
    assert bool(told.hint) == (kind is not Busy)


def test_an_error_without_a_code_is_told_too(path: Path) -> None:
    """Python raises some of its own."""
    assert type(translated(sqlite3.ProgrammingError("odd"), path)) is DatabaseAway


def test_a_journal_in_use_is_noticed_and_an_ended_one_is_not(
    legacy: LegacyDatabase, writer: sqlite3.Connection, path: Path
) -> None:
    """Deleted, emptied or wiped: the commit is over."""
    for mode in ("delete", "truncate", "persist"):
        writer.execute(f"PRAGMA journal_mode={mode}")
        assert not legacy.is_being_written()
        writer.execute("PRAGMA cache_size=1")  # so that it writes to the database in the middle of the transaction
        writer.execute("BEGIN")
        writer.executemany("INSERT INTO m VALUES (?)", [("x" * 900 + str(n),) for n in range(40)])
        assert legacy.is_being_written()
        writer.execute("COMMIT")
        assert not legacy.is_being_written()
