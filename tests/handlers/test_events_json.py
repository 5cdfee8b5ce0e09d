"""`GET /api/events` as JSON: pages after a cursor, long polling, and answers that never hide a gap."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.protocol import Close
from tests.handlers.serving import Serving, serving, subject_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


async def test_without_a_cursor_the_answer_is_where_to_begin(server: Serving) -> None:
    """No `since`: an empty list and the cursor of now, from which the next event follows."""
    server.message("old")
    await server.logged("old")
    status, answer = await server.get("/api/events")
    assert (status, answer["events"]) == (200, [])
    server.message("new")
    _, answer = await server.get(f"/api/events?since={answer['cursor']}&wait=20")
    assert [subject_of(event) for event in answer["events"]] == ["new"]


async def test_an_event_is_the_frame_of_the_socket_with_its_cursors(server: Serving) -> None:
    """Each event is the seed's object and `cursor` and `prev`, the same as over WebSocket with resume=1."""
    begin = await server.cursor()
    server.message("m1")
    server.message("m2")
    await server.logged("m2")
    _, answer = await server.get(f"/api/events?since={begin}")
    first, second = answer["events"]
    assert first.keys() == {"type", "conversation_id", "message", "cursor", "prev"}
    assert first["message"] == {"id": "m1", "role": "user", "content": [{"type": "text", "text": "hello"}]}
    assert second["prev"] == first["cursor"]
    assert answer["cursor"] == second["cursor"]
    async with server.http.ws_connect(f"/api/ws?since={begin}&publicKey=anna") as socket:
        await socket.receive_json()
        assert [await socket.receive_json(), await socket.receive_json()] == [first, second]


async def test_pages_follow_each_other(server: Serving) -> None:
    """`limit` ends a page early, and its `cursor` is where the next one begins: everything once, in order."""
    cursor = await server.cursor()
    names = [f"m{number}" for number in range(7)]
    for name in names:
        server.message(name)
    await server.logged("m6")
    seen: list[str] = []
    while True:
        _, answer = await server.get(f"/api/events?since={cursor}&limit=3")
        cursor = answer["cursor"]
        if not answer["events"]:
            break
        assert len(answer["events"]) <= 3
        seen += map(subject_of, answer["events"])
    assert seen == names


async def test_a_page_is_bounded_in_bytes(server: Serving) -> None:
    """Big events end a page before `limit` does, and one that is bigger than a page still comes."""
    cursor = await server.cursor()
    server.message("huge", text="x" * 3_000_000)
    for number in range(4):
        server.message(f"big{number}", text="x" * 400_000)
    await server.logged("big3")
    sizes = []
    for _ in range(3):
        _, answer = await server.get(f"/api/events?since={cursor}")
        cursor = answer["cursor"]
        sizes.append([subject_of(event) for event in answer["events"]])
    assert sizes == [["huge"], ["big0", "big1"], ["big2", "big3"]]


async def test_nobody_sees_another_owners_events(server: Serving) -> None:
    """Only the owner's events, polled or waited for; another owner's do not even end the waiting."""
    begin = await server.cursor()
    waiting = asyncio.create_task(server.get(f"/api/events?since={begin}&wait=20", "bert"))
    server.message("for-anna")
    await server.logged("for-anna")
    server.message("for-bert", "bert")
    _, answer = await waiting
    assert [subject_of(event) for event in answer["events"]] == ["for-bert"]


async def test_a_wait_ends_with_an_empty_list(server: Serving) -> None:
    """Nothing within `wait` seconds: no events, and a cursor that is good to go on from."""
    status, answer = await server.get("/api/events?wait=0.05")
    assert (status, answer["events"], answer["cursor"]) == (200, [], str(server.bridge.hub.cursor))


async def test_only_what_is_wanted_ends_a_wait(server: Serving) -> None:
    """Filters hold for pages and for waiting alike."""
    begin = await server.cursor()
    path = f"/api/events?since={begin}&wait=20&conversation_id=wanted&events=new_message"
    waiting = asyncio.create_task(server.get(path))
    server.message("m1", conversation="other")
    server.task("t1", conversation="wanted")
    await server.logged("t1")
    server.message("m2", conversation="wanted")
    _, answer = await waiting
    assert [subject_of(event) for event in answer["events"]] == ["m2"]
    assert [subject_of(event) for event in (await server.get(path))[1]["events"]] == ["m2"]


