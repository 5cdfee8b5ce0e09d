"""Every connection that ends otherwise than by its client's own close is counted, once."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import WSMsgType

from tests.handlers.service import Service, eventually
from tests.handlers.test_leaks import HEADERS, raw

Serve = Callable[..., Awaitable[Service]]

NOT_UTF8 = b"\x81\x82\0\0\0\0\xff\xff"
RESERVED = b"\x83\x80\0\0\0\0"
HUGE = b"\x81\xff" + struct.pack(">Q", 1 << 20) + b"\0\0\0\0" + b"x" * 1000


async def counts(service: Service) -> dict[str, float]:
    """walcast_closed_total by code."""
    text = await (await service.client.get("/metrics")).text()
    lines = [line for line in text.splitlines() if line.startswith("walcast_closed_total{")]
    return {line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize(("said", "code"), [(NOT_UTF8, "1007"), (RESERVED, "1002"), (HUGE, "1009")])
async def test_what_the_library_closes_is_counted(serve: Serve, said: bytes, code: str) -> None:
    """Text that is not UTF-8, an opcode that there is not, a frame that is too big."""
    service = await serve(close_grace=0.2)
    reader, writer = await raw(service)
    writer.write(said)
    await reader.read()
    writer.close()
    await eventually(lambda: service.bridge.hub.count == 0)
    assert await counts(service) == {code: 1}


@pytest.mark.parametrize("query", ["", "?since=x"])
@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_peer_that_vanishes_is_counted(serve: Serve, query: str, *, is_reset: bool) -> None:
    """A reset and an end without a closing frame are 1006."""
    service = await serve(close_grace=0.2)
    _, writer = await raw(service, query)
    if is_reset:
        plain = writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.close()
    await eventually(lambda: service.bridge.hub.count == 0)
    assert await counts(service) == {"1006": 1}


async def test_a_peer_that_falls_silent_is_counted_once(serve: Serve) -> None:
    """It is cut by us, and its read loop notices: one end."""
    service = await serve(heartbeat=0.2, close_grace=0.2)
    _, writer = await raw(service)
    await eventually(lambda: service.bridge.hub.count == 0)
    assert await counts(service) == {"1006": 1}
    writer.close()


async def test_a_goodbye_is_not_counted_and_ours_is_counted_once(serve: Serve) -> None:
    """The client's own close is its own; bad frames are ours."""
    service = await serve(close_grace=0.2, max_bad_frames=1)
    async with service.client.ws_connect("/api/ws", headers=HEADERS) as ws:
        await ws.receive_json()
    async with service.client.ws_connect("/api/ws", headers=HEADERS) as ws:
        await ws.receive_json()
        await ws.send_str("x")
        async for message in ws:
            assert message.type is WSMsgType.TEXT
        assert ws.close_code == 4008
    await eventually(lambda: service.bridge.hub.count == 0)
    assert await counts(service) == {"4008": 1}
