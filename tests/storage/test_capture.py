"""Each rule of what is pushed, by itself, with every engine and in both kinds of journal."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from storage.legacy import Busy, Version
from tests.storage.capture_rig import ENGINES, DiskFull, Killed, Rig
from tests.storage.oracle import Schema

ROWID, TEXT = Schema(where="role <> 'tool'"), Schema("TEXT PRIMARY KEY", where="role <> 'tool'")
WITHOUT_ROWID = Schema(
    "TEXT PRIMARY KEY NOT NULL", "", True, "role <> 'tool'", False, "TEXT PRIMARY KEY NOT NULL", True
)
MANY = Schema("TEXT", task_id="TEXT")
SCHEMAS = {"rowid": ROWID, "text": TEXT, "without-rowid": WITHOUT_ROWID}


class Stage:
    """A writer, a bridge at rest, and what came since the last question."""

    def __init__(
        self, folder: Path, schema: Schema, engine: str, mode: str, existing: str = "", chunk: int | None = None
    ) -> None:
        path = folder / "legacy.db"
        self.writer = sqlite3.connect(path, isolation_level=None, timeout=0)
        self.writer.execute(f"PRAGMA journal_mode={mode}")
        self.writer.execute("PRAGMA synchronous=OFF")
        self.writer.executescript(";".join(schema.tables()) + ";" + existing)
        self.rig = Rig(path, schema.sections(), ENGINES[engine])
        self.rig.chunk_rows = chunk
        self.rig.start()
        self.rig.settle()
        assert self.rig.events() == []

    def came(self, *statements: str) -> list[tuple[str, str]]:
        """Commit, let the bridge come to rest: (id, owner) of each event."""
        if statements:
            self.writer.executescript("BEGIN;" + ";".join(statements) + ";COMMIT")
        self.rig.settle()
        return [(key[1], payload[0]) for key, payload in self.rig.events()]


@pytest.fixture(params=sorted(SCHEMAS))
def schema(request: pytest.FixtureRequest) -> Schema:
    return SCHEMAS[request.param]


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["wal", "delete"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, schema: Schema, engine: str) -> Iterator[Stage]:
    stage = Stage(tmp_path, schema, engine, request.param)
    yield stage
    stage.rig.kill()
    stage.writer.close()


@pytest.fixture
def many(tmp_path: Path, engine: str) -> Iterator[Stage]:
    """Tables in which several rows may have one id."""
    stage = Stage(tmp_path, MANY, engine, "wal")
    yield stage
    stage.rig.kill()
    stage.writer.close()


def message(number: int, conversation: str = "c", role: str = "user", owner: str = "'W'", verb: str = "INSERT") -> str:
    return (
        f"{verb} INTO messages(id, conversation_id, role, body, owner) "
        f"VALUES ({number}, '{conversation}', '{role}', 'hi', {owner})"
    )


def task(number: int, state: str = "working", owner: str = "'W'", verb: str = "INSERT") -> str:
    status = json.dumps({"state": state, "message": None, "timestamp": 1})
    return f"{verb} INTO tasks VALUES ({number}, 'c', 's', '{status}', '[]', '[]', {owner}, NULL)"


def test_each_new_message_is_pushed_once(stage: Stage) -> None:
    """Several of one commit in the order of their places; and not again."""
    assert stage.came(message(1)) == [("1", "W")]
    assert sorted(stage.came(message(2), message(3))) == [("2", "W"), ("3", "W")]
    assert stage.came() == []


@pytest.mark.parametrize(
    "rewriting",
    [
        ["UPDATE messages SET body = 'ho'"],
        ["UPDATE messages SET filler = 'x'"],
        [message(1, verb="REPLACE")],
        ["DELETE FROM messages", message(1)],
        ["UPDATE messages SET owner = 'V'"],
    ],
)
def test_a_message_rewritten_in_place_is_not_pushed_again(stage: Stage, rewriting: list[str]) -> None:
    """Edited, replaced, deleted and inserted in one commit, given to another owner."""
    stage.came(message(1), message(2))
    assert stage.came(*rewriting[:1], *rewriting[1:], message(3)) == [("3", "W")]


def test_an_id_in_another_conversation_is_another_message(stage: Stage) -> None:
    """In one commit with the deletion, or after it."""
    stage.came(message(1))
    assert stage.came("DELETE FROM messages", message(1, "d")) == [("1", "W")]
    assert stage.came("DELETE FROM messages") == []
    assert stage.came(message(1, "e")) == [("1", "W")]


@pytest.mark.parametrize("meanwhile", [[], ["UPDATE messages SET body = 'ho'"], [message(9)]])
def test_a_row_that_leaves_where_and_comes_back_is_not_new(stage: Stage, meanwhile: list[str]) -> None:
    """It stood there all the time."""
    stage.came(message(1))
    assert stage.came("UPDATE messages SET role = 'tool' WHERE id = 1") == []
    stage.came(*meanwhile)
    assert stage.came("UPDATE messages SET role = 'user' WHERE id = 1") == []


def test_a_row_is_pushed_when_it_comes_into_where(stage: Stage) -> None:
    """A streaming writer inserts first and fills in later."""
    assert stage.came(message(1, role="tool")) == []
    assert stage.came("UPDATE messages SET role = 'user'") == [("1", "W")]


def test_a_row_without_an_owner_is_pushed_when_the_owner_appears(stage: Stage) -> None:
    """Once."""
    assert stage.came(message(1, owner="NULL"), task(1, owner="NULL")) == []
    assert stage.came("UPDATE messages SET owner = 'W'", "UPDATE tasks SET owner = 'W'") == [("1", "W"), ("1", "W")]
    assert stage.came("UPDATE messages SET owner = NULL") == []
    assert stage.came("UPDATE messages SET owner = 'W'") == []


def test_every_change_of_a_task_is_pushed(stage: Stage) -> None:
    """Of what is mapped; and a rewrite that changes nothing is none."""
    assert stage.came(task(1)) == [("1", "W")]
    assert stage.came(task(1, "completed", verb="REPLACE")) == [("1", "W")]
    assert stage.came('UPDATE tasks SET history = \'[{"role": "agent", "text": "x"}]\'') == [("1", "W")]
    assert stage.came("UPDATE tasks SET owner = 'V'") == [("1", "V")]
    assert stage.came("UPDATE tasks SET filler = 'x'", message(1)) == [("1", "W")]


def test_a_change_on_an_overflow_page_alone_is_found(stage: Stage) -> None:
    """An update of equal size at the end of a long value leaves the row's own page as it was."""
    text = "x" * 50_000
    stage.came(task(1), f'UPDATE tasks SET history = \'[{{"role": "a", "text": "{text}1"}}]\'')
    for digit in (2, 3):
        changed = f'UPDATE tasks SET history = \'[{{"role": "a", "text": "{text}{digit}"}}]\''
        assert stage.came(changed) == [("1", "W")]


