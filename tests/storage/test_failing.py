"""Many rows that cannot be rendered: they are not counted at each commit, which takes longer the more there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.types import Section
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import writer_process
from tests.storage.oracle import Schema

TASK = "INSERT INTO tasks(id, conversation_id, status, owner) VALUES ('{0}', 'c', '{1}', 'w')"
GOOD, BAD = '{"state": "working"}', "{"


@pytest.mark.parametrize("many", [3, 1000])
def test_failing_rows_are_counted_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    """Whether they are few, and counted each time, or many."""
    monkeypatch.setattr("storage.examine.RECKONED", many)
    schema, path = Schema(), tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        writer.sql("PRAGMA journal_mode=wal", *schema.tables())
        writer.sql(*[TASK.format(f"b{number}", BAD) for number in range(10)])
        rig = Rig(path, schema.sections(), ENGINES["pages"])
        rig.start()
        try:
            rig.settle()
            assert rig.capture.failed_rows == 10
            counted: list[int] = []
            count = rig.state.count_failures

            def counting(section: Section) -> int:
                counted.append(section.number)
                return count(section)

            monkeypatch.setattr(rig.state, "count_failures", counting)
            steps = (
                (TASK.format("b10", BAD), 11, 0),
                (TASK.format("g1", GOOD), 11, 1),
                (f"UPDATE tasks SET status = '{GOOD}' WHERE id = 'b3'", 10, 1),
                (f"UPDATE tasks SET status = '{BAD}' WHERE id = 'g1'", 11, 0),
                (f"UPDATE tasks SET status = '{BAD} ' WHERE id = 'g1'", 11, 0),
                ("DELETE FROM tasks WHERE id = 'b4'", 10, 0),
                (f"UPDATE tasks SET status = '{GOOD}' WHERE id IN ('b5', 'b6', 'g1')", 7, 2),  # of g1 that was told
            )
            for sql, failing, events in steps:
                writer.sql(sql)
                rig.settle()
                assert (rig.capture.failed_rows, len(rig.events())) == (failing, events), sql
            assert bool(counted) is (many == 1000)
            assert count(schema.sections()[1]) == failing
        finally:
            rig.stop()
