"""A client that never reads, among a thousand that do: nobody's delivery waits for it."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.bridge.fakes import frames
from tests.e2e.clients import KEY_HEADER, aiohttp_link, subscriber
from tests.e2e.harness import SOON, Walcast, eventually, served
from tests.e2e.legacy_process import Legacy, legacy
from tests.e2e.situations import MAPPING, SCHEMA, message

CROWD = 1000
SIZE = 2000
FLOOD = 100
"""So many messages of 100 KB: more than the kernel, the transport and the outbox take for one client."""
UPGRADE = (
    "GET /api/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{KEY_HEADER}: %s\r\n\r\n"
)


class Reader:
    """A plain client: the end of what it was sent, a digest of all of it, and all of it if it is to be kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_kept: bool) -> None:
        self._reader, self.writer, self._is_kept = reader, writer, is_kept
        self.got, self._digest = bytearray(), blake2b()

    @property
    def digest(self) -> bytes:
        """Equal for clients that were sent the same."""
        return self._digest.digest()

    async def until(self, mark: bytes) -> None:
        """Read until something has come."""
        async with asyncio.timeout(SOON):
            while mark not in self.got[-4 * SIZE :]:
                piece = await self._reader.read(1 << 18)
                assert piece, "closed"
                self._digest.update(piece)
                self.got += piece
                if not self._is_kept:
                    del self.got[: -4 * SIZE]

    @property
    def ids(self) -> list[str]:
        """The messages that came, in their order."""
        said = [json.loads(frame) for frame in frames([bytes(self.got)])]
        return [frame["message"]["id"] for frame in said if frame["type"] == "new_message"]


@asynccontextmanager
async def reader(
    server: Walcast, owner: str = "anna", buffer: int | None = None, *, is_kept: bool = False
) -> AsyncIterator[Reader]:
    """A client after its upgrade. With a buffer, its system takes no more than that."""
    plain = socket.socket()
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port or 0))
    incoming, outgoing = await asyncio.open_connection(sock=plain, limit=buffer or 1 << 18)
    try:
        outgoing.write((UPGRADE % owner).encode())
        assert b" 101 " in await incoming.readuntil(b"\r\n\r\n")
        yield Reader(incoming, outgoing, is_kept=is_kept)
    finally:
        outgoing.transport.abort()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process is the crowd."""
    needed, (soft, hard) = CROWD + 200, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} descriptors: ulimit -n")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _say(writer: Legacy, names: list[str], flood: str = "") -> None:
    for number, name in enumerate(names):
        writer.commit(message(name, "anna", "x" * SIZE))
        if flood and number < FLOOD:
            writer.commit(message(f"flood{number}", flood, "x" * 100_000))


async def test_a_client_that_never_reads_changes_nobodys_delivery(tmp_path: Path, many_descriptors: None) -> None:
    """All others get everything while it is still connected, and while another one is flooded and closed with 4100."""
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    most = ("--outbox-bytes", 50_000, "--max-connections-per-owner", 2 * CROWD)
    options = ("--map", mapping, "--owner-format", "any", *most)
    first, more = [f"first{number}" for number in range(60)], [f"more{number}" for number in range(200)]
    with legacy(tmp_path / "legacy.db", SCHEMA, "WAL") as writer, served(tmp_path / "legacy.db", *options) as server:
        await server.ready()
        async with reader(server, "anna", 4096) as stalled, reader(server, "bert", 4096), _all_of(server) as crowd:
            await asyncio.to_thread(_say, writer, first)
            await asyncio.gather(*(one.until(b'"first59"') for one in crowd))
            assert server.metric("walcast_connections") == CROWD + 2, "it was closed before it was put to the proof"
            assert server.metric('walcast_closed_total{code="4100"}') == 0
            reading = asyncio.gather(*(one.until(b'"more199"') for one in crowd))
            await asyncio.to_thread(_say, writer, more, flood="bert")
            await reading
            await eventually(lambda: server.metric('walcast_closed_total{code="4100"}') >= 1, "it is closed")
            assert crowd[0].ids == first + more
            assert {one.digest for one in crowd} == {crowd[0].digest}
            assert not stalled.got
            async with subscriber(server, "anna", dial=aiohttp_link) as late:
                writer.commit(message("late", "anna"))
                assert (await late.next())["message"]["id"] == "late"


@asynccontextmanager
async def _all_of(server: Walcast) -> AsyncIterator[list[Reader]]:
    """The crowd. All are sent the same, so that it is enough to keep what one of them was."""
    readers = [reader(server, is_kept=number == 0) for number in range(CROWD)]
    crowd = await asyncio.gather(*(one.__aenter__() for one in readers))
    try:
        yield crowd
    finally:
        for one in readers:
            await one.__aexit__(None, None, None)
