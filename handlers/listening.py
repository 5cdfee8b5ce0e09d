"""The listening socket, and the connections on which nothing has been asked yet."""

from __future__ import annotations

import asyncio
import os
import socket

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bridge.errors import CannotListen
from bridge.protocol import Close
from handlers.context import CONTEXT
from handlers.peer import Peer
from handlers.websocket import CONNECTIONS

BACKLOG = 1024
STOPPING = 1.0
"""Seconds that answers under way have to end when the server stops."""


class Newcomers:
    """Connections that were accepted and have not asked anything. They are no clients yet, so no other limit counts
    them; without an end to our patience they would use up every descriptor there is."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[RequestHandler, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def add(self, peer: RequestHandler) -> None:
        """A connection was accepted."""
        loop = asyncio.get_running_loop()
        self._since[peer] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(self._patience / 2, self._cut)

    def heard(self, peer: RequestHandler) -> None:
        """Its first request is complete."""
        self._since.pop(peer, None)

    def _cut(self) -> None:
        """Cut those that were given long enough."""
        loop = asyncio.get_running_loop()
        for peer, since in list(self._since.items()):
            if loop.time() - since < self._patience:
                break  # the others came later
            del self._since[peer]
            if peer.transport is not None:
                peer.transport.abort()
        self._sweep = loop.call_later(self._patience / 2, self._cut) if self._since else None

    def close(self) -> None:
        """Stop looking."""
        if self._sweep is not None:
            self._sweep.cancel()
        self._since.clear()


NEWCOMERS: web.AppKey[Newcomers] = web.AppKey("newcomers", Newcomers)


class Server:
    """A listening application. `port` is the port it got."""

    def __init__(self, app: web.Application) -> None:
        self._newcomers, self._connections = app[NEWCOMERS], app[CONNECTIONS]
        self._metrics = app[CONTEXT].bridge.metrics
        self._runner = web.AppRunner(app, shutdown_timeout=STOPPING, handle_signals=False)
        self._listener: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int, inherited: int | None = None) -> None:
        """Listen, on the descriptor of a socket that listens already if one is given. Raises CannotListen."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            if inherited is None:
                self._listener = await loop.create_server(self._accept, host, port, backlog=BACKLOG)
            else:
                ready = socket.socket(fileno=inherited)
                self._listener = await loop.create_server(self._accept, sock=ready, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            reason = getattr(error, "strerror", None) or str(error)
            raise CannotListen(
                f"cannot listen on {host}:{port} ({reason})", "choose another --port (0 takes a free one) or --host"
            ) from error
        self.port = int(self._listener.sockets[0].getsockname()[1])

    def _accept(self) -> RequestHandler:
        assert self._runner.server is not None
        peer = Peer(self._runner.server, self._metrics)
        self._newcomers.add(peer)
        return peer

    def farewell(self, code: Close) -> None:
        """What `stop` is to close sockets with, if not with 1001."""
        self._connections.farewell = code

    def kept_listener(self) -> int:
        """A descriptor that goes on listening after `stop`, -1 if there is not just one socket. The caller owns it.

        Whoever connects meanwhile waits in its queue until somebody accepts again.
        """
        sockets = self._listener.sockets if self._listener is not None else ()
        return os.dup(sockets[0].fileno()) if len(sockets) == 1 else -1

    async def stop(self) -> None:
        """Stop listening, and close every socket."""
        if self._listener is not None:
            self._listener.close()
        self._newcomers.close()
        await self._runner.cleanup()
