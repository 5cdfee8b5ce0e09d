"""The capture thread: it waits, tries again, says what is wrong, and goes on by itself when the cause is gone."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bridge.decide import decide
from bridge.mapping import REFERENCE, parse_mapping
from storage import worker as worker_module
from storage.capture import Capture
from storage.errors import DatabaseAway, DatabaseUnusable, MappingMisfit
from storage.hints import Hints, NoHints
from storage.legacy import Busy, LegacyDatabase
from storage.state import StateFile
from storage.status import Pace
from storage.survey import last_run
from storage.types import Event
from storage.wake import Waker
from storage.worker import CaptureWorker

SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE conversations(id TEXT PRIMARY KEY, wallet_address TEXT, title TEXT);
CREATE TABLE messages(id TEXT PRIMARY KEY, conversation_id TEXT, role TEXT, body TEXT);
CREATE TABLE tasks(
    id TEXT PRIMARY KEY, conversation_id TEXT, session_id TEXT, status TEXT, history TEXT, artifacts TEXT, owner TEXT);
INSERT INTO conversations VALUES ('c', 'W', 'title');
"""


class Bench:
    """A worker over a database, what it published, and whether it closed its files."""

    def __init__(
        self, path: Path, *, wait: bool = False, inotify: bool = True, poll: float = 0.02, hints: Hints | None = None
    ) -> None:
        self.legacy = LegacyDatabase(path)
        self.state = StateFile(path.with_name("state"), keep_events=1000, keep_seconds=3600)
        self.state.open()
        self.waker = Waker(path, use_inotify=inotify)
        self.subjects: list[str] = []
        self.closed = False
        sections = parse_mapping(REFERENCE).sections
        self._hints = hints or NoHints()
        self.capture = Capture(self.legacy, self.state, sections, decide, self._publish, self._hints)
        self.worker = CaptureWorker(self.capture, self.legacy, self.waker, Pace(poll), wait=wait, close=self._close)

    def _publish(self, epoch: str, events: list[Event]) -> None:
        self.subjects += [event.subject for event in events]

    def _close(self) -> None:
        assert threading.current_thread().name == "walcast-capture"
        self.legacy.close()
        self._hints.close()
        self.state.close()
        self.waker.close()
        self.closed = True

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not is_so():
            status = self.worker.status
            assert time.monotonic() < deadline, f"{status.phase}: {status.reason}; {self.subjects}"
            time.sleep(0.001)

    def until_phase(self, phase: str) -> str:
        self.until(lambda: self.worker.status.phase == phase)
        return self.worker.status.reason

    def until_pushed(self, *subjects: str) -> None:
        self.until(lambda: self.subjects == list(subjects))


@contextmanager
def running(bench: Bench) -> Iterator[Bench]:
    bench.worker.start()
    try:
        yield bench
    finally:
        bench.worker.stop()
        assert bench.closed
        assert not bench.worker.is_alive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        connection.executescript(SCHEMA)
        yield connection


def say(writer: sqlite3.Connection, name: str) -> None:
    writer.execute("INSERT INTO messages VALUES (?, 'c', 'user', 'hi')", (name,))


@pytest.mark.parametrize(("inotify", "poll"), [(True, 20.0), (False, 0.02)], ids=["events", "polling"])
def test_each_of_the_two_ways_to_wake_is_enough_by_itself(
    path: Path, writer: sqlite3.Connection, inotify: bool, poll: float
) -> None:
    """With the other switched off every commit is pushed."""
    if inotify and not Path("/proc/sys/fs/inotify").exists():
        pytest.skip("this system has no inotify")
    with running(Bench(path, inotify=inotify, poll=poll)) as bench:
        assert bench.worker.settled(20)
        for number in range(20):
            say(writer, f"m{number}")
            bench.until_pushed(*[f"m{n}" for n in range(number + 1)])
    assert (bench.worker.status.phase, bench.worker.status.error) == ("stopped", None)


def test_the_state_file_tells_how_changes_were_found(path: Path, writer: sqlite3.Connection) -> None:
    """With what was recorded and at the end, for `inspect`."""
    with running(Bench(path)) as bench:
        assert bench.worker.settled(20)
        say(writer, "m")
        bench.until_pushed("m")
    run = last_run(path.with_name("state"))
    assert run is not None
    assert (run.engine, list(run.fallbacks)) == ("scan", ["no_engine"])