async def test_another_epoch_is_409_and_names_the_way_on(server: Serving) -> None:
    """A cursor of another epoch: problem+json with the cursor of now and what to fetch."""
    async with server.http.get("/api/events?since=feedfacecafe:3&publicKey=anna") as response:
        assert response.status == 409
        assert response.content_type == "application/problem+json"
        body = await response.json(content_type=None)
    assert (body["code"], body["refetch"]) == ("epoch_changed", "/api/conversations")
    assert body["cursor"] == str(server.bridge.hub.cursor)
    assert (await server.get(f"/api/events?since={body['cursor']}"))[0] == 200


async def test_an_expired_history_is_410(tmp_path: Path) -> None:
    """A cursor before what is kept: 410 with the same members, never a part of the history."""
    async with serving(tmp_path, retention_events=2) as server:
        begin = await server.cursor()
        for number in range(6):
            server.message(f"m{number}")
            await server.get(f"/api/events?since={server.bridge.hub.cursor}&wait=20")
        status, body = await server.get(f"/api/events?since={begin}")
        assert (status, body["code"]) == (410, "history_expired")
        assert (await server.get(f"/api/events?since={body['cursor']}"))[0] == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("since=nonsense", "bad_cursor"),
        ("since=", "bad_cursor"),
        ("wait=soon", "bad_wait"),
        ("wait=-1", "bad_wait"),
        ("wait=nan", "bad_wait"),
        ("limit=0", "bad_limit"),
        ("events=new_message,wishes", "bad_events"),
        ("events=", "bad_events"),
    ],
)
async def test_what_makes_no_sense_is_400(server: Serving, query: str, code: str) -> None:
    """A query that cannot be meant is refused with a code and a way to mend it."""
    status, body = await server.get(f"/api/events?{query}")
    assert (status, body["code"]) == (400, code)


async def test_a_cursor_of_the_future_is_400(server: Serving) -> None:
    """A sequence number that this epoch has not given is no cursor."""
    cursor = server.bridge.hub.cursor
    status, body = await server.get(f"/api/events?since={cursor.epoch}:{cursor.seq + 1}")
    assert (status, body["code"]) == (400, "bad_cursor")
    assert (body["cursor"], body["refetch"]) == (str(server.bridge.hub.cursor), "/api/conversations")


async def test_who_asks_is_asked_as_elsewhere(server: Serving) -> None:
    """401 without an owner, 403 for a page of another origin, and CORS headers for an allowed one."""
    async with server.http.get("/api/events") as response:
        assert response.status == 401
    async with server.http.get("/api/events?publicKey=anna", headers={"Origin": "https://evil.example"}) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers
    own = f"http://{response.host}:{response.url.port}"
    async with server.http.get("/api/events?publicKey=anna", headers={"Origin": own}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, own)


async def test_too_many_waiting_requests_are_429(tmp_path: Path) -> None:
    """Waiting counts as a connection of its owner; asking without waiting does not."""
    async with (
        serving(tmp_path, max_connections_per_owner=1) as server,
        server.http.ws_connect("/api/ws?publicKey=anna") as socket,
    ):
        await socket.receive_json()
        assert (await server.get("/api/events?wait=20"))[0] == 429
        assert (await server.get("/api/events"))[0] == 200
        assert (await server.get("/api/events?wait=0.01", "bert"))[0] == 200


async def test_the_end_of_the_server_ends_a_wait(tmp_path: Path) -> None:
    """At shutdown a waiting request is answered, not cut."""
    async with serving(tmp_path) as server:
        waiting = asyncio.create_task(server.get("/api/events?wait=60"))
        await server.counts("poll", 1)
        server.bridge.hub.close_all(Close.GOING_AWAY)
        status, answer = await waiting
        assert (status, answer["events"]) == (200, [])


async def test_the_service_names_what_can_be_asked_for(server: Serving) -> None:
    """`/api/websocket-info` lists the endpoints, the extensions, the frames of clients and the types of events."""
    _, info = await server.get("/api/websocket-info")
    assert info["client_message_types"] == ["ping", "subscribe", "unsubscribe"]
    assert set(info["extensions"]) == {"resume", "since", "conversation_id", "events"}
    assert len(info["event_types"]) == 5
    for path in [*info["endpoints"].values(), *info["endpoint_templates"].values()]:
        async with server.http.get(path.replace("{id}", "none")) as response:
            assert response.status in (200, 401, 426), path
