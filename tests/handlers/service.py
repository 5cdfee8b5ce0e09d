"""What a test of the handlers is given."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

from bridge.service import Bridge

SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE conversations(id TEXT PRIMARY KEY, wallet_address TEXT, title TEXT);
CREATE TABLE messages(id TEXT PRIMARY KEY, conversation_id TEXT, role TEXT, body TEXT);
CREATE TABLE tasks(
    id TEXT PRIMARY KEY, conversation_id TEXT, session_id TEXT, status TEXT, history TEXT, artifacts TEXT, owner TEXT);
INSERT INTO conversations VALUES ('c', 'W', 'title');
"""

Client = TestClient[web.Request, web.Application]


@dataclass(frozen=True)
class Service:
    """A running application, the bridge behind it, and the writer of its database."""

    client: Client
    bridge: Bridge
    database: sqlite3.Connection

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.client.port or 0

    def say(self, name: str) -> None:
        """A message is committed."""
        self.database.execute("INSERT INTO messages VALUES (?, 'c', 'user', 'hi')", (name,))


async def eventually(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for an effect; the timeout is a failure bound."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what or "it never came"
        await asyncio.sleep(0.005)
