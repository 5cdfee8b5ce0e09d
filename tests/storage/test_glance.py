"""The glance: rows that were appended are read in one statement, and whatever is not so simple by a whole look."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.chunk import Chunk
from storage.hints import PageHints
from storage.legacy import Version
from storage.reader import SectionReader
from storage.types import Section
from storage.walhints import WalHints
from tests.storage.test_capture import MANY, ROWID, TEXT, Stage, message, task
from tests.storage.test_tail import brought


@pytest.fixture(params=[ROWID, TEXT, MANY], ids=["rowid", "text", "many"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Both tables have a leaf that is known."""
    stage = Stage(tmp_path, request.param, "pages", "wal")
    stage.came(message(1), task(1))
    stage.came(message(2), task(2))
    yield stage
    stage.rig.kill()
    stage.writer.close()


def is_at_rest(stage: Stage) -> bool:
    """Whether SQLite itself is asked in vain, as it is when no file event comes."""
    return not stage.rig.capture.look() and not stage.rig.capture.is_behind


def test_what_is_appended_is_read_without_a_transaction(stage: Stage, snapshots: list[Version]) -> None:
    for number in range(3, 6):
        stage.writer.execute(message(number))
        assert brought(stage) == [str(number)]
    stage.writer.execute(task(3))
    assert brought(stage) == ["3"]
    stage.writer.executescript(f"BEGIN; {message(6, role='tool')}; {task(4)}; {message(7)}; COMMIT")
    assert brought(stage)[-2:] == ["7", "4"]
    assert is_at_rest(stage)
    assert snapshots == []


def test_many_commits_at_once_come_in_their_order(stage: Stage, snapshots: list[Version]) -> None:
    for number in range(3, 9):
        stage.writer.execute(message(number))
    assert brought(stage) == ["3", "4", "5", "6", "7", "8"]
    assert is_at_rest(stage)
    assert snapshots == []


@pytest.mark.parametrize(
    "statements",
    [
        [message(3), "UPDATE messages SET body = 'ho' WHERE id = 1", task(3)],
        [message(3), "DELETE FROM messages WHERE id = 1", task(3)],
        [message(3), "CREATE TABLE other(a)", "INSERT INTO other VALUES (1)", task(3)],
        [message(3), "ALTER TABLE messages ADD COLUMN more", task(3)],
    ],
    ids=["update", "delete", "another table", "schema"],
)
def test_what_else_a_commit_does_takes_a_whole_look(
    stage: Stage, snapshots: list[Version], statements: Sequence[str]
) -> None:
    came = stage.came(*statements)
    assert ("3", "W") in came
    assert len(came) == 2
    assert snapshots
    assert is_at_rest(stage)


def test_an_update_of_a_row_that_a_glance_brought_is_seen(stage: Stage) -> None:
    """What is remembered of the leaf is what it holds."""
    assert stage.came(task(3)) == [("3", "W")]
    assert stage.came(task(3, "done", verb="REPLACE")) == [("3", "W")]
    assert stage.came("UPDATE tasks SET owner = 'V' WHERE id = 3", task(4))[-1] == ("4", "W")
    assert stage.came("DELETE FROM tasks WHERE id = 4", task(4, "done")) == [("4", "W")]


Read = Callable[[SectionReader, Sequence[int]], Chunk]


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (message(4), ["3", "4"]),
        (task(3), ["3", "3"]),
        ("UPDATE messages SET body = 'ho' WHERE id = 3", ["3"]),
        ("DELETE FROM messages WHERE id = 3", []),
        (f"DELETE FROM messages WHERE id = 3; {message(4)}", ["4"]),
        ("PRAGMA wal_checkpoint(TRUNCATE)", ["3"]),
        (f"PRAGMA wal_checkpoint(TRUNCATE); {message(4)}", ["3", "4"]),
        ("ALTER TABLE messages ADD COLUMN more", ["3"]),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_in_the_same_instant_is_neither_lost_nor_doubled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, meanwhile: str, expected: list[str], when: str
) -> None:
    """Before the statement it is shown, though the log that was read does not tell of it; after it, it is not shown."""
    read: Read = SectionReader.at
    commits = [meanwhile]

    def disturbed(reader: SectionReader, locs: Sequence[int]) -> Chunk:
        found = read(reader, locs) if when == "after" else None
        while commits:
            stage.writer.executescript(commits.pop())
        return read(reader, locs) if found is None else found

    monkeypatch.setattr(SectionReader, "at", disturbed)
    stage.writer.execute(message(3))
    assert [name for name, _ in stage.came()] == expected
    assert not commits
    assert stage.came(message(9)) == [("9", "W")]
    assert is_at_rest(stage)


