"""A thousand clients come and go in every way there is: the process is afterwards what it was before."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.clients import KEY_HEADER
from tests.e2e.harness import SOON, Walcast, eventually, served
from tests.e2e.legacy_process import legacy
from tests.e2e.situations import MAPPING, SCHEMA, message

AT_ONCE = 10
KIB_EACH = 2
"""What a thousand clients may leave of memory, in KiB for each: an unforgotten session or task is much more."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Way = Callable[[Walcast, str], Awaitable[None]]
GOODBYE = b"\x88\x82\0\0\0\0" + struct.pack(">H", 1000)


def upgrade(query: str = "", key: str = f"{KEY_HEADER}: anna\r\n") -> bytes:
    """The request for a socket."""
    return (
        f"GET /api/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{key}\r\n"
    ).encode()


def events(query: str, accept: str = "text/event-stream") -> bytes:
    """The request for events over HTTP."""
    return f"GET /api/events{query} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n{KEY_HEADER}: anna\r\n\r\n".encode()


@asynccontextmanager
async def talking(server: Walcast, said: bytes) -> AsyncIterator[Streams]:
    """A connection on which something was said; reset at the end if it is still open."""
    async with asyncio.timeout(SOON):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(said)
            await writer.drain()
            yield reader, writer
        finally:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()


async def _until(reader: asyncio.StreamReader, mark: bytes) -> bytes:
    return await reader.readuntil(mark)


async def plain(server: Walcast, cursor: str) -> None:
    """Is welcomed, says goodbye, and is answered."""
    async with talking(server, upgrade()) as (reader, writer):
        await _until(reader, b"}")
        writer.write(GOODBYE)
        await reader.read()


async def resumed(server: Walcast, cursor: str) -> None:
    """Comes with a cursor of this epoch, and hears what it missed."""
    async with talking(server, upgrade(f"?since={cursor}")) as (reader, _):
        await _until(reader, b'"recovered":true')
        await _until(reader, b'"new_message"')


async def refused_cursor(server: Walcast, cursor: str) -> None:
    """Comes with a cursor of another epoch."""
    async with talking(server, upgrade("?since=other:1")) as (reader, _):
        await _until(reader, b"epoch_changed")


async def abrupt_in_the_replay(server: Walcast, cursor: str) -> None:
    """Is gone before it was answered."""
    async with talking(server, upgrade(f"?since={cursor}")):
        pass


async def half_closed(server: Walcast, cursor: str) -> None:
    """Ends its side without a closing frame."""
    async with talking(server, upgrade("?resume=1")) as (reader, writer):
        await _until(reader, b"}")
        writer.write_eof()
        await reader.read()


async def stream(server: Walcast, cursor: str) -> None:
    """An event stream that is reset after its beginning."""
    async with talking(server, events("")) as (reader, _):
        await _until(reader, b"id: ")


async def replayed_stream(server: Walcast, cursor: str) -> None:
    """An event stream with a past, left in the middle."""
    async with talking(server, events(f"?since={cursor}")) as (reader, _):
        await _until(reader, b"new_message")


async def long_poll(server: Walcast, cursor: str) -> None:
    """One that is waited for, and is empty."""
    said = events("?wait=0.05", "application/json")
    async with talking(server, said) as (reader, _):
        await _until(reader, b"cursor")


async def abandoned_poll(server: Walcast, cursor: str) -> None:
    """One that nobody waits for."""
    async with talking(server, events("?wait=30", "application/json")):
        pass


async def nameless(server: Walcast, cursor: str) -> None:
    """Does not say who it is."""
    async with talking(server, upgrade(key="")) as (reader, _):
        await _until(reader, b" 401 ")


async def no_handshake(server: Walcast, cursor: str) -> None:
    """Is no HTTP at all."""
    async with talking(server, b"\x16\x03\x01\x02\0\r\n\r\n") as (reader, _):
        await reader.read()


async def unfinished(server: Walcast, cursor: str) -> None:
    """Leaves in the middle of its request."""
    async with talking(server, upgrade()[:60]):
        pass


async def slow(server: Walcast, cursor: str) -> None:
    """Says its request in pieces, and never reads an answer."""
    said = upgrade("?resume=1")
    async with talking(server, said[:50]) as (_, writer):
        for start in range(50, len(said), 50):
            await asyncio.sleep(0)
            writer.write(said[start : start + 50])
            await writer.drain()


async def nonsense(server: Walcast, cursor: str) -> None:
    """Breaks the protocol: text that is not UTF-8."""
    async with talking(server, upgrade()) as (reader, writer):
        await _until(reader, b"}")
        writer.write(b"\x81\x82\0\0\0\0\xff\xff")
        await reader.read()


WAYS: tuple[Way, ...] = (
    plain, resumed, refused_cursor, abrupt_in_the_replay, half_closed, stream, replayed_stream, long_poll,
    abandoned_poll, nameless, no_handshake, unfinished, slow, nonsense,
)  # fmt: skip


async def _round(server: Walcast, cursor: str, clients: int) -> None:
    """So many clients, of each kind some at any time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            with suppress(ConnectionError):
                await WAYS[number % len(WAYS)](server, cursor)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))
    for name in ("walcast_connections", "walcast_event_streams", "walcast_long_polls"):
        await eventually(lambda name=name: server.metric(name) == 0, f"{name} is 0")  # type: ignore[misc]


def _figure(server: Walcast, name: str) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _descriptors(server: Walcast) -> tuple[int, int]:
    """Sockets, and others."""
    links = list[str]()
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(OSError):
            links.append(os.readlink(link))
    sockets = sum(target.startswith("socket:") for target in links)
    return sockets, len(links) - sockets


async def _come_and_go(folder: Path, warm_up: int, clients: int) -> None:
    mapping = folder / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    options = ("--map", mapping, "--owner-format", "any", "--max-connections-per-owner", 1000, "--heartbeat", 2)
    with legacy(folder / "legacy.db", SCHEMA, "WAL") as writer, served(folder / "legacy.db", *options) as server:
        await server.ready()
        cursor = server.get("/api/websocket-info").json["cursor"]
        writer.commit(message("m", "anna"))
        await eventually(lambda: server.metric('walcast_events_total{type="new_message"}') == 1)
        sockets, _ = _descriptors(server)
        await _round(server, cursor, warm_up)
        await eventually(lambda: _descriptors(server)[0] <= sockets, "sockets after the first round")
        _, files = _descriptors(server)  # the log of the state file is opened with the first replay
        threads, memory = _figure(server, "Threads"), _figure(server, "VmRSS")
        await _round(server, cursor, clients)
        await eventually(lambda: _descriptors(server)[0] <= sockets, "sockets are given back")
        assert _descriptors(server)[1] <= files
        assert _figure(server, "Threads") <= threads
        assert _figure(server, "VmRSS") - memory < KIB_EACH * clients
        assert "Traceback" not in server.said


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_clients_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    """Descriptors, threads and memory after a thousand."""
    await _come_and_go(tmp_path, warm_up=500, clients=1000)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_many_clients_of_every_kind_leave_nothing_behind(tmp_path: Path) -> None:
    """Twenty thousand: what is small each time would show."""
    await _come_and_go(tmp_path, warm_up=1000, clients=20_000)
