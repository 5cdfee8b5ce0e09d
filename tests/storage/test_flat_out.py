"""A writer that never rests is followed at a distance, and closely again as soon as it rests."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import worker as worker_module
from storage.hints import PageHints
from storage.legacy import Busy
from storage.state import CHECKPOINT, RARE_CHECKPOINT
from tests.storage.test_capture import TEXT, Stage, message
from tests.storage.test_worker import SCHEMA, Bench, running

LONG = 60.0
"""Seconds between polls: longer than the test may take, so that it is file events that wake."""
WRITER = """
import sqlite3, sys, threading
sql = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
sql.execute("PRAGMA synchronous=OFF")
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
print("ready", flush=True)
number = 0
while not told.is_set():
    sql.execute("INSERT INTO messages VALUES (?, 'c', 'user', 'hi')", (f"m{number}",))
    number += 1
print(number, flush=True)
sys.stdin.readline()
sql.execute("INSERT INTO messages VALUES ('last', 'c', 'user', 'hi')")
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_writer_that_never_rests_is_left_alone_and_loses_nothing(path: Path, mode: str) -> None:
    """No file event is asked for while it goes on; its rows come in their order, and the next commit wakes again."""
    subprocess.run([sys.executable, "-c", CREATE, path, SCHEMA.replace("WAL", mode)], check=True)
    with running(Bench(path, poll=LONG, hints=PageHints(path))) as bench, _writer(path) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
        bench.until(lambda: not bench.waker.has_file_events)
        if mode == "delete":
            bench.until(lambda: bench.capture.fallback_reasons.get("flat_out", 0) > 0)
        writer.stdin.write("stop\n")
        writer.stdin.flush()
        expected = [f"m{number}" for number in range(int(writer.stdout.readline()))]
        bench.until(lambda: len(bench.subjects) >= len(expected) and bench.waker.has_file_events)
        bench.until_phase("live")
        writer.stdin.write("once more\n")
        writer.stdin.flush()
        bench.until_pushed(*expected, "last")


def test_a_writer_that_cannot_be_kept_up_with_is_left_more_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In WAL mode, from the second such look on, and for as long as it is that fast."""
    worker = bench.worker
    monkeypatch.setattr(bench.legacy, "is_wal", lambda: True)
    for rate, share in ((20_000, 0.2), (20_000, 0.05), (2000, 0.2), (20_000, 0.05)):
        monkeypatch.setattr(worker, "_news_at", time.monotonic() - 1.0)
        monkeypatch.setattr(type(worker.capture), "commits", rate)
        bench.legacy.held = 0.01
        worker._note_mode(news=True)
        assert worker._flat_out
        assert worker._pause() == pytest.approx(0.01 / share - 0.01)


@pytest.mark.parametrize(
    ("rate", "has_more", "most"),
    [(20_000, True, 0.21), (20_000, False, 1.0), (2000, True, 1.0)],
    ids=["left behind", "keeping up", "slower"],
)
def test_whoever_cannot_keep_up_does_not_keep_a_processor_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rate: int, has_more: bool, most: float
) -> None:
    """Once it has been more than a chunk behind for some looks; else the writer is followed as fast as it goes."""
    worker, clock = bench.worker, Clock()
    monkeypatch.setattr(worker_module, "time", clock)
    monkeypatch.setattr(bench.legacy, "is_wal", lambda: True)
    monkeypatch.setattr(bench.capture, "is_attached", True)
    monkeypatch.setattr(type(bench.capture), "is_behind", True)

    def work(**_: bool) -> bool:
        clock.worked += 0.01
        monkeypatch.setattr(type(bench.capture), "commits", int(rate * worker._since(clock.monotonic())))
        return True

    monkeypatch.setattr(bench.capture, "look", work)
    monkeypatch.setattr(bench.capture, "step", work)
    worker._news_at = clock.monotonic() - 0.01
    bench.capture.watched[0].tail = has_more
    worker._turn(hinted=True)
    while clock.worked + clock.slept < 0.6:
        clock.sleep(worker._turn(hinted=False))
    assert worker._flat_out
    clock.worked = clock.slept = 0.0
    for _ in range(50):
        clock.sleep(worker._turn(hinted=False))
    assert clock.worked >= 0.5, "a test that never looks proves nothing"
    share = clock.worked / (clock.worked + clock.slept)
    assert most / 3 < share <= most


def test_beside_a_writer_that_never_rests_the_state_file_is_synced_rarely_for_as_long(bench: Bench) -> None:
    def pages() -> int:
        return int(bench.state._sql.execute("PRAGMA wal_autocheckpoint").fetchone()[0])

    assert pages() == CHECKPOINT
    for looks, expected in ((1, RARE_CHECKPOINT), (2, RARE_CHECKPOINT), (0, CHECKPOINT), (0, CHECKPOINT)):
        bench.worker._note_flat_out(looks)
        assert pages() == expected


class Clock:
    """Time that goes on by what is done in it, and not by itself."""

    def __init__(self) -> None:
        self.worked = self.slept = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.worked + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def test_commits_are_counted_though_there_is_no_getting_in(tmp_path: Path) -> None:
    """Which is how a rollback writer that leaves no gap is told from one that holds its lock for long."""
    stage = Stage(tmp_path, TEXT, "pages", "delete")
    try:
        stage.came(message(1))
        assert stage.rig.hints.unseen == 0
        for number in range(2, 5):
            stage.writer.execute(message(number))
        stage.writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Busy):
            stage.rig.capture.look(thorough=False)
        assert stage.rig.hints.unseen == 3
        stage.writer.execute("ROLLBACK")
        assert stage.came() == [("2", "W"), ("3", "W"), ("4", "W")]
        assert stage.rig.hints.unseen == 0
    finally:
        stage.rig.kill()
        stage.writer.close()


CREATE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).executescript(sys.argv[2])
"""


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    """One whose worker does not run: its turns are the test's."""
    bench = Bench(path)
    yield bench
    bench.state.close()
    bench.waker.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db"


def _writer(path: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=pipe, stdout=pipe, text=True)
