"""The legacy file itself: locked, unreadable, failing, exchanged under the bridge. It is told and waited for."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.clients import subject_of, subscriber
from tests.e2e.harness import Walcast
from tests.e2e.situations import SCHEMA, message
from tests.faults.rig import attached, connected, has_all, injected, linux, said, side_files, unready, write


def unprivileged() -> Sequence[str]:
    """A prefix under which even root has to keep to the rights of a file. Skips the test where that cannot be."""
    if os.geteuid() != 0:
        return ()
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs a user other than root, or setpriv: apt-get install util-linux")
    return prefix


# -- locked


async def _locked(folder: Path, reason: str = "") -> None:
    """A writer in rollback mode that lets nobody else read, until /readyz has given the reason."""
    with attached(folder, journal="DELETE") as (writer, server):
        async with connected(server) as client, subscriber(server, "bert") as other:
            write(writer, ["before"])
            await client.saw("before")
            writer.run("BEGIN EXCLUSIVE")
            for number in range(3):
                writer.run(f"INSERT INTO named VALUES ('held{number}', 'c', 'user', 'x', 'anna')")
            for number in range(20):
                await other.send({"type": "ping", "timestamp": number})
                assert await other.next() == {"type": "pong", "timestamp": number}
            if reason:
                await unready(server, reason)
            assert len(client.events) == 1
            writer.run("COMMIT")
            await server.ready()
            await has_all(writer, client)
        assert len(client.welcomes) == 1


async def test_a_lock_for_a_moment_is_waited_out(tmp_path: Path) -> None:
    """Clients are served meanwhile, and what the lock held back comes after it."""
    await _locked(tmp_path)


@pytest.mark.heavy
async def test_a_lock_for_longer_is_told(tmp_path: Path) -> None:
    """After five seconds /readyz is 503 and says whose doing it is."""
    await _locked(tmp_path, "is locked by its writer")


# -- exchanged


def _exchanged(server: Walcast, make: str, *, names: Sequence[str]) -> None:
    """Another database in its place, which knows these messages, as a restored backup would."""
    other = server.database.with_name("other.db")
    with closing(sqlite3.connect(other, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode=WAL")
        sql.executescript(SCHEMA)
        for name in names:
            sql.execute(*message(name, "anna"))
    for file in side_files(server.database)[1], server.database.with_name(server.database.name + "-shm"):
        file.unlink(missing_ok=True)
    if make == "deleted":
        server.database.unlink()
    os.replace(other, server.database)


@pytest.mark.parametrize("make", ["replaced", "deleted"])
async def test_another_file_in_its_place_begins_an_epoch_and_gives_what_is_new(tmp_path: Path, make: str) -> None:
    """What was pushed before is not pushed again; a cursor of before is told to fetch anew."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            write(writer, ["one", "two", "three"])
            await client.saw("three")
            old = client.cursor
            writer.close()
            _exchanged(server, make, names=["one", "two", "four"])
            await client.saw("four")
            writer.open("WAL")
            write(writer, ["five"])
            await client.saw("five")
            assert [subject_of(event) for event in client.events] == ["one", "two", "three", "four", "five"]
            assert len(client.refetches) == 1
            await server.ready()
        async with subscriber(server, "anna", f"since={old}") as late:
            assert (late.established["recovered"], late.established["reason"]) == (False, "epoch_changed")