def test_a_vacuum_moves_rows_and_pushes_nothing(stage: Stage) -> None:
    """Hidden rowids may be given anew; a row out of sight must not be forgotten by that."""
    stage.came(*[message(number) for number in range(1, 9)], task(1), task(2))
    stage.came("DELETE FROM messages WHERE id < 6", "DELETE FROM tasks WHERE id = 1")
    stage.writer.execute("VACUUM")
    assert stage.came() == []
    assert stage.came(message(9)) == [("9", "W")]


def test_what_was_committed_while_the_bridge_was_down_is_pushed_once(stage: Stage) -> None:
    """After a stop and after a kill."""
    for number, end in enumerate((stage.rig.stop, stage.rig.kill), 1):
        end()
        stage.writer.executescript(message(number) + ";" + task(number))
        stage.rig.start()
        assert stage.came() == [(str(number), "W"), (str(number), "W")]


@pytest.mark.parametrize("where", ["decide", "record", "publish"])
def test_a_bridge_killed_in_a_look_loses_and_repeats_nothing(stage: Stage, where: str) -> None:
    """Before, in and after the transaction of the look."""
    stage.rig.fails_at = where, Killed()
    with pytest.raises(Killed):
        stage.came(message(1), task(1))
    stage.rig.kill()
    stage.rig.start()
    assert stage.came(message(2)) == [("1", "W"), ("2", "W"), ("1", "W")] or where == "publish"
    assert stage.writer.execute("SELECT count(*) FROM messages").fetchone() == (2,)
    assert logged(stage) == {("message", "1"): 1, ("message", "2"): 1, ("task", "1"): 1}


