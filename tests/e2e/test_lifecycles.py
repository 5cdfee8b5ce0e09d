"""What may happen to the database file as a whole, and to the bridge beside it."""

from __future__ import annotations

import os
import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, subject_of, subscriber
from tests.e2e.harness import Frame, Walcast, eventually
from tests.e2e.legacy_process import Legacy, LegacyError, legacy
from tests.e2e.situations import SCHEMA, VARIANTS, Scene, Variant, message, new_message, prepared, stage, task

pytestmark = pytest.mark.parametrize("variant", VARIANTS, ids=str)


async def _resumed_after(server: Walcast, owner: str, cursor: str, name: str) -> list[str]:
    """What a client is given that comes back with a cursor, up to and with the event of that name."""
    seen: list[str] = []
    async with subscriber(server, owner, f"since={cursor}") as client:
        assert client.established["recovered"] is True
        while name not in seen:
            seen.append(subject_of(await client.next()))
        assert client.established["replayed"] <= len(seen)
    return seen


async def test_rows_that_were_there_are_baseline_and_those_written_while_it_was_down_are_not(
    tmp_path: Path, variant: Variant
) -> None:
    """The first attach gives no events; after a stop everything committed meanwhile reaches who asks with a cursor."""
    rows = [message("old", "anna"), message("old-b", "anna", table="keyed"), task("old-task", "anna")]
    with stage(tmp_path, variant, *rows) as (writer, server):
        async with AsyncExitStack() as stack:
            await server.ready()
            scene = Scene(variant, tmp_path, writer, server, stack)
            client = await scene.client("anna", "resume=1")
            await scene.sees_nothing_more(client)
            cursor = client.established["cursor"]
        assert server.terminate() == 0
        writer.commit(message("down-1", "anna"), message("down-2", "bert"))
        writer.commit(("UPDATE tasks SET artifacts = '[{\"name\": \"a\"}]' WHERE id = 'old-task'", ()))
        writer.commit(("UPDATE named SET body = 'edited' WHERE id = 'old'", ()), message("down-3", "anna"))
        await server.start().ready()
        writer.commit(message("live", "anna"))
        seen = await _resumed_after(server, "anna", cursor, "live")
        assert [name for name in seen if name != "old-task"] == ["marker-1-anna", "down-1", "down-3", "live"]
        assert seen.count("old-task") == 1


async def test_a_database_that_is_missing_at_the_start_is_waited_for(tmp_path: Path, variant: Variant) -> None:
    """With --wait: not ready and saying why, then the file, then the tables, then every row from the first."""
    server = prepared(tmp_path, variant, "--wait")
    with legacy(server.database) as writer:
        try:
            server.start()
            answer = server.get("/readyz")
            assert answer.status == 503
            assert "legacy.db" in answer.json["detail"]
            async with Resuming(server, "anna") as client:
                await client.connected()
                writer.open(variant.journal)
                writer.script("CREATE TABLE unrelated(x)")
                writer.script(SCHEMA)
                writer.commit(message("first", "anna"), task("task", "anna"))
                await server.ready()
                writer.commit(message("second", "anna"))
                await client.saw("second")
                assert [name for name in map(subject_of, client.events) if name != "task"] == ["first", "second"]
        finally:
            server.kill()


async def test_an_emptied_database_goes_on(tmp_path: Path, variant: Variant) -> None:
    """DELETE of everything gives nothing; what is written then is new, with rowids used before."""
    rows = [message(f"old{number}", "anna") for number in range(20)]
    with stage(tmp_path, variant, *rows) as (writer, server):
        async with AsyncExitStack() as stack:
            scene = Scene(variant, tmp_path, writer, await server.ready(), stack)
            client = await scene.client("anna")
            for table in ("named", "numbered", "keyed", "tasks"):
                writer.run(f"DELETE FROM {table}")
            await scene.sees_nothing_more(client)
            writer.commit(*[message(f"new{number}", "anna") for number in range(20)])
            assert [subject_of(await client.next()) for _ in range(20)] == [f"new{number}" for number in range(20)]
            await scene.sees_nothing_more(client)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


async def test_a_database_that_is_removed_and_made_anew_goes_on(tmp_path: Path, variant: Variant) -> None:
    """Not ready with the reason meanwhile; then live events again, and old cursors are void."""
    with stage(tmp_path, variant, message("old", "anna")) as (writer, server):
        await server.ready()
        async with Resuming(server, "anna") as client:
            await client.connected()
            writer.commit(message("before", "anna"))
            await client.saw("before")
            cursor = client.cursor
            writer.close()
            _remove(server.database)
            await eventually(lambda: server.get("/readyz").status == 503, "it is noticed")
            assert "legacy.db" in server.get("/readyz").json["detail"]
            assert server.get("/healthz").status == 200
            writer.open(variant.journal)
            writer.script(SCHEMA)
            writer.commit(message("after", "anna"))
            await client.saw("after")  # ready is what has been seen: it may come before this commit is
            await server.ready()
        async with subscriber(server, "anna", f"since={cursor}") as stale:
            assert stale.established["recovered"] is False
            assert stale.established["reason"] == "epoch_changed"
            writer.commit(message("live", "anna"))
            assert subject_of(await stale.next()) == "live"


async def test_a_file_truncated_to_nothing_and_filled_again_goes_on(tmp_path: Path, variant: Variant) -> None:
    """The same inode, as a careless reset or a copy over the file leaves it."""
    with stage(tmp_path, variant, message("old", "anna")) as (writer, server):
        await server.ready()
        writer.close()
        os.truncate(server.database, 0)
        for suffix in ("-wal", "-shm"):
            server.database.with_name(server.database.name + suffix).unlink(missing_ok=True)
        await eventually(lambda: server.get("/readyz").status == 503, "it is noticed")
        writer.open(variant.journal)
        writer.script(SCHEMA)
        await server.ready()
        async with subscriber(server, "anna") as client:
            writer.commit(message("new", "anna"))
            assert await client.next() == new_message("new")


def _other_database(folder: Path, journal: str) -> Path:
    """A complete database in one file, as a restore leaves it."""
    other = folder / "other.db"
    with legacy(other, SCHEMA, journal) as writer:
        writer.commit(message("theirs", "anna"), message("old", "anna"))
        writer.run("PRAGMA wal_checkpoint(TRUNCATE)")
    return other


async def test_another_file_put_in_its_place_begins_a_new_epoch(tmp_path: Path, variant: Variant) -> None:
    """os.replace: live events go on, and an old cursor is answered with the new one, once."""
    other = _other_database(tmp_path, variant.journal)
    with stage(tmp_path, variant, message("old", "anna")) as (writer, server):
        await server.ready()
        async with subscriber(server, "anna", "resume=1") as plain, Resuming(server, "anna") as client:
            await client.connected()
            writer.commit(message("before", "anna"))
            assert subject_of(await plain.next()) == "before"
            await client.saw("before")
            writer.close()
            for suffix in ("-wal", "-shm"):
                server.database.with_name(server.database.name + suffix).unlink(missing_ok=True)
            os.replace(other, server.database)
            writer.open(variant.journal)
            epoch = client.events[-1]["cursor"].partition(":")[0]
            await eventually(
                lambda: not server.get("/api/websocket-info").json["cursor"].startswith(epoch), "a new epoch"
            )
            await server.ready()
            writer.commit(message("live", "anna"))
            seen = dict[str, Frame]()
            while not {"theirs", "live"} <= seen.keys():  # which of them comes first is not promised
                event = await plain.next()
                seen[subject_of(event)] = event
            assert not any(event["cursor"].startswith(epoch) for event in seen.values())
        async with subscriber(server, "anna", f"since={epoch}:1") as stale:
            established = stale.established
            assert established["recovered"] is False
            assert established["reason"] == "epoch_changed"
            assert established["refetch"] == "/api/conversations"
        async with subscriber(server, "anna", f"since={established['cursor']}") as mended:
            assert mended.established["recovered"] is True
            assert mended.established["replayed"] == 0


async def test_the_journal_mode_may_be_switched(tmp_path: Path, variant: Variant) -> None:
    """Between all of them while it runs; out of WAL only while nobody has the file open, so without the bridge."""
    with stage(tmp_path, variant) as (writer, server):
        await server.ready()
        async with Resuming(server, "anna") as client:
            await client.connected()
            for mode in ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL"):
                is_leaving_wal = writer.run("PRAGMA journal_mode") == [["wal"]]
                if is_leaving_wal:
                    assert server.terminate() == 0
                await _switch(writer, mode)
                if is_leaving_wal:
                    await server.start().ready()
                for number in range(5):
                    writer.commit(message(f"{len(client.events)}-{mode}-{number}", "anna"))
                last = f"{len(client.events)}-{mode}-last"
                writer.commit(message(last, "anna"))
                await client.saw(last)
            assert [event["message"]["id"] for event in client.events] == [
                row for (row,) in writer.run("SELECT id FROM named ORDER BY rowid")
            ]


async def _switch(writer: Legacy, mode: str) -> None:
    """It needs the database for oneself, so it is tried until no reader is in the way."""

    def is_switched() -> bool:
        with suppress(LegacyError):
            return bool(writer.run(f"PRAGMA journal_mode={mode}") == [[mode.lower()]])
        return False

    await eventually(is_switched, f"the journal mode is {mode}")


async def test_a_copy_of_the_file_over_itself_loses_nothing(tmp_path: Path, variant: Variant) -> None:
    """A backup put back with the same content and another inode: new rows are pushed, old ones are not."""
    with stage(tmp_path, variant, message("old", "anna")) as (writer, server):
        await server.ready()
        async with subscriber(server, "anna") as client:
            writer.commit(message("kept", "anna"))
            assert subject_of(await client.next()) == "kept"
            writer.run("PRAGMA wal_checkpoint(TRUNCATE)")
            writer.close()
            copy = tmp_path / "copy.db"
            shutil.copy(server.database, copy)
            for suffix in ("-wal", "-shm"):
                server.database.with_name(server.database.name + suffix).unlink(missing_ok=True)
            os.replace(copy, server.database)
            writer.open(variant.journal)
            await server.ready()
            writer.commit(message("next", "anna"))
            assert subject_of(await client.next()) == "next"
