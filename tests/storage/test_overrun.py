"""A log that begins anew faster than it can be read: it is left alone for a while, and nothing is lost by that."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from storage.hints import PageHints
from storage.walhints import BLIND, OVERRUN, OVERRUNS, WalHints
from tests.storage.test_capture import ROWID, Stage, message, task

RESTART = "PRAGMA wal_checkpoint(RESTART)"


class Rush:
    """A writer whose log has begun anew twice by the time of each look."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(stage.rig.hints, PageHints)
        self.stage, self.hints, self._numbers = stage, stage.rig.hints, count(10)
        self.reads = 0
        """How often the log was read."""
        self.rows: list[str] = []
        changed = WalHints._changed

        def counted(*arguments: object) -> object:
            self.reads += 1
            return changed(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(WalHints, "_changed", counted)

    def write(self) -> None:
        """One commit, be it to a new log or to the one that is there."""
        number = next(self._numbers)
        self.rows.append(str(number))
        self.stage.writer.execute(message(number))

    def look(self, *between: str) -> str | None:
        """Commit and look; the reason of the gap, if there was one."""
        for statement in between:
            self.write()
            self.stage.writer.execute(statement)
        self.write()
        before = self.hints.reasons.copy()
        assert self.stage.rig.capture.look(thorough=False)
        (reason,) = (self.hints.reasons - before) or [None]
        return reason

    def outrun(self) -> None:
        """Until the log is not read any more."""
        while self.look(RESTART, RESTART) != OVERRUN:
            assert self.reads <= OVERRUNS

    def edit(self) -> None:
        """What no new row tells of."""
        self.stage.writer.execute("UPDATE tasks SET status = json_set(status, '$.state', 'completed') WHERE id = 1")

    def came(self, *others: str) -> None:
        """All that was written has come, messages in their order."""
        came = [name for name, _ in self.stage.came()]
        assert [name for name in came if name not in others] == self.rows
        assert sorted(set(came) - set(self.rows)) == sorted(others)
        assert not self.stage.rig.capture.is_behind


@pytest.fixture
def rush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rush]:
    stage = Stage(tmp_path, ROWID, "pages", "wal")
    stage.came(message(1), task(1))
    yield Rush(stage, monkeypatch)
    stage.rig.kill()
    stage.writer.close()


def test_a_log_that_is_never_read_in_time_is_read_no_more_for_a_while(rush: Rush) -> None:
    rush.outrun()
    reads = rush.reads
    rush.edit()
    for _ in range(BLIND - 1):
        assert rush.look() == OVERRUN
    assert rush.reads == reads
    assert rush.hints.mode == "wal-pages", "it is for a moment only"
    assert rush.look() is None
    assert rush.reads == reads + 1
    assert rush.look(RESTART, RESTART) == "wal_restarted"
    assert rush.look() == OVERRUN, "one that could be read made up for all the others"
    rush.came("1")


def test_it_is_read_again_once_the_writer_rests(rush: Rush) -> None:
    rush.outrun()
    assert not rush.stage.rig.capture.look(thorough=False)
    assert rush.look() is None
    rush.came()


def test_a_log_that_begins_anew_now_and_then_is_read(rush: Rush) -> None:
    for _ in range(10):
        assert rush.look(RESTART, RESTART) == "wal_restarted"
        assert rush.look() is None
        assert rush.look() is None
    rush.came()
