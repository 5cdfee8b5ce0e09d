"""Tasks of which each state is a row of its own: the newest row is the task, whatever is done to which of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.storage.capture_rig import ENGINES
from tests.storage.legacy_writer import Statement, Value, writer_process
from tests.storage.operations import Operation
from tests.storage.oracle import Schema
from tests.storage.test_capture_property import Attached

ONE_ROW = (
    "UPDATE tasks SET owner = ? WHERE rowid = ?",
    "UPDATE tasks SET session_id = ? WHERE rowid = ?",
    "UPDATE tasks SET id = ? WHERE rowid = ?",
    "UPDATE tasks SET filler = ? WHERE rowid = ?",
    "UPDATE OR IGNORE tasks SET rowid = rowid + ? WHERE rowid = ?",
)
SEVERAL = (
    "DELETE FROM tasks WHERE rowid = (SELECT max(rowid) FROM tasks)",
    "DELETE FROM tasks WHERE rowid = (SELECT min(rowid) FROM tasks)",
    "DELETE FROM tasks WHERE id = 't1'",
    "UPDATE tasks SET owner = 'w1' WHERE owner IS NULL",
    "UPDATE tasks SET session_id = 'hidden' WHERE rowid = (SELECT max(rowid) FROM tasks)",
    "UPDATE tasks SET session_id = 'shown' WHERE session_id = 'hidden'",
    "INSERT INTO tasks SELECT * FROM tasks WHERE rowid = (SELECT min(rowid) FROM tasks)",
)


class Repeated(Attached):
    """What is done to messages elsewhere is done to the rows of three tasks here."""

    def chosen(self, schema: Schema) -> Schema:
        """Tables without a unique id, whatever was drawn; of that, whether there is a `where`."""
        return Schema("TEXT", task_id="TEXT", task_where="session_id <> 'hidden'" if schema.joined_owner else None)

    def statements(self, operation: Operation) -> list[Statement]:
        """An append half of the time."""
        what, number, other, owner, text = operation
        task, kind = f"t{number % 3}", sum(what.encode()) % 4
        if what == "noise":
            return [("INSERT INTO noise VALUES (?)", [text])]
        if kind == 3:
            return [(SEVERAL[(number + 5 * other) % len(SEVERAL)], ())]
        if kind == 2:
            which = (number + other) % len(ONE_ROW)
            value: Value = (owner, f"s{other}", task, text, other)[which]
            return [(ONE_ROW[which], [value, number * 2 - other % 2])]
        status = json.dumps({"state": "working", "message": text, "timestamp": other})
        return [
            ("INSERT INTO tasks VALUES (?, 'c', ?, ?, '[]', '[]', ?, NULL)", [task, f"s{other}", status, owner]),
        ]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_newest_row_is_the_task(engine: str) -> None:
    """And no older row is told that was there before."""
    with writer_process() as writer:
        run_state_machine_as_test(
            lambda: Repeated(writer, ENGINES[engine]),  # type: ignore[arg-type]
            settings=settings(
                max_examples=settings().max_examples * 2 // 5,
                stateful_step_count=25,
                suppress_health_check=list(HealthCheck),
            ),
        )
