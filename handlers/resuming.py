"""The replay of one connection: all that its owner missed up to a position, at the pace of the peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bridge.errors import WalcastError
from bridge.protocol import Close, Recovery
from bridge.replay import Span, portions
from bridge.subscription import Subscription
from handlers.context import Context
from handlers.problems import Problem

log = logging.getLogger("walcast.replay")

TICK = 0.01
"""Seconds between looks whether a congested peer has taken what it was sent."""


@contextmanager
def replaying(context: Context, session: Subscription) -> Iterator[None]:
    """Around a replay: the live events that were held back follow it; where it cannot be ended, the session is."""
    try:
        yield
    except LookupError:
        session.close(Close.TOO_SLOW)  # it comes back, and is told to fetch anew
    except WalcastError as error:
        log.error("a replay failed: %s", error)
        session.close(Close.INTERNAL)
    else:
        session.release()
        context.bridge.hub.flush(session)


async def replay(context: Context, session: Subscription, span: Span) -> None:
    """Send a span. Raises LookupError if it was pruned meanwhile; ends early when the session is closing."""
    async for page in context.bridge.replayer.pages(span):
        for events in portions(page, *session.outbox.portion):
            session.replay(events, span.epoch)
            context.bridge.metrics.replayed.inc(len(events))
            while session.is_congested and not session.is_closing:
                await asyncio.sleep(TICK)
                session.flush()
            if session.is_closing:
                return


def lost(recovery: Recovery) -> Problem:
    """Why a cursor cannot be resumed from, as an answer over HTTP: where to go on, and what to fetch before."""
    detail = "events may have been missed: fetch anew, then go on from the cursor of what was fetched"
    if recovery.reason == "bad_cursor":
        status, title = 400, "Bad request"
        detail = f"the cursor is not one of this server; take it from an event or an answer; {detail}"
    else:
        status, title = (409, "Another epoch") if recovery.reason == "epoch_changed" else (410, "History expired")
    return Problem(
        status, title, detail, str(recovery.reason), cursor=str(recovery.cursor), refetch="/api/conversations"
    )
