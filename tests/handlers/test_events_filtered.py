"""Filters over WebSocket: in the query, by frames, live and in the replay."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.handlers.serving import Frame, Serving, serving, subject_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


def written(server: Serving, run: str) -> None:
    """Events of three conversations and of both types; what one look finds comes table by table."""
    server.message(f"{run}-1", conversation="a")
    server.message(f"{run}-2", conversation="b")
    server.task(f"{run}-3", conversation="a")
    server.message(f"{run}-4", conversation="c")
    server.message(f"{run}-end", conversation="a")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("conversation_id=a", ["1", "3", "end"]),
        ("conversation_id=a&conversation_id=b", ["1", "2", "3", "end"]),
        ("events=new_message", ["1", "2", "4", "end"]),
        ("events=new_message,message_update&conversation_id=a", ["1", "end"]),
        ("events=new_message&events=task_update", ["1", "2", "3", "4", "end"]),
    ],
)
async def test_a_filter_holds_in_the_replay_and_live(server: Serving, query: str, names: list[str]) -> None:
    """`replayed` is what is really sent; live events are chosen in the same way."""
    begin = await server.cursor()
    written(server, "past")
    await server.logged("past-end")
    async with server.http.ws_connect(f"/api/ws?publicKey=anna&since={begin}&{query}") as socket:
        welcome: Frame = await socket.receive_json()
        assert (welcome["recovered"], welcome["replayed"]) == (True, len(names))
        assert {subject_of(await socket.receive_json()) for _ in names} == {f"past-{name}" for name in names}
        written(server, "live")
        assert {subject_of(await socket.receive_json()) for _ in names} == {f"live-{name}" for name in names}


async def test_prev_stays_the_event_before_it_for_this_owner(server: Serving) -> None:
    """A filter hides events and not their places: `prev` may name one that was not asked for."""
    async with (
        server.http.ws_connect("/api/ws?publicKey=anna&resume=1") as all_of_them,
        server.http.ws_connect("/api/ws?publicKey=anna&resume=1&conversation_id=b") as some,
    ):
        for socket in (all_of_them, some):
            await socket.receive_json()
        server.message("m1", conversation="a")
        server.message("m2", conversation="b")
        first: Frame = await all_of_them.receive_json()
        hidden: Frame = await some.receive_json()
        assert hidden == await all_of_them.receive_json()
        assert hidden["prev"] == first["cursor"]


async def test_frames_change_what_comes(server: Serving) -> None:
    """`subscribe` and `unsubscribe` on the open connection, in order with the pings around them."""
    async with server.http.ws_connect("/api/ws?publicKey=anna") as socket:
        await socket.receive_json()
        for kind, expected in (("subscribe", ["1", "3", "end"]), ("unsubscribe", [])):
            await socket.send_json({"type": kind, "conversation_id": "a"})
            await socket.send_json({"type": "ping", "timestamp": kind})
            assert await socket.receive_json() == {"type": "pong", "timestamp": kind}
            written(server, kind)
            names = {subject_of(await socket.receive_json()) for _ in expected}
            assert names == {f"{kind}-{name}" for name in expected}
            await server.logged(f"{kind}-end")
        await socket.send_json({"type": "ping", "timestamp": "end"})
        assert await socket.receive_json() == {"type": "pong", "timestamp": "end"}


async def test_a_filter_that_makes_no_sense_is_refused_before_the_upgrade(server: Serving) -> None:
    """400 and problem+json; a page, which cannot read that, gets a close code that says not to come back."""
    path = "/api/ws?publicKey=anna&events=wishes"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await server.http.ws_connect(path)
    assert refused.value.status == 400
    own = str(server.http._base_url).rstrip("/")
    async with server.http.ws_connect(path, origin=own) as socket:
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 4000


async def test_a_replay_is_not_limited_by_what_may_wait(tmp_path: Path) -> None:
    """More than the outbox holds is replayed bit by bit: it once was put in by 500 events, and closed with 4100."""
    async with serving(tmp_path, outbox_bytes=100_000) as server:
        begin = await server.cursor()
        for number in range(40):
            server.message(f"m{number}", text="x" * 30_000)
        await server.logged("m39")
        async with server.http.ws_connect(f"/api/ws?publicKey=anna&since={begin}") as socket:
            assert (await socket.receive_json())["replayed"] == 40
            assert [subject_of(await socket.receive_json()) for _ in range(40)] == [f"m{n}" for n in range(40)]
