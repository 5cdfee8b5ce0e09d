"""The process has fewer descriptors or less memory than its clients would take: those who are there are served on."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from handlers.limits import RESERVE
from tests.e2e.clients import KEY_HEADER, Resuming
from tests.e2e.harness import SOON, Walcast, eventually
from tests.e2e.legacy_process import Legacy
from tests.faults.rig import attached, connected, has_all, linux, write

pytestmark = linux

UPGRADE = (
    "GET /api/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{KEY_HEADER}: anna\r\n\r\n"
).encode()
OPTIONS = ("--max-connections-per-owner", 100_000)


def limited(*limits: str) -> Sequence[str]:
    """A prefix under which the server may have only so much of something."""
    if shutil.which("prlimit") is None:
        pytest.skip("needs prlimit: apt-get install util-linux")
    return ["prlimit", *limits]


@contextmanager
def crowd(server: Walcast, count: int, buffer: int = 0) -> Iterator[list[socket.socket]]:
    """So many sockets of which nothing is read; whether they are answered is the server's business."""
    sockets: list[socket.socket] = []
    try:
        sockets.extend(coming(server, buffer) for _ in range(count))
        yield sockets
    finally:
        for plain in sockets:
            plain.close()


def coming(server: Walcast, buffer: int = 0) -> socket.socket:
    """One of them, that connects."""
    plain = socket.socket()
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    with suppress(BlockingIOError):
        plain.connect(("127.0.0.1", server.port or 0))
    return plain


def was_cut(plain: socket.socket) -> bool:
    """Whether it was closed without an answer."""
    try:
        return not plain.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


async def ask(sockets: Sequence[socket.socket], patience: float = 5) -> list[socket.socket]:
    """Send the request on each as soon as it is connected; returns those that are not within `patience` seconds."""
    loop, late = asyncio.get_running_loop(), []

    async def one(plain: socket.socket) -> None:
        try:
            async with asyncio.timeout(patience):
                await loop.sock_sendall(plain, UPGRADE)
        except TimeoutError:
            late.append(plain)
        except OSError:  # refused, or cut already
            pass

    await asyncio.gather(*map(one, sockets))
    return late


def descriptors(server: Walcast) -> int:
    """How many the server has open."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


async def _hears_on(writer: Legacy, client: Resuming, prefix: str, count: int = 20) -> None:
    write(writer, [f"{prefix}{number}" for number in range(count)])
    await client.saw(f"{prefix}{count - 1}")


async def _crowded(folder: Path, journal: str, limit: int, count: int) -> None:
    with attached(folder, *OPTIONS, prefix=limited(f"--nofile={limit}"), journal=journal) as (writer, server):
        async with connected(server) as client:
            before = descriptors(server)
            with crowd(server, count) as sockets:
                late = await ask(sockets)
                await _hears_on(writer, client, "crowded")
                writer.close()  # the last one to close it clears the log away: what was open is void
                writer.open(journal)
                await _hears_on(writer, client, "reopened")
                await eventually(lambda: answers(server, "/readyz"), "it answers in spite of them")
                # A kernel that is short of room lets a connection wait for seconds: they come by and by. And on a busy
                # machine many are cut, since what they asked was not read in time: they come once more.
                deadline = time.monotonic() + 2 * SOON
                while taken(server) < limit - RESERVE:
                    assert time.monotonic() < deadline, "it is never full"
                    for place, plain in enumerate(sockets):
                        if was_cut(plain):
                            plain.close()
                            sockets[place] = coming(server)
                            late.append(sockets[place])
                    late = await ask([plain for plain in late if plain.fileno() >= 0])
                await eventually(lambda: taken(server) == limit - RESERVE, "it is full, and no more than that")
                assert server.metric('walcast_closed_total{code="4101"}') > 0
                assert len(server.log.read_text().splitlines()) < 20
            await eventually(lambda: descriptors(server) <= before, "all are forgotten")
            await server.ready()
            await has_all(writer, client)
        assert len(client.welcomes) == 1


def answers(server: Walcast, path: str) -> bool:
    """Whether a request finds a place, and is answered with 200."""
    with suppress(OSError, HTTPException):
        return server.get(path).status == 200
    return False


def taken(server: Walcast) -> float:
    """How many places are; 0 if it has none for this question."""
    with suppress(OSError, HTTPException):
        return server.metric("walcast_connections")
    return 0


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_more_connections_than_descriptors_disturb_nobody_who_is_there(tmp_path: Path, journal: str) -> None:
    """256 descriptors and 1,000 connections: who is in hears on, the others get 4101, and it goes on being asked."""
    await _crowded(tmp_path, journal, limit=256, count=1000)


@pytest.mark.heavy
@pytest.mark.timeout(300)
async def test_as_many_connections_as_this_machine_has_descriptors(tmp_path: Path) -> None:
    """20,000 connections, or as many as the test itself may open, against a quarter of them: the
    queue of the socket is short, so not everybody gets as far as asking."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(20_000, hard - 500)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 400), hard))
    try:
        await _crowded(tmp_path, "WAL", limit=count // 4, count=count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_requests_that_never_end_leave_descriptors_to_others(tmp_path: Path) -> None:
    """Connections on which nothing is ever asked do not count as clients, and must not use up everything either."""
    with attached(tmp_path, "--heartbeat", 1, prefix=limited("--nofile=256")) as (writer, server):
        async with connected(server) as client:
            with crowd(server, 400):
                await _hears_on(writer, client, "crowded")
                await eventually(lambda: answers(server, "/readyz"), "it answers in spite of them")
            await has_all(writer, client)


async def test_slow_clients_in_a_burst_cost_bounded_memory(tmp_path: Path) -> None:
    """Sixty clients that never read and 60 MB for each of them, in a process that may grow by 120 MB: who reads gets
    everything, the slow ones are closed, and the process lives."""
    with attached(tmp_path, "--outbox-bytes", 500_000, "--max-connections-per-owner", 1000) as (writer, server):
        async with connected(server) as client:
            with crowd(server, 60, buffer=4096) as peers:
                await ask(peers)
                await eventually(lambda: server.metric("walcast_connections") == 61, "all are in")
                ceiling = resident(server, "VmData") + 120 * 1024
                subprocess.run(["prlimit", "--pid", str(server.pid), f"--data={ceiling * 1024}"], check=True)
                names = [f"m{number}" for number in range(1000)]
                await asyncio.to_thread(write, writer, names, size=60_000)
                await eventually(lambda: server.metric('walcast_closed_total{code="4100"}') >= 60, "they are closed")
            await has_all(writer, client)
            assert server.get("/readyz").status == 200


def resident(server: Walcast, what: str) -> int:
    """A figure of the kernel's about the server's memory, in KiB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:"))
