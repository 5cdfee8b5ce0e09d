"""Whatever is cut, the connections, the writer, the bridge or all of them, who resumes misses nothing and gets nothing
twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, aiohttp_link, websockets_link
from tests.e2e.harness import Walcast
from tests.e2e.legacy_process import legacy, storm
from tests.e2e.proxy import CuttingProxy
from tests.e2e.storms import MAPPING, OWNERS, SCHEMA, compare, seeded, settled

RATE = 80
MOST_BYTES = 40_000
"""At most so much comes over one connection before it is cut."""


class Scene:
    """A random writer, a server, and two clients of each owner behind a proxy that cuts."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.database, mapping = folder / "legacy.db", folder / "mapping.toml"
        mapping.write_text(MAPPING, encoding="utf-8")
        self.server = Walcast(self.database, "--map", mapping, "--owner-format", "any", "--heartbeat", 1)
        self.proxy = CuttingProxy(self.server, self.chance, MOST_BYTES)
        self.clients = [
            Resuming(self.proxy, owner, dial) for owner in OWNERS for dial in (websockets_link, aiohttp_link)
        ]
        self._storm = ExitStack()

    def write_on(self) -> None:
        """A writer begins, where the last one left off."""
        self.writer = self._storm.enter_context(storm(self.database, rate=RATE, seed=self.chance.randrange(1 << 30)))

    async def strike(self, *, writer: bool, server: bool) -> None:
        """Kill what is to be killed at some instant after the next events have come, and start it again."""
        client = self.chance.choice(self.clients)
        seen = len(client.events) + self.chance.randrange(1, 25)
        await client.until(lambda client: len(client.events) >= seen)
        await asyncio.sleep(self.chance.uniform(0, 0.02))  # the instant is what is random here
        if writer:
            self.writer.kill()
            self._storm.close()
            self.write_on()
        if server:
            self.server.kill()
            self.server.spawn()
            await self.server.listening()

    def end(self) -> None:
        """The writer ends by itself, in the midst of nothing."""
        self._storm.close()


async def _survive(folder: Path, journal: str, strikes: int, seed: int, *, writer: bool, server: bool) -> None:
    async with AsyncExitStack() as stack:
        scene = Scene(folder, seed)
        backend = stack.enter_context(legacy(scene.database, SCHEMA, journal))
        stack.callback(scene.server.kill)
        await scene.server.start().ready()
        await stack.enter_async_context(scene.proxy)
        for client in scene.clients:
            await stack.enter_async_context(client)
            await client.connected()
        stack.callback(scene.end)
        scene.write_on()
        for _ in range(strikes):
            await scene.strike(writer=writer, server=server)
        scene.end()
        scene.proxy.is_cutting = False
        await settled(scene.server, backend, scene.clients)
        assert scene.proxy.cuts >= strikes / 2
    for client in scene.clients:
        compare(scene.database, client)


KILLED = pytest.mark.parametrize(
    ("writer", "server"), [(False, False), (True, False), (True, True)], ids=["connections", "writer", "everything"]
)
JOURNALS = pytest.mark.parametrize("journal", ["WAL", "DELETE"])


@JOURNALS
async def test_cuts_at_random_instants_lose_and_repeat_nothing(tmp_path: Path, journal: str) -> None:
    """Connections are cut all the time, in the middle of frames and of replays; now and then all others die."""
    with seeded() as seed:
        await _survive(tmp_path, journal, 3, seed, writer=True, server=True)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@KILLED
@JOURNALS
async def test_hundreds_of_cuts_lose_and_repeat_nothing(
    tmp_path: Path, journal: str, *, writer: bool, server: bool
) -> None:
    """The same, long enough to strike the rare instants."""
    with seeded() as seed:
        await _survive(tmp_path, journal, 60 if server else 200, seed, writer=writer, server=server)
