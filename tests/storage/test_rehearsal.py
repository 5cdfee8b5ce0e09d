"""What is done in vain while nothing is committed, so that the next look is quicker: when, with what, and no trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage import rehearsal
from storage.hints import PageHints
from storage.types import Draft, Section
from storage.worker import REHEARSED
from tests.storage.test_capture import ROWID, Stage, message, task
from tests.storage.test_worker import SCHEMA, Bench, running, say


@pytest.fixture(params=["wal"])
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(tmp_path, ROWID, "pages", request.param)
    stage.came(message(1), task(1))
    yield stage
    stage.rig.kill()
    stage.writer.close()


@pytest.fixture
def rehearsed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects of the events that were written in vain."""
    subjects: list[str] = []
    rehearse = stage.rig.state.rehearse

    def noted(section: Section, draft: Draft | None = None) -> None:
        if draft is not None:
            subjects.append(draft.subject)
        rehearse(section, draft)

    monkeypatch.setattr(stage.rig.state, "rehearse", noted)
    return subjects


def test_the_row_that_came_last_is_rehearsed_and_comes_once(stage: Stage, rehearsed: list[str]) -> None:
    """Whether it was appended or changed: what has come stays all that has come."""
    for commit, name in [(message(2), "2"), (task(1, "done", verb="REPLACE"), "1"), (message(3), "3")]:
        assert stage.came(commit) == [(name, "W")]
        rehearsed.clear()
        for _ in range(3):
            stage.rig.capture.rehearse()
        assert rehearsed == [name] * 3
        assert stage.came() == []


def test_a_row_of_some_size_is_not_worth_it(
    stage: Stage, rehearsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "SMALL", 20)
    assert stage.came(message(2, conversation="x" * 21)) == [("2", "W")]
    stage.rig.capture.rehearse()
    assert rehearsed == []


@pytest.mark.parametrize("stage", ["delete"], indirect=True)
def test_with_a_rollback_journal_there_is_none(stage: Stage, rehearsed: list[str]) -> None:
    """Whoever reads is in the way of a commit there."""
    assert stage.came(message(2)) == [("2", "W")]
    stage.rig.capture.rehearse()
    assert rehearsed == []


@pytest.mark.parametrize(
    "meanwhile", ["DELETE FROM messages WHERE id = 2", "ALTER TABLE messages RENAME TO others", "DROP TABLE messages"]
)
def test_the_row_may_be_gone_by_then(stage: Stage, rehearsed: list[str], meanwhile: str) -> None:
    """A look says what that means."""
    assert stage.came(message(2)) == [("2", "W")]
    rehearsed.clear()
    stage.writer.execute(meanwhile)
    stage.rig.capture.rehearse()
    assert rehearsed == ["2"]
    assert stage.came(task(2)) == [("2", "W")]


def test_the_thread_rehearses_a_few_times_after_each_commit_and_never_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take processor time for as long as nothing is committed."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.executescript(SCHEMA)
        bench = Bench(path, hints=PageHints(path))
        looks: list[bool] = []
        look, rehearse = bench.capture.look, bench.capture.rehearse

        def counted(*, thorough: bool = True, have_files_moved: bool = True) -> bool:
            news = look(thorough=thorough, have_files_moved=have_files_moved)
            looks.append(news)
            return news

        times: list[int] = []

        def timed() -> None:
            times.append(len(looks))
            rehearse()

        monkeypatch.setattr(bench.capture, "look", counted)
        monkeypatch.setattr(bench.capture, "rehearse", timed)
        with running(bench):
            assert bench.worker.settled(20)
            for name in "abc":
                say(writer, name)
                bench.until(lambda name=name: bench.subjects[-1:] == [name])  # type: ignore[misc]
                seen = len(looks)
                bench.until(lambda seen=seen: len(looks) > seen + 50)  # type: ignore[misc]
                after = [at - seen for at in times if at > seen]
                assert len(REHEARSED) <= len(after) <= 2 * len(REHEARSED)  # a file event that comes late begins anew
                assert max(after) < 45
        assert bench.subjects == ["a", "b", "c"]
