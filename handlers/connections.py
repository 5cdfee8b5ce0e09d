"""Open sockets: the one place that closes them, pings them and cuts the dead ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from bridge.hub import Hub
from bridge.metrics import Metrics
from bridge.protocol import Close
from bridge.subscription import Subscription

CONGESTED_TICK = 0.01
"""Seconds between tries to send what waits for slow peers."""


class Connections:
    """Owns the tasks that outlast a synchronous call: closing handshakes, and the pulse."""

    def __init__(self, hub: Hub, metrics: Metrics, *, heartbeat: float, grace: float) -> None:
        self._hub, self._metrics, self._heartbeat, self._grace = hub, metrics, heartbeat, grace
        self._closing: dict[web.WebSocketResponse, asyncio.Task[None]] = {}
        self._reading: dict[web.WebSocketResponse, tuple[asyncio.Timeout, asyncio.Event]] = {}
        self._pulse: asyncio.Task[None] | None = None
        self._transports: dict[Subscription, asyncio.Transport] = {}
        self._congested = asyncio.Event()
        self.is_shutting_down = False
        self.farewell = Close.GOING_AWAY
        """What `shutdown` closes with."""

    def start(self) -> None:
        """Start the pulse."""
        self._hub.on_congested = self._congested.set
        self._pulse = asyncio.create_task(self._beat(), name="walcast-pulse")

    def add(self, session: Subscription, transport: asyncio.Transport) -> None:
        """A session whose peer is to be pinged."""
        self._transports[session] = transport

    def remove(self, session: Subscription) -> None:
        """The opposite."""
        self._transports.pop(session, None)

    def close(self, ws: web.WebSocketResponse, transport: asyncio.Transport, code: Close) -> None:
        """Begin a closing handshake; the peer has `grace` seconds, then the connection is cut."""
        if ws not in self._closing:
            self._metrics.closed(code)
            self._closing[ws] = asyncio.create_task(self._shake(ws, transport, code), name="walcast-close")

    @asynccontextmanager
    async def reading(self, ws: web.WebSocketResponse) -> AsyncIterator[None]:
        """While a read loop runs in the block. `close` ends it: the closing handshake has to read for itself."""
        left = asyncio.Event()
        try:
            async with asyncio.timeout(None) as scope:
                self._reading[ws] = scope, left
                yield
        except TimeoutError:
            pass
        finally:
            del self._reading[ws]
            left.set()

    async def closed(self, ws: web.WebSocketResponse) -> None:
        """Wait for the closing handshake of a socket, if one is under way."""
        if (task := self._closing.get(ws)) is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(task)

    async def _shake(self, ws: web.WebSocketResponse, transport: asyncio.Transport, code: Close) -> None:
        grace = min(self._grace, 0.7) if self.is_shutting_down else self._grace
        try:
            async with asyncio.timeout(grace):
                if (reading := self._reading.get(ws)) is not None:
                    scope, left = reading
                    scope.reschedule(asyncio.get_running_loop().time())
                    await left.wait()
                await ws.close(code=code, message=code.name.lower().encode(), drain=False)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            transport.abort()
            self._closing.pop(ws, None)

    async def _beat(self) -> None:
        """One sweep with one prepared ping for all, instead of a timer per connection."""
        loop = asyncio.get_running_loop()
        next_sweep = loop.time() + self._heartbeat / 4
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_sweep):
                    await self._congested.wait()
            if self._congested.is_set():
                await asyncio.sleep(CONGESTED_TICK)
                if not self._hub.flush_congested():
                    self._congested.clear()
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + self._heartbeat / 4
                self._sweep(loop.time())

    def _sweep(self, now: float) -> None:
        for session in list(self._hub.sweep(now, self._heartbeat)):
            if (transport := self._transports.get(session)) is not None:
                transport.abort()  # its read loop ends with that, and counts it
        for session, transport in list(self._transports.items()):
            if session.kind == "poll" and transport.is_closing():  # nobody reads there, so nobody else would notice
                session.close(Close.GOING_AWAY)

    async def shutdown(self) -> None:
        """Close every socket with `farewell` and wait until all are closed or cut."""
        self.is_shutting_down = True
        self._hub.close_all(self.farewell)
        if self._closing:
            await asyncio.wait(list(self._closing.values()))
        if self._pulse is not None:
            self._pulse.cancel()
            with suppress(asyncio.CancelledError):
                await self._pulse
