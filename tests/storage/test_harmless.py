"""No lock of ours is lost: whatever the bridge does beside it, another process is kept from what a snapshot forbids.

Closing any descriptor of the database or `-shm` in this process would drop every lock on it, and SQLite would not know.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.errors import DatabaseAway
from storage.files import identity_of
from storage.held import HELD
from storage.hints import PageHints
from storage.legacy import LegacyDatabase, connect
from storage.load import Reads
from storage.loadsql import Sought
from storage.reader import SectionReader
from storage.types import Row, Section
from storage.wake import Waker
from tests.storage.legacy_writer import Refused, Writer, writer_process
from tests.storage.oracle import Schema

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc/locks")

SCHEMA = Schema()
EVERYONE = Sought("owner", "w")
INSERT = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', 'x', 'w')"


@dataclass
class Stage:
    """All that a bridge has open on a database, and a writer in another process."""

    path: Path
    mode: str
    writer: Writer
    legacy: LegacyDatabase
    hints: PageHints
    reads: Reads
    waker: Waker

    @property
    def section(self) -> Section:
        """One of the mapped tables."""
        return SCHEMA.sections()[0]

    def look(self) -> None:
        """What a look does."""
        self.hints.before(self.legacy)
        with self.legacy.snapshot():
            self.hints.take([SectionReader(self.legacy.connection, self.section)])

    def load(self) -> list[Row]:
        """What a request for the initial load does."""
        found: list[Row] = [
            row for _, row in self.reads.page(self.section, EVERYONE, None, 10, lambda _section, row: row).items
        ]
        return found

    def locks(self, *paths: Path) -> list[str]:
        """The POSIX locks of this process on a database and its `-shm`."""
        inodes = {f":{file.stat().st_ino} " for file in paths or self._files() if file.exists()}
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        return sorted(
            line.split(":", 1)[1] for line in lines if f" {os.getpid()} " in line and any(i in line for i in inodes)
        )

    def _files(self) -> tuple[Path, Path]:
        return self.path, Path(f"{self.path}-shm")

    def guarded(self) -> None:
        """The writer cannot do what it could if there were no snapshot of ours."""
        if self.mode == "delete":
            with pytest.raises(Refused, match="locked"):
                self.writer.sql("BEGIN EXCLUSIVE")
        else:
            self.writer.sql(INSERT)
            [[busy, *_]] = self.writer.sql("PRAGMA wal_checkpoint(RESTART)")
            assert busy, "a log that a snapshot still needs was begun anew"
            with pytest.raises(Refused, match="locked"):
                self.writer.sql("PRAGMA journal_mode=DELETE")

    def free(self) -> None:
        """The writer can do it all when the snapshot has ended: it was that which kept it."""
        if self.mode == "delete":
            self.writer.sql("BEGIN EXCLUSIVE", "ROLLBACK")
        else:
            [[busy, *_]] = self.writer.sql("PRAGMA wal_checkpoint(RESTART)")
            assert not busy


@pytest.fixture(params=["delete", "wal"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    path = tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        writer.sql(f"PRAGMA journal_mode={request.param}", *SCHEMA.tables(), INSERT)
        legacy = LegacyDatabase(path)
        legacy.open()
        stage = Stage(path, request.param, writer, legacy, PageHints(path), Reads(path), Waker(path))
        legacy.before_open = stage.reads.forget
        stage.hints.reset(legacy)
        stage.load()
        stage.look()
        writer.sql(INSERT)
        stage.look()
        yield stage
        stage.waker.close()
        stage.reads.close()
        legacy.close()
        stage.hints.close()


def _shares_and_releases(stage: Stage) -> None:
    for path in (stage.path, Path(f"{stage.path}-shm")):
        if path.exists():
            HELD.release(HELD.hold(path))


def _another_engine(stage: Stage) -> None:
    """Of a bridge that begins anew while the old one still reads."""
    other = PageHints(stage.path)
    other.reset(stage.legacy)
    other.before(stage.legacy)
    other.close()


def _another_database(stage: Stage) -> None:
    other = LegacyDatabase(stage.path)
    other.open()
    with other.snapshot():
        other.header()
    other.close()


def _another_connection(stage: Stage) -> None:
    with closing(connect(stage.path)) as second:
        second.execute("SELECT * FROM messages").fetchall()


def _another_loader(stage: Stage) -> None:
    other = Reads(stage.path)
    other.page(stage.section, EVERYONE, None, 10, lambda _section, row: row)
    other.close()


def _questions(stage: Stage) -> None:
    stage.legacy.is_being_written()
    stage.legacy.is_replaced()
    stage.legacy.is_wal()
    stage.legacy.data_version()
    stage.legacy.journal_mode()
    identity_of(stage.path)


def _wakes(stage: Stage) -> None:
    Path(f"{stage.path}-journal2").write_bytes(b"")
    stage.waker.rewatch()
    stage.waker.wait(0)


def _hints(stage: Stage) -> None:
    stage.hints.is_quiet()
    stage.hints.before(stage.legacy)
    stage.hints.take([SectionReader(stage.legacy.connection, stage.section)])
    stage.hints.reset(stage.legacy)


def _caught_journals(stage: Stage) -> None:
    """A journal is created and deleted under the catcher's eyes."""
    journal = Path(f"{stage.path}-journal")
    for _ in range(3):
        journal.write_bytes(b"")
        stage.hints.before(stage.legacy)
        journal.unlink()
        stage.hints.before(stage.legacy)