@contextmanager
def unseen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[WalHints]:
    """The index tells of no commit yet: its writer is syncing the log."""
    assert isinstance(stage.rig.hints, PageHints)
    hints = stage.rig.hints._wal
    before = hints._index()
    with monkeypatch.context() as patch:
        patch.setattr(hints, "_index", lambda: before)
        yield hints


def test_a_commit_that_is_in_the_log_already_is_read_ahead(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, snapshots: list[Version]
) -> None:
    with unseen(stage, monkeypatch) as hints, monkeypatch.context() as patch:
        stage.writer.execute(message(3))
        warmed: list[Section] = []
        patch.setattr(stage.rig.state, "rehearse", warmed.append)
        assert not stage.rig.capture.look(thorough=False)
        assert (foreseen := hints._foreseen) is not None
        assert not stage.rig.capture.look(thorough=False)
        assert hints._foreseen is foreseen, "it was read once more"
        assert len(warmed) == 1
    assert brought(stage) == ["3"]
    assert stage.came(message(4)) == [("4", "W")]
    assert snapshots == []


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (message(4), ["3", "4"]),
        ("DELETE FROM messages WHERE id = 3", []),
        (f"PRAGMA wal_checkpoint(RESTART); {message(4)}", ["3", "4"]),
        (f"PRAGMA wal_checkpoint(TRUNCATE); {message(4)}; {message(5)}", ["3", "4", "5"]),
    ],
)
def test_what_was_read_ahead_counts_only_if_it_is_all(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, then: str, expected: list[str]
) -> None:
    with unseen(stage, monkeypatch) as hints:
        stage.writer.execute(message(3))
        assert not stage.rig.capture.look(thorough=False)
        assert hints._foreseen is not None
        stage.writer.executescript(then)
    assert [name for name, _ in stage.came()] == expected
    assert stage.came(message(9)) == [("9", "W")]


def test_a_transaction_that_is_not_at_its_end_is_not_read_ahead(stage: Stage) -> None:
    """What a writer's cache could not hold stands in the log, and may be taken back."""
    stage.writer.execute("PRAGMA cache_size=5")
    stage.writer.execute("BEGIN")
    for number in range(100, 400):
        stage.writer.execute(message(number))
    assert not stage.rig.capture.look(thorough=False)
    assert isinstance(stage.rig.hints, PageHints)
    assert stage.rig.hints._wal._foreseen is None
    stage.writer.execute("ROLLBACK")
    assert stage.came(message(3)) == [("3", "W")]


def test_nothing_is_read_ahead_of_a_log_without_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, TEXT, "pages", "wal")
    try:
        stage.rig.stop()
        stage.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        stage.rig.start()
        stage.rig.settle()
        with unseen(stage, monkeypatch):
            stage.writer.execute(message(1))
            assert not stage.rig.capture.look(thorough=False)
        assert stage.came() == [("1", "W")]
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_a_row_that_cannot_be_read_harms_no_other(tmp_path: Path) -> None:
    stage = Stage(tmp_path, TEXT, "pages", "wal")
    try:
        stage.came(task(1))
        bad = "INSERT INTO tasks VALUES (2, 'c', 's', '{broken', '[]', '[]', 'W', NULL)"
        assert stage.came(bad) == []
        assert stage.came(task(3)) == [("3", "W")]
        assert stage.rig.capture.failed_rows == 1
        assert stage.came(task(2, "done", verb="REPLACE")) == [("2", "W")]
        assert stage.rig.capture.failed_rows == 0
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_a_commit_that_no_file_event_told_of_is_found_after_a_glance(stage: Stage) -> None:
    assert stage.came(message(3)) == [("3", "W")]
    stage.writer.execute(message(4))
    assert stage.rig.capture.look(thorough=True)
    assert stage.came() == [("4", "W")]
    assert is_at_rest(stage)
