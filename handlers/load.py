"""The initial load: `GET /api/conversations`, a conversation's messages and tasks, and one task.

Every answer carries a cursor that was taken before its rows were read: who resumes from it misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from aiohttp import web

from bridge.decide import encode
from bridge.errors import LoadFailed
from bridge.load import BadToken, Item, Page
from bridge.protocol import Cursor
from handlers.auth import owner_of, require_origin
from handlers.context import CONTEXT, Context
from handlers.problems import Problem
from handlers.query import bad_request, number_of

LIMIT, MOST_ITEMS = 50, 200


class _Asked:
    """An authenticated request, and where the events stood when it came."""

    def __init__(self, request: web.Request, what: str) -> None:
        self.context: Context = request.app[CONTEXT]
        require_origin(request, self.context.settings)
        self.owner = owner_of(request, self.context.settings)
        self.limit = int(number_of(request, "limit", LIMIT, 1, MOST_ITEMS))
        self.before = request.query.get("before")
        self.id = request.match_info.get("id", "")
        self.cursor: Cursor = self.context.bridge.hub.cursor
        self.loader = self.context.bridge.loader
        self.context.bridge.metrics.loaded(what)


async def conversations(request: web.Request) -> web.Response:
    """`GET /api/conversations`: the owner's, newest first."""
    asked = _Asked(request, "conversations")
    with _problems():
        page = await asked.loader.conversations(asked.owner, asked.before, asked.limit)
    return _page("conversations", page, asked.cursor)


async def messages(request: web.Request) -> web.Response:
    """`GET /api/conversations/{id}/messages`: newest first, each as in `new_message`."""
    asked = _Asked(request, "messages")
    with _problems():
        page = await asked.loader.messages(asked.owner, asked.id, asked.before, asked.limit)
    return _page("messages", page, asked.cursor)


async def tasks(request: web.Request) -> web.Response:
    """`GET /api/conversations/{id}/tasks`: newest first, each as in `task_update`."""
    asked = _Asked(request, "tasks")
    with _problems():
        page = await asked.loader.tasks(asked.owner, asked.id, asked.before, asked.limit)
    return _page("tasks", page, asked.cursor)


async def task(request: web.Request) -> web.Response:
    """`GET /api/tasks/{id}`: its present state, as in `task_update`."""
    asked = _Asked(request, "task")
    with _problems():
        item = await asked.loader.task(asked.owner, asked.id)
    if item is None:
        raise _missing("task")
    conversation = b',"conversation_id":' + encode(item.conversation or None)
    return _answer(b'{"task":' + item.body + conversation, asked.cursor)


@contextmanager
def _problems() -> Iterator[None]:
    """What can go wrong with a load, as an answer."""
    try:
        yield
    except BadToken as error:
        raise bad_request("bad_before", "?before= is not what an earlier answer gave as before") from error
    except LoadFailed as error:
        raise Problem(503, "Not available", str(error), "database", {"Retry-After": "1"}) from error


def _missing(what: str) -> Problem:
    return Problem(404, "Not found", f"there is no such {what}, or it is not yours", "not_found")


def _page(what: str, page: Page | None, cursor: Cursor) -> web.Response:
    if page is None:
        raise _missing("conversation")
    body = b'{"%s":[%s],"before":%s' % (what.encode(), _joined(page.items), encode(page.before))
    return _answer(body, cursor)


def _joined(items: Iterable[Item]) -> bytes:
    return b",".join(item.body for item in items)


def _answer(body: bytes, cursor: Cursor) -> web.Response:
    return web.Response(
        body=body + b',"cursor":"%s"}' % str(cursor).encode(),
        content_type="application/json",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )
