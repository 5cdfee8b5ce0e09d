"""The reading side of the event log, for replay: its own connection, off the capture thread."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite

from storage.errors import StateUnusable
from storage.types import Event

PAGE_BYTES = 1 << 20
"""A page ends early when its events exceed this: bounded memory, and less than may wait for one client."""

_ROUTED = "routes r JOIN events e USING (seq) WHERE r.owner = ? AND r.seq > ? AND r.seq <= ?"
_WANTED = (
    "(? OR NOT e.optional) AND (? IS NULL OR e.type IN (SELECT value FROM json_each(?)))"
    " AND (? IS NULL OR e.conversation_id IN (SELECT value FROM json_each(?)))"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events of an owner are asked for; None is all. `optional` lets optional ones through, where types do."""

    types: frozenset[str] | None = None
    conversations: frozenset[str] | None = None
    optional: bool = True

    @property
    def parameters(self) -> tuple[str | bool | None, ...]:
        """The parameters of the condition, in its order."""
        types, conversations = (
            None if names is None else json.dumps(sorted(names)) for names in (self.types, self.conversations)
        )
        return self.optional, types, types, conversations, conversations


EVERY = Wanted()


class EventLog:
    """Read-only. `open` and `close` belong to the loop that uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Connect to a state file that exists."""
        self._connection = await aiosqlite.connect(
            f"file:{quote(str(self._path.absolute()))}?mode=ro", uri=True, isolation_level=None
        )

    async def close(self) -> None:
        """Close; safe to call twice."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def count(self, owner: str, after: int, last: int, wanted: Wanted = EVERY) -> int:
        """How many events an owner has in (after, last]."""
        found = await self._fetch(
            f"SELECT count(*) FROM {_ROUTED} AND {_WANTED}", (owner, after, last, *wanted.parameters)
        )
        return int(str(found[0][0]))

    async def page(self, owner: str, after: int, last: int, limit: int, wanted: Wanted = EVERY) -> list[Event]:
        """The first events of an owner in (after, last], in order, each with the route of this owner alone.

        At most `limit` of them and at most PAGE_BYTES, but at least one: an empty page is the end.
        """
        sizes = await self._fetch(
            f"SELECT e.seq, length(e.body) FROM {_ROUTED} AND {_WANTED} ORDER BY r.seq LIMIT ?",
            (owner, after, last, *wanted.parameters, limit),
        )
        if not sizes:
            return []
        totals = accumulate(int(str(size)) for _, size in sizes)
        fitting = max(1, sum(total <= PAGE_BYTES for total in totals))
        found = await self._fetch(
            "SELECT e.seq, e.type, e.conversation_id, e.subject, e.body, e.optional, r.prev, r.wide "
            f"FROM {_ROUTED} AND {_WANTED} ORDER BY r.seq",
            (owner, after, sizes[fitting - 1][0], *wanted.parameters),
        )
        return [
            Event(
                seq,
                kind,
                conversation,
                subject,
                body,
                ((owner, prev),),
                bool(optional),
                {} if wide is None else {owner: wide},
            )
            for seq, kind, conversation, subject, body, optional, prev, wide in found
        ]

    async def _fetch(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        assert self._connection is not None, "the event log is not open"
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            raise StateUnusable(f"the state file {self._path} cannot be read ({error})") from error
