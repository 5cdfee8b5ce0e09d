"""Connections come and go in every way there is, and leave nothing behind."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import ClientError, WSMsgType
from aiohttp.test_utils import TestClient

from handlers.websocket import CONNECTIONS
from tests.handlers.service import Client, Service, eventually

Serve = Callable[..., Awaitable[Service]]
HEADERS = {"X-Solana-PublicKey": "W"}
UPGRADE = (
    "GET /api/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Solana-PublicKey: W\r\n\r\n"
)


async def raw(service: Service, query: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket of our own after the upgrade."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(UPGRADE.format(query=query).encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def clean_close(service: Service) -> None:
    """Says goodbye."""
    async with service.client.ws_connect("/api/ws", headers=HEADERS) as ws:
        assert (await ws.receive_json())["type"] == "connection_established"


async def resumed(service: Service) -> None:
    """Comes back with a cursor, good or bad, and leaves before or after the answer."""
    for since, waits in ((str(service.bridge.hub.cursor), True), ("x", True), ("e:1", False)):
        async with service.client.ws_connect(f"/api/ws?since={since}", headers=HEADERS) as ws:
            if waits:
                assert (await ws.receive_json())["type"] == "connection_established"


async def abort(service: Service) -> None:
    """Is gone from one moment to the next: a reset instead of a goodbye."""
    _, writer = await raw(service)
    plain = writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def half_close(service: Service) -> None:
    """Ends its side without a closing frame."""
    reader, writer = await raw(service, "?resume=1")
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def never_upgraded(service: Service) -> None:
    """Leaves in the middle of its request."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET /api/ws HTTP/1.1\r\nHost: x\r\nUpgra")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def refused(service: Service) -> None:
    """Has no name, or comes from elsewhere."""
    for headers in ({}, {**HEADERS, "Origin": "http://evil.example"}):
        with pytest.raises(ClientError):
            await service.client.ws_connect("/api/ws", headers=headers)


async def broken_frames(service: Service) -> None:
    """Talks nonsense until it is closed, or sends a frame that is too big."""
    for said, code in (("x", 4008), ("y" * 100_000, 1009)):
        async with service.client.ws_connect("/api/ws", headers=HEADERS) as ws:
            for _ in range(25):
                with suppress(ConnectionError):
                    await ws.send_str(said)
            async for message in ws:
                assert message.type is WSMsgType.TEXT
            assert ws.close_code == code


async def one_too_many(service: Service) -> None:
    """Finds the place taken."""
    limit = service.bridge.hub.connections_of

    def many(owner: str) -> int:
        return limit(owner) + (1 << 20)

    service.bridge.hub.connections_of = many  # type: ignore[method-assign]
    try:
        async with service.client.ws_connect("/api/ws", headers=HEADERS) as ws:
            assert (await ws.receive()).type is WSMsgType.CLOSE
            assert ws.close_code == 4101
    finally:
        service.bridge.hub.connections_of = limit  # type: ignore[method-assign]


async def dead_in_the_handshake(service: Service) -> None:
    """Is told to go and does not answer: it is cut."""
    reader, writer = await raw(service)
    for _ in range(25):
        writer.write(b"\x82\x80\0\0\0\0")  # an empty binary frame
    with suppress(ConnectionError):
        await reader.read()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


WAYS = (clean_close, resumed, abort, half_close, never_upgraded, refused, broken_frames, dead_in_the_handshake)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_300_connections_of_every_kind_leave_everything_as_it_was(serve: Serve) -> None:
    """Sessions, tasks and descriptors are what they were before; and what is published then reaches who is there."""
    service = await serve(close_grace=0.2, heartbeat=60, max_frames_per_second=10_000)
    for way in WAYS:  # what is made once is no leak
        await way(service)
    await one_too_many(service)
    await service.client.session.close()
    await eventually(lambda: service.bridge.hub.count == 0)
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "walcast-close" in task.get_name()])
    await asyncio.sleep(0)
    before_tasks, before_descriptors = len(asyncio.all_tasks()), descriptors()
    service = await renewed(service)
    for turn in range(38):
        await asyncio.gather(*(way(service) for way in WAYS))
        if turn % 4 == 0:
            await one_too_many(service)
            service.say(f"m{turn}")
    await service.client.session.close()
    await eventually(lambda: service.bridge.hub.count == 0, "sessions were left")
    await eventually(lambda: len(asyncio.all_tasks()) <= before_tasks, "tasks were left")
    await eventually(lambda: descriptors() <= before_descriptors, "descriptors were left")
    assert service.bridge.hub._sessions == {}
    assert service.bridge.hub._congested == set()
    app = service.client.server.app  # type: ignore[attr-defined]
    connections = app[CONNECTIONS]
    assert (connections._transports, connections._closing, connections._reading) == ({}, {}, {})


async def renewed(service: Service) -> Service:
    """The same server with a client session that holds no connection yet."""
    client: Client = TestClient(service.client.server)  # type: ignore[assignment]
    return Service(client, service.bridge, service.database)


async def test_a_peer_that_stops_reading_is_cut_and_forgotten(serve: Serve) -> None:
    """Half-open: it answers nothing any more. Two heartbeats, then it is gone; who answers stays."""
    service = await serve(heartbeat=0.2)
    _, writer = await raw(service)
    async with service.client.ws_connect("/api/ws", headers=HEADERS, autoping=True) as ws:
        await ws.receive_json()
        assert service.bridge.hub.count == 2
        reading = asyncio.create_task(ws.receive())
        await eventually(lambda: service.bridge.hub.count == 1, "the dead peer was never noticed")
        await ws.send_json({"type": "ping", "timestamp": 1})
        answer = await reading
        assert answer.json() == {"type": "pong", "timestamp": 1}
        assert service.bridge.hub.count == 1
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await eventually(lambda: service.bridge.hub.count == 0)
