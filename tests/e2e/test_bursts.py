"""More at once than anybody can follow: nothing is lost, nothing comes twice, and memory stays what it was."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, subject_of, subscriber
from tests.e2e.harness import TICK, Walcast
from tests.e2e.legacy_process import Legacy
from tests.e2e.situations import VARIANTS, Variant, message, stage, task

OWNER = "anna"
JOURNALS = [VARIANTS[0], VARIANTS[2]]
"""With file events; the rates are too high for them to matter."""
ROOM = 150 << 20
"""Bytes by which the server's memory may grow, whatever is written."""
TASKS = 20

MESSAGE = f"INSERT INTO numbered VALUES (:n, 'c' || (:n % 7), 'user', 'text ' || :n, '{OWNER}')"
LONG_MESSAGE = MESSAGE.replace("'text ' || :n", "hex(zeroblob(2000)) || :n")
TASK = f"""
INSERT INTO tasks VALUES (
    't' || (:n % {TASKS}), 'c', json_object('state', 'working', 'timestamp', :n), '[]', '[]', '{OWNER}')
ON CONFLICT(id) DO UPDATE SET status = excluded.status
"""


@pytest.fixture(params=JOURNALS, ids=lambda variant: variant.journal)
def variant(request: pytest.FixtureRequest) -> Variant:
    """A journal mode."""
    assert isinstance(request.param, Variant)
    return request.param


@contextmanager
def burst_stage(folder: Path, variant: Variant) -> Iterator[tuple[Legacy, Walcast]]:
    """A writer that waits for no disk, and a running server."""
    with stage(folder, variant) as (writer, server):
        writer.run("PRAGMA synchronous=OFF")
        yield writer, server


def memory(server: Walcast, what: str) -> int:
    """`VmRSS`, what the server has now, or `VmHWM`, the most that it ever had, in bytes."""
    lines = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))


@dataclass
class Lag:
    """What the server said of itself meanwhile."""

    milliseconds: list[int] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)

    def sample(self, server: Walcast) -> None:
        """Ask once."""
        self.milliseconds.append(server.get("/api/websocket-info").json["capture"]["lag_ms"])
        answer = server.get("/readyz")
        if answer.status == 503:
            self.unready.append(answer.json["detail"])

    @property
    def was_told(self) -> bool:
        """Whether it ever said that it is behind."""
        return bool(self.unready) or any(self.milliseconds)


@asynccontextmanager
async def asked_meanwhile(server: Walcast) -> AsyncIterator[Lag]:
    """Ask the server how it is, again and again, until the end of the block."""
    lag, is_over = Lag(), asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            await asyncio.to_thread(lag.sample, server)
            await asyncio.sleep(TICK)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        try:
            yield lag
        finally:
            is_over.set()


def _states(client: Resuming) -> dict[str, list[int]]:
    states: dict[str, list[int]] = {}
    for event in client.events:
        if event["type"] == "task_update":
            states.setdefault(subject_of(event), []).append(event["task"]["status"]["timestamp"])
    return states


def _has_last(client: Resuming, tasks: dict[str, int]) -> bool:
    """Whether each task's newest event tells the state that is in the database."""
    newest: dict[str, int] = {}
    for event in reversed(client.events):
        if len(newest) == len(tasks):
            break
        if event["type"] == "task_update":
            newest.setdefault(subject_of(event), event["task"]["status"]["timestamp"])
    return newest == tasks


async def all_came(writer: Legacy, server: Walcast, client: Resuming) -> None:
    """The client has been given what stands in the database, each once and in order, and nothing follows."""
    with closing(sqlite3.connect(server.database)) as rows:
        tasks = {row[0]: json.loads(row[1])["timestamp"] for row in rows.execute("SELECT id, status FROM tasks")}
        [last] = rows.execute("SELECT coalesce(max(id), 0) FROM numbered").fetchone()
    await client.until(lambda client: len(client.events) >= last + len(tasks) and _has_last(client, tasks), 600)
    await server.ready()
    writer.commit(message(last + 1, OWNER, table="numbered"), task("marker", OWNER))
    await client.saw(str(last + 1))
    await client.saw("marker")
    assert client.refetches == []
    pushed = [subject_of(event) for event in client.events if event["type"] == "new_message"]
    assert pushed == [str(number) for number in range(1, last + 2)]
    for name, stamps in _states(client).items():
        assert stamps == sorted(set(stamps)), f"a state of {name} came twice, or after a later one"


