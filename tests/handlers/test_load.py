"""The initial load over HTTP: what an owner's conversations hold, and a cursor from which nothing is missed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from tests.handlers.serving import KEY, Serving, serving, subject_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


async def paged(server: Serving, path: str, key: str, limit: int, owner: str = "anna") -> list[Any]:
    """Every item of a list, page by page."""
    items, before = list[Any](), ""
    while True:
        status, answer = await server.get(f"{path}?limit={limit}{before}", owner)
        assert status == 200, answer
        assert len(answer[key]) <= limit
        items += answer[key]
        if answer["before"] is None:
            return items
        before = f"&before={answer['before']}"


async def test_conversations_come_newest_first_page_by_page(server: Serving) -> None:
    """The owner's alone, each once, with its name; `before` of an answer asks for those before it."""
    for number in range(7):
        server.message(f"m{number}", conversation=f"c{number}")
        server.message(f"b{number}", "bert", conversation=f"d{number}")
    expected = [{"id": f"c{number}", "name": f"about c{number}"} for number in reversed(range(7))]
    for limit in (1, 3, 7, 8):
        assert await paged(server, "/api/conversations", "conversations", limit) == expected
    status, answer = await server.get("/api/conversations", "nobody")
    assert (status, answer["conversations"], answer["before"]) == (200, [], None)


async def test_messages_are_those_of_the_events(server: Serving) -> None:
    """Each item is exactly the event's `message`, newest first."""
    begin = await server.cursor()
    for number in range(5):
        server.message(f"m{number}", text=json.dumps([{"kind": "text", "text": f"{number}"}]))
    server.message("other", conversation="other")
    await server.logged("other")
    events = (await server.get(f"/api/events?since={begin}&conversation_id=c-anna"))[1]["events"]
    items = await paged(server, "/api/conversations/c-anna/messages", "messages", 2)
    assert items == [event["message"] for event in reversed(events)]


async def test_tasks_are_those_of_the_events(server: Serving) -> None:
    """Each item is exactly the event's `task`, in its present state; one task can be asked for by its id."""
    begin = await server.cursor()
    for name in ("t1", "t2", "t3"):
        server.task(name)
    server.task("t1", "completed")
    answer: Any = {"events": []}
    while not any(subject_of(event) == "t1" and "completed" in str(event) for event in answer["events"]):
        _, answer = await server.get(f"/api/events?since={begin}")
    latest = {subject_of(event): event["task"] for event in answer["events"]}
    items = await paged(server, "/api/conversations/c-anna/tasks", "tasks", 2)
    assert items == [latest["t3"], latest["t2"], latest["t1"]]
    _, answer = await server.get("/api/tasks/t1")
    assert (answer["task"], answer["conversation_id"]) == (latest["t1"], "c-anna")


@pytest.mark.parametrize(
    "path", ["/api/conversations/c-bert/messages", "/api/conversations/c-bert/tasks", "/api/tasks/berts"]
)
async def test_what_is_another_owners_is_not_there(server: Serving, path: str) -> None:
    """404, the same as for what does not exist; the other owner gets it."""
    server.message("m1", "bert")
    server.task("berts", owner="bert")
    assert (await server.get(path, "bert"))[0] == 200
    status, body = await server.get(path, "anna")
    missing_status, missing = await server.get(path.replace("bert", "nobody"), "anna")
    assert (status, body) == (missing_status, missing) == (404, body)


async def test_no_page_tells_what_another_owner_has(server: Serving) -> None:
    """With `before`, what did not exist was an empty page, and what was another owner's 404."""
    server.message("m1")
    server.message("m2")
    server.message("m3", "bert")
    await server.logged("m3", "bert")
    _, page = await server.get("/api/conversations/c-anna/messages?limit=1")
    path = f"/api/conversations/c-{{}}/messages?before={page['before']}"
    assert await server.get(path.format("bert")) == await server.get(path.format("nobody"))


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "{0b55}", "{", "a b+c", "?x#y", "日本"])
async def test_an_id_may_be_any_text(server: Serving, name: str) -> None:
    """Percent-encoded as a part of the address; the router's own pattern has no braces, and answered 404."""
    server.message("m1", conversation=name)
    server.task(name, conversation=name)
    quoted = quote(name, safe="")
    for path in (f"/api/conversations/{quoted}/messages", f"/api/conversations/{quoted}/tasks", f"/api/tasks/{quoted}"):
        async with server.http.get(URL(path, encoded=True), headers={KEY: "anna"}) as response:
            assert response.status == 200, path


async def test_a_conversation_without_messages_is_an_empty_list(server: Serving) -> None:
    """It is the owner's, so it is not 404: with messages only, tasks are an empty list."""
    server.message("m1")
    status, answer = await server.get("/api/conversations/c-anna/tasks")
    assert (status, answer["tasks"], answer["before"]) == (200, [], None)


