"""One accepted connection: whoever speaks no HTTP on it is refused in a line, and is no defect of ours.

A port that can be reached meets scanners all day. The server beneath logs each of them as an error, with a traceback
and with what they sent.
"""

from __future__ import annotations

import asyncio
import logging
import re

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from bridge.metrics import Metrics
from handlers.problems import Problem

log = logging.getLogger("walcast.http")

KEEP_ALIVE = 75.0
"""Seconds for which a connection without a request is kept after its last one."""
MALFORMED = "malformed"


class Peer(RequestHandler):
    """As its base class, but quiet and brief about requests that cannot be read."""

    __slots__ = ("_metrics",)

    def __init__(self, manager: web.Server, metrics: Metrics) -> None:
        loop, no_log = asyncio.get_running_loop(), None
        super().__init__(manager, loop=loop, access_log=no_log, keepalive_timeout=KEEP_ALIVE)  # type: ignore[arg-type]
        self._metrics = metrics

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that cannot be read; to an error of ours as the base class has it."""
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = Problem(400, "Bad Request", self._refuse(exc), MALFORMED).response()
        response.force_close()
        return response

    def log_exception(self, *args: object, **kw: object) -> None:
        """Errors of ours. A body that cannot be read, and that no handler asked for, is none."""
        error = kw.get("exc_info")
        if isinstance(error, web.RequestPayloadError | HttpProcessingError):
            self._refuse(error)
        else:
            super().log_exception(*args, **kw)

    def _refuse(self, error: web.RequestPayloadError | HttpProcessingError) -> str:
        peer = self.transport.get_extra_info("peername") if self.transport is not None else None
        reason = f"the request cannot be read: {reason_of(error)}"
        log.debug("%s, from %s", reason, peer[0] if peer else "a client that left")
        self._metrics.refused(MALFORMED)
        return reason


def reason_of(error: Exception) -> str:
    """What is wrong, without a byte of what was sent: that may hold a secret."""
    match error:
        case web.RequestPayloadError():
            return "bad body"
        case LineTooLong():
            return "a line is too long"
        case InvalidURLError():
            return "bad address"
        case HttpProcessingError(message=message):
            return re.split(r"[:\n.]| line '", message)[0]
    return type(error).__name__
