"""Resume: prove continuity and replay, or say that the client has to fetch anew. Never a part, never a guess."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from bridge.protocol import Cursor, Recovery
from storage.eventlog import EventLog
from storage.types import Event

PAGE = 500


@dataclass(frozen=True, slots=True)
class Span:
    """What an owner missed: the events after `after` up to `last` of one epoch."""

    owner: str
    epoch: str
    after: int
    last: int


class Replayer:
    """Reads the log for clients that come back."""

    def __init__(self, log: EventLog, pruned: Callable[[], int], limit: int) -> None:
        self._log, self._pruned, self._limit = log, pruned, limit

    async def plan(self, owner: str, since: str, position: Cursor) -> tuple[Recovery, Span]:
        """Whether all that an owner missed between `since` and `position` can be replayed."""
        nothing = Span(owner, position.epoch, position.seq, position.seq)
        cursor = Cursor.parse(since)
        if cursor is None:
            return Recovery(position, reason="bad_cursor"), nothing
        if cursor.epoch != position.epoch:
            return Recovery(position, reason="epoch_changed"), nothing
        if cursor.seq > position.seq:
            return Recovery(position, reason="bad_cursor"), nothing
        missed = await self._log.count(owner, cursor.seq, position.seq)
        # Asked after counting: what is pruned from now on is noticed by `pages`.
        if cursor.seq < self._pruned() or missed > self._limit:
            return Recovery(position, reason="history_expired"), nothing
        return Recovery(position, replayed=missed), Span(owner, position.epoch, cursor.seq, position.seq)

    async def pages(self, span: Span) -> AsyncIterator[list[Event]]:
        """The events of a span, page by page. Raises LookupError if they were pruned meanwhile."""
        after = span.after
        while after < span.last:
            page = await self._log.page(span.owner, after, span.last, PAGE)
            if after < self._pruned():
                raise LookupError("the events were pruned during the replay")
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1].seq