def logged(stage: Stage) -> dict[tuple[str, str], int]:
    """How often each id is in the log."""
    with closing(sqlite3.connect(stage.rig.state_path)) as log:
        found = log.execute("SELECT type, subject, count(*) FROM events GROUP BY 1, 2").fetchall()
    return {("message" if kind == "new_message" else "task", subject): count for kind, subject, count in found}


def test_a_state_file_that_fails_is_tried_again(stage: Stage) -> None:
    """The look is made anew."""
    stage.rig.fails_at = "record", DiskFull("database or disk is full")
    with pytest.raises(DiskFull):
        stage.came(message(1), task(1))
    stage.rig.capture.restart()
    assert sorted(stage.came()) == [("1", "W"), ("1", "W")]


@pytest.mark.parametrize("chunk", [1, None])
def test_existing_rows_are_baseline_and_tell_only_their_changes(
    tmp_path: Path, schema: Schema, engine: str, chunk: int | None
) -> None:
    """No event at the first attach; an edited task is pushed, an edited message is not."""
    existing = ";".join([message(1), message(2), task(1), task(2)])
    stage = Stage(tmp_path, schema, engine, "wal", existing, chunk)
    try:
        changed = ["UPDATE messages SET body = 'ho'", "UPDATE tasks SET session_id = 'x' WHERE id = 2", message(3)]
        assert sorted(stage.came(*changed)) == [("2", "W"), ("3", "W")]
    finally:
        stage.rig.kill()
        stage.writer.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_tail_that_tells_nothing_is_read_once(tmp_path: Path, engine: str, mode: str) -> None:
    """More rows of one id, or more rows that fail, than one chunk holds: it was read for ever, and nothing else was."""
    stage = Stage(tmp_path, MANY, engine, mode, chunk=2)
    try:
        stage.rig.stop()
        doubles = [message(1) for _ in range(5)]
        broken = ["INSERT INTO tasks VALUES (7, 'c', 's', '{no json', '[]', '[]', 'W', NULL)" for _ in range(5)]
        stage.writer.executescript(";".join([*doubles, *broken, message(2), task(8)]))
        stage.rig.start()
        assert stage.came() == [("1", "W"), ("2", "W"), ("8", "W")]
        assert stage.rig.capture.failed_rows == 5
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_a_page_that_its_baseline_has_not_come_to_holds_no_new_messages(tmp_path: Path) -> None:
    """An append in the middle of a baseline pushed all old messages on the same page."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=wal")
        writer.executescript(";".join(ROWID.tables()) + ";" + ";".join(message(number) for number in range(1, 21)))
        rig = Rig(path, ROWID.sections(), ENGINES["pages"])
        rig.chunk_rows = 2
        rig.start()
        try:
            rig.capture.look()
            while rig.capture.watched[0].tail or rig.capture.watched[0].progress is None:
                rig.capture.step()
            writer.executescript(";".join([message(21), "UPDATE messages SET body = 'edited' WHERE id = 20"]))
            rig.capture.look()
            assert rig.capture.watched[0].baseline == "running"
            assert [key[1] for key, _ in rig.events()] == ["21"]
            rig.settle()
            assert rig.events() == []
        finally:
            rig.kill()


# -- several rows with one id


def test_several_rows_with_one_message_id_are_one_message(many: Stage) -> None:
    """Also when the first of them goes."""
    assert many.came(message(1), message(1)) == [("1", "W")]
    assert many.came(message(1)) == []
    assert many.came("DELETE FROM messages WHERE rowid = 1") == []
    assert many.came("UPDATE messages SET id = 2 WHERE rowid = 2") == [("2", "W")]
    many.writer.execute("VACUUM")
    assert many.came() == []


def test_of_several_rows_with_one_task_id_the_newest_is_the_task(many: Stage) -> None:
    """Snapshots appended one after another; when the newest goes, the one before is the task again."""
    assert many.came(task(1, "submitted"), task(1, "working")) == [("1", "W")]
    assert many.came(task(1, "completed")) == [("1", "W")]
    assert many.came("UPDATE tasks SET session_id = 'old' WHERE rowid = 1") == []
    assert many.came("DELETE FROM tasks WHERE rowid = 3") == [("1", "W")]
    assert many.came(message(7)) == [("7", "W")]


# -- which database it is


def put_back(path: Path, backup: bytes) -> None:
    """Over the file that is there, as `cp` does: the inode stays."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with open(path, "r+b") as file:
        file.write(backup)
        file.truncate()


