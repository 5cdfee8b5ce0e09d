"""What is read without a lock is all of one commit, or it does not count."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from storage.legacy import LegacyDatabase, connect
from storage.still import OLD, OLD_IN_SECONDS, SECOND, Stamp, StillDatabase
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import Refused, Writer, writer_process
from tests.storage.oracle import Schema

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: locks are asked for there")

ROWS = 300
TABLE = (
    "PRAGMA page_size=1024",
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, stamp INTEGER, body TEXT)",
    f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
    "INSERT INTO messages SELECT i, 0, printf('%.*c', 300, 'x') FROM n",
)
STAMPS = "SELECT min(stamp), max(stamp), count(*) FROM messages"
"""Each transaction gives all rows one stamp, so two stamps are of no commit."""
BUSY_WRITER = """
import sqlite3, sys
path, mode = sys.argv[1:]
sql = sqlite3.connect(path, isolation_level=None, timeout=20)
sql.execute("PRAGMA journal_mode=" + mode)
sql.execute("PRAGMA synchronous=OFF")
sql.execute("PRAGMA cache_size=10")  # most pages are written long before the commit
for line in sys.stdin:
    sql.execute(line)
print(sql.execute("SELECT max(stamp) FROM messages").fetchone()[0])
"""
HALF_WAY = """
import sqlite3, sys
sql = sqlite3.connect(sys.argv[1], isolation_level=None)
sql.execute("PRAGMA journal_mode=" + sys.argv[2])
sql.execute("PRAGMA cache_size=10")
sql.execute("BEGIN IMMEDIATE")
sql.execute("UPDATE messages SET stamp = stamp + 1")
print("ready", flush=True)
sys.stdin.readline()
"""


def stamps(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """The least, the greatest, and how many."""
    low, high, count = connection.execute(STAMPS).fetchone()
    return low, high, count


class Stage:
    """A database, its writer, and both ways to read it."""

    def __init__(self, path: Path, writer: Writer) -> None:
        self.path, self.writer = path, writer
        self.legacy = LegacyDatabase(path)
        self.legacy.open()
        self.still = StillDatabase(self.legacy)

    def rest(self) -> None:
        """Wait until the last write is old enough. Nothing announces that."""
        deadline = time.monotonic() + 20
        while not self.still.is_resting():
            assert time.monotonic() < deadline, "it never came to rest"

    def commit(self, stamp: int) -> None:
        """One commit over all rows."""
        self.writer.sql(f"UPDATE messages SET stamp = {stamp}")

    def grow_old(self) -> None:
        """As `rest`, where somebody is in the middle of something."""
        status, deadline = os.stat(self.path), time.monotonic() + 20
        stamp = Stamp((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        while not self.still._is_old(stamp):
            assert time.monotonic() < deadline


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    path = tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        writer.sql(*TABLE)
        stage = Stage(path, writer)
        yield stage
        stage.legacy.close()


@contextmanager
def half_way(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A writer in the middle of a transaction, much of which is in the file already."""
    command = [sys.executable, "-c", HALF_WAY, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


class Tally:
    """Reads without a lock, and what came of them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.counted = self.refused = self._last = 0

    def read(self, times: int) -> None:
        """So many; each that counts is of one commit, and of none before that of the last."""
        for _ in range(times):
            if (found := self._stage.still.read(stamps)) is None:
                self.refused += 1
                continue
            low, high, count = found
            assert (low, count) == (high, ROWS)
            assert low >= self._last
            self._last = low
            self.counted += 1


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "memory", "off"])
def test_what_counts_is_of_one_commit(stage: Stage, mode: str) -> None:
    """While another process writes, rests in the middle of transactions, and takes some of them back.

    It is told what to do and not waited for, so that it does it at any moment of a read.
    """
    dice, tally = random.Random(mode), Tally(stage)
    command = [sys.executable, "-c", BUSY_WRITER, str(stage.path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for stamp in range(1, 61):
            writer.stdin.write(f"BEGIN IMMEDIATE\nUPDATE messages SET stamp = {stamp}\n")
            writer.stdin.flush()
            tally.read(dice.choice((0, 20, 2000)))  # the last is longer than a file has to have rested
            writer.stdin.write("COMMIT\n" if mode == "off" or dice.random() < 0.8 else "ROLLBACK\n")
            writer.stdin.flush()
            if dice.random() < 0.5:
                stage.rest()
            tally.read(dice.choice((0, 20, 100)))
        writer.stdin.close()
        final = int(writer.stdout.read())
    stage.rest()
    assert stage.still.read(stamps) == (final, final, ROWS)
    assert tally.counted
    assert tally.refused


def test_a_commit_in_the_middle_of_it_makes_it_void(stage: Stage) -> None:
    """And what is read after that is the new state, though pages of the old one had been kept."""
    stage.commit(1)
    stage.rest()
    assert stage.still.read(stamps) == (1, 1, ROWS)

    def interrupted(connection: sqlite3.Connection) -> tuple[int, int, int]:
        stage.commit(2)
        return stamps(connection)

    assert stage.still.read(interrupted) is None
    for stamp in (2, 3, 4):
        stage.commit(stamp)
        stage.rest()
        assert stage.still.read(stamps) == (stamp, stamp, ROWS)


def test_it_takes_a_lock_from_nobody_and_keeps_nobody_from_one(stage: Stage) -> None:
    """A commit goes through in the middle of it, which a snapshot forbids, also while there is one beside it."""
    stage.writer.sql("PRAGMA cache_size=10")
    stage.rest()
    with stage.legacy.snapshot():
        for _ in range(3):
            assert stage.still.read(stamps) == (0, 0, ROWS)
            stage.still.close()
            with pytest.raises(Refused, match="locked"):
                stage.commit(1)
            stage.rest()
    assert stage.still.read(lambda _: len(stage.writer.sql("UPDATE messages SET stamp = 2"))) is None
    stage.rest()
    assert stage.still.read(stamps) == (2, 2, ROWS)


@pytest.mark.parametrize("mode", ["delete", "memory"])
def test_a_transaction_that_rests_half_way_is_not_read(stage: Stage, mode: str) -> None:
    """Without a journal in sight only its lock tells; nothing of it is left when it is taken back."""
    with half_way(stage.path, mode):
        stage.grow_old()
        with closing(connect(stage.path, is_immutable=True)) as connection:
            assert stamps(connection)[:2] == (0, 1), "nothing was written yet"
        assert not stage.still.is_resting()
        assert stage.still.read(stamps) is None


def test_what_a_crashed_writer_left_half_done_is_not_read(stage: Stage) -> None:
    """Its lock is gone and its journal is there."""
    with half_way(stage.path, "delete") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        stage.grow_old()
        assert stage.still.read(stamps) is None
        stage.writer.sql("SELECT count(*) FROM messages")  # which rolls it back
    stage.rest()
    assert stage.still.read(stamps) == (0, 0, ROWS)


def test_the_times_of_a_file_count_when_they_have_been_seen_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes of one tick look alike, and where no parts of a second are kept two of one second do."""
    now = [1000.0]
    monkeypatch.setattr("storage.still.time.monotonic", lambda: now[0])
    for changed, age in ((SECOND + 1, OLD), (2 * SECOND, OLD_IN_SECONDS), (3 * SECOND - 1, OLD)):
        stamp = Stamp((0, 0), 1024, SECOND, changed)
        for after, is_old in ((0, False), (age * 0.9, False), (age * 0.11, True), (60, True)):
            now[0] += after
            assert stage.still._is_old(stamp) is is_old


def test_another_file_or_another_mode_is_not_read(stage: Stage, tmp_path: Path) -> None:
    """The file that is open counts; and in WAL mode what is committed is not in it."""
    stage.rest()
    moved = stage.path.rename(tmp_path / "moved.db")
    assert stage.still.read(stamps) is None
    moved.rename(stage.path)
    stage.rest()
    stage.writer.sql("PRAGMA journal_mode=WAL")
    stage.grow_old()
    assert stage.still.read(stamps) is None


def test_what_sqlite_objects_to_does_not_count(stage: Stage) -> None:
    """A snapshot tells whether there is reason to."""
    stage.rest()
    assert stage.still.read(lambda connection: connection.execute("SELECT nothing")) is None
    stage.legacy.close()
    assert stage.still.read(stamps) is None


@pytest.mark.parametrize("rests", [True, False])
def test_a_pass_needs_no_lock_while_the_writer_rests(tmp_path: Path, rests: bool) -> None:
    """So a writer with no busy timeout can commit at any time; without rest it is read with locks."""
    schema, path = Schema(), tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        insert = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', 'x', 'w')"
        writer.sql(*schema.tables(), *[insert] * 20)
        rig = Rig(path, schema.sections(), ENGINES["scan"])
        rig.takes_rest_for_granted, rig.chunk_rows = rests, 3
        rig.start()
        try:
            if not rests:
                rig.capture._passes._still._is_old = lambda stamp: stamp.size < 0  # type: ignore[method-assign]
            rig.settle()
            writer.sql(insert)
            rig.capture.look(thorough=False)
            locked = []
            while rig.capture.is_behind and not rig.capture.is_passing:
                rig.capture.step()
            while rig.capture.step():
                locked.append(rig.capture.has_locked)
            assert len(locked) > 5
            assert locked.count(True) == (len(rig.capture.watched) if rests else len(locked)), "but for its end"
            assert len(rig.events()) == 1
        finally:
            rig.stop()
