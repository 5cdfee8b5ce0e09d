"""The initial load of conversations that are one JSON document each: the same pages as of rows, in the same order."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.serving import Serving, serving, subject_of

SCHEMA = """
CREATE TABLE chats(id TEXT PRIMARY KEY, owner TEXT, title TEXT, doc TEXT);
CREATE TABLE boards(id TEXT PRIMARY KEY, owner TEXT, doc TEXT) WITHOUT ROWID;
"""
MESSAGES = """
[messages]
table           = "chats"
each            = "json_each(chats.doc, '$.messages')"
where           = "json_extract(value, '$.role') <> 'system'"
id              = "id || ':' || json_extract(value, '$.id')"
conversation_id = "id"
role            = "json_extract(value, '$.role')"
content         = "json_extract(value, '$.text')"
owner           = "owner"

[tasks]
table           = "boards"
each            = "json_each(boards.doc)"
id              = "json_extract(value, '$.id')"
conversation_id = "boards.id"
state           = "json_extract(value, '$.state')"
owner           = "boards.owner"
"""
CONVERSATIONS = """
[conversations]
table = "chats"
id    = "id"
owner = "owner"
name  = "title"
"""


@pytest.fixture(params=[MESSAGES, CONVERSATIONS + MESSAGES], ids=["derived", "given"])
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    async with serving(tmp_path, request.param, SCHEMA) as running:
        yield running


def element(name: int | str, role: str = "user", text: str = "hi") -> dict[str, str]:
    return {"id": str(name), "role": role, "text": text}


def chat(server: Serving, name: str, elements: Sequence[object], owner: str = "anna") -> None:
    """Write a chat as its backend does: whole."""
    doc = json.dumps({"messages": elements})
    server.writer.execute("REPLACE INTO chats VALUES (?, ?, ?, ?)", (name, owner, f"about {name}", doc))


async def paged(server: Serving, path: str, key: str, limit: int) -> list[Any]:
    items, before = list[Any](), ""
    while True:
        status, answer = await server.get(f"{path}?limit={limit}{before}")
        assert status == 200, answer
        assert len(answer[key]) <= limit
        items += answer[key]
        if answer["before"] is None:
            return items
        before = f"&before={answer['before']}"


@pytest.mark.parametrize("limit", [1, 3, 60, 500])
async def test_the_elements_of_a_document_come_newest_first_page_by_page(server: Serving, limit: int) -> None:
    """Those that `where` leaves, each once, exactly as in the events."""
    begin = await server.cursor()
    size = 130 if limit > 3 else 12
    chat(server, "c1", [element("s", "system"), *(element(number) for number in range(size)), element(1, text="again")])
    chat(server, "c2", [element("other")])
    await server.logged("c2:other")
    items = await paged(server, "/api/conversations/c1/messages", "messages", limit)
    assert [item["id"] for item in items] == [f"c1:{number}" for number in reversed(range(size))]
    _, answer = await server.get(f"/api/events?since={begin}&conversation_id=c1&limit=1000")
    assert items == [event["message"] for event in reversed(answer["events"])]


async def test_a_document_that_cannot_be_read_hides_no_other(server: Serving) -> None:
    """It has no messages, and neither stops the list of conversations nor another's messages."""
    chat(server, "c1", [element("a")])
    chat(server, "c2", [element("b")])
    server.writer.execute("INSERT INTO chats VALUES ('c3', 'anna', 'about c3', '{\"messages\": [')")
    chat(server, "c4", [element("c")])
    conversations = await paged(server, "/api/conversations", "conversations", 2)
    assert [one["id"] for one in conversations] == ["c4", "c3", "c2", "c1"]
    assert [one["id"] for one in await paged(server, "/api/conversations/c2/messages", "messages", 5)] == ["c2:b"]
    assert await paged(server, "/api/conversations/c3/messages", "messages", 5) == []


async def test_what_is_another_owners_is_not_there(server: Serving) -> None:
    """404, and not in the list."""
    chat(server, "c1", [element("a")], owner="bert")
    assert (await server.get("/api/conversations/c1/messages"))[0] == 404
    assert await paged(server, "/api/conversations", "conversations", 2) == []


async def test_of_a_task_that_is_twice_in_an_array_the_later_is_loaded(server: Serving) -> None:
    """As it is pushed; and a task can be asked for by its id."""
    tasks = [{"id": "t1", "state": "working"}, {"id": "t2", "state": "done"}, {"id": "t1", "state": "done"}]
    chat(server, "b1", [])
    server.writer.execute("INSERT INTO boards VALUES ('b1', 'anna', ?)", (json.dumps(tasks),))
    items = await paged(server, "/api/conversations/b1/tasks", "tasks", 1)
    assert [(item["id"], item["status"]["state"]) for item in items] == [("t1", "done"), ("t2", "done")]
    _, answer = await server.get("/api/tasks/t1")
    assert answer["task"] == items[0]


async def test_a_conversation_is_listed_once_however_many_messages_it_has(server: Serving) -> None:
    """On whatever page, also when each element says the conversation by itself."""
    for number in range(5):
        chat(server, f"c{number}", [element(name) for name in range(80)])
    conversations = await paged(server, "/api/conversations", "conversations", 2)
    assert [one["id"] for one in conversations] == [f"c{number}" for number in reversed(range(5))]


async def test_the_cursor_of_a_load_misses_no_element(server: Serving) -> None:
    """What is appended after the answer follows from its cursor."""
    chat(server, "c1", [element("a")])
    _, answer = await server.get("/api/conversations/c1/messages")
    chat(server, "c1", [element("a"), element("b")])
    await server.logged("c1:b")
    _, later = await server.get(f"/api/events?since={answer['cursor']}")
    assert {item["id"] for item in answer["messages"]} | set(map(subject_of, later["events"])) == {"c1:a", "c1:b"}
