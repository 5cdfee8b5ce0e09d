"""Tables whose rows each hold an array of messages or tasks: what a writer does to them, and what a full scan says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from storage.types import Section
from tests.storage.legacy_writer import Statement, Value, Writer
from tests.storage.operations import Operation
from tests.storage.oracle import Key, Scan, State, told

WHERE = "json_extract(value, '$.role') <> 'tool'"
EMPTY = '{"list":[]}'
BROKEN = "substr(doc, 1, length(doc) - 1)"


@dataclass(frozen=True)
class Documents:
    """How the tables are made. Shared ids may stand in several rows, and say whose they are by themselves."""

    id_type: str = "TEXT PRIMARY KEY"
    is_shared: bool = False
    where: str | None = None
    without_rowid: bool = False

    def tables(self) -> list[str]:
        """The statements that make the tables."""
        tail = " WITHOUT ROWID" if self.without_rowid else ""
        return [
            *(f"CREATE TABLE {name}(id {self.id_type}, owner TEXT, body TEXT, doc TEXT){tail}" for name in TABLES),
            "CREATE TABLE noise(body TEXT)",
        ]

    def sections(self) -> list[Section]:
        """The mapping. `id` alone is the row's, as the elements have one too."""
        conversation = "json_extract(value, '$.c')" if self.is_shared else "id"
        message = (
            ("id", "json_extract(value, '$.id')" if self.is_shared else "id || '/' || json_extract(value, '$.id')"),
            ("owner", "json_extract(value, '$.o')" if self.is_shared else "owner"),
            ("conversation_id", conversation),
            ("role", "json_extract(value, '$.role')"),
            ("content", "json_extract(value, '$.body')"),
        )
        task = (
            ("id", "tasks.id || '/' || json_extract(value, '$.id')"),
            ("owner", "tasks.owner"),
            ("conversation_id", "tasks.id"),
            ("session_id", "'s'"),
            ("state", "json_extract(e.value, '$.role')"),
            ("status_message", "json_extract(e.value, '$.body')"),
            *((name, "NULL") for name in ("timestamp", "history", "artifacts")),
        )
        return [
            Section(0, "messages", "message", "messages", message, self.where, each="json_each(doc, '$.list')"),
            Section(1, "tasks", "task", "tasks", task, each="json_each(tasks.doc, '$.list') AS e"),
        ]


TABLES = ("messages", "tasks")


# -- what a writer does


def statements(schema: Documents, operation: Operation) -> list[Statement]:
    """An operation of tests/storage/operations.py, as it would be done to an array."""
    what, number, other, owner, text = operation
    if what.startswith("noise"):
        return [("INSERT INTO noise VALUES (?)", [text]) if what == "noise" else ("DELETE FROM noise", [])]
    table = "tasks" if what.startswith("task") else "messages"
    key: Value = other % 3 + 1 if schema.id_type.startswith("INTEGER") else f"c{other % 3}"
    element = {"id": f"m{number}", "role": ("user", "tool")[other % 2], "body": text, "c": f"c{number % 3}"}
    one = json.dumps(element | {"o": ("w1", "w2", None)[number % 3]})
    new: Statement = f"INSERT OR IGNORE INTO {table}(id, owner, doc) VALUES (?, ?, ?)", [key, owner, EMPTY]
    if (change := _changed(what, one, text, number, other)) is not None:
        sql, values = change
        return [new, (f"UPDATE {table} SET doc = {sql} WHERE id = ? AND json_valid(doc)", [*values, key])]
    if what == "swap":
        # What is broken and moved at once is known by its conversation alone, which shared ids say by themselves.
        return [new, _broken(table, key, moves=number == 1 and not schema.is_shared)]
    return [new, *_of_row(what, table, key, owner, text, one)]


def _changed(what: str, one: str, text: str, number: int, other: int) -> tuple[str, list[Value]] | None:
    """The array rewritten, as (expression, parameters)."""
    array = "SELECT value, key FROM json_each(doc, '$.list')"
    ordered = "json_set(doc, '$.list', json((SELECT json_group_array(json(value)) FROM ({}))))"
    first, last = "json_extract(doc, '$.list[0].body')", "json_extract(doc, '$.list[#-1].body')"
    found: dict[str, tuple[str, list[Value]]] = {
        "insert": ("json_insert(doc, '$.list[#]', json(?))", [one]),
        "insert many": ("json_insert(json_insert(doc, '$.list[#]', json(?)), '$.list[#]', json(?))", [one, _next(one)]),
        "insert next": (ordered.format(f"SELECT ? AS value, -1 AS key UNION ALL {array} ORDER BY 2"), [one]),
        "same size": (f"json_replace(doc, '$.list[0].body', replace({first}, 'a', 'd'))", []),
        "tail": (f"json_replace(doc, '$.list[#-1].body', substr({last}, 1, max(length({last}) - 1, 0)) || 'z')", []),
        "other size": ("json_replace(doc, '$.list[#-1].body', ?)", [text]),
        "rename": ("json_remove(doc, '$.list[0].id')", []),
        "role": ("json_replace(doc, '$.list[#-1].role', ?)", [("user", "tool")[other % 2]]),
        "delete": ("json_remove(doc, '$.list[0]')", []),
        "reuse": ("json_remove(doc, '$.list[#-1]')", []),
        "rewrite": (ordered.format(f"{array} ORDER BY 2 DESC"), []),
        "conversation owner": (ordered.format(f"{array} UNION ALL {array} WHERE key = 0 ORDER BY 2"), []),
        "clear": ("?", [EMPTY]),
        "task": ("json_insert(doc, '$.list[#]', json(?))", [one]),
        "task again": ("json_insert(doc, '$.list[#]', json(?))", [one]),
        "task state": ("json_replace(doc, '$.list[#-1].role', ?)", [f"state {other}"]),
        "task grows": (f"json_replace(doc, '$.list[0].body', {first} || ?)", [text]),
        "task same size": (f"json_replace(doc, '$.list[0].body', replace({first}, 'a', 'd'))", []),
        "task delete": ("json_remove(doc, '$.list[0]')", []),
    }
    return None if what == "clear" and number == other else found.get(what)