# In WAL mode never under a running bridge: SQLite itself applies the old log to the file that is put under it.
@pytest.mark.parametrize(("mode", "is_running"), [("wal", False), ("delete", False), ("delete", True)])
def test_a_backup_put_back_in_place_begins_an_epoch(tmp_path: Path, engine: str, mode: str, is_running: bool) -> None:
    """What came after the backup is not there any more, so cursors are void; rows are still known by their ids."""
    stage = Stage(tmp_path, ROWID, engine, mode)
    try:
        assert stage.came(message(1)) == [("1", "W")]
        stage.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        backup = (tmp_path / "legacy.db").read_bytes()
        for number in range(2, 9):  # in WAL mode only its growth tells
            stage.came(message(number), f"UPDATE messages SET filler = zeroblob(9000) WHERE id = {number}")
            stage.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        epoch = stage.rig.state.epoch
        if not is_running:
            stage.rig.stop()
        stage.writer.close()
        put_back(tmp_path / "legacy.db", backup)
        if not is_running:
            stage.rig.start()
        stage.writer = sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)
        came = stage.came(message(1, verb="REPLACE"), message(3, "d"), message(50))
        assert sorted(came) == [("3", "W"), ("50", "W")]
        assert stage.rig.state.epoch != epoch
        epoch = stage.rig.state.epoch
        stage.rig.stop()
        stage.rig.start()
        assert stage.came(message(51)) == [("51", "W")]
        assert stage.rig.state.epoch == epoch
    finally:
        stage.rig.kill()
        stage.writer.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_replaced_file_begins_an_epoch_though_the_first_look_at_it_fails(
    tmp_path: Path, engine: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new writer may hold a lock just then; the next look has to go on with what that one did not come to."""
    stage = Stage(tmp_path, ROWID, engine, mode)
    (tmp_path / "other").mkdir()
    other = Stage(tmp_path / "other", ROWID, "scan", mode)
    try:
        stage.came(message(1))
        epoch = stage.rig.state.epoch
        other.came(message(1), message(2))
        other.rig.stop()
        other.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for one in (stage, other):
            one.writer.close()
        (tmp_path / "other" / "legacy.db").replace(tmp_path / "legacy.db")
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"legacy.db{suffix}").unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(stage.rig.legacy, "snapshot", fails_once(stage.rig.legacy.snapshot))
            assert stage.came() == [("2", "W")]
        assert stage.rig.state.epoch != epoch
    finally:
        stage.rig.kill()
        stage.writer.close()


Snapshots = Callable[[], AbstractContextManager[Version]]


def fails_once(snapshot: Snapshots) -> Snapshots:
    """The first snapshot cannot be taken."""
    failures = [Busy("the database is locked")]

    def taken() -> AbstractContextManager[Version]:
        if failures:
            raise failures.pop()
        return snapshot()

    return taken