async def test_the_cursor_was_taken_before_the_rows(server: Serving) -> None:
    """A row committed after the answer follows from its cursor; one in the answer may come again, none is missed."""
    server.message("m1")
    _, answer = await server.get("/api/conversations/c-anna/messages")
    server.message("m2")
    await server.logged("m2")
    _, later = await server.get(f"/api/events?since={answer['cursor']}")
    names = {item["id"] for item in answer["messages"]} | set(map(subject_of, later["events"]))
    assert names == {"m1", "m2"}


SHARED = """
[conversations]
table = "rooms"
id    = "id"
owner = "members"

[messages]
table           = "messages"
id              = "id"
conversation_id = "room"
role            = "'user'"
content         = "body"
owner           = "(SELECT members FROM rooms WHERE rooms.id = messages.room)"
"""
SHARED_SCHEMA = """
CREATE TABLE rooms(id INTEGER PRIMARY KEY, members TEXT);
CREATE INDEX by_members ON rooms(members);
CREATE TABLE messages(id INTEGER PRIMARY KEY, room INTEGER, body TEXT);
INSERT INTO rooms VALUES (1, '["anna", "bert"]'), (2, 'anna'), (3, '["bert"]'), (4, '["annabel"]'), (5, '[broken');
INSERT INTO messages VALUES (1, 1, 'to both'), (2, 2, 'to anna'), (3, 3, 'to bert');
"""


async def test_several_owners_and_integer_ids(tmp_path: Path) -> None:
    """An owner in a JSON array is an owner, though the column has an index; ids are text, whatever the column holds."""
    async with serving(tmp_path, SHARED, SHARED_SCHEMA) as server:
        assert await paged(server, "/api/conversations", "conversations", 1) == [
            {"id": "2", "name": None},
            {"id": "1", "name": None},
        ]
        assert [item["id"] for item in await paged(server, "/api/conversations", "conversations", 5, "bert")] == [
            "3",
            "1",
        ]
        for owner in ("anna", "bert"):
            _, answer = await server.get("/api/conversations/1/messages", owner)
            assert [item["id"] for item in answer["messages"]] == ["1"]
        assert (await server.get("/api/conversations/2/messages", "bert"))[0] == 404


DERIVED = """
[messages]
table           = "messages"
id              = "id"
conversation_id = "thread"
role            = "role"
content         = "body"
owner           = "who"

[[tasks]]
table           = "tasks"
id              = "id"
conversation_id = "thread"
state           = "state"
owner           = "who"
"""
DERIVED_SCHEMA = """
CREATE TABLE messages(id TEXT, thread TEXT, role TEXT, body TEXT, who TEXT);
CREATE INDEX threads ON messages(thread);
CREATE TABLE tasks(id TEXT PRIMARY KEY, thread TEXT, state TEXT, who TEXT) WITHOUT ROWID;
INSERT INTO messages VALUES ('1', 'a', 'user', '', 'anna'), ('2', 'b', 'user', '', 'anna'),
  ('1', 'c', 'user', '', 'bert'), ('3', 'a', 'user', '', 'anna'), ('4', 'a', 'user', '', 'bert'),
  ('5', 'd', 'user', '', 'anna'), ('6', 'b', '', '', 'bert');
INSERT INTO tasks VALUES ('t1', 'a', 's', 'anna'), ('t2', 'e', 's', 'anna'),
  ('t3', 'e', 's', 'bert'), ('t4', 'f', 's', 'anna');
"""


async def test_conversations_are_derived_where_no_table_holds_them(tmp_path: Path) -> None:
    """Without [conversations]: those of the owner's messages and tasks, each once over all pages, and nameless."""
    async with serving(tmp_path, DERIVED, DERIVED_SCHEMA) as server:
        for limit in (1, 2, 10):
            items = await paged(server, "/api/conversations", "conversations", limit)
            assert [item["id"] for item in items] == ["d", "a", "b", "f", "e"]
            assert all(item["name"] is None for item in items)
        assert [item["id"] for item in await paged(server, "/api/conversations/a/messages", "messages", 1)] == [
            "3",
            "1",
        ]
        assert (await server.get("/api/conversations/c/messages"))[0] == 404
        assert (await server.get("/api/conversations/e/messages"))[1]["messages"] == []
        assert (await server.get("/api/tasks/t2"))[1]["task"]["status"]["state"] == "s"
        assert (await server.get("/api/tasks/t3"))[0] == 404


APPENDED_SCHEMA = """
CREATE TABLE messages(id TEXT, thread TEXT, role TEXT, body TEXT, who TEXT);
CREATE TABLE tasks(id TEXT, thread TEXT, state TEXT, who TEXT);
INSERT INTO tasks VALUES ('t', 'a', 'old', 'anna'), ('u', 'a', 'only', 'anna'), ('t', 'a', 'new', 'anna');
"""


@pytest.mark.parametrize("index", ["", "CREATE INDEX by_id ON tasks(id);"])
async def test_the_newest_row_of_a_task_is_the_task(tmp_path: Path, index: str) -> None:
    """Snapshots appended one after another: the highest rowid is the task, with an index on every page."""
    async with serving(tmp_path, DERIVED, APPENDED_SCHEMA + index) as server:
        assert (await server.get("/api/tasks/t"))[1]["task"]["status"]["state"] == "new"
        for limit in (1, 5) if index else (5,):
            items = await paged(server, "/api/conversations/a/tasks", "tasks", limit)
            assert [(item["id"], item["status"]["state"]) for item in items] == [("t", "new"), ("u", "only")]


