"""Rows that wait for an owner, many of them, beside a writer that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from storage.legacy import Busy, Version, connect
from storage.passes import HELPED_ROWS, PENDING_ROWS
from storage.reader import SectionReader
from storage.types import Section
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import Writer, writer_process
from tests.storage.oracle import Schema

MANY = 5 * PENDING_ROWS
ROW = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('{0}', 'user', 'x', {1})"


@pytest.fixture
def writer() -> Iterator[Writer]:
    with writer_process() as process:
        yield process


def rig_with(writer: Writer, path: Path, schema: Schema, conversation: str, mode: str = "wal") -> Rig:
    """Many rows that have no owner, each seen when it was written."""
    writer.open(path)
    writer.sql(f"PRAGMA journal_mode={mode}", *schema.tables(), "INSERT INTO conversations VALUES ('c', 'w')")
    rig = Rig(path, schema.sections(), ENGINES["pages"])
    rig.takes_rest_for_granted = True
    rig.start()
    rig.settle()
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) "
    writer.sql(f"{rows} INSERT INTO messages(conversation_id, role, body) SELECT {conversation}, 'user', 'x' FROM n")
    rig.settle()
    assert rig.capture.waiting_rows == MANY
    assert rig.events() == []
    return rig


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_each_waiting_row_has_its_turn_while_commits_go_on(tmp_path: Path, writer: Writer, mode: str) -> None:
    """Though each commit may help any of them: a sweep goes on where it is, and not from the start."""
    rig = rig_with(writer, tmp_path / "legacy.db", Schema(joined_owner=True), "'late' || i", mode)
    try:
        locked: list[bool] = []
        for place in (MANY // 2, 1, MANY):
            writer.sql(f"INSERT INTO conversations VALUES ('late{place}', 'w')")
            came: list[str] = []
            for _ in range(4 * MANY // PENDING_ROWS):
                writer.sql(ROW.format("c", "NULL"))
                rig.turn()
                came += [key[1] for key, _ in rig.events()]
                locked.append(rig.capture.has_locked)
            assert str(place) in came
        assert all(locked) is (mode == "wal"), "in rollback mode the writer rests"
        assert rig.capture.waiting_rows == MANY - 3
        rig.settle()
        assert not rig.capture.is_behind
    finally:
        rig.stop()


@pytest.mark.parametrize("at_once", [HELPED_ROWS, 60])
def test_a_conversation_that_gets_its_owner_comes_in_order(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Its rows stand among many others that wait on, and the commit brings one more of its own."""
    monkeypatch.setattr("storage.passes.HELPED_ROWS", at_once)
    rig = rig_with(writer, tmp_path / "legacy.db", Schema(joined_owner=True), "'late' || (i % 5)")
    try:
        writer.sql(
            "BEGIN",
            "INSERT INTO conversations VALUES ('late3', 'w')",
            f"UPDATE messages SET body = 'y' WHERE id = {3 + 5 * 10}",
            ROW.format("late3", "NULL"),
            "COMMIT",
        )
        rig.settle()
        came = [int(key[1]) for key, _ in rig.events()]
        late = [*range(3, MANY + 1, 5)]
        assert sorted(came) == [*late, MANY + 1]
        if at_once == HELPED_ROWS:
            assert came == [*late, MANY + 1]
        else:  # more than are read at once: what waited is told in its order
            assert [number for number in came if number <= MANY] == late
        assert rig.capture.waiting_rows == MANY - len(late)
    finally:
        rig.stop()


def test_rows_that_only_a_write_to_them_can_help_cost_nothing(tmp_path: Path, writer: Writer) -> None:
    """Their owner is a column of their own, so the commit that gives them one names them."""
    rig = rig_with(writer, tmp_path / "legacy.db", Schema(), "'c'")
    try:
        before = rig.capture.rows_read
        for number in range(10):
            writer.sql(ROW.format("c", "'w'"))
            rig.settle()
            assert len(rig.events()) == 1, number
        assert rig.capture.rows_read - before == 10
        writer.sql("UPDATE messages SET owner = 'w' WHERE id = 1")
        rig.settle()
        assert [key[1] for key, _ in rig.events()] == ["1"]
    finally:
        rig.stop()