def test_what_is_there_at_the_first_attach_is_no_event(path: Path, writer: sqlite3.Connection) -> None:
    """It is live when the baseline is taken, and then pushes what is new."""
    say(writer, "old")
    with running(Bench(path)) as bench:
        assert bench.worker.settled(20)
        assert bench.worker.status.phase == "live"
        say(writer, "new")
        bench.until_pushed("new")


def test_a_missing_database_is_given_up_at_the_start(path: Path) -> None:
    """`settled` tells at once, with the reason; the thread ends and lets go of its files."""
    with running(Bench(path)) as bench:
        assert bench.worker.settled(20)
        assert isinstance(bench.worker.status.error, DatabaseAway)
        bench.until_phase("failed")
        bench.until(lambda: bench.closed)


def test_a_missing_database_is_waited_for_if_asked(path: Path) -> None:
    """All its rows are then events: they were committed under our eyes."""
    with running(Bench(path, wait=True)) as bench:
        assert "is not there" in bench.until_phase("waiting")
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.executescript("BEGIN;" + SCHEMA.replace("PRAGMA journal_mode=WAL;", ""))
            say(writer, "first")
            writer.execute("COMMIT")
            bench.until_pushed("first")
        bench.until_phase("live")


def test_tables_that_are_missing_are_given_up_or_waited_for(path: Path) -> None:
    """A writer may create its file first and its tables later."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE other(x)")
        with running(Bench(path)) as bench:
            assert bench.worker.settled(20)
            assert isinstance(bench.worker.status.error, MappingMisfit)
        with running(Bench(path, wait=True)) as bench:
            assert "no such table" in bench.until_phase("waiting")
            writer.executescript(SCHEMA)
            bench.until_phase("live")
            say(writer, "first")
            bench.until_pushed("first")


def test_a_schema_that_fits_no_more_pauses_and_one_that_fits_again_resumes(
    path: Path, writer: sqlite3.Connection
) -> None:
    """The other section goes on; what came meanwhile is pushed afterwards, and nothing twice."""
    with running(Bench(path)) as bench:
        bench.until_phase("live")
        say(writer, "before")
        bench.until_pushed("before")
        writer.execute("ALTER TABLE messages RENAME COLUMN body TO content")
        assert "no such column" in bench.until_phase("paused")
        writer.execute("INSERT INTO messages VALUES ('meanwhile', 'c', 'user', 'hi')")
        writer.execute("INSERT INTO tasks VALUES ('t', 'c', 's', '{}', '[]', '[]', 'W')")
        bench.until_pushed("before", "t")
        assert bench.worker.status.phase == "paused"
        writer.execute("ALTER TABLE messages RENAME COLUMN content TO body")
        bench.until_phase("live")
        bench.until_pushed("before", "t", "meanwhile")


def test_a_database_that_goes_away_is_waited_for(path: Path, writer: sqlite3.Connection) -> None:
    """It is told as away, not as ready; when it is back, what is new in it is pushed, in a new epoch."""
    say(writer, "old")
    writer.execute("PRAGMA journal_mode=DELETE")
    with running(Bench(path)) as bench:
        bench.until_phase("live")
        epoch = bench.state.epoch
        copy = path.with_name("copy")
        writer.execute("VACUUM INTO ?", (str(copy),))
        writer.close()
        path.unlink()
        assert "is not there" in bench.until_phase("away")
        with closing(sqlite3.connect(copy, isolation_level=None)) as other:
            say(other, "new")
        copy.replace(path)
        bench.until_phase("live")
        bench.until_pushed("new")
        assert bench.state.epoch != epoch


def test_a_state_file_that_cannot_be_written_is_tried_until_it_can(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stops nothing for good: no event is lost, none is pushed that is not in the log.

    Not even if the writer holds a lock at the moment when all has to be begun anew: that ended the thread.
    """
    with running(Bench(path)) as bench:
        bench.until_phase("live")
        failing = threading.Event()
        record = bench.state.record

        def recorded(outcomes: object) -> list[Event]:
            if failing.is_set():
                raise sqlite3.OperationalError("database or disk is full")
            return record(outcomes)  # type: ignore[arg-type]

        def reset(_: object) -> None:
            if failing.is_set():
                raise Busy("the database is locked")

        monkeypatch.setattr(bench.state, "record", recorded)
        monkeypatch.setattr(bench.capture._hints, "reset", reset)
        failing.set()
        say(writer, "a")
        assert "disk is full" in bench.until_phase("state")
        say(writer, "b")
        assert bench.subjects == []
        failing.clear()
        bench.until_phase("live")
        bench.until_pushed("a", "b")