FRAGILE = """
[messages]
table           = "messages"
id              = "id"
conversation_id = "json_extract(doc, '$.thread')"
role            = "'user'"
content         = "json_extract(doc, '$.body')"
owner           = "json_extract(doc, '$.who')"
"""


@pytest.mark.parametrize("index", ["", "CREATE INDEX threads ON messages(json_extract(doc, '$.thread'));"])
async def test_a_row_that_fails_hides_no_other(tmp_path: Path, index: str) -> None:
    """Malformed JSON in some rows: all others come, with and without an index."""
    schema = "CREATE TABLE messages(id INTEGER PRIMARY KEY, doc TEXT);" + index
    async with serving(tmp_path, FRAGILE, schema) as server:
        for number in range(40):
            doc = json.dumps({"thread": number % 2, "body": "hi", "who": "anna"})
            server.writer.execute("INSERT INTO messages VALUES (?, ?)", (number, doc))
        if not index:
            server.writer.execute("UPDATE messages SET doc = '{' WHERE id IN (0, 4, 12, 13, 38)")
        items = await paged(server, "/api/conversations/0/messages", "messages", 7)
        left = set(range(0, 40, 2)) - (set() if index else {0, 4, 12, 38})
        assert [int(item["id"]) for item in items] == sorted(left, reverse=True)


async def test_without_an_index_the_work_of_an_answer_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that has to be searched is searched for so long per answer; the pages together hold everything."""
    monkeypatch.setattr("bridge.load.BUDGET", 0)
    monkeypatch.setattr("storage.load.WINDOW", (8, 8, 8))
    async with serving(tmp_path) as server:
        for number in range(60):
            server.message(f"m{number}", conversation="rare" if number % 20 == 0 else "common")
        pages, names, before = 0, list[str](), ""
        while True:
            status, answer = await server.get(f"/api/conversations/rare/messages?limit=10{before}")
            assert status == 200
            names += [item["id"] for item in answer["messages"]]
            pages += 1
            if answer["before"] is None:
                break
            before = f"&before={answer['before']}"
        assert names == ["m40", "m20", "m0"]
        assert pages > 5


@pytest.mark.parametrize(
    "before",
    ["x", "", "W10", "WyJhIl0", "WzAsMSwyXQ", "Wy0xXQ", "WzAse31d", "WzAsMWU5OTld", "WzAsOTIyMzM3MjAzNjg1NDc3NTgwOF0"],
)
async def test_a_token_that_was_not_given_is_400(server: Serving, before: str) -> None:
    """`before` is opaque: what was not given by an answer is refused, or a place where nothing is."""
    status, body = await server.get(f"/api/conversations?before={before}")
    assert (status, body.get("code")) in [(400, "bad_before"), (200, None)]


@pytest.mark.parametrize("query", ["limit=0", "limit=x"])
async def test_a_limit_that_is_none_is_400(server: Serving, query: str) -> None:
    """A mistake is told; more than the most is only taken as the most."""
    assert (await server.get(f"/api/conversations?{query}"))[0] == 400
    assert (await server.get("/api/conversations?limit=100000"))[0] == 200


async def test_who_asks_is_asked_as_elsewhere(server: Serving) -> None:
    """401 without an owner, 403 for a page of another origin."""
    for path in ("/api/conversations", "/api/conversations/c/messages", "/api/conversations/c/tasks", "/api/tasks/t"):
        async with server.http.get(path) as response:
            assert response.status == 401
        async with server.http.get(f"{path}?publicKey=anna", headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403


async def test_a_database_that_is_away_is_503_and_comes_back(tmp_path: Path) -> None:
    """The reason is told, and another file in its place is read without a restart."""
    async with serving(tmp_path) as server:
        server.message("m1")
        assert (await server.get("/api/conversations/c-anna/messages"))[0] == 200
        database, aside = tmp_path / "legacy.db", tmp_path / "aside.db"
        server.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.rename(aside)
        status, body = await server.get("/api/conversations/c-anna/messages")
        assert (status, body["code"]) == (503, "database")
        assert "legacy.db" in body["detail"]
        copy = tmp_path / "copy.db"
        copy.write_bytes(aside.read_bytes())
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"legacy.db{suffix}").unlink(missing_ok=True)
        copy.rename(database)
        assert (await server.get("/api/conversations/c-anna/messages"))[0] == 200


async def test_loads_do_not_stand_in_the_way_of_a_writer(tmp_path: Path) -> None:
    """In rollback mode a writer commits all the while that tables are searched, and every load is answered."""
    async with serving(tmp_path, journal="DELETE") as server:
        for number in range(50):
            server.message(f"m{number}")
        loads = [asyncio.create_task(server.get("/api/conversations/c-anna/messages?limit=5")) for _ in range(20)]
        for number in range(20):
            server.message(f"n{number}")
            await asyncio.sleep(0)
        assert {status for status, _ in await asyncio.gather(*loads)} == {200}