@pytest.mark.parametrize(
    ("owner", "reads_others"),
    [
        ("owner", False),
        ("json_extract(filler, '$.owner')", False),
        ("(SELECT owner FROM conversations c WHERE c.id = messages.conversation_id)", True),
        ("(SELECT m.owner FROM messages m WHERE m.id = 1)", True),
        ("(SELECT max(m.conversation_id) FROM messages m)", True),
        ("(SELECT value FROM json_each(messages.filler) LIMIT 1)", True),
        ("coalesce(owner, (SELECT body FROM noise))", True),
    ],
)
@pytest.mark.parametrize("without_rowid", [False, True])
def test_which_rows_depend_on_others(
    tmp_path: Path, writer: Writer, owner: str, *, reads_others: bool, without_rowid: bool
) -> None:
    """On other tables and on other rows of their own, also through an index alone."""
    schema = Schema(id_type="TEXT PRIMARY KEY", without_rowid=without_rowid)
    writer.open(tmp_path / "legacy.db")
    writer.sql(*schema.tables())
    fields = (("id", "id"), ("owner", owner), ("conversation_id", "conversation_id"), ("role", "role"))
    for where in (None, "conversation_id = 'c'", "body IS NOT NULL"):
        section = Section(0, "messages", "message", "messages", (*fields, ("content", "body")), where)
        with closing(connect(tmp_path / "legacy.db")) as connection:
            is_said = SectionReader(connection, section).reads_others
        # One that is searched by an index opens the table and the index: that looks like two.
        assert is_said is reads_others or (is_said and where == "conversation_id = 'c'")


def test_waiting_rows_are_counted_right_while_they_come_and_go(tmp_path: Path, writer: Writer) -> None:
    """Many are not counted at each commit, which would take longer the more there are; few are."""
    path, schema = tmp_path / "legacy.db", Schema()
    rig = rig_with(writer, path, schema, "'c'")
    try:
        counted: list[int] = []
        count = rig.state.count_pending

        def counting(section: Section) -> int:
            counted.append(section.number)
            return count(section)

        rig.state.count_pending = counting  # type: ignore[method-assign]
        steps = (
            (ROW.format("c", "NULL"), 1),
            ("DELETE FROM messages WHERE id = 5", -1),
            ("UPDATE messages SET owner = 'w' WHERE id = 6", -1),
            ("UPDATE messages SET owner = NULL WHERE id = 6", 0),  # it has been told
            ("UPDATE messages SET body = 'y' WHERE id = 7", 0),
            ("DELETE FROM messages WHERE id BETWEEN 100 AND 199", -100),
            (f"DELETE FROM messages WHERE id BETWEEN 300 AND {MANY - 10}", 309 - MANY),
            ("DELETE FROM messages WHERE owner IS NULL", None),
        )
        expected = MANY
        for number, (sql, change) in enumerate(steps):
            writer.sql(sql)
            rig.settle()
            expected = 0 if change is None else expected + change
            assert rig.capture.waiting_rows == expected, sql
            assert number > 4 or not counted
        assert counted
    finally:
        rig.stop()


def test_a_step_that_is_locked_out_is_made_again(
    tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was to look at is not passed over."""
    rig = rig_with(writer, tmp_path / "legacy.db", Schema(joined_owner=True), "'late' || i")
    try:
        writer.sql("INSERT INTO conversations VALUES ('late800', 'w')")
        assert rig.capture.look(thorough=False)
        begin, failed = rig.legacy.begin, list[int]()

        def busy_once() -> Version:
            if not failed:
                failed.append(1)
                raise Busy("locked")
            return begin()

        monkeypatch.setattr(rig.legacy, "begin", busy_once)
        for _ in range(3):
            with suppress(Busy):
                rig.capture.step()
        assert failed
        rig.settle()
        assert [key[1] for key, _ in rig.events()] == ["800"]
    finally:
        rig.stop()