OPERATIONS: dict[str, Callable[[Stage], object]] = {
    "questions": _questions,
    "wakes": _wakes,
    "hints": _hints,
    "caught journals": _caught_journals,
    "initial load": Stage.load,
    "initial load that ends": lambda stage: stage.reads.close(),
    "shared descriptor": _shares_and_releases,
    "another engine": _another_engine,
    "another database": _another_database,
    "another connection": _another_connection,
    "another loader": _another_loader,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_the_snapshot_of_a_look_keeps_its_locks(stage: Stage, operation: Callable[[Stage], object]) -> None:
    """After each thing that the bridge does beside it."""
    with stage.legacy.snapshot():
        before = stage.locks()
        stage.guarded()
        operation(stage)
        operation(stage)
        assert stage.locks() == before
        stage.guarded()
    stage.free()


def _looks(stage: Stage) -> None:
    stage.look()
    stage.look()


def _attaches_anew(stage: Stage) -> None:
    stage.legacy.open()
    stage.hints.reset(stage.legacy)
    stage.look()


def _ends(stage: Stage) -> None:
    stage.legacy.close()
    stage.hints.close()


@pytest.mark.parametrize("operation", [_looks, _attaches_anew, _ends])
def test_the_snapshot_of_the_loader_keeps_its_locks(stage: Stage, operation: Callable[[Stage], object]) -> None:
    """It reads on in a thread of its own while the capture thread opens anew, or ends."""
    stage.legacy.before_open = lambda: None  # it would wait for the page
    with stage.reads._turn(stage.section):
        stage.guarded()
        operation(stage)
        stage.guarded()
    stage.legacy.close()
    stage.free()


def _put_aside(stage: Stage) -> Path:
    """The database is renamed with its side files, as the writer still has it open."""
    old = stage.path.with_name("old.db")
    for suffix in ("", "-shm", "-wal"):
        if Path(f"{stage.path}{suffix}").exists():
            Path(f"{stage.path}{suffix}").rename(f"{old}{suffix}")
    return old


def _copy(stage: Stage) -> Path:
    copy = stage.path.with_name("copy.db")
    stage.writer.run(("VACUUM INTO ?", [str(copy)]))
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(f"PRAGMA journal_mode={stage.mode}")
    return copy


def test_the_loader_keeps_its_locks_on_a_file_that_was_replaced(stage: Stage) -> None:
    """The writer may still have the old one open, and so does the loader until its page is read."""
    copy = _copy(stage)
    stage.legacy.before_open = lambda: None  # it would wait for the page
    with stage.reads._turn(stage.section):
        _put_aside(stage)
        copy.rename(stage.path)
        assert stage.legacy.is_replaced()
        _attaches_anew(stage)
        stage.guarded()
    stage.load()
    stage.free()


@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_backup_put_back_in_place_is_what_both_read(stage: Stage, is_noticed: bool) -> None:
    """The same inode, and the log beside it removed: SQLite gives both connections one `-shm`, the removed one."""
    copy = _copy(stage)
    stage.writer.sql(INSERT)
    assert len(stage.load()) == 3
    stage.writer.close()
    stage.path.write_bytes(copy.read_bytes())
    for suffix in ("-shm", "-wal"):
        Path(f"{stage.path}{suffix}").unlink(missing_ok=True)
    if is_noticed and stage.mode == "wal":
        with pytest.raises(DatabaseAway, match="put back in place"):
            stage.load()
    assert stage.legacy.is_replaced() == (stage.mode == "wal")
    stage.writer.open(stage.path)
    stage.writer.sql("SELECT count(*) FROM messages")  # it is waited for
    _attaches_anew(stage)
    for count in (3, 4):
        stage.writer.sql(INSERT)
        assert len(stage.load()) == count
        with stage.legacy.snapshot():
            assert stage.legacy.connection.execute("SELECT count(*) FROM messages").fetchone() == (count,)
            stage.guarded() if count == 4 else None
