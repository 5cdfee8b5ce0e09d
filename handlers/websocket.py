"""`GET /api/ws`: a socket becomes a session of the hub, and its read loop runs until the peer leaves."""

from __future__ import annotations

import asyncio

from aiohttp import WebSocketError, WSMsgType, web

from bridge import protocol
from bridge.filters import EVERYTHING, Filter
from bridge.outbox import Bound, Outbox
from bridge.protocol import Close, Cursor
from bridge.session import Limits, Session
from handlers.auth import owner_of, require_origin
from handlers.connections import Connections
from handlers.context import CONTEXT, Context
from handlers.problems import Problem
from handlers.query import filter_of
from handlers.resuming import replay, replaying

VANISHED = 1006
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections", Connections)


async def websocket(request: web.Request) -> web.StreamResponse:
    """Authenticate, upgrade, register, replay, read."""
    context, connections = request.app[CONTEXT], request.app[CONNECTIONS]
    require_origin(request, context.settings)
    refusal = None
    try:
        owner = owner_of(request, context.settings)
    except Problem as problem:
        # A browser cannot read the HTTP status of a refused upgrade, and would take it for a broken connection.
        if "Origin" not in request.headers:
            raise
        context.bridge.metrics.refused(problem.reason)
        owner, refusal = "", Close.AUTHENTICATION_FAILED
    try:
        wanted = filter_of(request)
    except Problem as problem:
        if "Origin" not in request.headers:
            raise
        context.bridge.metrics.refused(problem.reason)
        wanted, refusal = EVERYTHING, refusal or Close.BAD_REQUEST
    if connections.is_shutting_down:
        raise Problem(503, "Going away", "the server is shutting down", "shutdown", {"Retry-After": "1"})
    ws = web.WebSocketResponse(
        autoping=False,
        compress=False,
        max_msg_size=context.settings.max_frame_bytes + 1,  # the library refuses what is as big as that, too
        timeout=context.settings.close_grace,
    )
    await ws.prepare(request)
    transport = request.transport
    if transport is None:
        return ws  # gone before we could answer
    refusal = refusal or (Close.TOO_MANY if is_full(context, owner) else None)
    if refusal is not None:
        connections.close(ws, transport, refusal)
    else:
        await _serve(ws, transport, owner, wanted, request)
    await connections.closed(ws)
    return ws


def is_full(context: Context, owner: str) -> bool:
    """Whether one more connection would be too many, in all or of this owner."""
    hub, settings = context.bridge.hub, context.settings
    return hub.count >= settings.max_connections or hub.connections_of(owner) >= settings.max_connections_per_owner


async def _serve(
    ws: web.WebSocketResponse, transport: asyncio.Transport, owner: str, wanted: Filter, request: web.Request
) -> None:
    context, connections = request.app[CONTEXT], request.app[CONNECTIONS]
    settings, hub = context.settings, context.bridge.hub
    since = request.query.get("since")
    session = Session(
        owner,
        Outbox(transport, Bound(settings.outbox_bytes, settings.outbox_frames)),
        lambda code: connections.close(ws, transport, code),
        hub,
        Limits(settings.max_bad_frames, settings.max_frames_per_second),
        resumable=since is not None or request.query.get("resume") in ("1", "true"),
        wanted=wanted,
    )
    session.last_heard = asyncio.get_running_loop().time()
    connections.add(session, transport)
    try:
        if since is None:
            _welcome(session, hub.register(session))
            await _listen(context, connections, ws, session)
        else:
            position = hub.register(session)
            session.hold()
            async with asyncio.TaskGroup() as group:  # a client is heard while its past is replayed
                resuming = group.create_task(_resume(context, session, since, position, wanted))
                await _listen(context, connections, ws, session)
                resuming.cancel()
    finally:
        hub.unregister(session)
        connections.remove(session)


def _welcome(session: Session, position: Cursor) -> None:
    session.send(protocol.established(session.owner, position if session.resumable else None))


async def _resume(context: Context, session: Session, since: str, position: Cursor, wanted: Filter) -> None:
    """Everything the owner missed up to `position`; the live events that were held back meanwhile follow."""
    with replaying(context, session):
        recovery, span = await context.bridge.replayer.plan(session.owner, since, position, wanted)
        context.bridge.metrics.resumed(recovery.reason or "recovered")
        start = Cursor(span.epoch, span.after)  # not the end: the connection may break in the middle of the replay
        session.resume_at(start)
        session.send(protocol.established(session.owner, start, recovery))
        await replay(context, session, span)


async def _listen(context: Context, connections: Connections, ws: web.WebSocketResponse, session: Session) -> None:
    """Until the peer leaves or is closed; an end that neither side announced is counted here, the others elsewhere."""
    async with connections.reading(ws):
        code: int | None = VANISHED  # a lost connection cancels its handler
        try:
            code = await _read(ws, session)
        finally:
            if code is not None and not session.is_closing:
                context.bridge.metrics.closed(code)


async def _read(ws: web.WebSocketResponse, session: Session) -> int | None:
    """Always read: a handler that only sends never learns that the peer left.

    None when the peer said goodbye, 1006 when it vanished, the library's code when it broke the protocol.
    """
    clock = asyncio.get_running_loop().time
    while True:
        message = await ws.receive()
        session.last_heard = now = clock()
        if message.type is WSMsgType.TEXT:
            session.receive_text(message.data, now)
        elif message.type is WSMsgType.BINARY:
            session.receive_binary(now)
        elif message.type is WSMsgType.PING:
            session.send(protocol.pong_frame(message.data))
        elif message.type is WSMsgType.ERROR:
            return message.data.code if isinstance(message.data, WebSocketError) else VANISHED
        elif message.type is WSMsgType.CLOSED:
            return VANISHED
        elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING):
            return None