def test_a_writer_that_holds_the_database_is_waited_out(path: Path, writer: sqlite3.Connection) -> None:
    """Busy is no error: the look is made again until it succeeds."""
    writer.execute("PRAGMA journal_mode=DELETE")
    with running(Bench(path)) as bench:
        bench.until_phase("live")
        for number in range(10):
            writer.execute("BEGIN EXCLUSIVE")
            say(writer, f"m{number}")
            bench.waker.wake()
            beat = bench.worker.status.beat
            bench.until(lambda beat=beat: bench.worker.status.beat != beat)  # type: ignore[misc]
            writer.execute("COMMIT")
        bench.until_pushed(*[f"m{number}" for number in range(10)])
        assert bench.worker.status.phase == "live"


def test_a_database_that_stays_locked_is_given_up_at_the_start(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some patience; with --wait it is told and waited for."""
    monkeypatch.setattr(worker_module, "PATIENCE", 0.05)
    writer.execute("PRAGMA journal_mode=DELETE")
    writer.execute("BEGIN EXCLUSIVE")
    with running(Bench(path)) as bench:
        assert bench.worker.settled(20)
        assert isinstance(bench.worker.status.error, DatabaseUnusable)
        assert "locked" in str(bench.worker.status.error)
    with running(Bench(path, wait=True)) as bench:
        assert "locked" in bench.until_phase("away")
        writer.execute("COMMIT")
        bench.until_phase("live")


def test_the_journal_of_a_writer_at_work_is_not_read_against(path: Path, writer: sqlite3.Connection) -> None:
    """While a commit is under way there is no look that could only stand in its way; afterwards there is."""
    writer.execute("PRAGMA journal_mode=DELETE")
    with running(Bench(path)) as bench:
        bench.until_phase("live")
        writer.execute("PRAGMA cache_size=1")
        writer.execute("BEGIN")
        for number in range(40):
            writer.execute("INSERT INTO messages VALUES (?, 'c', 'user', ?)", (f"m{number:02}", "x" * 3000))
        bench.until(lambda: bench.worker._writing > 0)
        writer.execute("COMMIT")
        bench.until_pushed(*[f"m{number:02}" for number in range(40)])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_says_so_and_closes_its_files(path: Path, writer: sqlite3.Connection) -> None:
    """It must never look alive: the state is failed, with the reason."""
    bench = Bench(path)
    bench.worker.start()
    bench.until_phase("live")

    def broken(**_: object) -> bool:
        raise ZeroDivisionError("a defect")

    bench.capture.look = broken  # type: ignore[method-assign]
    assert "a defect" in bench.until_phase("failed")
    bench.worker.stop()
    assert bench.closed
    assert not bench.worker.is_alive


def test_stopping_is_quick_and_may_be_done_twice_or_without_a_start(path: Path, writer: sqlite3.Connection) -> None:
    """Whatever it is waiting for."""
    bench = Bench(path, poll=60)
    bench.worker.start()
    bench.until_phase("live")
    started = time.monotonic()
    bench.worker.stop()
    bench.worker.stop()
    assert time.monotonic() - started < 5
    never = Bench(path)
    never.worker.stop()
    never.legacy.close()
    never.state.close()
    never.waker.close()


def test_no_descriptor_is_left_behind(path: Path, writer: sqlite3.Connection) -> None:
    """Not by a start and a stop, and not by a start that fails."""
    writer.close()  # while another connection of this process is open, SQLite keeps what it cannot safely close
    before = len(os.listdir("/proc/self/fd"))
    for target in (path, path.with_name("none")):
        with running(Bench(target)) as bench:
            assert bench.worker.settled(20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_idle_worker_does_next_to_nothing(path: Path, writer: sqlite3.Connection) -> None:
    """Without commits there are no looks, and noise of other tables gives no event."""
    with running(Bench(path, poll=0.001)) as bench:
        bench.until_phase("live")
        looks = bench.capture.looks
        beat = bench.worker.status.beat
        bench.until(lambda: bench.worker.status.beat > beat + 0.05)
        assert bench.capture.looks == looks
        writer.execute("INSERT INTO conversations VALUES ('d', 'W', 'x')")
        bench.until(lambda: bench.capture.looks > looks)
        say(writer, "mark")
        bench.until_pushed("mark")
