"""`GET /api/events`: the events of the socket for clients that have none: as a stream, or as JSON, page by page."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from bridge.filters import Filter
from bridge.protocol import Cursor, Recovery
from bridge.replay import Span
from bridge.stream import Bell
from handlers.auth import owner_of, require_origin
from handlers.context import CONTEXT, Context
from handlers.problems import Problem
from handlers.query import filter_of, number_of
from handlers.resuming import lost
from handlers.sse import stream
from handlers.websocket import CONNECTIONS, is_full

STREAM = "text/event-stream"
LONGEST_WAIT = 60
MOST_EVENTS = 1000


async def events(request: web.Request) -> web.StreamResponse:
    """Authenticate, then answer in the form that is asked for."""
    context = request.app[CONTEXT]
    require_origin(request, context.settings)
    owner, wanted = owner_of(request, context.settings), filter_of(request)
    if request.app[CONNECTIONS].is_shutting_down:
        raise Problem(503, "Going away", "the server is shutting down", "shutdown", {"Retry-After": "1"})
    since = request.query.get("since")
    if _prefers_stream(request):
        _require_room(context, owner)
        return await stream(request, owner, wanted, request.headers.get("Last-Event-ID") or since)
    limit = int(number_of(request, "limit", MOST_EVENTS, 1, MOST_EVENTS))
    wait = number_of(request, "wait", 0, 0, LONGEST_WAIT)
    if wait:
        _require_room(context, owner)
    return await _Poll(context, owner, wanted, limit).answer(request, since, wait)


def _require_room(context: Context, owner: str) -> None:
    if is_full(context, owner):
        raise Problem(429, "Too many connections", "close one, or come back later", "too_many", {"Retry-After": "5"})


def _prefers_stream(request: web.Request) -> bool:
    """Whether the stream is named in `Accept`, and JSON not before it."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")]
    return next((kind for kind in accepted if kind in (STREAM, "application/json")), "") == STREAM


@dataclass(frozen=True, slots=True)
class _Poll:
    """One JSON answer."""

    context: Context
    owner: str
    wanted: Filter
    limit: int

    async def answer(self, request: web.Request, since: str | None, wait: float) -> web.Response:
        """What there is after a cursor; if nothing yet, what comes within `wait` seconds. Raises Problem."""
        hub = self.context.bridge.hub
        if not wait:
            return self._response(*await self._read(since, hub.cursor))
        rung = asyncio.Event()
        bell, connections = Bell(self.owner, rung.set, self.wanted), request.app[CONNECTIONS]
        bell.last_heard = asyncio.get_running_loop().time()
        position = hub.register(bell)
        if request.transport is not None:
            connections.add(bell, request.transport)
        try:
            page, cursor = await self._read(since, position)
            if not page:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await rung.wait()
                page, cursor = await self._read(str(cursor), hub.cursor)
        finally:
            hub.unregister(bell)
            connections.remove(bell)
        return self._response(page, cursor)

    async def _read(self, since: str | None, position: Cursor) -> tuple[list[bytes], Cursor]:
        """One page, and where to go on. Raises Problem."""
        if since is None:
            return [], position
        replayer = self.context.bridge.replayer
        start = replayer.start(since, position)
        if isinstance(start, Recovery):
            raise lost(start)
        try:
            span = Span(self.owner, position.epoch, start.seq, position.seq, self.wanted)
            return await replayer.objects(span, self.limit)
        except LookupError as error:
            raise lost(Recovery(position, reason="history_expired")) from error

    def _response(self, page: list[bytes], cursor: Cursor) -> web.Response:
        self.context.bridge.metrics.polled.inc(len(page))
        return web.Response(
            body=b'{"events":[%s],"cursor":"%s"}' % (b",".join(page), str(cursor).encode()),
            content_type="application/json",
            charset="utf-8",
            headers={"Cache-Control": "no-store"},
        )
