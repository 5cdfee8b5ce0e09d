"""File events are hints: dropped, doubled, delayed, everything still arrives, and once."""

from __future__ import annotations

import heapq
import json
import logging
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.decide import decide
from storage.capture import Capture
from storage.hints import PageHints
from storage.legacy import LegacyDatabase
from storage.state import StateFile
from storage.status import Pace
from storage.types import Event
from storage.wake import Waker
from storage.worker import CaptureWorker
from tests.storage.legacy_writer import Writer, writer_process
from tests.storage.oracle import Schema

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")

log = logging.getLogger(__name__)

SCHEMA = Schema()
COMMITS = 200
SOON = 30.0
POLL = 0.02
LATE = 0.03
"""Seconds by which an event may be late: more than several commits take."""

MESSAGE = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', ?, 'w')"
TASK = (
    "INSERT INTO tasks(id, status, history, artifacts, owner) VALUES (?, ?, '[]', '[]', 'w')"
    " ON CONFLICT(id) DO UPDATE SET status = excluded.status"
)


class UnreliableWaker(Waker):
    """The real one, whose events are dropped, doubled and delayed by chance; or all of them dropped."""

    def __init__(self, path: Path, chance: random.Random, fates: tuple[str, ...]) -> None:
        super().__init__(path)
        self._chance, self._fates = chance, fates
        self._due: list[tuple[float, bool]] = []
        self.dropped = 0

    def wait(self, timeout: float) -> bool:
        """As the real one; an event that is dropped ends no wait, and says nothing of files that come and go."""
        ends = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if self._due and self._due[0][0] <= now:
                self.has_moved = heapq.heappop(self._due)[1] or self.has_moved
                return True
            known, self.has_moved = self.has_moved, False
            is_event = super().wait(min([ends, *(due for due, _ in self._due[:1])]) - now)
            has_moved, self.has_moved = self.has_moved, known
            if is_event:
                self._befall(time.monotonic(), has_moved)
            elif time.monotonic() >= ends:
                return False

    def _befall(self, now: float, has_moved: bool) -> None:
        fate = self._chance.choice(self._fates)
        self.dropped += fate == "dropped"
        times = {"dropped": 0, "doubled": 2}.get(fate, 1)
        late = self._chance.uniform(0, LATE) if fate == "late" else 0.0
        for _ in range(times):
            heapq.heappush(self._due, (now + late, has_moved))


class Bench:
    """A worker with such a waker, and what it published."""

    def __init__(self, path: Path, waker: UnreliableWaker) -> None:
        self.legacy, self.hints, self.waker = LegacyDatabase(path), PageHints(path), waker
        self.state = StateFile(path.with_name("state"), keep_events=10_000, keep_seconds=3600)
        self.state.open()
        self.events: list[Event] = []
        self._came = threading.Condition()
        capture = Capture(self.legacy, self.state, SCHEMA.sections(), decide, self._publish, self.hints)
        self.worker = CaptureWorker(capture, self.legacy, waker, Pace(POLL), wait=False, close=self._close)

    def _publish(self, _epoch: str, events: list[Event]) -> None:
        with self._came:
            self.events += events
            self._came.notify_all()

    def _close(self) -> None:
        self.legacy.close()
        self.hints.close()
        self.state.close()
        self.waker.close()

    @property
    def messages(self) -> list[str]:
        """The ids of all messages pushed so far, in order."""
        return [event.subject for event in self.events if event.type == "new_message"]

    @property
    def states(self) -> dict[str, list[int]]:
        """The states of each task pushed so far, in order."""
        states: dict[str, list[int]] = {}
        for event in self.events:
            if event.type == "task_update":
                stamp = json.loads(event.body)["task"]["status"]["timestamp"]
                states.setdefault(event.subject, []).append(int(stamp))
        return states

    def until_last(self, message: str, tasks: dict[str, int]) -> None:
        """Wait for the event of a message and for the last state of each task."""
        with self._came:
            came = self._came.wait_for(
                lambda: message in self.messages and {task: one[-1] for task, one in self.states.items()} == tasks, SOON
            )
        assert came, f"{message} or {tasks} never came: {self.worker.status}"


@contextmanager
def attached(path: Path, waker: UnreliableWaker) -> Iterator[Bench]:
    bench = Bench(path, waker)
    bench.worker.start()
    try:
        assert bench.worker.settled(SOON)
        yield bench
    finally:
        bench.worker.stop()


def write(writer: Writer, chance: random.Random) -> dict[str, int]:
    """Some commits follow at once, some when all is at rest again; the last state of each task."""
    last: dict[str, int] = {}
    pause = threading.Event()
    for number in range(1, COMMITS + 1):
        task = f"t{chance.randrange(5)}"
        last[task] = number
        status = f'{{"state": "working", "timestamp": {number}}}'
        writer.run(("BEGIN IMMEDIATE", ()), (MESSAGE, [str(number)]), (TASK, [task, status]), ("COMMIT", ()))
        if chance.random() < 0.2:
            pause.wait(chance.uniform(0, LATE))
    return last


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("fates", [("dropped", "doubled", "late", "prompt"), ("late",), ("dropped",)], ids="-".join)
def test_everything_arrives_once_whatever_becomes_of_file_events(
    tmp_path: Path, mode: str, fates: tuple[str, ...]
) -> None:
    """A writer in another process; where no event arrives at all, the poll finds what was committed."""
    seed = random.SystemRandom().randrange(1 << 30)
    log.info("seed %d", seed)  # shown if this fails
    path, chance = tmp_path / "legacy.db", random.Random(seed)
    with writer_process() as writer:
        writer.open(path)
        writer.sql(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=OFF", "PRAGMA busy_timeout=5000")
        writer.sql(*SCHEMA.tables())
        with attached(path, UnreliableWaker(path, random.Random(seed), fates)) as bench:
            last = write(writer, chance)
            bench.until_last(str(COMMITS), last)
            writer.run((MESSAGE, ["marker"]))
            bench.until_last(str(COMMITS + 1), last)
            assert bench.messages == [str(number) for number in range(1, COMMITS + 2)]
            assert all(stamps == sorted(set(stamps)) for stamps in bench.states.values())
            assert bench.waker.dropped or fates != ("dropped",)
