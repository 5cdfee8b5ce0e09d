"""Published packages write, each in its own process with its own storage code; their owners' clients see it all."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.e2e.clients import Dial, Resuming, Subscriber, aiohttp_link, subscriber, websockets_link
from tests.e2e.drivers import MAPPINGS, MARKERS, check, driven, marker_of, owners_of, python_of
from tests.e2e.harness import Frame, Walcast

# The first use installs the package, which takes a minute or more; the tests themselves take seconds.
pytestmark = pytest.mark.timeout(900)

WRITERS = ("a2a", "openai_agents", "agno")

STRANGER = "user-of-nothing"
Fate = Literal["left alone", "killed", "terminated"]


@dataclass
class Audience:
    """The clients of one server: one for each owner, one for an owner of nothing, one of another library."""

    server: Walcast
    owners: list[str]
    resuming: list[Resuming] = field(default_factory=list)
    plain: list[Subscriber] = field(default_factory=list)

    async def come(self, stack: AsyncExitStack, *, plain: bool) -> Audience:
        """Connect them all; plain clients, which lose what comes while the server is away, only where it stays."""
        dials: list[Dial] = [websockets_link, aiohttp_link, websockets_link]
        for owner, dial in zip([*self.owners, STRANGER], dials, strict=True):
            self.resuming.append(await stack.enter_async_context(Resuming(self.server, owner, dial)))
            if plain:
                self.plain.append(await stack.enter_async_context(subscriber(self.server, owner)))
        for client in self.resuming:
            await client.connected()
        return self

    async def check(self, writer: str, lines: list[Frame]) -> None:
        """After the markers are written: who saw what."""
        for client in self.resuming:
            await client.until(lambda client: any(map(marker_of, client.events)))
            assert client.refetches == []
            _check_one(writer, lines, client.owner, client.events)
        for subscriber_ in self.plain:
            events = [await subscriber_.next()]
            while not marker_of(events[-1]):
                events.append(await subscriber_.next())
            assert all("cursor" not in event for event in events)
            _check_one(writer, lines, subscriber_.owner, events)


def _check_one(writer: str, lines: list[Frame], owner: str, events: list[Frame]) -> None:
    if owner == STRANGER:
        assert [event for event in events if not marker_of(event)] == []
    else:
        check(writer, lines, owner, events)


def write_markers(writer: str, database: Path, owners: list[str]) -> None:
    """The last rows of all, one for each owner."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(MARKERS[writer], [(owner,) for owner in [*owners, STRANGER]])


def served_package(folder: Path, writer: str, *options: object, state: str = "bridge") -> Walcast:
    """A server that is not yet started on the database of a driver."""
    mapping = folder / "mapping.toml"
    mapping.write_text(MAPPINGS[writer], encoding="utf-8")
    common = ("--map", mapping, "--owner-format", "any", *options)
    return Walcast(folder / "legacy.db", *common, state=folder / f"{state}.state")


def logged(server: Walcast) -> list[tuple[str, str, Frame]]:
    """The event log as it stands on disk: owners, type and body, in order."""
    with closing(sqlite3.connect(server.state)) as connection:
        rows = connection.execute("SELECT owners, type, body FROM events ORDER BY seq").fetchall()
    return [(owners, kind, json.loads(body)) for owners, kind, body in rows]


async def see(fate: Fate, audience: Audience, events: int) -> None:
    """Let fate strike when the first client has seen so many events, and start the server again."""
    if fate == "left alone":
        return
    await audience.resuming[0].until(lambda client: len(client.events) >= events)
    if fate == "killed":
        audience.server.kill()
    else:
        assert audience.server.terminate() == 0
    audience.server.spawn()
    await audience.server.ready()


@pytest.mark.parametrize("writer", WRITERS)
async def test_what_a_package_wrote_before_the_first_attach_is_baseline(tmp_path: Path, writer: str) -> None:
    """Rows that were there are no events; a second run of the same writer is pushed whole."""
    python_of(writer)
    server = served_package(tmp_path, writer)
    with driven(writer, server.database, "old", "--count", 40) as driver:
        await driver.done()
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        audience = await Audience(await server.start().ready(), owners_of("new")).come(stack, plain=True)
        old = await stack.enter_async_context(subscriber(server, owners_of("old")[0]))
        with driven(writer, server.database, "new", "--count", 300) as driver:
            lines = await driver.done()
        write_markers(writer, server.database, [*audience.owners, old.owner])
        await audience.check(writer, lines)
        assert marker_of(await old.next())


@pytest.mark.parametrize("writer", WRITERS)
async def test_what_a_package_writes_at_full_speed_is_pushed_once_whatever_happens_to_the_bridge(
    tmp_path: Path, writer: str
) -> None:
    """300 writes, three bridges that wait for them: one left alone, one killed, one ended in the middle; equal logs."""
    python_of(writer)
    await _three_bridges(tmp_path, writer, 0)


async def test_what_packages_write_at_twenty_per_second_is_pushed_once_whatever_happens_to_the_bridge(
    tmp_path: Path,
) -> None:
    """The same at the pace of a chat, both writers at a time to save time."""
    for writer in WRITERS:
        python_of(writer)
        (tmp_path / writer).mkdir()
    await asyncio.gather(*(_three_bridges(tmp_path / writer, writer, 20) for writer in WRITERS))


async def _three_bridges(folder: Path, writer: str, rate: int) -> None:
    fates: list[Fate] = ["left alone", "killed", "terminated"]
    async with AsyncExitStack() as stack:
        servers = [served_package(folder, writer, "--wait", state=fate.replace(" ", "-")) for fate in fates]
        for server in servers:
            stack.callback(server.kill)
            server.spawn()
        crowd = []
        for fate, server in zip(fates, servers, strict=True):
            await server.listening()
            crowd.append(await Audience(server, owners_of("run")).come(stack, plain=fate == "left alone"))
        database = servers[0].database
        driver = stack.enter_context(driven(writer, database, "run", "--count", 300, "--rate", rate))
        # At full speed the writer has ended a second later, so fate strikes early, and both at once.
        await asyncio.gather(*(see(*pair, events=60 if rate else 10) for pair in zip(fates, crowd, strict=True)))
        lines = await driver.done()
        assert len(lines) >= 300
        write_markers(writer, database, crowd[0].owners)
        for audience in crowd:
            await audience.check(writer, lines)
        logs = [logged(server) for server in servers]
    if writer == "openai_agents":
        assert logs[0] == logs[1] == logs[2]
    assert last_states(logs[0]) == last_states(logs[1]) == last_states(logs[2])


def last_states(log: list[tuple[str, str, Frame]]) -> dict[str, tuple[str, Frame]]:
    """The last event of each message and task."""
    return {body["message" if kind == "new_message" else "task"]["id"]: (owners, body) for owners, kind, body in log}
