"""`GET /api/events` as a stream of server-sent events: replay, then live, and a cursor to come back with."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from bridge.protocol import Close
from tests.bridge.fakes import event
from tests.e2e.harness import SOON
from tests.handlers.serving import KEY, Frame, Serving, serving, subject_of


@dataclass
class Source:
    """A client that parses the stream as WHATWG HTML section 9.2 says."""

    response: aiohttp.ClientResponse
    last_id: str = ""
    retry: int = 0
    comments: list[str] = field(default_factory=list)

    async def block(self) -> dict[str, str]:
        """The fields up to the next blank line; none at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(SOON):
            async for line in self.response.content:
                name, _, value = line.decode().rstrip("\n").partition(":")
                if line == b"\n":
                    break
                if name:
                    fields[name] = value.removeprefix(" ")
                else:
                    self.comments.append(value)
        self.last_id = fields.get("id", self.last_id)
        self.retry = int(fields.get("retry", self.retry))
        return fields

    async def next(self) -> Frame:
        """The next event, whose three lines agree."""
        while "data" not in (fields := await self.block()):
            assert fields or self.comments, "the stream ended"
        frame = json.loads(fields["data"])
        assert isinstance(frame, dict)
        assert (fields["event"], fields["id"]) == (frame["type"], frame["cursor"])
        return frame


