"""Errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from handlers.context import CONTEXT

log = logging.getLogger("walcast.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """An answer that is an error: its status, what is wrong, and how to mend it."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        reason: str,
        headers: dict[str, str] | None = None,
        **members: str,
    ) -> None:
        super().__init__(detail)
        self.members = members
        self.status, self.title, self.detail, self.reason, self.headers = status, title, detail, reason, headers

    def response(self) -> web.Response:
        """The answer."""
        body = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.reason,
            **self.members,
        }
        return web.Response(
            status=self.status,
            text=json.dumps(body, ensure_ascii=False),
            content_type="application/problem+json",
            headers=self.headers,
        )


def _mend(error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return "there is no such address; /api/websocket-info names those there are"
        case 405:
            return f"not with this method; {error.headers.get('Allow', 'GET')} is what this address answers"
    return error.text or error.reason


async def expectation_failed(request: web.Request, response: web.StreamResponse) -> None:
    """An unknown `Expect:` is answered before any middleware is asked: this makes it a problem like the others."""
    if isinstance(response, web.HTTPExpectationFailed):
        request.app[CONTEXT].bridge.metrics.refused("http")
        problem = Problem(417, response.reason, "leave out the header Expect, or say 100-continue", "http").response()
        response.body, response.content_type = problem.body, problem.content_type
        response.headers["Content-Length"] = str(problem.content_length)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves as problem+json; what we did not expect is logged whole and told in one line."""
    try:
        return await handler(request)
    except Problem as problem:
        request.app[CONTEXT].bridge.metrics.refused(problem.reason)
        return problem.response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        request.app[CONTEXT].bridge.metrics.refused("http")
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return Problem(error.status, error.reason, _mend(error), "http", allowed).response()
    except ConnectionError:
        return web.Response()  # it left before it was answered: no defect, and nothing for the log
    except Exception:
        log.exception("a handler failed: %s %s", request.method, request.path)
        return Problem(
            500, "Internal Server Error", "this is a defect of walcast; the log says more", "internal"
        ).response()
