"""Edits and deletions as a client sees them that asks for them, from a writer in another process, across restarts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import Subscriber, subscriber
from tests.e2e.harness import Frame, Walcast
from tests.e2e.legacy_process import Statement
from tests.e2e.situations import VARIANTS, Variant, message, new_message, replacing, stage, task
from tests.e2e.test_tail import TAIL, line, tailing

ALL = "events=new_message,task_update,message_update,message_deleted,task_deleted"


def deleting(table: str, id_: object) -> Statement:
    return f"DELETE FROM {table} WHERE id = ?", (id_,)


def named(frame: Frame) -> tuple[str, str]:
    """(type, id) of an event."""
    subject = frame.get("message_id") or frame.get("task_id") or (frame.get("message") or frame["task"])["id"]
    return frame["type"], str(subject)


async def come(client: Subscriber, count: int) -> list[Frame]:
    """The next frames."""
    return [await client.next() for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_who_asks_is_told_of_edits_and_deletions_and_nobody_else(tmp_path: Path, variant: Variant) -> None:
    """Over tables of every kind, also of rows that were there before; and plain, field by field, without cursors."""
    there = [message("old", "anna"), message("other", "bert"), task("old-task", "anna")]
    with stage(tmp_path, variant, *there) as (writer, server):
        await server.ready()
        async with (
            subscriber(server, "anna", ALL) as asking,
            subscriber(server, "anna") as plain,
            subscriber(server, "bert", ALL) as bert,
        ):
            writer.commit(("UPDATE named SET body = 'edited' WHERE id = 'old'", ()))
            assert await asking.next() == {**new_message("old", "edited"), "type": "message_update"}
            writer.commit(replacing(message("old", "anna", "replaced")))
            assert await asking.next() == {**new_message("old", "replaced"), "type": "message_update"}
            writer.commit(deleting("named", "old"))
            assert await asking.next() == {"type": "message_deleted", "conversation_id": "c", "message_id": "old"}
            writer.commit(deleting("tasks", "old-task"))
            assert await asking.next() == {"type": "task_deleted", "conversation_id": "c", "task_id": "old-task"}
            for table, name in (("numbered", 5), ("keyed", "k")):
                writer.commit(message(name, "anna", table=table))
                assert await asking.next() == await plain.next() == new_message(name)
                writer.commit((f"UPDATE {table} SET body = 'edited'", ()))
                assert named(await asking.next()) == ("message_update", str(name))
                writer.commit((f"UPDATE {table} SET owner = 'bert'", ()))
                assert named(await asking.next()) == ("message_deleted", str(name))
                assert await bert.next() == {**new_message(name, "edited"), "type": "message_update"}
                writer.commit((f"DELETE FROM {table}", ()))
                assert named(await bert.next()) == ("message_deleted", str(name))
            writer.commit(message("end", "anna"))
            assert await asking.next() == await plain.next() == new_message("end")


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_what_was_deleted_while_nobody_looked_is_told_once(tmp_path: Path, journal: str, is_killed: bool) -> None:
    """A client that resumes gets it with its place in the chain; one that asks for other types resumes as well."""
    with stage(tmp_path, Variant(journal, "--inotify")) as (writer, server):
        await server.ready()
        async with subscriber(server, "anna", f"resume=1&{ALL}") as client:
            writer.commit(message("m1", "anna"), message("m2", "anna"))
            first, second = await come(client, 2)
            writer.commit(task("t1", "anna"))
            last = await client.next()
        server.kill() if is_killed else server.terminate()
        writer.commit(deleting("named", "m1"), deleting("tasks", "t1"), ("UPDATE named SET body = 'edited'", ()))
        server.start()
        await server.ready()
        expected = {("message_deleted", "m1"), ("task_deleted", "t1"), ("message_update", "m2")}
        async with subscriber(server, "anna", f"since={last['cursor']}&{ALL}") as client:
            assert client.established["recovered"] is True
            missed = await come(client, 3)
            assert set(map(named, missed)) == expected
            writer.commit(message("m3", "anna"))
            chain = [first, second, last, *missed, await client.next()]
        assert [one["prev"] for one in chain[1:]] == [one["cursor"] for one in chain[:-1]]
        await _resumes_from_each(server, chain)
        async with subscriber(server, "anna", f"since={second['cursor']}") as plain:
            assert plain.established["replayed"] == 2
            assert [(named(one), one["prev"]) for one in await come(plain, 2)] == [
                (("task_update", "t1"), second["cursor"]), (("new_message", "m3"), last["cursor"]),
            ]  # fmt: skip


async def _resumes_from_each(server: Walcast, chain: list[Frame]) -> None:
    """Over the socket and as JSON: what follows, and nothing else."""
    for place, one in enumerate(chain, 1):
        async with subscriber(server, "anna", f"since={one['cursor']}&{ALL}") as client:
            assert client.established["replayed"] == len(chain) - place
            assert await come(client, len(chain) - place) == chain[place:]
        answer: Any = server.get(f"/api/events?since={one['cursor']}&{ALL}", {"X-Solana-PublicKey": "anna"}).json
        assert answer["events"] == chain[place:]


def test_tail_prints_the_types_it_is_told_to(tmp_path: Path) -> None:
    """`--events`, as JSON and for people."""
    with stage(tmp_path, VARIANTS[0], message("m1", "anna")) as (writer, server):
        url = f"http://{server.address}"
        with (
            tailing(url, "--owner", "anna", "--events", "message_deleted,message_update", "--json") as exact,
            tailing(url, "--owner", "anna", "--events", "message_update,message_deleted,task_deleted") as readable,
        ):
            for tail in (exact, readable):
                assert "connected" in line(tail.stderr)
            writer.commit(("UPDATE named SET body = 'edited'", ()))
            assert json.loads(line(exact.stdout))["type"] == "message_update"
            assert line(readable.stdout) == "c  (edit of m1) user: edited"
            writer.commit(message("m2", "anna"), deleting("named", "m1"))
            assert json.loads(line(exact.stdout))["message_id"] == "m1"
            assert line(readable.stdout) == "c  message m1 deleted"


def test_tail_names_a_type_that_there_is_not() -> None:
    """Before it connects, with those that there are."""
    command = [*TAIL, "http://127.0.0.1:1", "--owner", "anna", "--events", "wishes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'unknown event type "wishes"; known: new_message' in done.stderr
