"""`GET /api/events` with `Accept: text/event-stream`: register, replay, then live, until the peer leaves."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any, cast

from aiohttp import HttpVersion11, web

from bridge.filters import Filter
from bridge.outbox import Bound, Outbox
from bridge.protocol import Close, Cursor
from bridge.replay import Span
from bridge.stream import Stream, preamble
from handlers.auth import cors_headers
from handlers.context import CONTEXT, Context
from handlers.problems import Problem
from handlers.resuming import lost, replay, replaying
from handlers.websocket import CONNECTIONS

RETRY_MS = (1000, 3000)
"""Within which a client comes back, at random: those cut together must not come back together."""


class ChunkedSink:
    """What is written in one go is one chunk of the answer (RFC 9112 section 7.1); HTTP/1.0 has no chunks."""

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool) -> None:
        self._transport, self._is_chunked = transport, is_chunked

    def write(self, data: bytes) -> None:
        """Take bytes; never blocks."""
        if self._is_chunked:
            self._transport.writelines([b"%x\r\n" % len(data), data, b"\r\n"])
        else:
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes taken that the peer has not yet received."""
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()


class _Departure:
    """Told by the connection when the peer leaves; what the peer says after its request is not read."""

    def __init__(self, left: asyncio.Event) -> None:
        self._left = left

    def feed_data(self, _data: bytes) -> tuple[bool, bytes]:
        return False, b""

    def feed_eof(self) -> None:
        self._left.set()


async def stream(request: web.Request, owner: str, wanted: Filter, since: str | None) -> web.StreamResponse:
    """The stream of one client. Raises Problem 400, 409, 410 where it cannot begin."""
    context, connections = request.app[CONTEXT], request.app[CONNECTIONS]
    settings, hub = context.settings, context.bridge.hub
    transport, ended = request.transport, asyncio.Event()
    if transport is None:
        return web.Response()  # gone before we could answer

    def close(code: Close) -> None:
        context.bridge.metrics.closed(code)
        if code not in (Close.GOING_AWAY, Close.RESTART):
            transport.abort()  # what it has been sent ends in the middle, so it comes back with its last id
        ended.set()

    sink = ChunkedSink(transport, is_chunked=request.version >= HttpVersion11)
    session = Stream(owner, Outbox(sink, Bound(settings.outbox_bytes, settings.outbox_frames)), close, hub, wanted)
    session.last_heard = asyncio.get_running_loop().time()
    session.hold()
    position = hub.register(session)
    connections.add(session, transport)
    try:
        span = await _begin(context, session, since, position)
        response = await _prepare(request, Cursor(span.epoch, span.after), settings.heartbeat)
        # aiohttp asks this of its WebSockets alone, but it is what tells at once that a peer has left.
        cast("Any", request.protocol).set_parser(_Departure(ended))
        if transport.is_closing():
            ended.set()  # it left before we listened
        with replaying(context, session):
            await replay(context, session, span)
        await ended.wait()
        return response
    finally:
        hub.unregister(session)
        connections.remove(session)


async def _begin(context: Context, session: Stream, since: str | None, position: Cursor) -> Span:
    """What to replay. Raises Problem."""
    if since is None:
        return Span(session.owner, position.epoch, position.seq, position.seq, session.filter)
    recovery, span = await context.bridge.replayer.plan(session.owner, since, position, session.filter)
    context.bridge.metrics.resumed(recovery.reason or "recovered")
    if recovery.reason is not None:
        raise lost(recovery)
    if session.is_closing:
        raise Problem(503, "Too slow", "come back in a moment", "too_slow", {"Retry-After": "1"})
    session.resume_at(Cursor(span.epoch, span.after))
    return span


async def _prepare(request: web.Request, start: Cursor, heartbeat: float) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            **cors_headers(request, request.app[CONTEXT].settings),
        }
    )
    response.force_close()
    _give_up_after(request, 2 * heartbeat)
    await response.prepare(request)
    await response.write(preamble(start, random.randint(*RETRY_MS)))
    return response


def _give_up_after(request: web.Request, seconds: float) -> None:
    """A peer that vanished without a word is not heard of: what was sent and not acknowledged for so long ends it."""
    peer = request.get_extra_info("socket")
    if peer is not None and hasattr(socket, "TCP_USER_TIMEOUT") and peer.family in (socket.AF_INET, socket.AF_INET6):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
