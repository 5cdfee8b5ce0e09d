"""How long events stay in the log: by count and by age, without a gap, and as fast as others come."""

from contextlib import suppress
from pathlib import Path

import pytest

from storage.state import PRUNE_STEP
from tests.storage.state_rig import log, opened, outcome, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_the_oldest_events_leave_by_count(path: Path) -> None:
    """Their routes go with them, `pruned` says up to where, and an owner's chain begins anew."""
    with opened(path, keep_events=3) as file:
        for loc in range(1, 6):
            log(file, loc, loc, "A", "B")
        assert rows(path, "SELECT seq FROM events") == [(3,), (4,), (5,)]
        assert rows(path, "SELECT DISTINCT seq FROM routes ORDER BY seq") == [(3,), (4,), (5,)]
        assert (file.pruned, file.head) == (2, 5)
    with opened(path, keep_events=3) as file:
        assert (file.pruned, file.head) == (2, 5)


def test_the_oldest_events_leave_by_age_but_never_the_newest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest carries the number that the next one continues from."""
    now = [1000.0]
    monkeypatch.setattr("storage.state.time.time", lambda: now[0])
    with opened(path, keep_seconds=60) as file:
        log(file, 1, 2, "A")
        now[0] += 30
        log(file, 3, 3, "A")
        assert file.pruned == 0
        now[0] += 31
        log(file, 4, 4, "A")
        assert (file.pruned, rows(path, "SELECT seq FROM events")) == (2, [(3,), (4,)])
        now[0] += 10_000
        log(file, 5, 5, "A")
        assert rows(path, "SELECT seq FROM events") == [(5,)]


def test_events_that_were_to_leave_with_a_commit_that_failed_leave_with_the_next(path: Path) -> None:
    """What is remembered of the oldest event is not that of a log that was never written."""
    with opened(path, keep_events=2) as file:
        log(file, 1, 2, "A")
        with suppress(RuntimeError), file.transaction():
            file.record(outcome(loc, "A") for loc in range(3, 9))
            raise RuntimeError
        log(file, 3, 4, "A")
        assert (file.pruned, rows(path, "SELECT seq FROM events")) == (2, [(3,), (4,)])


def test_a_clock_that_was_set_leaves_no_route_without_its_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of a time to come stood before others, which were dropped by their age: the routes of the first stayed."""
    now = [10_000.0]
    monkeypatch.setattr("storage.state.time.time", lambda: now[0])
    with opened(path, keep_seconds=60) as file:
        log(file, 1, 2, "A")
        now[0] -= 3600
        log(file, 3, 4, "A")
        now[0] += 61
        log(file, 5, 5, "A")
        assert (file.pruned, len(rows(path, "SELECT seq FROM events"))) == (0, 5)
        now[0] += 3600
        log(file, 6, 6, "A")
        assert file.pruned == 5
        assert rows(path, "SELECT seq FROM routes") == rows(path, "SELECT seq FROM events") == [(6,)]


def test_pruning_takes_small_steps(path: Path) -> None:
    """A look is never delayed by what is thrown away, and in the end all of it is."""
    with opened(path, keep_events=10_000) as file:
        log(file, 1, 3 * PRUNE_STEP, "A")
    with opened(path, keep_events=10) as file:
        log(file, 1, 1, "A")
        assert file.pruned == PRUNE_STEP
        for _ in range(4):
            log(file, 1, 1, "A")
        assert len(rows(path, "SELECT seq FROM events")) == 10


def test_a_writer_of_big_commits_does_not_outrun_the_pruning(path: Path) -> None:
    """One small step per look lost ground to each commit of more rows than that: the log grew without an end."""
    size = 3 * PRUNE_STEP
    with opened(path, keep_events=10) as file:
        for number in range(5):
            log(file, number * size + 1, (number + 1) * size, "A")
            assert file.head - file.pruned <= 10
        assert len(rows(path, "SELECT seq FROM events")) == len(rows(path, "SELECT seq FROM routes")) == 10


def test_an_owner_whose_events_are_all_pruned_starts_again_from_nothing(path: Path) -> None:
    """`prev` never names an event that a new start could not find."""
    with opened(path, keep_events=2) as file:
        log(file, 1, 1, "A")
        for loc in range(2, 6):
            log(file, loc, loc, "B")
    with opened(path, keep_events=2) as file, file.transaction():
        (event,) = file.record([outcome(9, "A")])
        assert event.routes == (("A", 0),)
