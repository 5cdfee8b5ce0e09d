"""What a legacy backend does to its tables, as data that hypothesis can draw and shrink."""

from __future__ import annotations

import json
from typing import TypeAlias

from hypothesis import strategies as st

from tests.storage.legacy_writer import Statement, Value
from tests.storage.oracle import Schema

Operation: TypeAlias = "tuple[str, int, int, Value, str]"
"""(what, id, another number, owner, text)."""

SIZES = (0, 1, 7, 90, 600, 2500, 9000)
_IDS = st.integers(1, 5)
_OWNERS = st.sampled_from(["w1", "w2", None])
_TEXTS = st.builds(lambda letter, size: letter * size, st.sampled_from("abc"), st.sampled_from(SIZES))

MESSAGE_OPERATIONS = (
    "insert",
    "insert many",
    "insert next",
    "replace",
    "same size",
    "tail",
    "other size",
    "conversation",
    "rename",
    "role",
    "owner",
    "delete",
    "reuse",
    "rewrite",
    "filler",
    "conversation owner",
    "clear",
    "swap",
)
TASK_OPERATIONS = (
    "task",
    "task again",
    "task replace",
    "task state",
    "task grows",
    "task same size",
    "task deep",
    "task owner",
    "task delete",
    "task filler",
    "task undo",
)
NOISE = ("noise", "noise delete")
BIT_OPERATIONS = (
    "bit of message",
    "bit of task",
    "bit of both",
    "bit other size",
    "bit same size",
    "bit moves",
    "bit renumber",
    "bit delete",
    "bit clear",
)

operations = st.tuples(
    st.sampled_from(MESSAGE_OPERATIONS)
    | st.sampled_from(TASK_OPERATIONS)
    | st.sampled_from(BIT_OPERATIONS)
    | st.sampled_from(NOISE),
    _IDS,
    _IDS,
    _OWNERS,
    _TEXTS,
)


def _schema(ids: tuple[str, str, bool], where: str | None, joined: bool, tasks: tuple[str, bool], child: str) -> Schema:
    """One that the oracle can tell: where ids are not unique, rows with one id agree on all that counts."""
    whole = Schema(*ids, where, joined, *tasks, child)
    return whole if whole.is_unique else Schema(whole.id_type, task_id=whole.task_id, child=child)


schemas = st.builds(
    _schema,
    st.sampled_from(
        [
            ("INTEGER PRIMARY KEY", "", False),
            ("INTEGER PRIMARY KEY AUTOINCREMENT", "", False),
            ("TEXT PRIMARY KEY", "", False),
            ("TEXT PRIMARY KEY NOT NULL", "", True),
            ("INTEGER", ", PRIMARY KEY(conversation_id, id)", False),
            ("TEXT", ", PRIMARY KEY(conversation_id, id)", True),
            ("TEXT", "", False),
        ]
    ),
    st.sampled_from([None, "role <> 'tool'"]),
    st.booleans(),
    st.sampled_from(
        [
            ("TEXT PRIMARY KEY", False),
            ("INTEGER PRIMARY KEY", False),
            ("INTEGER PRIMARY KEY AUTOINCREMENT", False),
            ("TEXT", False),
            ("TEXT PRIMARY KEY NOT NULL", True),
        ]
    ),
    st.sampled_from(
        ["", "", "id INTEGER PRIMARY KEY;", "id TEXT PRIMARY KEY;", "id TEXT PRIMARY KEY NOT NULL; WITHOUT ROWID"]
    ),
)


def statements(schema: Schema, operation: Operation) -> list[Statement]:
    """An operation as SQL over a schema."""
    what, text = operation[0], operation[4]
    if what.startswith("noise"):
        return [("INSERT INTO noise VALUES (?)", [text]) if what == "noise" else ("DELETE FROM noise", [])]
    if what.startswith("bit"):
        return _of_bit(schema, operation) if schema.child else []
    return _of_task(schema, operation) if what.startswith("task") else _of_message(schema, operation)


def _of_message(schema: Schema, operation: Operation) -> list[Statement]:
    return _added(schema, operation) or _changed(schema, operation) or _removed(schema, operation)


def _added(schema: Schema, operation: Operation) -> list[Statement]:
    what, number, other, owner, text = operation
    row = _row(schema, number, other, owner, text)
    match what:
        case "insert":
            return [(_INSERT, row)]
        case "insert many":
            return [(_INSERT, _row(schema, (number + step) % 5 + 1, other, owner, text)) for step in range(other)]
        case "insert next" if schema.id_type.startswith("INTEGER PRIMARY"):
            return [("INSERT INTO messages(conversation_id, role, body, owner) VALUES (?, ?, ?, ?)", row[1:])]
        case "insert next" | "replace":
            return [(_INSERT.replace("IGNORE", "REPLACE"), row)]
        case "conversation owner":
            return [("INSERT OR REPLACE INTO conversations VALUES (?, ?)", [f"c{other % 3}", owner])]
    return []


def _changed(schema: Schema, operation: Operation) -> list[Statement]:
    what, number, other, owner, text = operation
    key, row = _message_id(schema, number), _row(schema, number, other, owner, text)
    simple: dict[str, tuple[str, list[Value]]] = {
        "same size": ("body = CASE body WHEN lower(body) THEN upper(body) ELSE lower(body) END", []),
        "tail": ("body = substr(body, 1, max(length(body) - 1, 0)) || 'z'", []),
        "other size": ("body = ?", [text]),
        "filler": ("filler = ?", [text]),
        "role": ("role = ?", [("user", "tool")[other % 2]]),
    }
    if schema.is_unique:  # else rows with one id have to agree on what the oracle cannot tell apart
        simple |= {
            "conversation": ("conversation_id = ?", [row[1]]),
            "owner": ("owner = ?", [owner]),
            "rename": ("id = ?", [_message_id(schema, other)]),
        }
    elif what == "rename":
        moved = _row(schema, other, number, owner, text)
        simple["rename"] = ("id = ?, conversation_id = ?, owner = ?", [moved[0], moved[1], moved[4]])
    if what in simple:
        assignment, values = simple[what]
        return [(f"UPDATE OR IGNORE messages SET {assignment} WHERE id = ?", [*values, key])]
    if what == "swap" and schema.is_unique:
        second, spare = _message_id(schema, other), "spare" if schema.is_text else 1000
        steps = ((key, spare), (second, key), (spare, second))
        return [("UPDATE OR IGNORE messages SET id = ? WHERE id = ?", [into, of]) for of, into in steps]
    return []


def _removed(schema: Schema, operation: Operation) -> list[Statement]:
    what, number, other, owner, text = operation
    row = _row(schema, number, other, owner, text)
    delete: Statement = "DELETE FROM messages WHERE id = ?", [row[0]]
    match what:
        case "delete":
            return [delete]
        case "rewrite":
            return [delete, (_INSERT, row)]
        case "reuse":
            return [delete, (_INSERT, [row[0], f"d{other % 3}", *row[2:]] if schema.is_unique else row)]
        case "clear" if number == other:
            return [("DELETE FROM messages", [])]
    return []


_INSERT = "INSERT OR IGNORE INTO messages(id, conversation_id, role, body, owner) VALUES (?, ?, ?, ?, ?)"


def _message_id(schema: Schema, number: int) -> Value:
    return f"m{number}" if schema.is_text else number


def _row(schema: Schema, number: int, other: int, owner: Value, text: str) -> list[Value]:
    """id, conversation_id, role, body, owner."""
    if not schema.is_unique:
        return [f"m{number}", f"c{number % 3}", "user", text, ("w1", "w2", None)[number % 3]]
    conversation = None if other == 5 and not schema.is_composite else f"c{other % 3}"
    return [_message_id(schema, number), conversation, ("user", "tool")[other % 2], text, owner]


