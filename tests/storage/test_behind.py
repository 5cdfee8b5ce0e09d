"""How far behind a bridge is that is never done: another pass is asked for before the last one ends."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from storage.legacy import Busy
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import writer_process
from tests.storage.oracle import Schema
from tests.storage.test_worker import SCHEMA, Bench, running, say

INSERT = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', 'x', 'w')"


@pytest.mark.parametrize("is_baseline", [True, False])
def test_passes_without_end_are_behind_by_no_more_than_two_of_them(tmp_path: Path, is_baseline: bool) -> None:
    """Each finds what was committed before it began, and the first of them all that was there at the start."""
    schema, path = Schema(), tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        writer.sql(*schema.tables(), *[INSERT] * 60)
        rig = Rig(path, schema.sections(), ENGINES["scan"])
        rig.chunk_rows = 20
        rig.start(existing_is_baseline=is_baseline)
        try:
            begun: list[float] = []  # when each pass of the table that grows began
            growing = next(watched for watched in rig.capture.watched if watched.section.kind == "message")
            assert not rig.capture.is_caught_up
            for _ in range(300):
                writer.sql(INSERT)
                rig.turn()
                assert rig.capture.is_behind
                assert growing.behind_since is not None
                if growing.progress is not None and growing.progress.started not in begun:
                    begun.append(growing.progress.started)
                if len(begun) > 2:
                    assert rig.capture.is_caught_up
                    assert growing.behind_since >= begun[-2]
            assert len(begun) > 3
            rig.settle()
            assert rig.capture.behind_since is None
        finally:
            rig.stop()


def with_a_row(path: Path) -> Bench:
    """A worker over a database that holds something already."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.executescript(SCHEMA)
        say(writer, "old")
    return Bench(path)


def test_a_bridge_is_live_when_it_has_seen_what_was_there(tmp_path: Path) -> None:
    """Although it never comes to an end: else one whose writer never rests would not be ready in all its life."""
    bench = with_a_row(tmp_path / "legacy.db")
    look = bench.capture.look

    def look_and_ask(*, thorough: bool = True, have_files_moved: bool = True) -> bool:
        news = look(thorough=thorough, have_files_moved=have_files_moved)
        for watched in bench.capture.watched:
            watched.ask()
        return news

    bench.capture.look = look_and_ask  # type: ignore[method-assign]
    with running(bench):
        bench.until_phase("live")
        now = time.monotonic()
        bench.until(lambda: (bench.worker.status.behind_since or 0) > now)
        assert bench.worker.settled(20)


def test_what_a_refused_step_leaves_is_said(tmp_path: Path) -> None:
    """The writer is in the way of a pass: it is still to come, and the bridge behind until then."""
    bench = with_a_row(tmp_path / "legacy.db")
    step, is_refused = bench.capture.step, True

    def refused() -> bool:
        if is_refused:
            raise Busy("the writer holds a lock", "it is tried again")
        return step()

    bench.capture.step = refused  # type: ignore[method-assign]
    with running(bench):
        bench.until(lambda: bench.worker.status.behind_since is not None)
        is_refused = False
        bench.until_phase("live")
        bench.until(lambda: bench.worker.status.behind_since is None)
