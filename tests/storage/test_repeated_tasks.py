"""Tasks of which each state is a row of its own: the row with the highest rowid is the task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import storage.later
from storage.watched import Watched
from tests.storage.capture_rig import ENGINES
from tests.storage.oracle import Schema
from tests.storage.test_capture import Stage, message, task

STATES = Schema("TEXT", task_id="TEXT", task_where="session_id <> 'hidden'")
WIDE = "zeroblob(3000)"
"""A row with it stands on a page of its own."""


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stage(tmp_path: Path, engine: str) -> Iterator[Callable[..., Stage]]:
    """Makes a stage with such rows in it, read two at a time."""
    stages: list[Stage] = []

    def make(*existing: str) -> Stage:
        stages.append(Stage(tmp_path, STATES, engine, "wal", ";".join(existing), chunk=2))
        return stages[0]

    yield make
    for one in stages:
        one.rig.kill()
        one.writer.close()


def states(stage: Stage, *statements: str) -> list[tuple[str, str, str]]:
    """(id, state, owner) of each task that comes of a commit."""
    stage.came(*statements)
    told, stage.rig.told[:] = [*stage.rig.told], []
    return [
        (event["task"]["id"], event["task"]["status"]["state"], owner)
        for owner, event in told
        if event["type"] == "task_update"
    ]


def tasks_of(stage: Stage) -> Watched:
    return stage.rig.capture.watched[1]


def test_the_newest_that_was_there_is_the_baseline(stage: Callable[..., Stage]) -> None:
    """No event for it, however many of its rows a step of the baseline reads; an older row says nothing."""
    here = stage(*[task(number % 2, f"s{number}") for number in range(1, 9)])
    assert states(here, "UPDATE tasks SET filler = 'x'") == []
    assert states(here, "UPDATE tasks SET session_id = 'x' WHERE rowid = 2") == []
    assert states(here, "UPDATE tasks SET session_id = 'x' WHERE rowid = 8") == [("0", "s8", "W")]


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_task_told_of_while_its_baseline_is_taken_is_told_as_it_is(tmp_path: Path, is_killed: bool) -> None:
    """The baseline had not come to its newest row when an older one was written to, and was told for the task."""
    rows = [task(number, f"s{number}") for number in (1, 2, 3)] + [task(1, "newest")]
    stage = Stage(tmp_path, STATES, "pages", "wal")
    try:
        stage.rig.kill()
        stage.rig.state_path.unlink()
        stage.writer.executescript(";".join(rows) + f";UPDATE tasks SET filler = {WIDE}")
        stage.rig.start()
        stage.rig.chunk_rows = stage.rig.capture.chunk_rows = 2
        while (progress := tasks_of(stage).progress) is None or progress.after is None:
            stage.rig.turn()
        stage.writer.execute("UPDATE tasks SET session_id = 'x' WHERE rowid = 1")
        stage.rig.capture.look()
        assert tasks_of(stage).baseline == "running"
        if is_killed:
            stage.rig.kill()
            stage.rig.start()
        assert states(stage)[-1] == ("1", "newest", "W")
    finally:
        stage.rig.kill()
        stage.writer.close()


@pytest.mark.parametrize("owner", ["'W'", "NULL"])
def test_when_the_newest_goes_the_one_before_is_the_task_and_no_older_one(
    stage: Callable[..., Stage], owner: str
) -> None:
    """Though a pass meets the older ones first, and is read from the beginning."""
    rows = [task(1, f"s{number}") for number in range(1, 6)]
    here = stage(*rows, task(1, "before", owner), task(1, "newest"))
    expected = [("1", "before", "W")] if owner == "'W'" else []
    assert states(here, "DELETE FROM tasks WHERE rowid = 7") == expected


def test_an_older_row_that_is_written_to_is_not_taken_for_the_newest(stage: Callable[..., Stage]) -> None:
    """In the commit in which the newest goes."""
    rows = [task(1, f"s{number}") for number in range(1, 8)]
    here = stage(*rows, f"UPDATE tasks SET filler = {WIDE}")
    gone = "DELETE FROM tasks WHERE rowid = 7"
    assert states(here, gone, "UPDATE tasks SET session_id = 'x' WHERE rowid = 2") == [("1", "s6", "W")]


def test_when_the_newest_leaves_the_where_the_one_before_is_the_task(stage: Callable[..., Stage]) -> None:
    """And when it comes back, it is the task again."""
    here = stage(*[task(1, f"s{number}") for number in range(1, 6)])
    assert states(here, "UPDATE tasks SET session_id = 'hidden' WHERE rowid = 5") == [("1", "s4", "W")]
    assert states(here, "UPDATE tasks SET session_id = 's' WHERE rowid = 5") == [("1", "s5", "W")]


def test_when_a_newest_row_that_nobody_was_told_of_leaves_the_where_the_one_before_is_the_task(
    stage: Callable[..., Stage],
) -> None:
    """It had no owner. And no pass is asked for again and again by what was left out long ago."""
    here = stage(task(1, "s1"), task(1, "s2"))
    assert states(here, task(1, "s3", "NULL")) == []
    assert states(here, "UPDATE tasks SET session_id = 'hidden' WHERE rowid = 3") == [("1", "s2", "W")]
    assert states(here, task(2, "other", "NULL"), task(3, "last")) == [("3", "last", "W")]
    assert states(here, "UPDATE tasks SET session_id = 'hidden' WHERE rowid = 4") == []
    passes = here.rig.capture.passes
    assert states(here, "UPDATE tasks SET filler = 'x' WHERE rowid = 4") == []
    assert here.rig.capture.mode == "scan" or here.rig.capture.passes == passes
    assert states(here, "UPDATE tasks SET session_id = 's', owner = 'V' WHERE rowid = 4") == [("2", "other", "V")]


def test_a_task_whose_newest_row_left_the_where_unseen_is_not_told_as_gone(stage: Callable[..., Stage]) -> None:
    """A pass has met the row that takes its place by then."""
    here = stage(*[task(1, f"s{number}") for number in range(1, 6)])
    here.rig.stop()
    here.writer.execute("UPDATE tasks SET session_id = 'hidden' WHERE rowid = 5")
    here.rig.start()
    assert here.came() == [("1", "W")]
    assert [(event["type"], owner) for owner, event in here.rig.told] == [("task_update", "W")]


def test_what_a_pass_put_off_and_went_meanwhile_is_looked_for_again(stage: Callable[..., Stage]) -> None:
    """The row that it would have told at its end."""
    here = stage(*[task(1, f"s{number}") for number in range(1, 6)], task(2, "other"))
    here.writer.execute("DELETE FROM tasks WHERE rowid = 5")
    while (progress := tasks_of(here).progress) is None or not progress.later:
        here.rig.turn()
    while (progress := tasks_of(here).progress) is not None and not progress.is_through:
        here.rig.turn()
    assert states(here, "DELETE FROM tasks WHERE rowid = 4") == [("1", "s3", "W")]


def test_more_tasks_than_a_pass_remembers_are_told_by_the_next(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, and none by an older row."""
    monkeypatch.setattr(storage.later, "LATER_TASKS", 1)
    here = stage(*[task(number % 3, f"s{number}") for number in range(12)])
    assert sorted(states(here, "DELETE FROM tasks WHERE rowid > 9")) == [(str(n % 3), f"s{n}", "W") for n in (6, 7, 8)]


def test_rows_that_are_put_in_the_place_of_others_are_told_at_once(stage: Callable[..., Stage]) -> None:
    """A writer that deletes a session and inserts it anew, in another order: no pass stands between."""
    here = stage(*[task(number, "old") for number in range(1, 9)])
    anew = [task(number, "new") for number in (8, 7, 6)]
    here.writer.executescript(";".join(["BEGIN", "DELETE FROM tasks WHERE rowid >= 6", *anew, "COMMIT"]))
    if here.rig.capture.mode == "scan":
        here.rig.settle()
    here.rig.capture.look()
    came = [(key[1], json.loads(payload)["task"]["status"]["state"]) for key, (_, payload) in here.rig.events()]
    assert sorted(came) == [("6", "new"), ("7", "new"), ("8", "new")]
    assert here.came() == []


def test_rows_that_came_while_nobody_looked_are_told_in_their_order(stage: Callable[..., Stage]) -> None:
    """Of many an older one may be told, but the last is the newest."""
    here = stage()
    here.rig.stop()
    here.writer.executescript(";".join([*[task(1, f"s{number}") for number in range(1, 8)], message(1)]))
    here.rig.start()
    came = states(here)
    assert came == sorted(came)
    assert came[-1] == ("1", "s7", "W")