def _of_task(schema: Schema, operation: Operation) -> list[Statement]:
    what, number, other, owner, text = operation
    key: Value = number if schema.task_id.startswith("INTEGER") else f"t{number}"
    insert = "INSERT OR IGNORE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, NULL)"
    status = json.dumps(
        {"state": ("submitted", "working", "completed")[other % 3], "message": text, "timestamp": other}
    )
    elements = [{"role": "agent", "name": f"part {step}", "text": f"{text}{step}"} for step in range(other % 4)]
    history = json.dumps(elements)
    row: list[Value] = [key, f"c{other % 3}", f"s{other}", status, history, history, owner]
    match what:
        case "task" | "task again":
            return [(insert, row)]
        case "task replace":
            return [(insert.replace("IGNORE", "REPLACE"), row)]
        case "task state":
            return [("UPDATE tasks SET status = ? WHERE id = ?", [status, key])]
        case "task grows":
            return [("UPDATE tasks SET history = ?, artifacts = ? WHERE id = ?", [history, history, key])]
        case "task same size":
            # The last digit of a long history stands on an overflow page, and the row's own page is left alone.
            counted = "substr(history, 1, length(history) - 4) || ((substr(history, -4, 1) + 1) % 10) || '\"}]'"
            return [(f"UPDATE tasks SET history = {counted} WHERE id = ? AND length(history) > 4", [key])]
        case "task deep":
            # A letter in the middle of a long chain: not even its first or last page is written.
            letter = "CASE substr(history, length(history) / 5 + 1, 1) WHEN 'z' THEN 'y' ELSE 'z' END"
            edited = f"substr(history, 1, length(history) / 5) || {letter} || substr(history, length(history) / 5 + 2)"
            return [(f"UPDATE tasks SET history = {edited} WHERE id = ? AND length(history) > 400", [key])]
        case "task owner":
            return [("UPDATE tasks SET owner = ? WHERE id = ?", [owner, key])]
        case "task delete":
            return [("DELETE FROM tasks WHERE id = ?", [key])]
        case "task undo" if not schema.task_without_rowid:
            return [("DELETE FROM tasks WHERE rowid = (SELECT max(rowid) FROM tasks)", [])]
        case "task filler":
            return [("UPDATE tasks SET filler = ? WHERE id = ?", [text, key])]
    return []


def _of_bit(schema: Schema, operation: Operation) -> list[Statement]:
    """What is done to the child table. Ten of its rows belong to five messages and five tasks."""
    what, number, other, _, text = operation
    message = _message_id(schema, other)
    refers: list[Value] = [f"c{number % 3}/{message}" if schema.is_composite else message, _refers(schema, other)]
    insert = "INSERT OR REPLACE INTO bits VALUES (?, ?, ?, ?)"
    match what:
        case "bit of message":
            return [(insert, [number, refers[0], None, text])]
        case "bit of task":
            return [(insert, [number + 5, None, refers[1], text])]
        case "bit of both":
            return [(insert, [number, *refers, text])]
        case "bit other size":
            return [("UPDATE bits SET body = ? WHERE id = ?", [text, number])]
        case "bit same size":
            changed = "CASE body WHEN lower(body) THEN upper(body) ELSE lower(body) END"
            return [(f"UPDATE bits SET body = {changed} WHERE id = ?", [number + other % 2 * 5])]
        case "bit moves":
            return [("UPDATE bits SET message_id = ?, refers = ? WHERE id = ?", [*refers, number])]
        case "bit renumber":
            return [("UPDATE OR REPLACE bits SET id = ? WHERE id = ?", [other + 5, number])]
        case "bit delete":
            return [("DELETE FROM bits WHERE id = ?", [number + other % 2 * 5])]
        case "bit clear" if number == other:
            return [("DELETE FROM bits", [])]
    return []


def _refers(schema: Schema, number: int) -> str:
    return json.dumps({"task": number if schema.task_id.startswith("INTEGER") else f"t{number}"})
