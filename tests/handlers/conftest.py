"""A whole bridge and its application in this process, over a small database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bridge.mapping import REFERENCE, Mapping, parse_mapping
from bridge.service import Bridge
from bridge.settings import load_settings
from handlers.app import make_app
from handlers.context import Context
from tests.handlers.service import SCHEMA, Service

SAMPLES = Path(__file__).parent.parent.parent / "samples"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The writer's connection."""
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        yield connection


@pytest_asyncio.fixture
async def serve(database: sqlite3.Connection, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Starts a service with the settings given; it ends with the test."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def start(**options: object) -> Service:
        settings = load_settings({"owner_format": "any", **options}, None)

        def made() -> tuple[Bridge, web.Application]:  # off the loop: files are read, and inotify looks for its library
            bridge = Bridge(
                settings, tmp_path / "legacy.db", tmp_path / "state", Mapping(parse_mapping(REFERENCE).sections)
            )
            return bridge, make_app(Context(settings, bridge, SAMPLES))

        bridge, app = await asyncio.to_thread(made)
        await bridge.start(10)
        ends.append(bridge.stop)
        client = TestClient(TestServer(app))
        ends.append(client.close)
        await client.start_server()
        return Service(client, bridge, database)

    yield start
    for end in reversed(ends):
        await end()