async def test_a_backup_put_back_under_it_in_wal_mode_begins_one_epoch(tmp_path: Path) -> None:
    """The log removed, a pause, the backup copied over: told, and waited for until the writer is back."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            write(writer, ["one"])
            await client.saw("one")
            writer.run("PRAGMA wal_checkpoint(TRUNCATE)")
            backup = server.database.read_bytes()
            write(writer, ["two"])
            await client.saw("two")
            old = client.cursor
            writer.close()
            for file in side_files(server.database)[1], server.database.with_name(server.database.name + "-shm"):
                file.unlink()
            await unready(server, "a backup is being put back")
            server.database.write_bytes(backup)
            await unready(server, "a backup is being put back")
            writer.open("WAL")
            write(writer, ["three"])
            await client.saw("three")
            await server.ready()
            await has_all(writer, client, but=["two"])
            assert server.metric('walcast_epochs_total{reason="database_restored"}') == 1
            assert len(client.refetches) == 1
        assert len(client.welcomes) == 1
        async with subscriber(server, "anna", f"since={old}") as late:
            assert (late.established["recovered"], late.established["reason"]) == (False, "epoch_changed")


async def test_a_file_that_is_cut_off_is_told_and_waited_for(tmp_path: Path) -> None:
    """`truncate -s 0`: 503; sockets stay; a backup with everything in it, put there instead, gives what was missed."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            write(writer, ["one", "two"])
            await client.saw("two")
            writer.close()
            for file in side_files(server.database)[1], server.database.with_name(server.database.name + "-shm"):
                file.unlink(missing_ok=True)
            os.truncate(server.database, 0)
            await unready(server)
            _exchanged(server, "replaced", names=["one", "two", "three"])
            await client.saw("three")
            await server.ready()
            assert [subject_of(event) for event in client.events] == ["one", "two", "three"]
        assert len(client.welcomes) == 1


async def test_a_file_that_was_moved_away_and_back_is_the_same(tmp_path: Path) -> None:
    """Moved with a writer that goes on writing to it where it is: the same epoch, and nothing is missed."""
    with attached(tmp_path) as (writer, server):
        async with connected(server) as client:
            write(writer, ["one"])
            await client.saw("one")
            away = [(file, file.with_name(f"away-{file.name}")) for file in _all_files(server.database)]
            for here, there in away:
                here.rename(there)
            await unready(server, "is not there")
            write(writer, ["two"])
            for here, there in reversed(away):
                there.rename(here)
            await client.saw("two")
            await server.ready()
            await has_all(writer, client)
            assert client.refetches == []
        assert len(client.welcomes) == 1


def _all_files(database: Path) -> list[Path]:
    return [file for suffix in ("", "-wal", "-shm") if (file := Path(f"{database}{suffix}")).exists()]


# -- unreadable, failing


@linux
async def test_a_file_that_may_not_be_read_is_read_on_while_open_and_waited_for_when_not(tmp_path: Path) -> None:
    """Rights taken away: 503 and why; given back: everything. Without them a start ends with exit code 3."""
    with attached(tmp_path, prefix=unprivileged()) as (writer, server):
        async with connected(server) as client:
            server.database.chmod(0)
            write(writer, ["open"])
            await client.saw("open")
            away = server.database.with_name("away.db")
            server.database.rename(away)
            await unready(server, "is not there")
            away.rename(server.database)
            await server.ready()
            write(writer, ["again"])
            await client.saw("again")
            assert server.terminate() == 0
            write(writer, ["unseen"])
            server.spawn()
            assert server.wait() == 3
            assert said(server, "cannot be opened") == 1
            server.database.chmod(0o600)
            await server.start().ready()
            await has_all(writer, client)
            assert client.refetches == []


@linux
async def test_a_folder_that_may_not_be_searched_is_told_and_waited_for(tmp_path: Path) -> None:
    """The same for the folder: 503, and with the rights back everything."""
    folder = tmp_path / "legacy"
    folder.mkdir()
    with attached(folder, state=tmp_path / "state", prefix=unprivileged()) as (writer, server):
        async with connected(server) as client:
            folder.chmod(0)
            try:
                await unready(server, "Permission denied")
                assert "died" not in server.get("/readyz").json["detail"]
                write(writer, ["unseen"])
            finally:
                folder.chmod(0o700)
            await client.saw("unseen")
            await has_all(writer, client)


@linux
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_a_disk_that_cannot_be_read_is_told_and_tried_until_it_can(tmp_path: Path, journal: str) -> None:
    """EIO under the legacy database: 503 in SQLite's words, then everything that was committed meanwhile."""
    with attached(tmp_path, journal=journal) as (writer, server):
        async with connected(server) as client:
            write(writer, ["before"])
            await client.saw("before")
            with injected(server, "pread64", "error=EIO", *side_files(server.database)):
                write(writer, [f"during{number}" for number in range(40)], size=5000)
                await unready(server)
            assert "died" not in server.get("/readyz").body.decode()
            await server.ready()
            await has_all(writer, client)
        assert len(client.welcomes) == 1
