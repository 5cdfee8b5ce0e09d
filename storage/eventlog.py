"""The reading side of the event log, for replay: its own connection, off the capture thread."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import aiosqlite

from storage.errors import StateUnusable
from storage.types import Event


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

    async def count(self, owner: str, after: int, last: int) -> int:
        """How many events an owner has in (after, last]."""
        found = await self._fetch(
            "SELECT count(*) FROM routes WHERE owner = ? AND seq > ? AND seq <= ?", (owner, after, last)
        )
        return int(str(found[0][0]))

    async def page(self, owner: str, after: int, last: int, limit: int) -> list[Event]:
        """The first `limit` events of an owner in (after, last], in order, each with the route of this owner alone."""
        found = await self._fetch(
            "SELECT e.seq, e.type, e.conversation_id, e.subject, e.body, r.prev "
            "FROM routes r JOIN events e USING (seq) "
            "WHERE r.owner = ? AND r.seq > ? AND r.seq <= ? ORDER BY r.seq LIMIT ?",
            (owner, after, last, limit),
        )
        return [
            Event(seq, kind, conversation, subject, body, ((owner, prev),))
            for seq, kind, conversation, subject, body, prev in found
        ]

    async def _fetch(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[int, str, str, str, bytes, int]]:
        assert self._connection is not None, "the event log is not open"
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            raise StateUnusable(f"the state file {self._path} cannot be read ({error})") from error
