"""`kill -9` at any instant loses nothing and repeats nothing, for clients that resume with their last cursor."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, aiohttp_link, websockets_link
from tests.e2e.harness import SOON, Walcast
from tests.e2e.legacy_process import legacy, storm
from tests.e2e.storms import MAPPING, OWNERS, SCHEMA, compare, seeded, settled


async def _strike(server: Walcast, client: Resuming, chance: random.Random) -> None:
    """Start the server and kill it at some instant: while it starts, while it catches up, or while it serves."""
    server.spawn()
    if chance.random() < 0.3:
        await _within(client, chance.uniform(0, 1.5), client.since + 10_000)
    else:
        await server.listening()
        await client.connected(len(client.welcomes) + 1)
        await _within(client, SOON, len(client.events) + chance.randrange(12))
        await _within(client, chance.uniform(0, 0.01), client.since + 10_000)
    server.kill()


async def _within(client: Resuming, seconds: float, events: int) -> None:
    """Until the client has seen so many events, but no longer than that."""
    with suppress(TimeoutError):
        await client.until(lambda client: len(client.events) >= events, seconds)


async def _survive(folder: Path, journal: str, kills: int, seed: int) -> None:
    database, mapping, chance = folder / "legacy.db", folder / "mapping.toml", random.Random(seed)
    mapping.write_text(MAPPING, encoding="utf-8")
    async with AsyncExitStack() as stack:
        writer = stack.enter_context(legacy(database, SCHEMA, journal))
        server = Walcast(database, "--map", mapping, "--owner-format", "any")
        stack.callback(server.kill)
        await server.start().ready()
        dials = (websockets_link, aiohttp_link)
        clients = [
            await stack.enter_async_context(Resuming(server, owner, dial))
            for owner, dial in zip(OWNERS, dials, strict=True)
        ]
        for client in clients:
            await client.connected()
        with storm(database, rate=50, seed=seed):
            server.kill()
            for strike in range(kills):
                await _strike(server, clients[strike % 2], chance)
            server.spawn()
        await settled(server, writer, clients)
    for client in clients:
        compare(database, client)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_killing_the_bridge_at_random_instants_loses_and_repeats_nothing(tmp_path: Path, journal: str) -> None:
    """Eight kills while a writer writes on; the clients' lists equal the database."""
    with seeded() as seed:
        await _survive(tmp_path, journal, kills=8, seed=seed)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_killing_the_bridge_a_hundred_times_loses_and_repeats_nothing(tmp_path: Path, journal: str) -> None:
    """The same, long enough to strike the rare instants."""
    with seeded() as seed:
        await _survive(tmp_path, journal, kills=100, seed=seed)
