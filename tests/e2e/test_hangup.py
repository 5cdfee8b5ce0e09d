"""SIGHUP: the same process starts again with what its files say now, or says why not and goes on; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from storage.state import StateFile
from tests.e2e.clients import Resuming, aiohttp_link, subject_of, subscriber, websockets_link
from tests.e2e.harness import REPO, SOON, Walcast, eventually
from tests.e2e.legacy_process import Legacy, legacy, storm
from tests.e2e.situations import MAPPING, SCHEMA, message
from tests.e2e.storms import MAPPING as STORM_MAPPING
from tests.e2e.storms import OWNERS, compare, settled
from tests.e2e.storms import SCHEMA as STORM_SCHEMA


@contextmanager
def configured(folder: Path, *options: object) -> Iterator[tuple[Legacy, Walcast]]:
    """A server with a mapping and a config file that a test may edit."""
    mapping, config = folder / "mapping.toml", folder / "config.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    config.write_text('owner_format = "any"\n', encoding="utf-8")
    server = Walcast(folder / "legacy.db", "--map", mapping, "--config", config, *options)
    with legacy(server.database, SCHEMA, "WAL") as writer:
        try:
            yield writer, server.start()
        finally:
            server.kill()


def begun(server: Walcast) -> int:
    """How often it has attached to the database, in all its runs."""
    return server.log.read_text(errors="replace").count("attached to")


async def again(server: Walcast, runs: int) -> None:
    """Wait until it has started so many times and is ready; where it listens has not changed."""
    await eventually(lambda: begun(server) == runs, f"run {runs}")
    await server.ready()


async def test_a_hangup_closes_with_4200_and_takes_the_new_mapping(tmp_path: Path) -> None:
    """The same process on the same port; the client is back at once, and the new `where` holds."""
    with configured(tmp_path) as (writer, server):
        await server.ready()
        pid, port = server.pid, server.port
        async with subscriber(server, "anna", "resume=1") as client:
            writer.commit(message("before", "anna"))
            assert subject_of(await client.next()) == "before"
            mapping = (tmp_path / "mapping.toml").read_text()
            narrowed = mapping.replace('table           = "named"', 'table = "named"\nwhere = "id <> \'hidden\'"')
            (tmp_path / "mapping.toml").write_text(narrowed)
            (tmp_path / "config.toml").write_text('owner_format = "any"\nmax_bad_frames = 7\n')
            server.signal(signal.SIGHUP)
            assert await client.closed() == 4200
        await again(server, 2)
        assert (server.pid, server.port) == (pid, port)
        assert server.get("/api/websocket-info").json["limits"]["max_bad_frames"] == 7
        async with subscriber(server, "anna") as client:
            writer.commit(message("hidden", "anna"))
            writer.commit(message("shown", "anna"))
            assert subject_of(await client.next()) == "shown"
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("mapping.toml", "[messages", "mapping.toml"),
        ("mapping.toml", MAPPING.replace('"body"', '"no_such_column"'), "no_such_column"),
        ("config.toml", "max_connections = 0\n", "--max-connections"),
        ("config.toml", "no_such_setting = 1\n", "--no-such-setting"),
        ("config.toml", None, "config.toml"),
    ],
)
async def test_a_mistake_is_logged_and_the_old_configuration_goes_on(
    tmp_path: Path, file: str, content: str | None, reason: str
) -> None:
    """No socket is closed, and nothing is down; the mistake mended, the next SIGHUP is taken."""
    with configured(tmp_path) as (writer, server):
        await server.ready()
        async with subscriber(server, "anna") as client:
            good = (tmp_path / file).read_text()
            if content is None:
                (tmp_path / file).unlink()
            else:
                (tmp_path / file).write_text(content)
            server.signal(signal.SIGHUP)
            await eventually(lambda: "the old configuration stays" in server.said, "it is logged")
            assert reason in server.said
            writer.commit(message("still", "anna"))
            assert subject_of(await client.next()) == "still"
            assert server.get("/readyz").status == 200
            (tmp_path / file).write_text(good)
            server.signal(signal.SIGHUP)
            assert await client.closed() == 4200
        await again(server, 2)


def _nowhere(_: Path) -> None:
    """There is no such folder."""


def _locked(path: Path) -> Callable[[], None]:
    other = StateFile(path, keep_events=1, keep_seconds=1)
    other.open()
    return other.close


def _of_a_later_version(path: Path) -> None:
    _locked(path)()
    with closing(sqlite3.connect(path)) as state:
        state.execute("PRAGMA user_version = 99")


def _something_else(path: Path) -> None:
    path.write_text("this is a letter to my mother, and no state file")


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (_nowhere, "nowhere/state", "cannot be written"),
        (_locked, "state", "belongs to another running walcast"),
        (_of_a_later_version, "state", "has format 99"),
        (_something_else, "state", "is not a walcast state file"),
    ],
)
async def test_a_state_file_that_cannot_be_used_is_a_mistake(
    tmp_path: Path, make: Callable[[Path], Callable[[], None] | None], name: str, reason: str
) -> None:
    """It is opened before the old one is given up, and nothing is written to what is not ours."""
    state = tmp_path / name
    let_go = await asyncio.to_thread(make, state) or (lambda: None)
    before = state.read_bytes() if state.exists() else None
    try:
        with configured(tmp_path) as (writer, server):
            await server.ready()
            async with subscriber(server, "anna") as client:
                (tmp_path / "config.toml").write_text(f'owner_format = "any"\nstate = "{state}"\n')
                server.signal(signal.SIGHUP)
                await eventually(lambda: "the old configuration stays" in server.said, "it is logged")
                assert reason in server.said
                writer.commit(message("still", "anna"))
                assert subject_of(await client.next()) == "still"
                assert server.get("/readyz").status == 200
            assert (state.read_bytes() if state.exists() else None) == before
            assert begun(server) == 1
    finally:
        await asyncio.to_thread(let_go)


@pytest.mark.parametrize("is_closing", [False, True])
async def test_an_end_that_follows_a_hangup_is_heard(tmp_path: Path, is_closing: bool) -> None:
    """SIGTERM before or while the old run closes its sockets: it was lost, and the new run went on."""
    with configured(tmp_path) as (_, server):
        await server.ready()
        async with subscriber(server, "anna") as client:
            server.signal(signal.SIGHUP)
            if is_closing:
                assert await client.closed() == 4200
            server.signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.wait)
        assert code == 0 or (is_closing and code == -signal.SIGTERM)  # between two runs the system ends it


async def test_another_state_file_is_moved_to_and_another_name_of_the_same_is_none(tmp_path: Path) -> None:
    """A new one is a new epoch; its own lock does not keep it from its own file."""
    (tmp_path / "link").symlink_to(tmp_path)
    with configured(tmp_path) as (_, server):
        await server.ready()
        epochs = [epoch_of(server)]
        for run, name in enumerate(("link/legacy.db.walcast", "another"), 2):
            (tmp_path / "config.toml").write_text(f'owner_format = "any"\nstate = "{tmp_path / name}"\n')
            server.signal(signal.SIGHUP)
            await again(server, run)
            epochs.append(epoch_of(server))
        assert epochs[0] == epochs[1] != epochs[2]


def epoch_of(server: Walcast) -> str:
    """The epoch that a cursor of now has."""
    return str(server.get("/api/websocket-info").json["cursor"]).partition(":")[0]


async def test_an_address_that_is_taken_is_a_mistake_and_a_free_one_is_moved_to(tmp_path: Path) -> None:
    """It is tried before the old one is given up."""
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with configured(tmp_path, "--port", port) as (_, server):
            await server.ready()
            (tmp_path / "config.toml").write_text('owner_format = "any"\nhost = "127.0.0.2"\n')
            server.signal(signal.SIGHUP)
            await eventually(lambda: "cannot listen on 127.0.0.2" in server.said, "it is logged")
            assert server.get("/readyz").status == 200
            other.close()
            server.signal(signal.SIGHUP)
            await eventually(lambda: listens("127.0.0.2", port), "it has moved")
            assert not listens("127.0.0.1", port)


def listens(host: str, port: int) -> bool:
    """Whether somebody does."""
    with suppress(OSError):
        socket.create_connection((host, port), SOON).close()
        return True
    return False


@pytest.mark.timeout(300)
async def test_hangups_under_load_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """A writer writes on while it starts again and again; the sockets' queue takes who comes meanwhile."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(STORM_MAPPING, encoding="utf-8")
    server = Walcast(database, "--map", mapping, "--owner-format", "any")
    with legacy(database, STORM_SCHEMA, "WAL") as writer:
        try:
            await server.start().ready()
            async with (
                Resuming(server, OWNERS[0], websockets_link) as first,
                Resuming(server, OWNERS[1], aiohttp_link) as second,
            ):
                for client in (first, second):
                    await client.connected()
                with storm(database, rate=60, seed=1):
                    for run in range(2, 5):
                        server.signal(signal.SIGHUP)
                        server.signal(signal.SIGHUP)  # one more, at an awkward moment
                        for client in (first, second):
                            await client.connected(run)
                        await again(server, run)
                        seen = len(first.events)
                        await first.until(lambda client, seen=seen: len(client.events) > seen + 5)  # type: ignore[misc]
                await settled(server, writer, [first, second])
            assert server.terminate() == 0
        finally:
            server.kill()
    for client in (first, second):
        compare(database, client)


def test_a_terminal_that_is_gone_ends_it(tmp_path: Path) -> None:
    """Started by hand in a terminal that is closed then: it does not live on where nobody sees it."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    with legacy(database, SCHEMA, "WAL"):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, str(REPO / "server.py"), "serve", "--db", str(database), "--map", str(mapping),
             "--port", "0"],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"walcast listening on")
            os.close(ours)
            process.send_signal(signal.SIGHUP)
            assert process.wait(SOON) == 0
        finally:
            process.kill()
            process.communicate()
