"""`kill -9` at any instant loses nothing and repeats nothing, for clients that resume with their last cursor."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import defaultdict
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, aiohttp_link, subject_of, text_of, websockets_link
from tests.e2e.harness import SOON, Frame, Walcast
from tests.e2e.legacy_process import CONVERSATIONS, legacy, storm

OWNERS = ("anna", "bert")

SCHEMA = """
CREATE TABLE conversations(id TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, conversation_id TEXT NOT NULL, role TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE tasks(
    id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL, state TEXT NOT NULL, stamp INTEGER NOT NULL,
    history TEXT NOT NULL, artifacts TEXT NOT NULL);
""" + "".join(
    f"INSERT INTO conversations VALUES ('c{number}', '{OWNERS[number % 2]}');" for number in range(CONVERSATIONS)
)

MAPPING = """
[messages]
table           = "messages"
id              = "id"
conversation_id = "conversation_id"
role            = "role"
content         = "body"
owner           = "(SELECT owner FROM conversations c WHERE c.id = messages.conversation_id)"

[tasks]
table           = "tasks"
id              = "id"
conversation_id = "conversation_id"
state           = "state"
timestamp       = "stamp"
history         = "history"
artifacts       = "artifacts"
owner           = "(SELECT owner FROM conversations c WHERE c.id = tasks.conversation_id)"
"""


async def _strike(server: Walcast, client: Resuming, chance: random.Random) -> None:
    """Start the server and kill it at some instant: while it starts, while it catches up, or while it serves."""
    server.spawn()
    if chance.random() < 0.3:
        await _within(client, chance.uniform(0, 1.5), client.since + 10_000)
    else:
        await server.listening()
        await client.connected(len(client.welcomes) + 1)
        await _within(client, SOON, len(client.events) + chance.randrange(12))
        await _within(client, chance.uniform(0, 0.01), client.since + 10_000)
    server.kill()


async def _within(client: Resuming, seconds: float, events: int) -> None:
    """Until the client has seen so many events, but no longer than that."""
    with suppress(TimeoutError):
        await client.until(lambda client: len(client.events) >= events, seconds)


async def _survive(folder: Path, journal: str, kills: int, seed: int) -> None:
    database, mapping, chance = folder / "legacy.db", folder / "mapping.toml", random.Random(seed)
    mapping.write_text(MAPPING, encoding="utf-8")
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(legacy(database, SCHEMA, journal))
        server = Walcast(database, "--map", mapping, "--owner-format", "any")
        stack.callback(server.kill)
        await server.start().ready()
        dials = (websockets_link, aiohttp_link)
        clients = [
            await stack.enter_async_context(Resuming(server, owner, dial))
            for owner, dial in zip(OWNERS, dials, strict=True)
        ]
        for client in clients:
            await client.connected()
        with storm(database, rate=50, seed=seed):
            server.kill()
            for strike in range(kills):
                await _strike(server, clients[strike % 2], chance)
            server.spawn()
        await server.ready()
        writer.commit(
            ("INSERT INTO messages VALUES (1000001, 'c0', 'user', '[1000001]')", ()),
            ("INSERT INTO messages VALUES (1000002, 'c1', 'user', '[1000002]')", ()),
        )
        await clients[0].saw("1000001")
        await clients[1].saw("1000002")
    for client in clients:
        _compare(database, client)


def _compare(database: Path, client: Resuming) -> None:
    """What a client was sent against what stands in the database."""
    assert client.refetches == []
    messages: dict[str, list[str]] = defaultdict(list)
    tasks: dict[str, list[Frame]] = defaultdict(list)
    for event in client.events:
        if event["type"] == "new_message":
            messages[event["conversation_id"]].append(subject_of(event))
            assert text_of(event).startswith(f"[{subject_of(event)}]")
        else:
            tasks[subject_of(event)].append(event["task"])
    with closing(sqlite3.connect(database)) as connection:
        for conversation, pushed in _messages(connection, client.owner).items():
            assert messages.pop(conversation, []) == pushed, conversation
        for task, state, stamp, history, artifacts in _tasks(connection, client.owner):
            pushed_states = tasks.pop(task)
            stamps = [pushed["status"]["timestamp"] for pushed in pushed_states]
            assert stamps == sorted(set(stamps)), f"a state of {task} came twice, or after a later one"
            status = {"state": state, "message": None, "timestamp": stamp}
            assert pushed_states[-1]["status"] == status
            assert pushed_states[-1]["history"] == json.loads(history)
            assert pushed_states[-1]["artifacts"] == json.loads(artifacts)
    assert messages == {}
    assert tasks == {}


def _messages(connection: sqlite3.Connection, owner: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for conversation, message in connection.execute(
        "SELECT conversation_id, m.id FROM messages m JOIN conversations c ON c.id = conversation_id "
        "WHERE owner = ? ORDER BY m.id",
        (owner,),
    ):
        found[conversation].append(str(message))
    return found


def _tasks(connection: sqlite3.Connection, owner: str) -> list[tuple[str, str, int, str, str]]:
    return connection.execute(
        "SELECT t.id, state, stamp, history, artifacts FROM tasks t JOIN conversations c ON c.id = conversation_id "
        "WHERE owner = ?",
        (owner,),
    ).fetchall()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_killing_the_bridge_at_random_instants_loses_and_repeats_nothing(tmp_path: Path, journal: str) -> None:
    """Eight kills while a writer writes on; the clients' lists equal the database."""
    await _survive(tmp_path, journal, kills=8, seed=random.SystemRandom().randrange(1 << 30))


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_killing_the_bridge_a_hundred_times_loses_and_repeats_nothing(tmp_path: Path, journal: str) -> None:
    """The same, long enough to strike the rare instants."""
    await _survive(tmp_path, journal, kills=100, seed=random.SystemRandom().randrange(1 << 30))
