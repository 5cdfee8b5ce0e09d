"""A backup put back in place of the same file, in WAL mode: noticed for certain, and never taken for it what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage import legacy as legacy_module
from storage.errors import DatabaseAway
from storage.legacy import BeingPutBack, Busy, connect
from storage.load import Reads
from storage.loadsql import Sought
from tests.storage.capture_rig import DiskFull
from tests.storage.legacy_writer import Refused, writer_process
from tests.storage.put_back_rig import INSERT, SCHEMA, Stage, staged


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


# -- under the running bridge


def test_it_begins_an_epoch_though_nothing_has_grown(stage: Stage) -> None:
    """That the `-shm` was removed is what tells. It is read when the writer has opened it, and not before."""
    assert stage.came(1) == ["1"]
    backup = stage.backup()
    assert stage.came(2, 3) == ["2", "3"]
    epoch = stage.rig.state.epoch
    stage.remove_log()
    for content in (None, b"", backup[:4096], backup):
        if content is not None:
            stage.overwrite(content)
        for _ in range(2):
            with pytest.raises(BeingPutBack, match="a backup is being put back"):
                stage.rig.turn()
        assert not stage.side_file("-shm").exists(), "made by us, and what comes then would not be noticed"
    stage.writer.open(stage.path)
    assert stage.came(2, 4) == ["4"]
    assert stage.epochs == {"database_restored": 1}
    assert stage.rig.state.epoch != epoch
    stage.rig.stop()
    stage.rig.start()
    assert stage.came(5) == ["5"]
    assert stage.epochs == {}


def test_a_backup_in_rollback_mode_is_read_when_it_is_whole(stage: Stage, tmp_path: Path) -> None:
    """`VACUUM INTO` makes such ones. Their writer makes no `-shm`, but their header says how long they are."""
    stage.came(1)
    copy = tmp_path / "copy"
    stage.writer.run(("VACUUM INTO ?", [str(copy)]))
    stage.came(2)
    stage.remove_log()
    stage.overwrite(copy.read_bytes()[:-1])
    with pytest.raises(BeingPutBack):
        stage.rig.turn()
    stage.overwrite(copy.read_bytes())
    stage.rig.settle()
    assert stage.epochs == {"database_restored": 1}
    stage.writer.open(stage.path)
    assert stage.came(3) == ["3"]


@pytest.mark.parametrize("is_empty", [True, False])
def test_the_writer_that_waits_for_nobody_is_not_kept_out(stage: Stage, tmp_path: Path, is_empty: bool) -> None:
    """To go to WAL mode it needs the file for itself: a lock of ours would wait for the writer, and it for the lock."""
    stage.came(1)
    copy = tmp_path / "copy"
    stage.writer.run(("VACUUM INTO ?", [str(copy)]))
    stage.remove_log()
    stage.overwrite(b"")
    with pytest.raises(BeingPutBack):
        stage.rig.turn()
    if not is_empty:
        stage.overwrite(copy.read_bytes())
    stage.writer.open(stage.path)
    stage.writer.sql("PRAGMA journal_mode=WAL", *(SCHEMA.tables() if is_empty else ()))
    assert stage.came(2) == ["2"]
    assert stage.epochs == {"database_restored": 1}


def test_the_initial_load_does_not_open_it_either(stage: Stage) -> None:
    """Its connection too would make a `-shm` that is taken for the writer's."""
    section = SCHEMA.sections()[0]
    reads = Reads(stage.path)
    reads.is_barred = lambda: stage.rig.legacy.is_being_put_back
    stage.rig.legacy.before_open = reads.forget
    stage.came(1)
    backup = stage.backup()
    stage.came(2)
    for is_connected in (True, False):
        if is_connected:
            assert len(reads.page(section, Sought("owner", "W"), None, 9, lambda _, row: row).items) == 2
            stage.remove_log()
        with pytest.raises(BeingPutBack):
            stage.rig.turn()
        with pytest.raises(DatabaseAway, match="is being put back"):
            reads.page(section, Sought("owner", "W"), None, 9, lambda _, row: row)
        assert not stage.side_file("-shm").exists()
    stage.overwrite(backup)
    stage.writer.open(stage.path)
    assert stage.came(3) == ["3"]
    assert len(reads.page(section, Sought("owner", "W"), None, 9, lambda _, row: row).items) == 2
    reads.close()