async def test_ten_thousand_rows_of_one_commit_come_once_and_in_order(tmp_path: Path, variant: Variant) -> None:
    """One transaction, one client with the limits that are the default."""
    with burst_stage(tmp_path, variant) as (writer, server):
        await server.ready()
        before = memory(server, "VmRSS")
        async with Resuming(server, OWNER) as client:
            await client.connected()
            async with asked_meanwhile(server) as lag:
                writer.pour(range(1, 10_001), MESSAGE, of_which=10_000)
                await client.until(lambda client: len(client.events) >= 10_000)
            assert lag.was_told
            writer.pour(range(1, 5 * TASKS), TASK, of_which=5 * TASKS)
            await all_came(writer, server, client)
        assert memory(server, "VmHWM") - before < ROOM


async def test_a_client_that_reads_is_not_cut_off_by_one_big_commit(tmp_path: Path) -> None:
    """More than may wait for a slow client, in frames; one that reads has none of them wait."""
    with burst_stage(tmp_path, VARIANTS[0]) as (writer, server):
        await server.ready()
        async with subscriber(server, OWNER) as client:
            writer.pour(range(1, 14_001), MESSAGE, of_which=14_000)
            assert [subject_of(await client.next()) for _ in range(14_000)] == [str(n) for n in range(1, 14_001)]
        assert server.metric('walcast_closed_total{code="4100"}') == 0


async def _follow(folder: Path, variant: Variant, commits: int, per_second: float) -> None:
    with burst_stage(folder, variant) as (writer, server):
        await server.ready()
        before = memory(server, "VmRSS")
        async with Resuming(server, OWNER) as client:
            await client.connected()
            await asyncio.to_thread(writer.pour, range(1, commits + 1), MESSAGE, TASK, per_second=per_second)
            await all_came(writer, server, client)
        assert memory(server, "VmHWM") - before < ROOM


async def test_two_thousand_commits_without_a_pause_are_followed(tmp_path: Path, variant: Variant) -> None:
    """A message and a task's new state in each."""
    await _follow(tmp_path, variant, 2000, 0)


@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_two_thousand_commits_a_second_are_followed(tmp_path: Path, variant: Variant) -> None:
    """For ten seconds."""
    await _follow(tmp_path, variant, 20_000, 2000)


async def _catch_up(folder: Path, variant: Variant, megabytes: int) -> None:
    rows = megabytes * 1_000_000 // 4000
    with burst_stage(folder, variant) as (writer, server):
        await server.ready()
        before = memory(server, "VmRSS")
        async with Resuming(server, OWNER) as client:
            await client.connected()
            server.terminate()
            writer.run("PRAGMA wal_autocheckpoint=0")
            await asyncio.to_thread(writer.pour, range(1, rows + 1), LONG_MESSAGE, TASK, of_which=10)
            log = server.database.with_name("legacy.db-wal")
            assert variant.journal != "WAL" or log.stat().st_size > megabytes * 1_000_000
            server.spawn()
            await server.listening()
            await client.until(lambda client: len(client.events) > rows, 600)
            await server.ready()
            assert "every row is known after" in server.said
            await all_came(writer, server, client)
        assert memory(server, "VmHWM") - before < ROOM
        server.terminate()
        server.state.unlink()
        await server.start().ready()
        async with Resuming(server, OWNER) as client:
            await client.connected()
            writer.commit(message("new", OWNER), task("new", OWNER))
            await client.until(lambda client: len(client.events) >= 2)
            assert [subject_of(event) for event in client.events] == ["new", "new"]
        assert memory(server, "VmHWM") - before < ROOM


async def test_twenty_megabytes_that_wait_in_the_log_are_caught_up_with(tmp_path: Path) -> None:
    """Committed while the bridge was down, in a WAL that nothing checkpoints; to a new bridge it is baseline."""
    await _catch_up(tmp_path, JOURNALS[0], 20)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
async def test_two_hundred_megabytes_that_wait_at_the_start_are_caught_up_with(
    tmp_path: Path, variant: Variant
) -> None:
    """The same, ten times as much, and without a WAL."""
    await _catch_up(tmp_path, variant, 200)
