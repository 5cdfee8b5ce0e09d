"""A disk without room for a byte when the state file is opened: what can be read is enough to begin with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from storage import state
from storage.errors import StateUnusable
from storage.state import StateFile
from tests.faults.rig import fill, grow, linux, small_disk
from tests.storage.state_rig import SECTION, kill, log, opened

pytestmark = linux


@contextmanager
def full(folder: Path, *, is_killed: bool) -> Iterator[tuple[Path, str, int]]:
    """(path, epoch, head) of a state file that was left when its disk was full, and whose log has no room to spare."""
    with small_disk(folder, 1000) as disk:
        path = disk / "state"
        with opened(path) as file:
            with suppress(sqlite3.OperationalError):
                for loc in count(1):
                    log(file, loc, loc, "A")
            # What is left of a transaction that failed has room for a smaller one.
            with suppress(sqlite3.OperationalError):
                while True:
                    file._sql.execute("INSERT OR REPLACE INTO meta VALUES ('spare', random())")
            left = path, file.epoch, file.head
            if is_killed:
                kill(file)
        fill(disk)
        yield left


@pytest.mark.parametrize("is_killed", [False, True])
def test_it_opens_and_is_written_when_there_is_room(tmp_path: Path, *, is_killed: bool) -> None:
    """Epoch and numbers go on; until then each try fails, and takes nothing with it."""
    with full(tmp_path / "disk", is_killed=is_killed) as (path, epoch, head), opened(path) as file:
        assert (file.epoch, file.head) == (epoch, head)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                file.adopt([SECTION], "database")
            assert (file.epoch, file.head) == (epoch, head)
        grow(path.parent, 64_000)
        file.adopt([SECTION], "database")
        log(file, head + 1, head + 1, "A")
        assert (file.epoch, file.head) == (epoch, head + 1)


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_the_run_before_it_left_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """The machine stopped without a clean close, or not: a run that could write nothing changes neither."""
    with full(tmp_path / "disk", is_killed=is_killed) as (path, epoch, head):
        for boot in ("another boot", "a third boot"):
            monkeypatch.setattr(state, "boot_id", lambda boot=boot: boot)
            with opened(path) as file:
                assert (file.epoch, file.head) == (epoch, head)
                if boot == "a third boot":
                    grow(path.parent, 64_000)  # too late for this run, but it could write when it is closed
        with opened(path) as file:
            # The disk was full when the log was closed, so nobody ever wrote that it ended well.
            assert file.epoch != epoch
            assert (file.head, file.pruned) == (head, head)


def test_a_machine_that_stopped_is_told_of_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything is logged, since its numbers may have been given before."""
    with full(tmp_path / "disk", is_killed=True) as (path, epoch, head):
        monkeypatch.setattr(state, "boot_id", lambda: "another boot")
        with opened(path) as file:
            for _ in range(2):
                with pytest.raises(sqlite3.OperationalError, match="full"):
                    file.adopt([SECTION], "database")
            grow(path.parent, 64_000)
            file.adopt([SECTION], "database")
            assert file.epoch != epoch
            assert (file.head, file.pruned) == (head, head)
            assert file.epochs_begun == {"unclean_stop": 1}
        assert caplog.text.count("a new epoch begins") == 1


def test_a_new_one_needs_room(tmp_path: Path) -> None:
    """There is nothing to go on from, so this is said at once."""
    with small_disk(tmp_path / "disk", 1000) as disk:
        fill(disk)
        file = StateFile(disk / "state", keep_events=1, keep_seconds=1)
        with pytest.raises(StateUnusable, match="cannot be used") as refused:
            file.open()
        assert refused.value.hint == "give another --state in a writable folder"


def test_one_that_was_never_written_to_is_no_other(tmp_path: Path) -> None:
    """A file with tables, but without an epoch: its maker was killed in between. There is nothing to go on from."""
    with small_disk(tmp_path / "disk", 1000) as disk:
        path = disk / "state"
        with opened(path):
            pass
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM meta")
            fill(disk)
            file = StateFile(path, keep_events=1, keep_seconds=1)
            with pytest.raises(StateUnusable, match="cannot be used"):
                file.open()
