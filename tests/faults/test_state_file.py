"""The state file cannot be written for a while: nothing is pushed meanwhile, and nothing is lost by it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.clients import KEY_HEADER, Closed, subscriber, url_of, websockets_link
from tests.e2e.harness import eventually
from tests.e2e.situations import message, task
from tests.faults.rig import (
    attached,
    connected,
    fill,
    grow,
    has_all,
    injected,
    linux,
    said,
    side_files,
    small_disk,
    unready,
    write,
)

pytestmark = linux

LOGGED = 'walcast_events_total{type="new_message"}'


def names(prefix: str, count: int) -> list[str]:
    """So many ids."""
    return [f"{prefix}{number}" for number in range(count)]


async def test_a_full_disk_is_told_and_what_was_committed_meanwhile_comes_when_there_is_room(tmp_path: Path) -> None:
    """/readyz 503 with the reason; sockets stay; no restart is needed."""
    with small_disk(tmp_path / "disk", 2000) as disk, attached(tmp_path, state=disk / "state") as (writer, server):
        async with connected(server) as client:
            write(writer, names("before", 3))
            await client.saw("before2")
            write(writer, names("full", 30), size=100_000)
            await unready(server, "state file cannot be used", "full")
            write(writer, names("later", 3))
            logged = server.metric(LOGGED)
            assert 3 < logged < 36
            looks = server.metric("walcast_looks_total")
            await eventually(lambda: server.metric("walcast_looks_total") > looks + 2, "it is tried again")
            await client.until(lambda client: len(client.events) == logged == server.metric(LOGGED))
            grow(disk, 64_000)
            await server.ready()
            await has_all(writer, client)
        assert len(client.welcomes) == 1


async def test_a_fault_that_lasts_is_logged_once(tmp_path: Path) -> None:
    """The log says that it began, not each time that it is tried again: that fills the next disk."""
    with attached(tmp_path) as (writer, server):
        async with connected(server):
            with injected(server, "pwrite64", "error=EIO", *side_files(server.state)):
                write(writer, names("during", 2))
                await unready(server, "state file cannot be used")
                looks = server.metric("walcast_looks_total")
                await eventually(lambda: server.metric("walcast_looks_total") > looks + 3, "it is tried again")
            assert said(server, "state file cannot be used") == 1


async def test_a_disk_that_is_full_at_the_end_loses_nothing_over_a_restart(tmp_path: Path) -> None:
    """Stopped and killed while there is no room: the next run, with room, goes on from the same epoch."""
    with small_disk(tmp_path / "disk", 2000) as disk, attached(tmp_path, state=disk / "state") as (writer, server):
        async with connected(server) as client:
            write(writer, names("full", 30), size=100_000)
            await unready(server, "state file cannot be used")
            assert server.terminate() == 0
            fill(disk)
            server.spawn()
            await server.listening()
            await unready(server, "state file cannot be used")
            server.kill()
            grow(disk, 64_000)
            await server.start().ready()
            await has_all(writer, client)
            assert client.refetches == []


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EROFS"])
async def test_writes_that_fail_are_told_and_tried_until_they_do_not(tmp_path: Path, error: str) -> None:
    """Every write to the state file fails: 503 in SQLite's words; then the disk mends, and everything comes."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            write(writer, names("before", 3))
            await client.saw("before2")
            with injected(server, "pwrite64", f"error={error}", *side_files(server.state)):
                write(writer, names("during", 5))
                writer.commit(task("t", "anna"), message("both", "anna"))
                writer.commit(("DELETE FROM tasks", ()))
                await unready(server, "state file cannot be used")
                assert len(client.events) == 3
            await server.ready()
            await has_all(writer, client)
        assert len(client.welcomes) == 1


async def test_checkpoints_that_cannot_be_synced_hold_nothing_up(tmp_path: Path) -> None:
    """fsync fails: the log of the state file is not emptied then, but what is committed is pushed all the same."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            with injected(server, "fdatasync,fsync", "error=EIO", *side_files(server.state)):
                write(writer, names("m", 180), size=100_000)
                await has_all(writer, client)
                assert server.get("/readyz").status == 200
            assert server.terminate() == 0
            await server.start().ready()
            write(writer, ["after"])
            await client.saw("after")
            assert client.refetches == []


async def test_a_slow_disk_delays_events_and_nothing_else(tmp_path: Path) -> None:
    """While the state file hangs in a sync, sockets are answered and nothing is late for good."""
    with attached(tmp_path, "--stall-seconds", 0.3) as (writer, server):
        async with connected(server) as client, subscriber(server, "anna", "events=task_update") as other:
            with injected(server, "fdatasync,fsync", "delay_enter=1500000", *side_files(server.state)):
                writing = threading.Thread(target=write, args=(writer, names("m", 200)), kwargs={"size": 100_000})
                writing.start()
                await unready(server, "no sign of life")
                await other.send({"type": "ping", "timestamp": 7})
                assert (await other.next()) == {"type": "pong", "timestamp": 7}
                writing.join()
            await server.ready()
            await has_all(writer, client)


async def test_a_log_that_cannot_be_read_closes_who_resumes_and_nobody_else(tmp_path: Path) -> None:
    """1011 and a line in the log; the others hear on; with the disk mended the same cursor replays everything."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            cursor = client.cursor
            write(writer, names("m", 20), size=50_000)
            await client.saw("m19")
            with injected(server, "pread64", "error=EIO", *side_files(server.state)):
                async with websockets_link(url_of(server, f"since={cursor}"), {KEY_HEADER: "anna"}) as past:
                    with pytest.raises(Closed) as closed:
                        await past.receive()
                    assert closed.value.code == 1011
            assert said(server, "a replay failed") == 1
            await server.ready()
            async with subscriber(server, "anna", f"since={cursor}") as again:
                assert (again.established["recovered"], again.established["replayed"]) == (True, 20)
            await has_all(writer, client)
        assert len(client.welcomes) == 1
