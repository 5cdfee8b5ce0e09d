"""How far the baseline has come is told: as a part, in words, and in the log."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from storage.status import PROGRESS_EVERY, ProgressLog
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.oracle import Schema
from tests.storage.test_capture import message, task

ROWS = 20


@pytest.fixture(params=sorted(ENGINES))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    """A database with rows in both tables, and a bridge that has not begun."""
    schema = Schema()
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.executescript(";".join(schema.tables()))
        writer.executescript(";".join(make(number) for number in range(1, ROWS + 1) for make in (message, task)))
    made = Rig(tmp_path / "legacy.db", schema.sections(), ENGINES[request.param])
    made.chunk_rows = 3
    return made


def test_it_grows_from_nothing_to_all(rig: Rig) -> None:
    """And does not begin anew when the bridge is killed, or looks at everything again."""
    rig.start()
    told = [rig.capture.baseline_ratio]
    for turn in itertools.count():
        if rig.capture.is_baselined:
            break
        rig.turn()
        if turn == 6:
            rig.kill()
            rig.start()
        if turn == 9:
            rig.capture.restart()
        told.append(rig.capture.baseline_ratio)
    rig.kill()
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert told == sorted(told)
    assert len(set(told)) > 6


def test_it_is_told_in_rows_as_well(rig: Rig) -> None:
    """Of each section that is not done."""
    rig.start()
    while rig.capture.baseline_ratio < 0.4:
        rig.turn()
    assert f"of {ROWS}, [tasks]: " in rig.capture.progress
    rig.settle()
    assert rig.capture.progress == ""
    rig.kill()


def test_an_empty_database_is_taken_at_once(tmp_path: Path) -> None:
    """There is no part of nothing."""
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.executescript(";".join(Schema().tables()))
    rig = Rig(tmp_path / "legacy.db", Schema().sections(), ENGINES["scan"])
    rig.start()
    assert rig.capture.baseline_ratio == 0.0
    rig.settle()
    assert rig.capture.baseline_ratio == 1.0
    rig.kill()


def test_the_log_tells_it_every_ten_seconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of what is done sooner."""
    now = 1000.0
    monkeypatch.setattr("storage.status.time.monotonic", lambda: now)
    progress = ProgressLog()
    with caplog.at_level(logging.INFO, "walcast.capture"):
        for second in range(25):
            now = 1000.0 + second
            progress.tell(f"row {second}")
    assert caplog.messages == ["row 10", "row 20"]
    assert PROGRESS_EVERY == 10
