"""The application: routes, middlewares, and what has to happen at its start and end."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from handlers import http, load
from handlers.auth import cors_headers
from handlers.connections import Connections
from handlers.context import CONTEXT, Context
from handlers.events import events
from handlers.listening import NEWCOMERS, Newcomers
from handlers.problems import Handler, Problem, expectation_failed, problem_middleware
from handlers.websocket import CONNECTIONS, websocket

MOST_SILENT = 10.0
"""Seconds that a new connection may take for its first request, at most."""
_ID = "{id:[^/]+}"
"""Any text, braces too, which the router's own pattern leaves out. A slash of an id comes as %2F."""
_CORS_HEADERS = "X-Solana-PublicKey, X-Solana-Nonce, X-Solana-Signature, Authorization, Last-Event-ID"


def make_app(context: Context) -> web.Application:
    """An application over a bridge that somebody else starts and stops."""
    app = web.Application(middlewares=[newcomers_middleware, cors_middleware, problem_middleware])
    settings, bridge = context.settings, context.bridge
    app[CONTEXT] = context
    app[NEWCOMERS] = Newcomers(min(MOST_SILENT, settings.heartbeat))
    app[CONNECTIONS] = Connections(bridge.hub, bridge.metrics, heartbeat=settings.heartbeat, grace=settings.close_grace)
    app[http.SAMPLE_PAGE] = (context.samples / http.SAMPLE).read_bytes()
    app.router.add_get("/api/ws", websocket)
    app.router.add_get("/api/events", events, allow_head=False)
    app.router.add_get("/api/conversations", load.conversations)
    app.router.add_get(f"/api/conversations/{_ID}/messages", load.messages)
    app.router.add_get(f"/api/conversations/{_ID}/tasks", load.tasks)
    app.router.add_get(f"/api/tasks/{_ID}", load.task)
    app.router.add_get("/api/websocket-info", http.websocket_info)
    app.router.add_get("/healthz", http.healthz)
    app.router.add_get("/readyz", http.readyz)
    app.router.add_get("/metrics", http.metrics)
    app.router.add_get(f"/samples/{http.SAMPLE}", http.sample)
    app.router.add_get("/", http.home)
    app.cleanup_ctx.append(_pulse)
    app.on_shutdown.append(_close_sockets)
    app.on_response_prepare.append(expectation_failed)
    return app


async def _pulse(app: web.Application) -> AsyncIterator[None]:
    app[CONNECTIONS].start()
    yield


async def _close_sockets(app: web.Application) -> None:
    await app[CONNECTIONS].shutdown()


@web.middleware
async def newcomers_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whoever has asked something is no newcomer any more."""
    request.app[NEWCOMERS].heard(request.protocol)
    return await handler(request)


@web.middleware
async def cors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Pages of an allowed origin may read the answers."""
    allowed = cors_headers(request, request.app[CONTEXT].settings)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        if not allowed:
            request.app[CONTEXT].bridge.metrics.refused("origin")
            return Problem(
                403, "Not allowed", "this origin is not allowed; --allowed-origins names those that are", "origin"
            ).response()
        response: web.StreamResponse = web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": "GET, OPTIONS",
                "Access-Control-Allow-Headers": _CORS_HEADERS,
                "Access-Control-Max-Age": "600",
            },
        )
    else:
        response = await handler(request)
    if not response.prepared:
        response.headers.update(allowed)
    return response
