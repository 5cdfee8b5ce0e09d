"""When to look: events of the three files, a call from any thread, and nothing else."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.wake import Waker

LONG = 20.0
"""Never waited out, unless the test fails."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db"


@pytest.fixture
def waker(path: Path) -> Iterator[Waker]:
    path.touch()
    waker = Waker(path)
    yield waker
    waker.close()


def settle(waker: Waker) -> None:
    while waker.wait(0):
        pass


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@linux
@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_write_to_each_of_the_three_files_wakes(waker: Waker, path: Path, suffix: str) -> None:
    """Also to one that came into being after the watching began."""
    file = path.with_name(path.name + suffix)
    if suffix:
        file.touch()
        assert waker.wait(LONG)
    settle(waker)
    append(file)
    assert waker.wait(LONG)


@linux
@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_files_that_come_and_go_wake(waker: Waker, path: Path, suffix: str) -> None:
    """A writer that opens and closes for every write; the file that comes is watched at once."""
    file = path.with_name(path.name + suffix)
    if suffix:
        file.touch()
    settle(waker)
    file.unlink()
    assert waker.wait(LONG)
    settle(waker)
    file.touch()
    assert waker.wait(LONG)
    settle(waker)
    append(file)
    assert waker.wait(LONG)


@linux
@pytest.mark.parametrize(
    "name", ["legacy.db.walcast", "legacy.db.walcast-wal", "legacy.db-shm", "legacy.db2", "xlegacy.db", "other"]
)
def test_other_files_of_the_folder_do_not_wake(waker: Waker, path: Path, name: str) -> None:
    """Our own state file above all: it would wake us for ever. The mark that follows is what wakes."""
    other = path.with_name(name)
    settle(waker)
    append(other)
    append(other)
    other.unlink()
    assert not waker.wait(0)
    append(path)
    assert waker.wait(LONG)


@linux
def test_a_file_that_takes_the_place_is_watched(waker: Waker, path: Path) -> None:
    """The old one's watch goes with it."""
    new = path.with_name("new")
    new.touch()
    settle(waker)
    new.replace(path)
    assert waker.wait(LONG)
    settle(waker)
    append(path)
    assert waker.wait(LONG)


@linux
@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_a_commit_of_sqlite_wakes(waker: Waker, path: Path, mode: str) -> None:
    """The real thing, in each mode."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode={mode}")
        writer.execute("CREATE TABLE m(x)")
        settle(waker)
        writer.execute("INSERT INTO m VALUES (1)")
        assert waker.wait(LONG)


@linux
def test_a_database_that_is_not_there_yet_wakes_when_it_comes(path: Path) -> None:
    """Its folder is enough."""
    waker = Waker(path)
    try:
        assert waker.has_file_events
        path.touch()
        assert waker.wait(LONG)
    finally:
        waker.close()


def test_without_a_folder_there_are_no_events_until_it_comes(tmp_path: Path) -> None:
    """Then the caller polls; `rewatch` finds it later."""
    path = tmp_path / "later" / "legacy.db"
    waker = Waker(path)
    try:
        assert not waker.has_file_events
        path.parent.mkdir()
        waker.rewatch()
        assert waker.has_file_events == (sys.platform == "linux")
    finally:
        waker.close()


def test_a_call_from_another_thread_wakes(path: Path) -> None:
    """With and without file events, once per wait however often it was called."""
    for use_inotify in (True, False):
        waker = Waker(path, use_inotify=use_inotify)
        thread = threading.Thread(target=lambda waker=waker: [waker.wake() for _ in range(3)])
        thread.start()
        assert waker.wait(LONG)
        thread.join()
        settle(waker)
        assert not waker.wait(0)
        waker.close()


def test_a_pipe_that_is_full_does_not_block(path: Path) -> None:
    """Whoever wakes must never wait."""
    waker = Waker(path, use_inotify=False)
    for _ in range(70_000):
        waker.wake()
    assert waker.wait(0)
    waker.close()


def test_switched_off_files_do_not_wake_and_the_timeout_holds(path: Path) -> None:
    """Only time does: the caller polls."""
    path.touch()
    waker = Waker(path, use_inotify=False)
    assert not waker.has_file_events
    append(path)
    started = time.monotonic()
    assert not waker.wait(0.02)
    assert time.monotonic() - started >= 0.015
    waker.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@linux
def test_no_descriptor_is_left_behind(path: Path) -> None:
    """Not by closing, not by closing twice, not by watching anew; and a closed one may still be woken."""
    before = descriptors()
    for _ in range(20):
        waker = Waker(path)
        opened = descriptors()
        for _ in range(20):
            path.unlink(missing_ok=True)
            path.touch()
            waker.rewatch()
            waker.wait(0)
        assert descriptors() == opened
        waker.close()
        waker.close()
        waker.wake()
    assert descriptors() == before
