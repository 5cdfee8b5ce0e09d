"""A server for tests of clients: it says what the test tells it to say, and hands each connection to the test."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

PAGE = Path(__file__).parents[2] / "samples" / "websocket_client_example.html"

# The failure bound of each wait, in seconds.
SOON = 20

Frame = dict[str, object]


def text(words: str) -> Frame:
    return {"type": "text", "text": words}


@dataclass
class Connection:
    """One WebSocket connection of the page, from the server's side."""

    query: dict[str, str]
    socket: web.WebSocketResponse
    received: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)
    closed_with: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)

    async def establish(self, **more: object) -> None:
        text = "WebSocket连接已成功建立"
        await self.send(type="connection_established", message=text, wallet_address=self.query["publicKey"], **more)

    async def send(self, **frame: object) -> None:
        await self.socket.send_json(frame)

    async def message(
        self, name: str, *parts: Frame, role: str = "agent", conversation: str = "c1", **more: str
    ) -> None:
        message = {"id": name, "role": role, "content": parts}
        await self.send(type="new_message", conversation_id=conversation, message=message, **more)

    async def task(self, name: str, state: str, note: str, steps: int = 1, conversation: str = "c1") -> None:
        status = {"state": state, "message": note, "timestamp": "2026-01-02T03:04:05.678Z"}
        history = [{"role": "agent", "parts": [text(f"step {n}")]} for n in range(steps)]
        artifacts = [{"name": "report.md", "parts": [text(note)]}]
        task = {"id": name, "sessionId": "s1", "status": status, "history": history, "artifacts": artifacts}
        await self.send(type="task_update", conversation_id=conversation, task=task)

    async def next_frame(self) -> Frame:
        return await asyncio.wait_for(self.received.get(), SOON)

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code=code, message=reason.encode())


@dataclass
class Server:
    """Serves the page and hands each connection to the test."""

    address: str = ""
    connections: asyncio.Queue[Connection] = field(default_factory=asyncio.Queue)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connection = Connection(dict(request.query), socket)
        self.connections.put_nowait(connection)
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                connection.received.put_nowait(json.loads(frame.data))
        connection.closed_with.put_nowait(socket.close_code)
        return socket

    async def accept(self) -> Connection:
        return await asyncio.wait_for(self.connections.get(), SOON)

    def page(self, **query: str) -> str:
        return f"http://{self.address}/samples/websocket_client_example.html?{urlencode(query)}"


async def serve_page(request: web.Request) -> web.Response:
    # Not a FileResponse: the threads that read its file would outlive the test together with the loop of the module.
    return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/api/ws", server.handle)
    app.router.add_get("/samples/websocket_client_example.html", serve_page)
    async with TestServer(app) as running:
        server.address = f"{running.host}:{running.port}"
        yield server