def test_it_is_read_without_a_writer_when_nobody_has_touched_it_for_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that opens its database only when it is asked something must not leave us waiting for ever."""
    stage.came(1)
    backup = stage.backup()
    stage.came(2)
    stage.remove_log()
    with pytest.raises(BeingPutBack):
        stage.rig.turn()
    stage.overwrite(backup)
    monkeypatch.setattr(legacy_module, "REST", 0.0)
    assert stage.came() == []
    assert stage.epochs == {"database_restored": 1}


def test_another_file_put_there_meanwhile_is_a_replaced_one(stage: Stage, tmp_path: Path) -> None:
    """The log removed, then `mv`: one epoch, and its right name."""
    stage.came(1)
    copy = tmp_path / "copy"
    stage.writer.run(("VACUUM INTO ?", [str(copy)]))
    stage.remove_log()
    with pytest.raises(BeingPutBack):
        stage.rig.turn()
    copy.replace(stage.path)
    stage.writer.open(stage.path)
    assert stage.came(2) == ["2"]
    assert stage.epochs == {"database_replaced": 1}


def _no_snapshot(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise Busy("the database is locked")

    patch.setattr(stage.rig.legacy, "snapshot", refused)


def _no_disk(stage: Stage, patch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFull("database or disk is full")

    patch.setattr(stage.rig.state, "_new_epoch", full)


def _closed(stage: Stage, _: pytest.MonkeyPatch) -> None:
    stage.rig.legacy.close()  # as the worker does when a look fails


@pytest.mark.parametrize("fail", [_no_snapshot, _no_disk, _closed])
def test_a_failure_on_the_way_does_not_make_it_forgotten(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fail: Callable[[Stage, pytest.MonkeyPatch], None]
) -> None:
    """What was seen of it is gone with the old connection; so it is kept until the epoch is in the state file."""
    stage.came(1)
    backup = stage.backup()
    stage.came(2)
    stage.remove_log()
    stage.overwrite(backup)
    with monkeypatch.context() as patch:
        fail(stage, patch)
        stage.writer.open(stage.path)
        stage.writer.sql(INSERT.format(3))
        if fail is not _closed:
            with pytest.raises((Busy, DiskFull)):
                stage.rig.turn()
            assert stage.epochs == {}
    assert stage.came() == ["3"]
    assert stage.epochs == {"database_restored": 1}


# -- what is everyday


def _closes(stage: Stage) -> None:
    stage.writer.close()


def _dies(stage: Stage) -> None:
    with writer_process() as other:
        other.open(stage.path)
        other.sql("BEGIN", INSERT.format(90))
    with writer_process() as other:
        other.open(stage.path)
        other.sql(INSERT.format(91))


def _switches(stage: Stage) -> None:
    with pytest.raises(Refused, match="locked"):
        stage.writer.sql("PRAGMA journal_mode=DELETE")


def _wants_it_alone(stage: Stage) -> None:
    with pytest.raises(Refused, match="locked"):
        stage.writer.sql("PRAGMA locking_mode=EXCLUSIVE", INSERT.format(92))


def _tidies_up(stage: Stage) -> None:
    stage.writer.sql("PRAGMA wal_checkpoint(TRUNCATE)", "DELETE FROM messages", "VACUUM")


def _reads_beside_it(stage: Stage) -> None:
    with closing(connect(stage.path, any_thread=True)) as second:
        second.execute("SELECT * FROM messages").fetchall()


@pytest.mark.parametrize("act", [_closes, _dies, _switches, _wants_it_alone, _tidies_up, _reads_beside_it])
def test_no_program_takes_the_shm_from_an_open_reader(stage: Stage, act: Callable[[Stage], None]) -> None:
    """It is what all this rests on: SQLite lets nobody do so while a reader in WAL mode has the database open."""
    stage.came(1)
    before = stage.side_file("-shm").stat()
    act(stage)
    stage.writer.close()
    assert stage.side_file("-shm").stat().st_ino == before.st_ino
    stage.writer.open(stage.path)
    stage.came(2)
    assert not stage.rig.legacy.is_put_back
    assert stage.epochs == {}


def test_while_it_is_not_open_or_not_in_wal_mode_the_shm_may_come_and_go(stage: Stage) -> None:
    """We close it whenever something is wrong, and a writer that is alone then removes it; in rollback mode anyway."""
    epoch = stage.rig.state.epoch
    for mode in ("WAL", "DELETE", "DELETE"):
        stage.rig.legacy.close()
        stage.writer.sql(f"PRAGMA journal_mode={mode}")
        stage.writer.close()
        assert not stage.side_file("-shm").exists()
        stage.writer.open(stage.path)
        stage.came()
    for left_over in (False, True):
        if left_over:
            stage.side_file("-shm").write_bytes(b"")
            assert stage.came(20) == ["20"]
        stage.writer.sql("PRAGMA journal_mode=WAL", INSERT.format(10 + left_over))
        stage.writer.close()  # of a log that we have not seen
        assert not stage.side_file("-shm").exists()
        stage.writer.open(stage.path)
        assert stage.came() == [str(10 + left_over)]
        stage.rig.legacy.close()
        stage.writer.sql("PRAGMA journal_mode=DELETE")
        stage.came()
    assert stage.rig.state.epoch == epoch


def test_files_that_are_moved_away_and_back_are_the_same(stage: Stage, tmp_path: Path) -> None:
    """Whichever comes back first: a database that has no `-shm` yet is not read, so none is made that is in the way."""
    (tmp_path / "away").mkdir()
    stage.came(1)
    files = [stage.side_file(suffix) for suffix in ("-shm", "-wal", "")]
    for file in files:
        file.rename(tmp_path / "away" / file.name)
    stage.writer.sql(INSERT.format(2))
    for file in reversed(files):
        (tmp_path / "away" / file.name).rename(file)
        if file.name != files[0].name:
            with pytest.raises(BeingPutBack):
                stage.rig.turn()
    assert stage.came(3) == ["2", "3"]
    assert stage.epochs == {}
