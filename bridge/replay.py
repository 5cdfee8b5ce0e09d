"""Resume: prove continuity and replay, or say that the client has to fetch anew. Never a part, never a guess."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace

from bridge.filters import EVERYTHING, Filter
from bridge.protocol import Cursor, Recovery, resumable_body
from storage.eventlog import EventLog, Wanted
from storage.types import Event

PAGE = 500


@dataclass(frozen=True, slots=True)
class Span:
    """What an owner missed: the events after `after` up to `last` of one epoch."""

    owner: str
    epoch: str
    after: int
    last: int
    wanted: Filter = EVERYTHING


class Replayer:
    """Reads the log for clients that come back."""

    def __init__(self, log: EventLog, pruned: Callable[[], int], limit: int) -> None:
        self._log, self._pruned, self._limit = log, pruned, limit

    def start(self, since: str, position: Cursor) -> Cursor | Recovery:
        """Where `since` points in the log that `position` is in, or why nothing can be proven from there."""
        cursor = Cursor.parse(since)
        if cursor is None:
            return Recovery(position, reason="bad_cursor")
        if cursor.epoch != position.epoch:
            return Recovery(position, reason="epoch_changed")
        if cursor.seq > position.seq:
            return Recovery(position, reason="bad_cursor")
        if cursor.seq < self._pruned():
            return Recovery(position, reason="history_expired")
        return cursor

    async def plan(
        self, owner: str, since: str, position: Cursor, wanted: Filter = EVERYTHING
    ) -> tuple[Recovery, Span]:
        """Whether all that an owner missed between `since` and `position` can be replayed."""
        nothing = Span(owner, position.epoch, position.seq, position.seq, wanted)
        cursor = self.start(since, position)
        if isinstance(cursor, Recovery):
            return cursor, nothing
        missed = await self._log.count(owner, cursor.seq, position.seq, _asked(wanted))
        # Asked again after counting: what is pruned from now on is noticed by `pages`.
        if cursor.seq < self._pruned() or missed > self._limit:
            return Recovery(position, reason="history_expired"), nothing
        return Recovery(position, replayed=missed), Span(owner, position.epoch, cursor.seq, position.seq, wanted)

    async def page(self, span: Span, limit: int = PAGE) -> list[Event]:
        """The first events of a span; none at its end. Raises LookupError if they were pruned meanwhile."""
        page = await self._log.page(span.owner, span.after, span.last, limit, _asked(span.wanted))
        if span.after < self._pruned():
            raise LookupError("the events were pruned during the replay")
        return page

    async def pages(self, span: Span) -> AsyncIterator[list[Event]]:
        """The events of a span, page by page. Raises LookupError if they were pruned meanwhile."""
        while span.after < span.last and (page := await self.page(span)):
            yield page
            span = replace(span, after=page[-1].seq)

    async def objects(self, span: Span, limit: int) -> tuple[list[bytes], Cursor]:
        """The first events of a span as JSON objects, and where to go on. Raises LookupError as `page`."""
        page = await self.page(span, limit)
        is_wide = span.wanted.is_wide
        objects = [resumable_body(event, span.epoch, event.previous(span.owner, wide=is_wide)) for event in page]
        return objects, Cursor(span.epoch, page[-1].seq if page else span.last)


def _asked(wanted: Filter) -> Wanted:
    return Wanted(wanted.types, wanted.chosen, wanted.is_wide)


def portions(events: list[Event], size: int, count: int) -> Iterator[list[Event]]:
    """A page in parts of at most `size` bytes and `count` events, but at least one."""
    portion: list[Event] = []
    total = 0
    for event in events:
        if portion and (total + len(event.body) > size or len(portion) >= count):
            yield portion
            portion, total = [], 0
        portion.append(event)
        total += len(event.body)
    if portion:
        yield portion
