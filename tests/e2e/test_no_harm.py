"""The writer does not notice: none of its commits is refused, its log stays short, and its files are its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import KEY_HEADER, Resuming, subject_of, subscriber
from tests.e2e.harness import TICK, Walcast, eventually
from tests.e2e.legacy_process import Legacy, Poured, legacy
from tests.e2e.situations import SCHEMA, VARIANTS, Variant, message, prepared, stage, task

OWNER = "anna"
WAL = VARIANTS[0]
COMMITS = 3000
PAGE = 4096
CHECKPOINTED = 1000
"""Pages after which SQLite has a writer checkpoint if it is not told otherwise."""
KINDS = ("TRUNCATE", "RESTART")

MESSAGE = f"INSERT INTO numbered VALUES (:n, 'c', 'user', hex(zeroblob(500)) || :n, '{OWNER}')"
TASK = f"""
INSERT INTO tasks VALUES ('t' || (:n % 9), 'c', json_object('state', 'working', 'timestamp', :n), '[]', '[]', '{OWNER}')
ON CONFLICT(id) DO UPDATE SET status = excluded.status
"""


def load(server: Walcast) -> None:
    """What a page that is opened asks for."""
    for path in ("/api/conversations", "/api/conversations/c/messages?limit=100", "/api/conversations/c/tasks"):
        assert server.get(path, {KEY_HEADER: OWNER}).status == 200, server.said


@asynccontextmanager
async def loads_meanwhile(server: Walcast) -> AsyncIterator[None]:
    """Pages are opened until the end of the block."""
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            await asyncio.to_thread(load, server)
            await asyncio.sleep(TICK)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        try:
            yield
        finally:
            is_over.set()


def impatient(writer: Legacy) -> None:
    """It waits for no lock and for no disk."""
    for setting in ("busy_timeout=0", "synchronous=OFF", f"wal_autocheckpoint={CHECKPOINTED}"):
        writer.run(f"PRAGMA {setting}")


async def flood(writer: Legacy, first: int = 1, last: int = COMMITS, checkpoints: Sequence[str] = ()) -> Poured:
    """A few thousand commits as fast as they come. Raises LegacyError for one that is refused."""
    numbers = range(first, last + 1)
    return await asyncio.to_thread(lambda: writer.pour(numbers, MESSAGE, TASK, checkpoints=checkpoints))


@asynccontextmanager
async def attached(folder: Path) -> AsyncIterator[tuple[Legacy, Walcast, Resuming]]:
    """A writer, a server and a client, in WAL mode."""
    with stage(folder, WAL) as (writer, server):
        await server.ready()
        async with Resuming(server, OWNER) as client:
            await client.connected()
            impatient(writer)
            yield writer, server, client


async def test_no_commit_is_refused_and_the_log_is_begun_anew_as_without_the_bridge(tmp_path: Path) -> None:
    """A writer without patience at full speed, while commits are followed and pages are opened."""
    (tmp_path / "alone").mkdir()
    with legacy(tmp_path / "alone" / "legacy.db", SCHEMA, "WAL") as writer:
        impatient(writer)
        alone = await flood(writer)
    async with attached(tmp_path) as (writer, server, client):
        async with loads_meanwhile(server):
            together = await flood(writer)
            await client.saw(str(COMMITS))
        # Never begun anew, the log would be four pages a commit or more. A look that the system puts aside in the wrong
        # moment costs what the writer writes meanwhile: that is what is added.
        assert alone.log_bytes < 2 * CHECKPOINTED * PAGE
        assert together.log_bytes < 2 * alone.log_bytes + COMMITS * PAGE
        pushed = [subject_of(event) for event in client.events if event["type"] == "new_message"]
        assert pushed == [str(number) for number in range(1, COMMITS + 1)]


async def test_the_writer_may_truncate_and_restart_its_log_while_the_bridge_looks(tmp_path: Path) -> None:
    """No commit is refused. A checkpoint without patience may say `busy` in its row, which is no error: as beside any
    reader, the next one does it. With patience none does.
    """
    async with attached(tmp_path) as (writer, server, client):
        half = COMMITS // 2
        hurried = await flood(writer, 1, half, KINDS)
        assert hurried.busy < hurried.checkpoints
        writer.run("PRAGMA busy_timeout=5000")
        patient = await flood(writer, half + 1, COMMITS, KINDS)
        assert patient.busy == 0
        await client.saw(str(COMMITS))
        pushed = [subject_of(event) for event in client.events if event["type"] == "new_message"]
        assert pushed == [str(number) for number in range(1, COMMITS + 1)]
        assert writer.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
        assert server.database.with_name("legacy.db-wal").stat().st_size == 0


# -- its files


def state_of(database: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of the database and its log. `-shm` is SQLite's: readers note in it what they read."""
    files = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-journal")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files if file.exists()}


