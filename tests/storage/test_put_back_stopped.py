"""A backup put back while the bridge was stopped, in WAL mode: told by what AUTOINCREMENT has counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage import capture as capture_module
from storage.legacy import LegacyDatabase
from tests.storage.put_back_rig import COUNTED, NEXT, Stage, staged


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


def _restored(stage: Stage, *before: int, after: int) -> None:
    """Messages, a backup, one message more; the backup put back while the bridge is stopped."""
    stage.came(*before)
    backup = stage.backup()
    stage.came(after)
    stage.rig.stop()
    stage.remove_log()
    stage.overwrite(backup)
    stage.writer.open(stage.path)
    stage.rig.start()


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A database whose tables count with AUTOINCREMENT, noted at every look."""
    monkeypatch.setattr(capture_module, "SEQUENCES_EVERY", -1.0)
    with staged(tmp_path, COUNTED) as stage:
        yield stage


def test_a_sequence_that_went_back_begins_an_epoch(counted: Stage) -> None:
    """The header tells nothing, since the file has not grown; a number that AUTOINCREMENT gave is never given again."""
    _restored(counted, 1, after=2)
    assert counted.epochs == {"database_restored": 1}
    assert counted.came(3) == ["3"]
    counted.rig.stop()
    counted.rig.start()
    assert counted.epochs == {}


def test_without_a_sequence_the_rows_are_compared(stage: Stage) -> None:
    """Neither does the header tell; what is certain is only that nothing is lost and nothing comes twice."""
    _restored(stage, 1, after=2)
    assert stage.came(3) == ["3"]
    assert stage.epochs == {}


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM messages",),
        ("DELETE FROM messages", "DELETE FROM sqlite_sequence"),
        ("UPDATE messages SET id = 100", "DELETE FROM messages"),
        ("DROP TABLE messages", *(table for table in COUNTED.tables() if "TABLE messages" in table), NEXT),
        ("ALTER TABLE messages RENAME TO was", "ALTER TABLE was RENAME TO messages"),
        ("VACUUM",),
        (NEXT,),
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_writers_do_sets_no_sequence_back(counted: Stage, statements: tuple[str, ...], checkpoint: bool) -> None:
    """Not even a table made anew, which counts from the start, or rows that are numbered by hand."""
    counted.came(7)
    counted.rig.stop()
    counted.writer.sql(*statements)
    if checkpoint:
        counted.writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    for _ in range(2):
        counted.rig.start()
        counted.came()
        assert counted.epochs == {}
        counted.rig.stop()
    counted.rig.start()


def test_sequences_are_noted_now_and_then(counted: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a statement, so not at every look."""
    asked: list[Iterable[str]] = []
    sequences = counted.rig.legacy.sequences

    def counting(tables: Iterable[str]) -> dict[str, int]:
        asked.append(tables)
        return sequences(tables)

    monkeypatch.setattr(counted.rig.legacy, "sequences", counting)
    counted.came(1)
    assert asked
    monkeypatch.setattr(capture_module, "SEQUENCES_EVERY", 1000.0)
    counted.came(2)
    asked.clear()
    counted.came(3, 4)
    assert not asked


def test_only_mapped_tables_are_asked_for_their_sequences(tmp_path: Path) -> None:
    """A table of jobs that is emptied and counted anew every night tells nothing about messages."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        legacy = LegacyDatabase(path)
        sql.execute("PRAGMA journal_mode=WAL")
        legacy.open()
        assert legacy.sequences(["m"]) == {}
        for table in ("Messages", "jobs"):
            sql.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY AUTOINCREMENT)")
            sql.execute(f"INSERT INTO {table} VALUES (5)")
        assert legacy.sequences(["messages", "tasks"]) == {"messages": 5}
        sql.execute("UPDATE sqlite_sequence SET seq = 'nonsense'")
        assert legacy.sequences(["messages"]) == {}
        legacy.close()
