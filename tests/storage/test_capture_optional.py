"""What those are told who ask for edits and deletions, rule by rule, with every engine and in both kinds of journal."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from storage.state import PRUNE_STEP
from storage.types import Event, Section
from tests.storage.capture_rig import ENGINES, Killed, Rig
from tests.storage.oracle import Schema
from tests.storage.test_capture import ROWID, TEXT, WITHOUT_ROWID, Stage, message, task

SCHEMAS = {"rowid": ROWID, "text": TEXT, "without-rowid": WITHOUT_ROWID}
Told = tuple[str, str, str, str]
"""(owner, type, conversation, id)."""


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(SCHEMAS))
def schema(request: pytest.FixtureRequest) -> Schema:
    return SCHEMAS[request.param]


@pytest.fixture(params=["wal", "delete"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, schema: Schema, engine: str) -> Iterator[Stage]:
    stage = Stage(tmp_path, schema, engine, request.param)
    yield stage
    stage.rig.kill()
    stage.writer.close()


def told(stage: Stage, *statements: str) -> list[Told]:
    """Commit, let the bridge come to rest: what came of every type, in order."""
    stage.came(*statements)
    events, stage.rig.told = stage.rig.told, []
    return [
        (owner, one["type"], one["conversation_id"], one.get("message_id") or one.get("task_id") or subject(one))
        for owner, one in events
    ]


def subject(event: dict[str, dict[str, str]]) -> str:
    """The id of the message or task that an event carries."""
    return (event.get("message") or event["task"])["id"]


def edit(owner: str, number: str = "1") -> Told:
    return owner, "message_update", "c", number


def end(owner: str, number: str = "1", kind: str = "message") -> Told:
    return owner, f"{kind}_deleted", "c", number


def test_an_edited_message_is_told_as_it_is_now(stage: Stage) -> None:
    """Once for what is mapped, and not at all for what is not."""
    told(stage, message(1))
    assert told(stage, "UPDATE messages SET filler = 'x'") == []
    assert told(stage, "UPDATE messages SET body = 'ho'") == [edit("W")]
    assert told(
        stage, "REPLACE INTO messages SELECT id, conversation_id, 'agent', body, owner, NULL FROM messages"
    ) == [edit("W")]
    assert told(stage) == []


def test_a_deleted_row_is_told_when_it_is_gone(stage: Stage) -> None:
    """Also rows of the baseline, and a task; and what is inserted anew is new."""
    told(stage, message(1), message(2), task(1))
    assert sorted(told(stage, "DELETE FROM messages WHERE id = 1", "DELETE FROM tasks")) == [
        end("W"), end("W", kind="task"),
    ]  # fmt: skip
    assert told(stage, message(1)) == [("W", "new_message", "c", "1")]
    assert sorted(told(stage, "DELETE FROM messages")) == [end("W"), end("W", "2")]
    assert told(stage) == []


def test_deleted_and_inserted_in_one_commit_is_an_edit(stage: Stage) -> None:
    """As it is no new message either; and none if nothing differs."""
    told(stage, message(1))
    assert told(stage, "DELETE FROM messages", message(1)) == []
    assert told(stage, "DELETE FROM messages", message(1), "UPDATE messages SET body = 'ho'") == [edit("W")]


def test_another_owner_gets_it_and_the_one_before_loses_it(stage: Stage) -> None:
    """It is not told as new, since for the others it is not; and nobody is told twice of what did not change."""
    told(stage, message(1), task(1))
    assert told(stage, "UPDATE messages SET owner = 'V'") == [end("W"), edit("V")]
    assert told(stage, """UPDATE messages SET owner = '["V", "W"]'""") == [edit("W")]
    assert told(stage, """UPDATE messages SET owner = '["W", "V"]'""") == []
    assert sorted(told(stage, """UPDATE messages SET owner = '["V"]', body = 'ho'""")) == [end("W"), edit("V")][::-1]
    assert told(stage, "UPDATE messages SET owner = NULL") == [end("V")]
    assert told(stage, "UPDATE messages SET owner = 'W'") == [edit("W")]
    assert told(stage, "UPDATE tasks SET owner = 'V'") == [end("W", kind="task"), ("V", "task_update", "c", "1")]
    assert told(stage, "UPDATE tasks SET owner = NULL") == [end("V", kind="task")]
    assert told(stage, "DELETE FROM tasks") == []


def test_another_conversation_is_an_end_and_a_beginning(stage: Stage) -> None:
    """Each client is told in the conversation that it listens to."""
    told(stage, message(1), task(1))
    assert told(stage, "UPDATE messages SET conversation_id = 'd'") == [end("W"), ("W", "new_message", "d", "1")]
    assert told(stage, "UPDATE tasks SET conversation_id = 'd'") == [
        end("W", kind="task"), ("W", "task_update", "d", "1"),
    ]  # fmt: skip


def test_a_row_that_leaves_where_is_an_end_and_one_that_comes_back_an_edit(stage: Stage) -> None:
    """A backend that marks rows as deleted is heard too; to the others it is still not a new message."""
    told(stage, message(1), message(2))
    assert told(stage, "UPDATE messages SET role = 'tool' WHERE id = 1") == [end("W")]
    assert told(stage, "UPDATE messages SET body = 'ho' WHERE id = 1", message(3)) == [("W", "new_message", "c", "3")]
    assert told(stage, "UPDATE messages SET role = 'user' WHERE id = 1") == [edit("W")]
    told(stage, "UPDATE messages SET role = 'tool' WHERE id = 1")
    assert told(stage, "DELETE FROM messages WHERE id = 1") == []
    assert told(stage, message(1)) == [("W", "new_message", "c", "1")]


@pytest.mark.parametrize("state", ["working", "completed"])
def test_a_task_that_comes_back_into_where_is_told_again(tmp_path: Path, engine: str, state: str) -> None:
    """To all if it differs, as ever; if not, to those alone who were told of its end."""
    stage = Stage(tmp_path, ROWID, engine, "wal")
    stage.rig.kill()
    stage.rig._sections = [
        one if one.kind == "message" else replace(one, where="filler IS NULL") for one in ROWID.sections()
    ]
    try:
        stage.rig.start()
        told(stage, task(1))
        assert told(stage, "UPDATE tasks SET filler = 'x'") == [end("W", kind="task")]
        stage.writer.execute(f"UPDATE tasks SET filler = NULL, status = json_set(status, '$.state', '{state}')")
        assert len(stage.came()) == (state == "completed")
        assert [one["type"] for _, one in stage.rig.told] == ["task_update"]
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_a_row_that_nobody_knew_of_ends_in_silence(stage: Stage) -> None:
    """It had no owner yet, or could not be rendered; one that was told before it was broken is told."""
    broken = "UPDATE tasks SET history = '7' WHERE id = 2"
    told(stage, message(1, owner="NULL"), task(1, owner="NULL"), task(2), task(3))
    assert told(stage, "UPDATE tasks SET history = '7' WHERE id = 3") == []
    assert told(stage, "DELETE FROM messages", "DELETE FROM tasks WHERE id = 1") == []
    assert told(stage, broken.replace("2", "3", 1), "DELETE FROM tasks WHERE id = 3") == [end("W", "3", "task")]


def test_a_deletion_that_nobody_saw_is_told_after_the_start(stage: Stage) -> None:
    """After a stop and after a kill; and a bridge killed in the look tells it once."""
    for number, finish in enumerate((stage.rig.stop, stage.rig.kill), 1):
        told(stage, message(number), task(number))
        finish()
        stage.writer.executescript(f"DELETE FROM messages; UPDATE tasks SET owner = 'V{number}'")
        stage.rig.start()
        assert end("W", str(number)) in told(stage)
    told(stage, message(9))
    stage.rig.fails_at = "record", Killed()
    with pytest.raises(Killed):
        told(stage, "DELETE FROM messages")
    stage.rig.kill()
    stage.rig.start()
    assert told(stage) == [end("W", "9")]


def test_an_emptied_table_is_the_end_of_all_its_rows_in_small_transactions(tmp_path: Path, engine: str) -> None:
    """That is the truth; and the events of one transaction are so many that a client can take them."""
    count = 2 * PRUNE_STEP + 7
    stage = Stage(tmp_path, ROWID, engine, "wal", ";".join(message(number) for number in range(1, count + 1)))
    try:
        published = list[int]()
        publish = stage.rig.capture._examiner._publish

        def counted(epoch: str, events: list[Event]) -> None:
            published.append(len(events))
            publish(epoch, events)

        stage.rig.capture._examiner._publish = counted
        ends = told(stage, "DELETE FROM messages")
        assert sorted(ends) == sorted(end("W", str(number)) for number in range(1, count + 1))
        assert sum(published) == count
        assert max(published) <= PRUNE_STEP or engine == "true"  # which needs no pass
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_a_section_that_does_not_fit_any_more_tells_no_end(stage: Stage) -> None:
    """A table that was renamed or dropped; when it is back, its rows are compared."""
    told(stage, message(1), message(2))
    assert told(stage, "ALTER TABLE messages RENAME TO away") == []
    stage.writer.execute("DELETE FROM away WHERE id = 1")
    assert told(stage) == []
    assert told(stage, "ALTER TABLE away RENAME TO messages") == [end("W")]


def test_another_mapping_tells_nothing_of_rows_that_are_still_there(stage: Stage) -> None:
    """Whose they are now is remembered for what comes."""
    told(stage, message(1), task(1))
    stage.rig.stop()
    sections = stage.rig._sections
    stage.rig._sections = [_owned_by(one, "'N'") for one in sections]
    stage.rig.start()
    assert told(stage) == []
    assert sorted(told(stage, "DELETE FROM messages", "DELETE FROM tasks")) == [end("N"), end("N", kind="task")]


def _owned_by(section: Section, expression: str) -> Section:
    return replace(section, fields=tuple((n, expression if n == "owner" else e) for n, e in section.fields))


def test_another_file_tells_the_difference(stage: Stage, tmp_path: Path) -> None:
    """In a new epoch: its rows are compared, and what it does not have is gone."""
    told(stage, message(1), message(2))
    other = tmp_path / "other.db"
    stage.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    stage.writer.execute("VACUUM INTO ?", (str(other),))
    stage.writer.close()
    with closing(sqlite3.connect(other)) as writer:
        writer.executescript("DELETE FROM messages WHERE id = 1; UPDATE messages SET body = 'ho'")
    path = tmp_path / "legacy.db"
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    epoch = stage.rig.state.epoch
    other.replace(path)
    stage.writer = sqlite3.connect(path, isolation_level=None)
    assert sorted(told(stage)) == sorted([end("W"), edit("W", "2")])
    assert stage.rig.state.epoch != epoch


def test_a_state_file_of_before_tells_no_end_of_rows_it_does_not_know_the_owner_of(tmp_path: Path, engine: str) -> None:
    """Format 1 remembered neither id nor owner. A row that changed since is known as any other."""
    stage = Stage(tmp_path, ROWID, engine, "wal", ";".join([message(1), message(2), message(3)]))
    try:
        stage.rig.stop()
        with closing(sqlite3.connect(stage.rig.state_path, isolation_level=None)) as state:
            state.executescript(
                "ALTER TABLE seen DROP COLUMN id; ALTER TABLE seen DROP COLUMN home; DROP TABLE homes;"
                "ALTER TABLE events DROP COLUMN optional; ALTER TABLE routes DROP COLUMN wide; PRAGMA user_version=1"
            )
        stage.rig.start()
        assert told(stage) == []
        assert told(stage, "UPDATE messages SET body = 'ho' WHERE id = 2") == [edit("W", "2")]
        assert told(stage, "UPDATE messages SET role = 'tool' WHERE id = 3") == []
        assert told(stage, "DELETE FROM messages", message(4)) == [("W", "new_message", "c", "4"), end("W", "2")]
    finally:
        stage.rig.kill()
        stage.writer.close()


# -- defects of before


def test_more_waiting_rows_than_one_look_takes_are_all_looked_at(tmp_path: Path, engine: str) -> None:
    """The first 200 were looked at for ever, and the bridge never came to rest."""
    stage = Stage(tmp_path, replace(ROWID, joined_owner=True), engine, "wal")
    try:
        told(stage, *[message(number, "x" if number <= 250 else "c") for number in range(1, 452)])
        assert stage.rig.capture.waiting_rows == 451
        assert len(told(stage, "INSERT INTO conversations VALUES ('c', 'W')")) == 201
        assert not stage.rig.capture.is_behind
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_several_rows_of_one_id_in_a_table_without_rowids_are_one_message(tmp_path: Path, engine: str) -> None:
    """Each pass took the one for the other, and pushed it again where their conversations differed."""
    columns = "n INTEGER PRIMARY KEY, id, conversation_id, role, body, owner, filler"
    schema = Schema("TEXT")
    stage = Stage(tmp_path, schema, engine, "wal")
    try:
        stage.rig.stop()
        stage.writer.executescript(f"DROP TABLE messages; CREATE TABLE messages({columns}) WITHOUT ROWID")
        stage.rig.start()
        row = "INSERT INTO messages VALUES ({}, 'm', '{}', 'user', 'hi', 'W', NULL)"
        assert len(stage.came(row.format(1, "c"), row.format(2, "d"), row.format(3, "e"))) == 1
        assert stage.came("INSERT INTO noise VALUES (1)", "UPDATE messages SET filler = 'x'") == []
        assert stage.came("UPDATE messages SET filler = 'y'") == []
        first = stage.rig.told[0][1]["conversation_id"]
        assert stage.came(f"UPDATE messages SET id = 'k' WHERE conversation_id = '{first}'") != []
        assert stage.came("UPDATE messages SET filler = 'z'") == []
    finally:
        stage.rig.kill()
        stage.writer.close()


def test_one_of_several_rows_without_rowids_may_go_in_the_middle_of_a_pass(tmp_path: Path) -> None:
    """The pass took the other for one row more of that id: the message is not gone, and comes only once."""
    stage = Stage(tmp_path, Schema("TEXT"), "scan", "wal", chunk=1)
    try:
        stage.rig.stop()
        columns = "n INTEGER PRIMARY KEY, id, conversation_id, role, body, owner, filler"
        stage.writer.executescript(f"DROP TABLE messages; CREATE TABLE messages({columns}) WITHOUT ROWID")
        stage.rig.start()
        row = "INSERT INTO messages VALUES ({}, 'm', 'c', 'user', 'hi', 'W', NULL)"
        assert told(stage, row.format(1), row.format(2)) == [("W", "new_message", "c", "m")]
        stage.writer.execute("UPDATE messages SET filler = 'x'")
        (watched, _) = stage.rig.capture.watched
        while watched.progress is None or watched.progress.keys is None:
            stage.rig.turn()
        assert told(stage, "DELETE FROM messages WHERE n = 1") == []
        assert told(stage, "DELETE FROM messages") == [end("W", "m")]
    finally:
        stage.rig.kill()
        stage.writer.close()


@pytest.mark.parametrize("kind", ["unique", "expression"])
def test_a_hidden_row_that_is_replaced_and_shown_again_is_not_new(tmp_path: Path, engine: str, kind: str) -> None:
    """`REPLACE` gave it another rowid, and it was forgotten."""
    stage = Stage(tmp_path, TEXT, engine, "wal")
    try:
        if kind == "expression":
            stage.rig.kill()
            stage.rig.state_path.unlink()
            stage.rig._sections = [
                replace(one, fields=(("id", "id || ''"), *one.fields[1:])) for one in TEXT.sections()
            ]
            stage.rig.start()
        stage.came(message(1), message(2))
        assert stage.came("UPDATE messages SET role = 'tool' WHERE id = 1") == []
        assert stage.came(message(1, role="tool", verb="REPLACE")) == []
        assert stage.came("UPDATE messages SET role = 'user' WHERE id = 1") == []
        assert stage.came(message(1, role="tool", verb="REPLACE"), message(3)) == [("3", "W")]
        assert stage.came("DELETE FROM messages WHERE id = 1") == []
        assert stage.came(message(1)) == [("1", "W")]
    finally:
        stage.rig.kill()
        stage.writer.close()


@pytest.mark.parametrize("schema", [ROWID, TEXT], ids=["rowid", "text"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_commit_during_the_first_baseline_does_not_push_its_neighbours(
    tmp_path: Path, engine: str, mode: str, schema: Schema
) -> None:
    """A commit names whole pages, and the old rows on them were pushed as new messages."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode={mode}")
        writer.executescript(";".join([*schema.tables(), *[message(number) for number in range(1, 10)]]))
        rig = Rig(path, schema.sections(), ENGINES[engine])
        rig.chunk_rows = 2
        rig.start()
        try:
            rig.turn()
            rig.turn()
            assert not rig.capture.is_baselined
            writer.executescript(f"BEGIN; UPDATE messages SET body = 'ho' WHERE id = 9; {message(10)}; COMMIT")
            rig.settle()
            assert [key[1] for key, _ in rig.events()] == ["10"]
        finally:
            rig.kill()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_task_that_changes_during_the_first_baseline_is_told(tmp_path: Path, mode: str) -> None:
    """The baseline had not come to it, so that nothing was known of it."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode={mode}")
        writer.executescript(";".join([*ROWID.tables(), *[task(number) for number in range(1, 10)]]))
        rig = Rig(path, ROWID.sections(), ENGINES["pages"])
        rig.chunk_rows = 2
        rig.start()
        try:
            for _ in range(3):
                rig.turn()
            assert not rig.capture.is_baselined
            writer.execute("UPDATE tasks SET session_id = 'other' WHERE id = 9")
            rig.settle()
            assert ("task", "9") in [key for key, _ in rig.events()]
        finally:
            rig.kill()


@pytest.mark.parametrize("engine", ["pages"])
def test_a_new_row_before_the_place_of_the_first_baseline_is_new(tmp_path: Path, engine: str) -> None:
    """The baseline has passed that place, and nothing stood there."""
    existing = ";".join(message(number) for number in range(1, 10))
    stage = Stage(tmp_path, ROWID, engine, "wal", existing)
    stage.rig.kill()
    stage.rig.state_path.unlink()
    stage.rig.chunk_rows = 2
    stage.rig.start()
    while stage.rig.capture.watched[0].position is None:
        stage.rig.turn()
    assert not stage.rig.capture.is_baselined
    assert stage.came(message(0)) == [("0", "W")]
    stage.rig.kill()
    stage.writer.close()
