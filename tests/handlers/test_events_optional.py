"""Edits and deletions, for who asks for them: over each way events come, with cursors, and for nobody else."""

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.handlers.serving import Frame, Serving, serving

ALL = "events=new_message,task_update,message_update,message_deleted,task_deleted"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


async def happened(server: Serving) -> None:
    """A message and a task come, are changed, and go; each seen by itself. At the end another message comes."""
    steps = (
        "UPDATE messages SET body = 'edited' WHERE id = 'm1'",
        "DELETE FROM messages WHERE id = 'm1'",
        "DELETE FROM tasks WHERE id = 't1'",
    )
    server.message("m1")
    await server.logged("m1")
    server.task("t1")
    await server.logged("t1")
    for number, step in enumerate(steps):
        server.writer.execute(step)
        server.message(f"after-{number}")
        await server.logged(f"after-{number}")


def named(event: Frame) -> str:
    """What an event is about, in short."""
    subject = event.get("message_id") or event.get("task_id") or (event.get("message") or event["task"])["id"]
    return f"{event['type']} {subject}"


ORDINARY = ["new_message m1", "task_update t1", "new_message after-0", "new_message after-1", "new_message after-2"]
OPTIONAL = ["message_update m1", "message_deleted m1", "task_deleted t1"]


def check(events: list[Frame], *, is_all: bool) -> None:
    """What has come is whole, in order where that is sure, and its chain has no gap."""
    names = [named(event) for event in events]
    assert [name for name in names if name in ORDINARY] == ORDINARY
    assert sorted(names) == sorted([*ORDINARY, *OPTIONAL] if is_all else ORDINARY)
    if is_all:
        assert [name for name in names if name in OPTIONAL] == OPTIONAL
        by_type = {event["type"]: event for event in events}
        edited = {"id": "m1", "role": "user", "content": [{"type": "text", "text": "edited"}]}
        assert by_type["message_update"]["message"] == edited
        assert by_type["message_deleted"] == {
            "type": "message_deleted", "conversation_id": "c-anna", "message_id": "m1",
            "cursor": by_type["message_deleted"]["cursor"], "prev": by_type["message_deleted"]["prev"],
        }  # fmt: skip
    for before, after in pairwise(events):
        assert after["prev"] == before["cursor"]


@pytest.mark.parametrize("query", ["", ALL])
async def test_who_asks_gets_them_and_who_does_not_sees_what_it_saw(server: Serving, query: str) -> None:
    """Live, replayed from each of its cursors, as JSON, and as a stream: the same objects, and no gap in `prev`."""
    begin = await server.cursor()
    events: list[Frame] = []
    count = len(ORDINARY) + (len(OPTIONAL) if query else 0)
    async with server.http.ws_connect(f"/api/ws?publicKey=anna&resume=1&{query}") as socket:
        assert (await socket.receive_json())["type"] == "connection_established"
        await happened(server)
        events = [await socket.receive_json() for _ in range(count)]
    check(events, is_all=bool(query))
    assert events[0]["prev"].endswith(":0")
    for place, since in enumerate([begin, *[event["cursor"] for event in events]]):
        async with server.http.ws_connect(f"/api/ws?publicKey=anna&since={since}&{query}") as socket:
            assert (await socket.receive_json())["replayed"] == count - place
            assert [await socket.receive_json() for _ in events[place:]] == events[place:]
        assert (await server.get(f"/api/events?since={since}&{query}"))[1]["events"] == events[place:]
    headers = {"Accept": "text/event-stream", "X-Solana-PublicKey": "anna"}
    async with server.http.get(f"/api/events?since={begin}&{query}", headers=headers) as stream:
        types: list[str] = []
        while len(types) < count:
            line = (await stream.content.readline()).decode()
            if line.startswith("event: "):
                types.append(line.removeprefix("event: ").strip())
    assert types == [event["type"] for event in events]


async def test_a_long_poll_waits_for_what_it_asked_for(server: Serving) -> None:
    """A deletion does not wake who did not ask for it: the message that follows is what it gets."""
    server.message("m1")
    begin = await server.logged("m1")
    server.writer.execute("DELETE FROM messages")
    _, answer = await server.get(f"/api/events?since={begin}&wait=20&events=message_deleted")
    assert [named(event) for event in answer["events"]] == ["message_deleted m1"]
    server.message("m2")
    _, answer = await server.get(f"/api/events?since={begin}&wait=20")
    assert [named(event) for event in answer["events"]] == ["new_message m2"]


async def test_the_types_are_listed(server: Serving) -> None:
    """What may be asked for, and what may come."""
    _, info = await server.get("/api/websocket-info")
    assert info["event_types"] == ALL.removeprefix("events=").split(",")
    assert set(info["event_types"]) < set(info["message_types"])