@asynccontextmanager
async def source(server: Serving, query: str = "", owner: str = "anna", last_id: str = "") -> AsyncIterator[Source]:
    """A stream that has begun."""
    headers = {"Accept": "text/event-stream", KEY: owner} | ({"Last-Event-ID": last_id} if last_id else {})
    async with server.http.get(f"/api/events?{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        stream = Source(response)
        assert (await stream.block()).keys() == {"retry", "id"}
        yield stream


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as running:
        yield running


async def test_a_stream_begins_with_where_to_come_back_to(server: Serving) -> None:
    """`retry:` and `id:` come first, so a stream that breaks before its first event misses nothing."""
    async with source(server) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        assert 1000 <= stream.retry <= 3000
        begin = stream.last_id
    server.message("missed")
    await server.logged("missed")
    async with source(server, last_id=begin) as stream:
        assert subject_of(await stream.next()) == "missed"


async def test_live_events_come_with_their_cursors(server: Serving) -> None:
    """`id:` is the cursor, `event:` the type, `data:` the object of the socket with resume=1."""
    async with (
        source(server) as stream,
        server.http.ws_connect("/api/ws?resume=1&publicKey=anna") as sibling,
    ):
        await sibling.receive_json()
        server.message("m1", text='two\nlines and "quotes" 你好')
        server.task("t1")
        for _ in range(2):
            assert await stream.next() == await sibling.receive_json()


async def test_a_resumed_stream_misses_nothing_and_repeats_nothing(server: Serving) -> None:
    """Last-Event-ID wins over `since`, which a browser repeats each time: replay, then live, once and in order."""
    begin = await server.cursor()
    for number in range(30):
        server.message(f"m{number}")
    await server.logged("m29")
    async with source(server, f"since={begin}") as stream:
        first = [subject_of(await stream.next()) for _ in range(10)]
        middle = stream.last_id
    async with source(server, f"since={begin}", last_id=middle) as stream:
        server.message("live")
        rest = [subject_of(await stream.next()) for _ in range(21)]
    assert first + rest == [*(f"m{number}" for number in range(30)), "live"]


async def test_events_during_a_long_replay_follow_it(tmp_path: Path) -> None:
    """A replay of many small pages, with commits all the while: the chain of `prev` has no hole."""
    async with serving(tmp_path, outbox_bytes=8192, outbox_frames=400) as server:
        begin = await server.cursor()
        for number in range(120):
            server.message(f"m{number}", text="x" * 300)
        await server.logged("m119")
        async with source(server, f"since={begin}") as stream:
            cursor, seen = begin, list[str]()
            for number in range(20):
                server.message(f"live{number}")
            while "live19" not in seen[-1:]:
                event = await stream.next()
                assert event["prev"] in (cursor, f"{begin.partition(':')[0]}:0")
                cursor = event["cursor"]
                seen.append(subject_of(event))
    assert seen == [*(f"m{number}" for number in range(120)), *(f"live{number}" for number in range(20))]


async def test_only_what_is_wanted_is_streamed(server: Serving) -> None:
    """Filters hold in the replay and live, and other owners' events never come."""
    begin = await server.cursor()
    server.message("m1", conversation="other")
    server.task("t1", conversation="wanted")
    server.message("bert", "bert", conversation="berts")
    server.message("m2", conversation="wanted")
    await server.logged("m2")
    async with source(server, f"since={begin}&conversation_id=wanted&events=new_message") as stream:
        assert subject_of(await stream.next()) == "m2"
        server.message("live1", conversation="other")
        server.task("live2", conversation="wanted")
        server.message("live3", "bert", conversation="wanted-by-bert")
        server.message("live4", conversation="wanted")
        assert subject_of(await stream.next()) == "live4"


@pytest.mark.parametrize(
    ("cursor", "status", "code"), [("feedfacecafe:0", 409, "epoch_changed"), ("junk", 400, "bad_cursor")]
)
async def test_a_cursor_that_proves_nothing_is_an_error(server: Serving, cursor: str, status: int, code: str) -> None:
    """The status tells, and EventSource then stops; the body names the cursor of now."""
    headers = {"Accept": "text/event-stream", KEY: "anna", "Last-Event-ID": cursor}
    async with server.http.get("/api/events", headers=headers) as response:
        body = await response.json(content_type=None)
    assert (response.status, body["code"]) == (status, code)
    assert body["cursor"] == str(server.bridge.hub.cursor)
    assert server.bridge.hub.count == 0


async def test_a_heartbeat_carries_the_cursor(tmp_path: Path) -> None:
    """A quiet stream says something, and its last id moves on with what was not for it: it never grows too old."""
    async with serving(tmp_path, heartbeat=0.05) as server, source(server) as stream:
        server.message("for-bert", "bert")
        await server.logged("for-bert", "bert")
        while stream.last_id != str(server.bridge.hub.cursor):
            await stream.block()
        assert "heartbeat" in "".join(stream.comments)


async def test_a_heartbeat_does_not_cross_an_epoch(tmp_path: Path) -> None:
    """A page cannot see the id of a heartbeat: with that of a new epoch it would come back and never be told."""
    async with serving(tmp_path, heartbeat=0.05) as server, source(server) as stream:
        await stream.block()
        before, seen = stream.last_id, len(stream.comments)
        server.bridge.hub.publish("feedfacecafe", [])
        while len(stream.comments) < seen + 3:
            await stream.block()
        assert stream.last_id == before
        server.bridge.hub.publish("feedfacecafe", [event(1, ("anna", 0))])
        assert (await stream.next())["prev"] == "feedfacecafe:0"
        server.bridge.hub.publish("feedfacecafe", [event(2, ("bert", 0))])
        while stream.last_id != "feedfacecafe:2":
            await stream.block()


async def test_a_peer_that_leaves_is_noticed_at_once(server: Serving) -> None:
    """No event and no heartbeat is needed to give its place back."""
    async with source(server):
        await server.counts("sse", 1)
        assert "walcast_event_streams 1.0" in server.bridge.metrics.exposition().decode()
    await server.counts("sse", 0)


async def test_a_slow_stream_is_cut_and_delays_nobody(tmp_path: Path) -> None:
    """What waits is bounded: the peer is cut, counted with 4100, and comes back with its last id."""
    async with serving(tmp_path, outbox_bytes=65536) as server:
        host, port = server.http._base_url.host, server.http._base_url.port  # type: ignore[union-attr]
        assert host is not None
        with socket.create_connection((host, port or 0)) as stalled:
            stalled.sendall(
                b"GET /api/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nX-Solana-PublicKey: anna\r\n\r\n"
            )
            await server.counts("sse", 1)
            async with source(server) as quick:
                sent = 0
                while server.bridge.hub.counts["sse"] == 2:
                    server.message(f"m{sent}", text="x" * 60_000)
                    assert subject_of(await quick.next()) == f"m{sent}"
                    sent += 1
                    assert sent < 500, "it was never cut"
        assert 'walcast_closed_total{code="4100"} 1.0' in server.bridge.metrics.exposition().decode()


async def test_the_end_of_the_server_ends_a_stream(server: Serving) -> None:
    """At shutdown a stream ends as an answer ends, so that EventSource comes back by itself."""
    async with source(server) as stream:
        server.bridge.hub.close_all(Close.GOING_AWAY)
        assert await stream.block() == {}
        assert stream.response.content.at_eof()


async def test_http_1_0_gets_the_stream_without_chunks(server: Serving) -> None:
    """Proxies that speak HTTP/1.0 to us are many: the body then goes on until the connection ends."""
    url = server.http._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /api/events?publicKey=anna HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert "transfer-encoding" not in head
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: ")
    server.message("m1")
    assert (await reader.readuntil(b"\n\n")).startswith(b"id: ")
    writer.close()
    await writer.wait_closed()
    await server.counts("sse", 0)


async def test_a_page_of_an_allowed_origin_may_read_the_stream(tmp_path: Path) -> None:
    """The CORS header stands in the head of the stream; another origin gets 403."""
    async with serving(tmp_path, allowed_origins="https://app.example") as server:
        for origin, status in (("https://app.example", 200), ("https://evil.example", 403)):
            headers = {"Accept": "text/event-stream", KEY: "anna", "Origin": origin}
            async with server.http.get("/api/events", headers=headers) as response:
                assert response.status == status
                allowed = response.headers.get("Access-Control-Allow-Origin")
            assert allowed == (origin if status == 200 else None)