async def _use(server: Walcast) -> None:
    """All that a bridge is asked to do."""
    await server.ready()
    async with subscriber(server, OWNER, "resume=1"):
        load(server)
        server.get("/metrics")


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("is_killed", [False, True], ids=["SIGTERM", "SIGKILL"])
async def test_not_a_byte_of_the_database_is_changed(tmp_path: Path, journal: str, is_killed: bool) -> None:
    """Not while it is followed, not at the end, not where the bridge is the last to have it open; nor its times."""
    with stage(tmp_path, Variant(journal, "--inotify"), message("old", OWNER)) as (writer, server):
        end = server.kill if is_killed else server.terminate
        writer.run("PRAGMA wal_autocheckpoint=0")
        async with subscriber(server, OWNER) as client:
            await server.ready()
            before = state_of(server.database)
            for number in range(10):
                writer.commit(message(f"m{number}", OWNER, "x" * 3000), task(f"t{number}", OWNER))
                await client.next()
                await client.next()
            if journal == "WAL":
                assert state_of(server.database)["legacy.db"] == before["legacy.db"], "it was checkpointed"
        written = state_of(server.database)
        assert written != before
        await _use(server)
        assert state_of(server.database) == written
        writer.kill()
        end()
        assert state_of(server.database) == written
        await _use(server.start())
        end()
        assert state_of(server.database) == written


WRITES = "write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,sendfile,copy_file_range"
NAMES = "openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,link,linkat,chmod,fchmod,utimensat"


@pytest.mark.needs("strace", "strace")
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("is_killed", [False, True], ids=["SIGTERM", "SIGKILL"])
async def test_no_system_call_writes_to_the_database_or_its_log(tmp_path: Path, journal: str, is_killed: bool) -> None:
    """By the kernel's account. `-shm` is the exception: readers keep their locks and marks in it."""
    calls = tmp_path / "calls"
    server = prepared(tmp_path, Variant(journal, "--inotify"))
    server._command[:0] = ["strace", "-D", "-f", "-q", "-y", "-s", "0", "-o", str(calls), "-e", f"{WRITES},{NAMES}"]
    with legacy(server.database, SCHEMA, journal) as writer:
        try:
            await server.start().ready()
            async with subscriber(server, OWNER) as client:
                writer.commit(message("m", OWNER))
                assert subject_of(await client.next()) == "m"
            await _use(server)
            writer.kill()
            (server.kill if is_killed else server.terminate)()
        finally:
            server.kill()
    ending = "+++ killed by SIGKILL +++" if is_killed else "+++ exited with 0 +++"
    await eventually(lambda: ending in calls.read_text(), "the tracer wrote all it saw")
    database = re.escape(str(server.database))
    lines = [line for line in calls.read_text().splitlines() if re.search(rf"{database}(-wal|-journal)?[\">]", line)]
    assert [line for line in lines if re.search(r"\b(openat|open)[ (]", line)], "nothing was seen"
    touched = [line for line in lines if not re.search(r"\b(openat|open)[ (]", line)]
    assert touched == []
    opened = [line for line in lines if re.search(rf'{database}"', line)]
    assert opened
    assert all("O_RDONLY" in line for line in opened)
