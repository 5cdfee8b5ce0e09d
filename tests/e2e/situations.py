"""A legacy schema with every kind of table, its mapping, and rows for it: what the capture situations share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.clients import Subscriber, subject_of, subscriber
from tests.e2e.harness import Frame, Walcast
from tests.e2e.legacy_process import Legacy, Statement, legacy

COLUMNS = "conversation_id TEXT, role TEXT, body TEXT, owner TEXT"
SCHEMA = f"""
CREATE TABLE named(id TEXT PRIMARY KEY, {COLUMNS});
CREATE TABLE numbered(id INTEGER PRIMARY KEY, {COLUMNS});
CREATE TABLE keyed(id TEXT PRIMARY KEY, {COLUMNS}) WITHOUT ROWID;
CREATE TABLE documents(id TEXT PRIMARY KEY, conversation_id TEXT, doc TEXT, owner TEXT);
CREATE TABLE tasks(id TEXT PRIMARY KEY, conversation_id TEXT, status TEXT, history TEXT, artifacts TEXT, owner TEXT);
CREATE TABLE jobs(id TEXT PRIMARY KEY, conversation_id TEXT, status TEXT, owner TEXT) WITHOUT ROWID;
CREATE TABLE noise(id INTEGER PRIMARY KEY, what TEXT);
"""

_MESSAGES = """
[[messages]]
table           = "{table}"
id              = "id"
conversation_id = "conversation_id"
role            = "{role}"
content         = "{content}"
owner           = "owner"
"""
MAPPING = (
    "".join(_MESSAGES.format(table=table, role="role", content="body") for table in ("named", "numbered", "keyed"))
    + _MESSAGES.format(table="documents", role="json_extract(doc, '$.role')", content="json_extract(doc, '$.content')")
    + """
[[tasks]]
table           = "tasks"
id              = "id"
conversation_id = "conversation_id"
state           = "json_extract(status, '$.state')"
status_message  = "json_extract(status, '$.message')"
timestamp       = "json_extract(status, '$.timestamp')"
history         = "history"
artifacts       = "artifacts"
owner           = "owner"

[[tasks]]
table           = "jobs"
id              = "id"
conversation_id = "conversation_id"
state           = "status"
owner           = "owner"
"""
)


def message(
    id_: object, owner: object, text: str = "hello", conversation: str = "c", table: str = "named"
) -> Statement:
    """A row that is one message."""
    return f"INSERT INTO {table} VALUES (?, ?, 'user', ?, ?)", (id_, conversation, text, owner)


def replacing(statement: Statement) -> Statement:
    """The same as INSERT OR REPLACE."""
    return statement[0].replace("INSERT", "INSERT OR REPLACE"), statement[1]


def task(id_: str, owner: object, state: str = "working") -> Statement:
    """A row that is one task."""
    status = json.dumps({"state": state, "message": "going", "timestamp": "2026-01-01T00:00:00Z"})
    return "INSERT INTO tasks VALUES (?, 'c', ?, '[]', '[]', ?)", (id_, status, owner)


def new_message(id_: object, text: str = "hello", conversation: str = "c") -> Frame:
    """The event of such a message, whole."""
    body = {"id": str(id_), "role": "user", "content": [{"type": "text", "text": text}]}
    return {"type": "new_message", "conversation_id": conversation, "message": body}


@dataclass(frozen=True)
class Variant:
    """How the database is written and how the bridge is woken."""

    journal: str
    wake: str

    def __str__(self) -> str:
        return f"{self.journal}{self.wake}"


VARIANTS = [Variant(journal, wake) for journal in ("WAL", "DELETE") for wake in ("--inotify", "--no-inotify")]


class Scene:
    """One writer, one server, and the clients that a test brings."""

    def __init__(self, variant: Variant, folder: Path, writer: Legacy, server: Walcast, stack: AsyncExitStack) -> None:
        self.variant, self.folder, self.writer, self.server, self._stack = variant, folder, writer, server, stack
        self._markers = 0

    async def client(self, owner: str, query: str = "") -> Subscriber:
        """A client that stays until the end of the test."""
        return await self._stack.enter_async_context(subscriber(self.server, owner, query))

    async def sees_nothing_more(self, *clients: Subscriber) -> None:
        """A row written now for each of them is the next that they see."""
        self._markers += 1
        for client in clients:
            name = f"marker-{self._markers}-{client.owner}"
            self.writer.commit(message(name, client.owner, conversation="marker"))
            assert subject_of(await client.next()) == name


def prepared(folder: Path, variant: Variant, *options: object) -> Walcast:
    """A server for this schema that is not started."""
    mapping = folder / "mapping.toml"
    mapping.write_text(MAPPING, encoding="utf-8")
    return Walcast(folder / "legacy.db", "--map", mapping, "--owner-format", "any", variant.wake, *options)


@contextmanager
def stage(folder: Path, variant: Variant, *rows: Statement) -> Iterator[tuple[Legacy, Walcast]]:
    """A database with rows that are there at the first attach, its writer, and a running server."""
    server = prepared(folder, variant)
    with legacy(server.database, SCHEMA, variant.journal) as writer:
        if rows:
            writer.commit(*rows)
        try:
            yield writer, server.start()
        finally:
            server.kill()
