"""A proxy that cuts connections: after so many bytes, in the middle of a frame, with a goodbye, a reset or silence."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Literal

from tests.e2e.clients import Reachable

Cut = Literal["close", "reset", "silence"]
CUTS: tuple[Cut, ...] = ("close", "reset", "silence")


class CuttingProxy:
    """Between clients and a server. Every connection is cut once it has brought the client a random number of bytes."""

    def __init__(self, server: Reachable, chance: random.Random, most: int) -> None:
        self._target, self._chance, self._most = server, chance, most
        self._listener: asyncio.Server | None = None
        self._running = set[asyncio.Task[None]]()
        self._silent: list[asyncio.StreamWriter] = []
        self.is_cutting = True
        self.cuts = 0
        self.address: str | None = None

    async def __aenter__(self) -> CuttingProxy:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for writer in self._silent:
            writer.transport.abort()
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._between(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self._running.discard(task)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._target.address is None:
            return
        host, _, port = self._target.address.partition(":")
        from_server, to_server = await asyncio.open_connection(host, int(port))
        up = asyncio.create_task(self._up(reader, to_server))
        cut: Cut = "close"
        try:
            cut = await self._down(from_server, writer)
        finally:
            up.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await up
            if cut == "silence":
                self._silent.append(to_server)  # the server is told nothing
            elif cut == "reset":
                to_server.transport.abort()
            else:
                to_server.close()

    @staticmethod
    async def _up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Cut:
        left = self._chance.randrange(self._most)
        while piece := await reader.read(65536):
            if self.is_cutting and len(piece) > left:
                self.cuts += 1
                writer.write(piece[:left])
                with suppress(OSError):
                    await writer.drain()
                return self._chance.choice(CUTS)
            left -= len(piece)
            writer.write(piece)
            await writer.drain()
        return "close"
