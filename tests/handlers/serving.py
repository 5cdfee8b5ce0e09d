"""The whole program in this process over a small database, for tests of what it answers."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bridge.mapping import REFERENCE, parse_mapping
from bridge.service import Bridge
from bridge.settings import Settings
from bridge.subscription import Kind
from handlers.app import make_app
from handlers.context import Context
from handlers.listening import Server
from samples.legacy_backend import SCHEMA
from tests.e2e.harness import SOON, eventually

REPO = Path(__file__).parents[2]
KEY = "X-Solana-PublicKey"
Frame = dict[str, Any]


@dataclass
class Serving:
    """A running server, the writer of its database, and a client of its own."""

    bridge: Bridge
    writer: sqlite3.Connection
    http: aiohttp.ClientSession

    def message(self, name: str, owner: str = "anna", conversation: str = "", text: str = "hello") -> None:
        """Commit a message, and its conversation where it is new: `c-OWNER` if none is named."""
        conversation = conversation or f"c-{owner}"
        self.writer.execute("BEGIN IMMEDIATE")
        self.writer.execute(
            "INSERT OR IGNORE INTO conversations VALUES (?, ?, ?, NULL)", (conversation, owner, f"about {conversation}")
        )
        self.writer.execute("INSERT INTO messages VALUES (?, ?, 'user', ?, NULL)", (name, conversation, text))
        self.writer.execute("COMMIT")

    def task(self, name: str, state: str = "working", owner: str = "anna", conversation: str = "") -> None:
        """Commit a task, or another state of it."""
        self.writer.execute(
            "INSERT INTO tasks VALUES (?1, ?2, 's', ?3, ?4, '[]', '[]') "
            "ON CONFLICT(id) DO UPDATE SET status = excluded.status",
            (name, conversation or f"c-{owner}", owner, json.dumps({"state": state})),
        )

    async def get(self, path: str, owner: str = "anna", **headers: str) -> tuple[int, Any]:
        """(status, JSON) of an answer."""
        async with self.http.get(path, headers={KEY: owner, **headers}) as response:
            return response.status, await response.json(content_type=None)

    async def counts(self, kind: Kind, number: int) -> None:
        """Wait until the hub has so many clients of a kind."""
        await eventually(lambda: self.bridge.hub.counts[kind] == number, f"{number} of {kind}")

    async def cursor(self) -> str:
        """Where the events stand now."""
        return str((await self.get("/api/events"))[1]["cursor"])

    async def logged(self, name: str, owner: str = "anna") -> str:
        """Wait until the event of a message is in the log; the cursor behind it."""
        cursor = f"{self.bridge.hub.cursor.epoch}:0"
        while True:
            status, answer = await self.get(f"/api/events?since={cursor}&wait=20", owner)
            assert status == 200, answer
            cursor = str(answer["cursor"])
            if name in map(subject_of, answer["events"]):
                return cursor


def subject_of(event: Frame) -> str:
    """The id of the message or task that an event is about."""
    return str(event["message" if event["type"] == "new_message" else "task"]["id"])


@asynccontextmanager
async def serving(
    folder: Path, mapping: str = REFERENCE, schema: str = SCHEMA, journal: str = "WAL", **given: object
) -> AsyncIterator[Serving]:
    """A server over a database of the reference schema, ready."""
    parsed = parse_mapping(mapping)
    settings = Settings.model_validate({"owner_format": "any", **given})
    database = folder / "legacy.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode={journal}")
        writer.executescript(schema)
        bridge = await asyncio.to_thread(Bridge, settings, database, folder / "legacy.db.walcast", parsed)
        await bridge.start(SOON)
        try:
            app = await asyncio.to_thread(make_app, Context(settings, bridge, REPO / "samples"))
            server = Server(app)
            await server.start("127.0.0.1", 0)
            try:
                async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as http:
                    yield Serving(bridge, writer, http)
            finally:
                await server.stop()
        finally:
            await bridge.stop()
