"""The HTTP endpoints beside the socket: what the service is, how it is, and the sample page."""

from __future__ import annotations

import json
import math

from aiohttp import web

from bridge import protocol
from bridge.filters import EVENT_TYPES, MOST_CHARACTERS, MOST_CONVERSATIONS
from handlers.auth import KEY_HEADER, NONCE_HEADER, SIGNATURE_HEADER
from handlers.context import CONTEXT, VERSION
from handlers.events import LONGEST_WAIT, MOST_EVENTS
from handlers.load import MOST_ITEMS
from handlers.problems import Problem

SAMPLE = "websocket_client_example.html"


async def websocket_info(request: web.Request) -> web.Response:
    """`GET /api/websocket-info`: configuration, supported message types, active connections."""
    context = request.app[CONTEXT]
    settings, status = context.settings, context.bridge.status.snapshot()
    return web.json_response(
        {
            "service": "walcast",
            "version": VERSION,
            "endpoint": "/api/ws",
            "message_types": list(protocol.SERVER_TYPES),
            "client_message_types": list(protocol.CLIENT_TYPES),
            "active_connections": context.bridge.hub.counts["websocket"],
            "active_event_streams": context.bridge.hub.counts["sse"],
            "event_types": list(EVENT_TYPES),
            "cursor": str(context.bridge.hub.cursor),
            "auth": {
                "mode": settings.auth,
                "modes": ["header", "signed"],
                "owner_format": settings.owner_format,
                "headers": [KEY_HEADER] + ([NONCE_HEADER, SIGNATURE_HEADER] if settings.auth == "signed" else []),
                "query": ["publicKey"] + (["nonce", "signature"] if settings.auth == "signed" else []),
            },
            "limits": {
                "max_connections": settings.max_connections,
                "max_connections_per_owner": settings.max_connections_per_owner,
                "max_frame_bytes": settings.max_frame_bytes,
                "max_frames_per_second": settings.max_frames_per_second,
                "max_bad_frames": settings.max_bad_frames,
                "outbox_bytes": settings.outbox_bytes,
                "outbox_frames": settings.outbox_frames,
                "replay_limit": settings.replay_limit,
                "filter_conversations": MOST_CONVERSATIONS,
                "conversation_id_characters": MOST_CHARACTERS,
                "poll_events": MOST_EVENTS,
                "poll_seconds": LONGEST_WAIT,
                "page_items": MOST_ITEMS,
                "retention_events": settings.retention_events,
                "retention_seconds": settings.retention_seconds,
            },
            "heartbeat_seconds": settings.heartbeat,
            "capture": {
                "mode": status.mode,
                "lag_ms": math.ceil(status.behind_seconds * 1000),
                "streams": list(status.sections),
            },
            "extensions": {
                "resume": "?resume=1",
                "since": "?since=CURSOR",
                "conversation_id": "?conversation_id=ID",
                "events": "?events=TYPE,TYPE",
            },
            "close_codes": {str(int(code)): code.name.lower() for code in protocol.Close},
            "endpoints": {
                "websocket": "/api/ws",
                "events": "/api/events",
                "conversations": "/api/conversations",
                "info": "/api/websocket-info",
                "liveness": "/healthz",
                "readiness": "/readyz",
                "metrics": "/metrics",
                "sample": f"/samples/{SAMPLE}",
            },
            "endpoint_templates": {
                "messages": "/api/conversations/{id}/messages",
                "tasks": "/api/conversations/{id}/tasks",
                "task": "/api/tasks/{id}",
            },
        },
        dumps=_dumps,
    )


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


async def healthz(_request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: what is pushed is fresh. Raises Problem 503 with the reason while it is not."""
    status = request.app[CONTEXT].bridge.status.snapshot()
    if not status.is_ready:
        raise Problem(503, "Not ready", status.reason, "not_ready", {"Retry-After": "1", "Cache-Control": "no-store"})
    body = {
        "status": "ready",
        "capture": status.mode,
        "lag_ms": math.ceil(status.behind_seconds * 1000),
        "failed_rows": status.failed_rows,
    }
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus text format."""
    body = request.app[CONTEXT].bridge.metrics.exposition()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def sample(request: web.Request) -> web.Response:
    """The sample client, read at start: a request never waits for the disk."""
    return web.Response(
        body=request.app[SAMPLE_PAGE], content_type="text/html", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def home(_request: web.Request) -> web.Response:
    """`GET /`: the sample page, until there is a dashboard."""
    raise web.HTTPFound(f"/samples/{SAMPLE}")


SAMPLE_PAGE: web.AppKey[bytes] = web.AppKey("sample_page", bytes)
