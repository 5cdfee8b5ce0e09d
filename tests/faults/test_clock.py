"""The clock of the machine is set: only retention asks for the time of day, and it errs to the side of keeping."""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.clients import Resuming, subject_of, subscriber
from tests.e2e.harness import Walcast
from tests.e2e.legacy_process import Legacy
from tests.faults.rig import attached, connected, has_all, write

SITE = """
import pathlib, time
_real, _file = time.time, pathlib.Path({file!r})
time.time = lambda: _real() + float(_file.read_text())
"""
"""Imported by the server's interpreter before everything else. (libfaketime would also do, but it breaks sleeps.)"""


class Clock:
    """The time of day as the server sees it, a difference in seconds to ours; monotonic clocks are left alone."""

    def __init__(self, folder: Path) -> None:
        self._file, site = folder / "clock", folder / "site"
        self.set(0)
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITE.format(file=str(self._file)))
        self.prefix = ("env", f"PYTHONPATH={site}")

    def set(self, seconds: int) -> None:
        """From the next question on."""
        fresh = self._file.with_name("clock-new")
        fresh.write_text(str(seconds))
        os.replace(fresh, self._file)


async def _news(writer: Legacy, client: Resuming, *names: str) -> None:
    write(writer, names)
    await client.saw(names[-1])


async def _replayed(server: Walcast, cursor: str | None) -> list[str]:
    async with subscriber(server, "anna", f"since={cursor}") as client:
        assert client.established["recovered"] is True, client.established
        return [subject_of(await client.next()) for _ in range(client.established["replayed"])]


async def test_a_clock_that_is_set_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """An hour back, an hour forward, to and fro: live and replayed, each event once and in order."""
    clock = Clock(tmp_path)
    with attached(tmp_path, prefix=clock.prefix) as (writer, server):
        async with connected(server) as client:
            start = client.cursor
            await _news(writer, client, "m0", "m1")
            for number, step in enumerate((-3600, 0, 3600, -86_400)):
                clock.set(step)
                await _news(writer, client, f"step{number}-a", f"step{number}-b")
            assert server.terminate() == 0
            write(writer, ["down"])
            clock.set(-7200)
            await server.start().ready()
            await client.saw("down")
            assert await _replayed(server, start) == [subject_of(event) for event in client.events]
            await has_all(writer, client)
            assert client.refetches == []
        hours = {line[:13] for line in server.log.read_text().splitlines() if " INFO " in line}
        assert len(hours) > 1, "the clock was never set"


async def test_what_is_young_by_any_clock_is_not_pruned_when_the_clock_is_set_back(tmp_path: Path) -> None:
    """Events that were logged with a time of the future stay as long as others, and keep none of them from going."""
    clock = Clock(tmp_path)
    options = ("--retention-seconds", 1800, "--retention-events", 4)
    with attached(tmp_path, *options, prefix=clock.prefix) as (writer, server):
        async with connected(server) as client:
            start = client.cursor
            await _news(writer, client, "a", "b")
            clock.set(-3600)
            await _news(writer, client, "c", "d")
            assert await _replayed(server, start) == ["a", "b", "c", "d"]
            await _news(writer, client, "e")
            async with subscriber(server, "anna", f"since={start}") as late:
                assert late.established["reason"] == "history_expired"  # by the count, whatever the times say
            await has_all(writer, client)


async def test_a_clock_set_forward_beyond_the_retention_tells_who_comes_late_to_fetch(tmp_path: Path) -> None:
    """By that clock the events are old: they may go, but never without a word, and who is connected sees nothing."""
    clock = Clock(tmp_path)
    with attached(tmp_path, "--retention-seconds", 1800, prefix=clock.prefix) as (writer, server):
        async with connected(server) as client:
            start = client.cursor
            await _news(writer, client, "a", "b")
            clock.set(3600)
            await _news(writer, client, "c")
            async with subscriber(server, "anna", f"since={start}") as late:
                assert (late.established["recovered"], late.established["reason"]) == (False, "history_expired")
            clock.set(0)
            cursor = client.cursor
            await _news(writer, client, "d", "e")
            assert await _replayed(server, cursor) == ["d", "e"]
            await has_all(writer, client)
