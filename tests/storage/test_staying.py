"""A journal that stays from commit to commit is copied before its end, and whoever was too late knows it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.catcher import Caught, JournalCatcher
from storage.hints import PageHints
from storage.journalfile import parse_journal
from storage.journalhints import JournalHints
from storage.staying import AT_ONCE, Copied, StayingJournal
from tests.storage.legacy_writer import writer_process
from tests.storage.test_worker import SCHEMA, Bench, running


class Commit:
    """What one real commit writes: the journal as it is just before its end, and the database before and after."""

    def __init__(self, folder: Path, pages: int = 1, sync: str = "FULL") -> None:
        path, journal = folder / "real.db", folder / "real.db-journal"
        with closing(sqlite3.connect(path, isolation_level=None)) as sql:
            sql.executescript(f"PRAGMA cache_size=10; PRAGMA synchronous={sync}; CREATE TABLE t(body); BEGIN")
            sql.executemany("INSERT INTO t VALUES (randomblob(3000))", [()] * pages)
            sql.execute("COMMIT")
            self.before = path.read_bytes()
            sql.execute("BEGIN IMMEDIATE")
            sql.execute("UPDATE t SET body = randomblob(3000)")
            descriptor = os.open(journal, os.O_RDONLY)
            sql.execute("COMMIT")
            self.journal = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.close(descriptor)
            self.after = path.read_bytes()

    @property
    def counter(self) -> int:
        return int.from_bytes(self.after[24:28], "big")

    def counted(self, more: int) -> bytes:
        """The database after so many more commits."""
        return self.after[:24] + (self.counter + more).to_bytes(4, "big") + self.after[28:]


class Played:
    """The two files, written step by step as SQLite does, and a catcher that runs beside."""

    def __init__(self, folder: Path, commit: Commit) -> None:
        self.commit = commit
        self.database, self.journal = folder / "legacy.db", folder / "legacy.db-journal"
        self.database.write_bytes(commit.before)
        self.journal.write_bytes(b"")
        self._descriptor = os.open(self.database, os.O_RDONLY)
        self.catcher = JournalCatcher(self.database)
        self.catcher.follow(self._descriptor)
        if not self.catcher.start():
            pytest.skip("this system has no inotify")

    def write(self, path: Path, content: bytes) -> None:
        """In place, by the same inode."""
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()

    def play(self) -> None:
        """The writer up to where it would end the journal."""
        self.write(self.journal, self.commit.journal)
        self.write(self.database, self.commit.after)

    def copied(self) -> Caught:
        """Wait until something was copied."""
        while not (caught := self.catcher.take()).copied:
            pass
        return caught

    def close(self) -> None:
        self.catcher.stop()
        os.close(self._descriptor)


@pytest.fixture(scope="module")
def commit(tmp_path_factory: pytest.TempPathFactory) -> Commit:
    return Commit(tmp_path_factory.mktemp("real"))


@pytest.fixture
def played(tmp_path: Path, commit: Commit) -> Iterator[Played]:
    made = Played(tmp_path, commit)
    yield made
    made.close()


def test_a_journal_is_copied_between_the_writes_to_the_database_and_its_own_end(played: Played) -> None:
    """It is whole by then, and the counter of the database is that of its commit."""
    played.play()
    caught = played.copied()
    assert caught == Caught(0, [], None, [Copied(played.commit.counter, played.commit.journal)])
    played.write(played.journal, b"")
    assert played.catcher.take() == Caught(0, [], None, [])


def test_a_transaction_that_is_rolled_back_is_neither_copied_nor_missed(played: Played) -> None:
    """Its journal comes and goes, and the database is not written to."""
    played.write(played.journal, played.commit.journal)
    played.write(played.journal, b"")
    played.play()
    caught = played.copied()
    assert (caught.missed, len(caught.copied)) == (0, 1)


def test_a_commit_that_never_was_does_not_stand_for_the_one_that_followed(played: Played) -> None:
    """The writer died before the end of its journal. After the rollback the next commit has the same counter again,
    and nobody looked in between: the copy of the first would say nothing of what the second changed."""
    played.play()
    assert played.copied().missed == 0
    with played.catcher._lock:  # so that its thread cannot be quicker
        played.write(played.database, played.commit.before)
        played.write(played.journal, b"")
        played.play()
        played.write(played.journal, b"")
    assert played.catcher.take().missed == 1


def test_writes_without_a_journal_are_a_miss(played: Played) -> None:
    """Somebody commits with `journal_mode=MEMORY` while the journal of others lies there."""
    played.play()
    played.copied()
    played.write(played.database, played.commit.counted(1))
    played.write(played.journal, played.commit.journal)
    played.write(played.database, played.commit.counted(2))
    while not played.catcher.take().missed:
        pass


def test_a_journal_that_is_deleted_or_made_anew_is_followed_no_more(played: Played) -> None:
    """Its descriptor is closed, and its number may be that of anything; the new one is followed from its first end."""
    played.journal.unlink()
    assert played.catcher.take().ended == [b""]
    assert played.catcher._staying is None
    played.catcher.release()
    played.journal.write_bytes(b"")
    assert played.catcher.take().missed == 0
    played.play()
    assert [copied.content for copied in played.copied().copied] == [played.commit.journal]


def test_a_pause_ends_it_and_a_start_begins_it_anew(played: Played) -> None:
    """What is committed in between is neither copied nor missed."""
    played.catcher.pause()
    played.play()
    played.write(played.journal, b"")
    played.write(played.database, played.commit.before)
    assert played.catcher.take() == Caught(0, [], None, [])
    played.catcher.start()
    played.play()
    assert [copied.content for copied in played.copied().copied] == [played.commit.journal]


def test_of_several_commits_at_once_the_last_may_be_copied(tmp_path: Path, commit: Commit) -> None:
    """The others are missing from what was caught, which is a gap of its own kind."""
    database, journal = tmp_path / "db", tmp_path / "journal"
    database.write_bytes(commit.before[:24] + (commit.counter - 2).to_bytes(4, "big"))
    journal.write_bytes(b"")
    with database.open("r+b", 0) as one, journal.open("r+b", 0) as other:
        staying = StayingJournal(one.fileno(), other.fileno())
        one.write(commit.after)
        other.write(commit.journal)
        for _ in range(2):
            staying.journal_written()
            staying.database_written()
            staying.database_written()
        staying.look()
        assert (staying.missed, staying.copies) == (0, [Copied(commit.counter, commit.journal)])
        staying.look()
        assert len(staying.copies) == 1


def test_of_a_long_journal_only_the_present_transaction_is_read(tmp_path: Path) -> None:
    """A file that stays is as long as its longest transaction was; all segments of the present one are read."""
    commit = Commit(tmp_path, pages=200)
    database, journal = tmp_path / "db", tmp_path / "journal"
    database.write_bytes(commit.before)
    old = b"\0" * 512 + b"old" * AT_ONCE
    journal.write_bytes(commit.journal + old)
    assert len(commit.journal) > AT_ONCE
    with database.open("r+b", 0) as one, journal.open("rb", 0) as other:
        staying = StayingJournal(one.fileno(), other.fileno())
        one.write(commit.after)
        staying.database_written()
        staying.look()
        (copied,) = staying.copies
    whole, read = parse_journal(commit.journal), parse_journal(copied.content)
    assert whole is not None
    assert read == whole
    assert whole.complete
    assert len(copied.content) < len(commit.journal) + len(old)


def test_a_journal_of_the_next_commit_is_not_taken_for_whole(tmp_path: Path) -> None:
    """With synchronous=OFF a journal says "up to the end" from the start, also one that is not at its end."""
    commit = Commit(tmp_path, sync="OFF")
    hints = JournalHints(tmp_path / "real.db")
    try:
        journal = parse_journal(commit.journal)
        assert journal is not None
        assert journal.complete
        hints._file(journal, commit.journal, commit.counter - 1)
        assert not hints._saved
        hints._file(journal, commit.journal, commit.counter)
        assert list(hints._saved) == [commit.counter - 1]
    finally:
        hints.close()


@pytest.mark.parametrize("mode", ["truncate", "persist"])
def test_commits_with_a_journal_that_stays_are_seen_by_their_pages(tmp_path: Path, mode: str) -> None:
    """A real writer, waited for after each commit: some copies may come too late, but surely not all."""
    path = tmp_path / "legacy.db"
    expected = [f"m{number}" for number in range(40)]
    with writer_process() as writer:
        writer.open(path)
        writer.sql("PRAGMA busy_timeout=20000", *SCHEMA.replace("WAL", mode).strip().split(";")[:-1])
        with running(Bench(path, poll=60.0, hints=PageHints(path))) as bench:
            bench.until_phase("live")
            for number, name in enumerate(expected, 1):
                writer.run(("INSERT INTO messages VALUES (?, 'c', 'user', 'hi')", (name,)))
                bench.until_pushed(*expected[:number])
            assert sum(bench.capture.fallback_reasons.values()) < len(expected)
