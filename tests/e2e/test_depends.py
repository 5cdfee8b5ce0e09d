"""Tasks and messages whose parts stand in child tables, written by another process while the server comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, subject_of, subscriber
from tests.e2e.harness import Frame, Walcast
from tests.e2e.legacy_process import Legacy, Statement, legacy

SCHEMA = """
CREATE TABLE messages(id TEXT PRIMARY KEY, chat TEXT, owner TEXT);
CREATE TABLE parts(id INTEGER PRIMARY KEY, message_id TEXT, data TEXT);
CREATE INDEX parts_of ON parts(message_id);
CREATE TABLE tasks(id TEXT PRIMARY KEY, chat TEXT, state TEXT, owner TEXT);
CREATE TABLE task_events(task_id TEXT, number INTEGER, text TEXT, PRIMARY KEY(task_id, number)){options};
INSERT INTO tasks VALUES ('t1', 'c', 'working', 'anna'), ('t2', 'c', 'working', 'bert');
INSERT INTO task_events VALUES ('t1', 1, 'begun'), ('t2', 1, 'begun');
"""
MAPPING = """\
[messages]
table           = "messages"
where           = "EXISTS (SELECT 1 FROM parts p WHERE p.message_id = messages.id)"
id              = "id"
conversation_id = "chat"
role            = "'assistant'"
content         = "(SELECT json_group_array(json(p.data)) FROM parts p WHERE p.message_id = messages.id)"
owner           = "owner"
depends_on      = [{ table = "parts", message_id = "message_id" }]

[tasks]
table           = "tasks"
id              = "id"
conversation_id = "chat"
state           = "state"
history         = '''(SELECT json_group_array(json_object('role', 'agent', 'text', e.text))
                      FROM task_events e WHERE e.task_id = tasks.id)'''
owner           = "owner"
depends_on      = [{ table = "task_events", task_id = "task_id" }]
"""

Stage = tuple[Legacy, Walcast]


@pytest.fixture(params=["WAL", "DELETE"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, options: str) -> Iterator[Stage]:
    """A database, its writer, and a server that runs."""
    path, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    server = Walcast(path, "--map", mapping, "--owner-format", "any")
    with legacy(path, SCHEMA.format(options=options), request.param) as writer:
        try:
            yield writer, server.start()
        finally:
            server.kill()


@pytest.fixture(params=["", " WITHOUT ROWID"], ids=["rowid", "without-rowid"])
def options(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def event(task: str, number: int, text: str) -> Statement:
    return "INSERT INTO task_events VALUES (?, ?, ?)", (task, number, text)


def part(message: str, text: str) -> Statement:
    return "INSERT INTO parts(message_id, data) VALUES (?, json_object('text', ?))", (message, text)


def told(frame: Frame) -> tuple[str, list[str]]:
    """Whose it is, and the texts in it."""
    if frame["type"] == "new_message":
        return subject_of(frame), [one["text"] for one in frame["message"]["content"]]
    return subject_of(frame), [one["text"] for turn in frame["task"]["history"] for one in turn["parts"]]


async def test_what_happens_to_a_child_row_is_told_to_the_owner_of_its_task(stage: Stage) -> None:
    """Insert, update, delete; a row that moves to another task is told to the owners of both."""
    writer, server = stage
    await server.ready()
    async with subscriber(server, "anna") as anna, subscriber(server, "bert") as bert:
        writer.commit(event("t1", 2, "more"))
        assert told(await anna.next()) == ("t1", ["begun", "more"])
        writer.commit(("UPDATE task_events SET text = 'MORE' WHERE task_id = 't1' AND number = 2", ()))
        assert told(await anna.next()) == ("t1", ["begun", "MORE"])
        writer.commit(("UPDATE task_events SET task_id = 't2' WHERE text = 'MORE'", ()))
        assert told(await anna.next()) == ("t1", ["begun"])
        assert told(await bert.next()) == ("t2", ["begun", "MORE"])
        writer.commit(("DELETE FROM task_events WHERE task_id = 't1'", ()))
        assert told(await anna.next()) == ("t1", [])
        writer.commit(("DELETE FROM task_events", ()), ("UPDATE tasks SET state = 'done' WHERE id = 't2'", ()))
        frame = await bert.next()
        assert (told(frame), frame["task"]["status"]["state"]) == (("t2", []), "done")


async def test_a_message_is_pushed_once_when_its_parts_have_come(stage: Stage) -> None:
    """The row first, in a commit of its own; then its parts, in one and in several."""
    writer, server = stage
    await server.ready()
    async with subscriber(server, "anna") as anna:
        writer.commit(("INSERT INTO messages VALUES ('m1', 'c', 'anna'), ('m2', 'c', 'anna')", ()))
        writer.commit(part("m2", "second"))
        assert told(await anna.next()) == ("m2", ["second"])
        writer.commit(part("m2", "late"))
        writer.commit(part("m1", "one"), part("m1", "two"))
        assert told(await anna.next()) == ("m1", ["one", "two"])
        writer.commit(("DELETE FROM parts", ()))
        writer.commit(("INSERT INTO messages VALUES ('m3', 'c', 'anna')", ()), part("m3", "whole"))
        assert told(await anna.next()) == ("m3", ["whole"])


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_child_rows_that_change_while_the_bridge_is_down_are_told_once(stage: Stage, is_killed: bool) -> None:
    """A client that resumes gets the last state of each task, and each message that was completed."""
    writer, server = stage
    await server.ready()
    async with Resuming(server, "anna") as anna:
        await anna.connected()
        writer.commit(("INSERT INTO messages VALUES ('m1', 'c', 'anna')", ()), event("t1", 2, "live"))
        await anna.saw("t1")
        server.kill() if is_killed else server.terminate()
        writer.commit(part("m1", "down"))
        writer.commit(("UPDATE task_events SET text = 'edited' WHERE task_id = 't1' AND number = 1", ()))
        writer.commit(("DELETE FROM task_events WHERE number = 2", ()))
        await server.start().ready()
        writer.commit(("INSERT INTO messages VALUES ('end', 'c', 'anna')", ()), part("end", "end"))
        await anna.saw("end")
        assert told(anna.events[0]) == ("t1", ["begun", "live"])
        assert sorted(told(frame) for frame in anna.events[1:]) == [
            ("end", ["end"]),
            ("m1", ["down"]),
            ("t1", ["edited"]),
        ]


async def test_child_tables_are_no_streams_of_their_own(stage: Stage) -> None:
    """The service describes the sections of the mapping."""
    _, server = stage
    await server.ready()
    streams = server.get("/api/websocket-info").json["capture"]["streams"]
    assert [stream["section"] for stream in streams] == ["messages", "tasks"]
