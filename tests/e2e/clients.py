"""Subscribers that we did not write: the `websockets` package and aiohttp, and what a good client makes of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol
from urllib.parse import quote

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.e2e.harness import SOON, TICK, Frame

KEY_HEADER = "X-Solana-PublicKey"
WELCOME = "WebSocket连接已成功建立"


class Closed(Exception):
    """The server closed the connection."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Link(Protocol):
    """A connection of some library."""

    async def receive(self) -> str:
        """The next text frame. Raises Closed."""

    async def send(self, text: str) -> None:
        """Send a text frame."""


Dial = Callable[[str, dict[str, str]], AbstractAsyncContextManager[Link]]
"""From (url, headers) to a connection."""


class _WebsocketsLink:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def receive(self) -> str:
        try:
            frame = await self._socket.recv()
        except ConnectionClosed as closed:
            raise Closed(closed.rcvd.code if closed.rcvd else 1006) from closed
        assert isinstance(frame, str)
        return frame

    async def send(self, text: str) -> None:
        await self._socket.send(text)


@asynccontextmanager
async def websockets_link(url: str, headers: dict[str, str]) -> AsyncIterator[Link]:
    """A connection of the `websockets` package."""
    async with connect(
        url, additional_headers=headers, max_size=None, open_timeout=SOON, ping_interval=None, proxy=None
    ) as socket:
        yield _WebsocketsLink(socket)


class _AiohttpLink:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> str:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Closed(self._socket.close_code)
        return str(message.data)

    async def send(self, text: str) -> None:
        await self._socket.send_str(text)


@asynccontextmanager
async def aiohttp_link(url: str, headers: dict[str, str]) -> AsyncIterator[Link]:
    """A connection of aiohttp's client."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=headers, max_msg_size=0) as socket,
    ):
        yield _AiohttpLink(socket)


class Subscriber:
    """One connection. `next` gives the frames one by one; what comes meanwhile waits."""

    def __init__(self, link: Link, owner: str) -> None:
        self._link, self.owner = link, owner
        self.established: Frame = {}

    async def raw(self) -> str:
        """The next frame as it came. Raises Closed."""
        async with asyncio.timeout(SOON):
            return await self._link.receive()

    async def next(self) -> Frame:
        """The next frame. Raises Closed."""
        frame = json.loads(await self.raw())
        assert isinstance(frame, dict)
        return frame

    async def send(self, frame: object) -> None:
        """Send a frame: text as it is, everything else as JSON."""
        await self._link.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def closed(self) -> int | None:
        """Read until the server closes; with which code."""
        try:
            while True:
                await self.raw()
        except Closed as closed:
            return closed.code


class Reachable(Protocol):
    """A server, or what stands between."""

    @property
    def address(self) -> str | None:
        """`host:port`, None while nobody listens."""


def url_of(server: Reachable, query: str = "") -> str:
    """The address of the socket."""
    return f"ws://{server.address}/api/ws{f'?{query}' if query else ''}"


@asynccontextmanager
async def subscriber(
    server: Reachable, owner: str, query: str = "", dial: Dial = websockets_link
) -> AsyncIterator[Subscriber]:
    """A client that is connected and has been welcomed."""
    async with dial(url_of(server, query), {KEY_HEADER: owner}) as link:
        client = Subscriber(link, owner)
        client.established = await client.next()
        assert client.established["type"] == "connection_established"
        assert client.established["message"] == WELCOME
        assert client.established["wallet_address"] == owner
        yield client


def _seq(cursor: str) -> int:
    return int(cursor.rpartition(":")[2])


class Resuming:
    """A client as the documentation asks for: it reconnects with its last cursor, and proves the chain of cursors."""

    def __init__(self, server: Reachable, owner: str, dial: Dial = websockets_link) -> None:
        self._server, self._dial = server, dial
        self.owner = owner
        self.events: list[Frame] = []
        self.welcomes: list[Frame] = []
        self.refetches: list[Frame] = []
        self.cursor: str | None = None
        self.since = 0
        """How many events had come when the last connection was made."""
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Resuming:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            if self._server.address is not None:
                with suppress(OSError, EOFError, WebSocketException, aiohttp.ClientError, Closed):
                    await self._connection()
            await asyncio.sleep(TICK)

    async def _connection(self) -> None:
        query = "resume=1" if self.cursor is None else f"since={quote(self.cursor)}"
        async with self._dial(url_of(self._server, query), {KEY_HEADER: self.owner}) as link:
            await self._note(self._welcomed, json.loads(await link.receive()))
            while True:
                await self._note(self._received, json.loads(await link.receive()))

    async def _note(self, take: Callable[[Frame], None], frame: Frame) -> None:
        async with self._changed:
            take(frame)
            self._changed.notify_all()

    def _welcomed(self, frame: Frame) -> None:
        assert frame["type"] == "connection_established", frame
        self.welcomes.append(frame)
        self.since = len(self.events)
        if not frame.get("recovered", True):
            self.refetches.append(frame)
        if self.cursor is None or not frame.get("recovered", True):
            self.cursor = frame["cursor"]

    def _received(self, frame: Frame) -> None:
        assert frame["type"] in ("new_message", "task_update"), frame
        assert self.cursor is not None
        cursor, previous = frame["cursor"], frame["prev"]
        epoch = cursor.partition(":")[0]
        assert epoch == previous.partition(":")[0], frame
        if epoch != self.cursor.partition(":")[0]:
            self.refetches.append(frame)  # what a client has to do that finds itself in another epoch
            self.cursor = previous
        assert _seq(previous) <= _seq(self.cursor) < _seq(cursor), f"{frame} does not follow {self.cursor}"
        if self.events and self.events[-1]["cursor"] == self.cursor:
            assert previous == self.cursor, f"{frame} does not follow {self.cursor}"
        self.events.append(frame)
        self.cursor = cursor

    async def until(self, condition: Callable[[Resuming], bool], seconds: float = SOON) -> None:
        """Wait until something holds of what has come. Raises TimeoutError, or what broke the client."""
        async with asyncio.timeout(seconds), self._changed:
            while not condition(self):
                if self._task is not None and self._task.done():
                    self._task.result()
                await self._tick()

    async def _tick(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._changed.wait()

    async def connected(self, times: int = 1) -> None:
        """Wait until it has been welcomed so many times in all."""
        await self.until(lambda client: len(client.welcomes) >= times)

    async def saw(self, subject: str) -> None:
        """Wait for the event of a message or task of this id, the marker after which nothing may come."""
        await self.until(lambda client: any(subject_of(event) == subject for event in client.events))


def subject_of(event: Frame) -> str:
    """The id of the message or task that an event is about."""
    return str(event["message" if event["type"] == "new_message" else "task"]["id"])


def text_of(event: Frame) -> str:
    """The text of a new message, which has to be one part."""
    [part] = event["message"]["content"]
    assert part.keys() == {"type", "text"}
    return str(part["text"])