def _next(one: str) -> str:
    """The same element with the id after its own."""
    element = json.loads(one)
    number = int(element["id"][1:]) % 5 + 1
    return json.dumps(element | {"id": f"m{number}", "c": f"c{number % 3}", "o": ("w1", "w2", None)[number % 3]})


def _of_row(what: str, table: str, key: Value, owner: Value, text: str, one: str) -> list[Statement]:
    """What is done to the row around the array."""
    match what:
        case "replace" | "task replace":  # a new rowid, if the key is a text
            again = "SELECT id, owner, json_insert(doc, '$.list[#]', json(?)) FROM"
            condition = "WHERE id = ? AND json_valid(doc)"
            return [(f"REPLACE INTO {table}(id, owner, doc) {again} {table} {condition}", [one, key])]
        case "conversation":
            other: Value = 4 if isinstance(key, int) else "c4"
            return [(f"UPDATE OR IGNORE {table} SET id = ? WHERE id = ? AND json_valid(doc)", [other, key])]
        case "owner" | "task owner":
            return [(f"UPDATE {table} SET owner = ? WHERE id = ?", [owner, key])]
        case "filler" | "task filler":
            return [(f"UPDATE {table} SET body = ? WHERE id = ?", [text, key])]
        case "clear" | "task undo":
            return [(f"DELETE FROM {table} WHERE id = ?", [key])]
    return []


def _broken(table: str, key: Value, *, moves: bool) -> Statement:
    """JSON that cannot be read, or can be read again."""
    swapped = f"CASE WHEN json_valid(doc) THEN {BROKEN} ELSE doc || '}}' END"
    if moves:
        return f"REPLACE INTO {table}(id, owner, doc) SELECT id, owner, {swapped} FROM {table} WHERE id = ?", [key]
    return f"UPDATE {table} SET doc = {swapped} WHERE id = ?", [key]


# -- what a full scan says


class DocumentScan:
    """Reads the tables through the writer's own eyes. Of a row that cannot be read, what was in it is as it was."""

    def __init__(self, schema: Documents) -> None:
        self._schema = schema
        self.is_broken = False
        """Whether a row could not be read the last time."""
        self._ever: dict[tuple[str, Value], set[Key]] = {}

    def __call__(self, writer: Writer) -> Scan:
        """All ids as they stand now."""
        found: dict[Key, State] = {}
        broken: list[set[Key]] = []
        for table in TABLES:
            order = "1" if self._schema.without_rowid else "rowid"
            for key, owner, doc in writer.sql(f"SELECT id, owner, doc FROM {table} ORDER BY {order}"):
                ever = self._ever.setdefault((table, key), set())
                try:
                    elements = json.loads(str(doc))["list"]
                except ValueError:
                    broken.append(ever)
                    continue
                of_row = self._elements(table, key, owner, elements)
                ever.update(of_row)
                for name, state in of_row.items():
                    found[name] = _merged(found.get(name), state)
        self.is_broken = bool(broken)
        for unread in set[Key]().union(*broken) - found.keys():
            found[unread] = State(False, None, None, frozenset())
        return found

    def _elements(
        self, table: str, row: Value, row_owner: Value, elements: list[Mapping[str, Value]]
    ) -> dict[Key, State]:
        found: dict[Key, State] = {}
        is_message = table == "messages"
        for one in elements:
            number = one.get("id")
            if number is None:
                continue
            is_shared = self._schema.is_shared and is_message
            name = str(number) if is_shared else f"{row}/{number}"
            conversation, owner = (one["c"], one["o"]) if is_shared else (str(row), row_owner)
            subject: Key = ("message" if is_message else "task", name)
            if is_message:
                is_visible = self._schema.where is None or one["role"] != "tool"
                event = _message(name, conversation, one)
                if subject in found and (found[subject].visible or not is_visible):
                    continue  # of one message id the first that counts is the message
            else:
                is_visible, event = True, _task(name, conversation, one)
            place = conversation if is_message else None
            found[subject] = State(
                is_visible,
                None if place is None else str(place),
                None if owner is None else str(owner),
                frozenset({told(event)}),
                conversation=str(conversation),
            )
        return found


def _merged(one: State | None, other: State) -> State:
    """The same id in two rows: any of those that are visible tells it."""
    if one is None or not one.visible:
        return other
    if not other.visible:
        return one
    return replace(one, payloads=one.payloads | other.payloads)


def _message(name: str, conversation: Value, one: Mapping[str, Value]) -> dict[str, object]:
    content = [{"type": "text", "text": one["body"]}]
    message = {"id": name, "role": one["role"], "content": content}
    return {"type": "new_message", "conversation_id": conversation, "message": message}


def _task(name: str, conversation: Value, one: Mapping[str, Value]) -> dict[str, object]:
    status = {"state": one["role"], "message": one["body"], "timestamp": None}
    task = {"id": name, "sessionId": "s", "status": status, "history": [], "artifacts": []}
    return {"type": "task_update", "conversation_id": conversation, "task": task}
