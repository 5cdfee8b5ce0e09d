"""What a full scan of the tables says must have been pushed: plain dicts, no digests, no positions, no hints.

For each id the oracle follows what a bridge may know of it. A commit that no look was made for may or may not have been
seen, so what it knows is a set of possibilities, which the events that really came narrow down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from storage.types import Section
from tests.storage.legacy_writer import Value, Writer

Payload = tuple[str, str]
"""(owner, JSON of the event with sorted keys)."""


@dataclass(frozen=True)
class Schema:
    """How the writer's tables are made, and how they are mapped."""

    id_type: str = "INTEGER PRIMARY KEY"
    key: str = ""
    without_rowid: bool = False
    where: str | None = None
    joined_owner: bool = False
    task_id: str = "TEXT PRIMARY KEY"
    task_without_rowid: bool = False
    child: str = ""
    """The id of a child table that holds the contents of messages and the histories of tasks; empty without one."""
    task_where: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether message ids are text."""
        return self.id_type.startswith("TEXT")

    @property
    def is_unique(self) -> bool:
        """Whether the table itself forbids two messages with one id."""
        return bool(self.key) or "KEY" in self.id_type

    @property
    def is_composite(self) -> bool:
        """Whether the conversation is part of the id."""
        return bool(self.key)

    @property
    def mapped_id(self) -> str:
        """The id of a message, as an expression that can stand in a sub-select."""
        return "messages.conversation_id || '/' || messages.id" if self.is_composite else "messages.id"

    @property
    def content(self) -> str:
        """The content of a message."""
        if not self.child:
            return "body"
        bits = f"SELECT body FROM bits b WHERE {self._is_its_own} ORDER BY b.id"
        return f"(SELECT json_group_array(json_object('text', body)) FROM ({bits}))"

    @property
    def _is_its_own(self) -> str:
        return f"b.message_id = {self.mapped_id}"

    @property
    def history(self) -> str:
        """The history of a task."""
        if not self.child:
            return "history"
        bits = "SELECT body FROM bits WHERE json_extract(refers, '$.task') = tasks.id ORDER BY bits.id"
        return f"(SELECT json_group_array(json_object('role', 'agent', 'text', body)) FROM ({bits}))"

    @property
    def shown(self) -> str | None:
        """The `where` of messages: one whose content stands in a child table is there when its first part is."""
        if not self.child:
            return self.where
        return f"{self.where or '1'} AND EXISTS (SELECT 1 FROM bits b WHERE {self._is_its_own})"

    def tables(self) -> list[str]:
        """The statements that make the tables."""
        needed = " NOT NULL" if self.is_composite else ""
        tail = " WITHOUT ROWID" if self.without_rowid else ""
        task_tail = " WITHOUT ROWID" if self.task_without_rowid else ""
        id_, _, options = self.child.partition(";")
        child = [f"CREATE TABLE bits({id_}, message_id, refers TEXT, body TEXT){options}"]
        return [
            *(child if self.child else []),
            f"CREATE TABLE messages(id {self.id_type}{needed}, conversation_id TEXT{needed}, role TEXT, body TEXT, "
            f"owner TEXT, filler TEXT{self.key}){tail}",
            f"CREATE TABLE tasks(id {self.task_id}, conversation_id TEXT, session_id TEXT, status TEXT, history TEXT, "
            f"artifacts TEXT, owner TEXT, filler TEXT){task_tail}",
            "CREATE TABLE conversations(id TEXT PRIMARY KEY, owner TEXT)",
            "CREATE TABLE noise(body TEXT)",
            "CREATE INDEX by_conversation ON messages(conversation_id)",
        ]

    def sections(self) -> list[Section]:
        """The mapping."""
        owner = "(SELECT owner FROM conversations c WHERE c.id = messages.conversation_id)"
        message = (
            ("id", "conversation_id || '/' || id" if self.is_composite else "id"),
            ("owner", owner if self.joined_owner else "owner"),
            ("conversation_id", "conversation_id"),
            ("role", "role"),
            ("content", self.content),
        )
        task = (
            ("id", "id"),
            ("owner", "owner"),
            ("conversation_id", "conversation_id"),
            ("session_id", "session_id"),
            ("state", "json_extract(status, '$.state')"),
            ("status_message", "json_extract(status, '$.message')"),
            ("timestamp", "json_extract(status, '$.timestamp')"),
            ("history", self.history),
            ("artifacts", "artifacts"),
        )
        parts = (("message_id", "message_id"),)
        events = (("task_id", "json_extract(refers, '$.task')"),)
        children = [
            Section(2, "messages", "child", "bits", parts, feeds=((0, "id"),)),
            Section(3, "tasks", "child", "bits", events, feeds=((1, "id"),)),
        ]
        return [
            Section(0, "messages", "message", "messages", message, self.shown),
            Section(1, "tasks", "task", "tasks", task, self.task_where),
            *(children if self.child else []),
        ]


TaskRow = tuple[Value, Payload]
"""(rowid, what would tell it)."""
Key = tuple[str, str]
"""(`message` or `task`, mapped id)."""


@dataclass(frozen=True)
class State:
    """How one id stands in one commit: `payloads` are the events that would tell it, any of which will do."""

    visible: bool
    place: str | None
    owner: str | None
    payloads: frozenset[str]
    older: frozenset[TaskRow] = frozenset()
    """A task's rows but the newest. One that came since the last check may be told though a newer one came with it, as
    it may be seen first; one that was there at the last check may not."""
    rows: frozenset[TaskRow] = frozenset()
    """All rows of a task."""
    conversation: str | None = None


@dataclass(frozen=True)
class Seen:
    """What a bridge that has seen an id knows of it."""

    place: str | None
    pending: bool
    payloads: frozenset[str]


Scan = Mapping[Key, State]


def scan(writer: Writer, schema: Schema) -> Scan:
    """Every row of the tables, through the writer's own eyes."""
    where = f"WHERE {schema.shown}" if schema.shown else ""
    shown = {tuple(row[:2]) for row in writer.sql(f"SELECT id, conversation_id FROM messages {where}")}
    owners: dict[Value, Value] = {}
    if schema.joined_owner:
        owners = {row[0]: row[1] for row in writer.sql("SELECT id, owner FROM conversations")}
    found: dict[Key, State] = {}
    for number, conversation, role, body, owner in writer.sql(
        f"SELECT id, conversation_id, role, {schema.content}, owner FROM messages "
        f"ORDER BY {_order(schema.without_rowid)}"
    ):
        key = "message", f"{conversation}/{number}" if schema.is_composite else str(number)
        state = State(
            (number, conversation) in shown,
            None if conversation is None else str(conversation),
            _text(owners.get(conversation) if schema.joined_owner else owner),
            frozenset({_message(key[1], conversation, role, _texts(body) if schema.child else [body])}),
            conversation=_text(conversation),
        )
        if key in found:  # several rows with one id are one message: any of them tells it
            state = replace(found[key], payloads=found[key].payloads | state.payloads)
        found[key] = state
    rowid = "NULL" if schema.task_without_rowid else "rowid"
    for loc, number, conversation, session, status, history, artifacts, owner, is_shown in writer.sql(
        f"SELECT {rowid}, id, conversation_id, session_id, status, {schema.history}, artifacts, owner, "
        f"{schema.task_where or '1'} FROM tasks ORDER BY {_order(schema.task_without_rowid)}"
    ):
        if not is_shown:
            found.setdefault(("task", str(number)), State(False, None, None, frozenset()))
            continue
        body = _task(str(number), conversation, session, str(status), str(history), str(artifacts))
        older = found.get(("task", str(number)))
        before = older.rows if older else frozenset()
        rows = before | {(loc, (str(owner), body))}
        found["task", str(number)] = State(  # the last wins
            True, None, _text(owner), frozenset({body}), before, rows, _text(conversation)
        )
    return found


def _order(without_rowid: bool) -> str:
    return "1" if without_rowid else "rowid"


def _text(value: Value) -> str | None:
    return None if value is None else str(value)


def told(event: object) -> str:
    """An event in a form that compares."""
    return json.dumps(event, sort_keys=True)


def _part(text: Value) -> list[object]:
    return [] if text is None else [{"type": "text", "text": text}]


def _texts(content: Value) -> list[Value]:
    return [part["text"] for part in json.loads(str(content))]


def _message(key: str, conversation: Value, role: Value, texts: list[Value]) -> str:
    message = {"id": key, "role": role, "content": [part for one in texts for part in _part(one)]}
    return told({"type": "new_message", "conversation_id": conversation, "message": message})


def _task(key: str, conversation: Value, session: Value, status: str, history: str, artifacts: str) -> str:
    task = {
        "id": key,
        "sessionId": session,
        "status": json.loads(status),
        "history": [{"role": turn["role"], "parts": _part(turn["text"])} for turn in json.loads(history)],
        "artifacts": [{"name": made["name"], "parts": _part(made["text"])} for made in json.loads(artifacts)],
    }
    return told({"type": "task_update", "conversation_id": conversation, "task": task})


Expected = frozenset[Payload]


def _step(kind: str, seen: Seen | None, state: State | None) -> tuple[Seen | None, Expected | None]:
    """What a bridge knows after it has seen a state, and what it must have pushed."""
    if state is None:
        return None, None
    if not state.visible:
        return seen, None
    if seen is None or seen.pending:
        is_due = True
    elif kind == "message":
        is_due = None not in (seen.place, state.place) and seen.place != state.place
    else:
        is_due = seen.payloads != state.payloads or seen.place != state.owner
    # Of a task the owner is part of what is compared; it stands where a message has its conversation.
    after = Seen(state.owner if kind == "task" else state.place, is_due and state.owner is None, state.payloads)
    if not is_due or state.owner is None:
        return after, None
    owner = state.owner
    return after, frozenset((owner, payload) for payload in state.payloads)


class Oracle:
    """Knows what may be known, and checks what came."""

    def __init__(self, baseline: Scan, *, is_known: bool) -> None:
        self._known: dict[Key, set[Seen | None]] = {}
        self._checked: Scan = baseline if is_known else {}
        if is_known:
            for (kind, name), state in baseline.items():
                after, _ = _step(kind, None, state)
                self._known[kind, name] = {None if after is None else replace(after, pending=False)}

    def check(self, commits: Sequence[Scan], events: Iterable[tuple[Key, Payload]]) -> None:
        """`commits` since the last check, of which the last has surely been seen; `events` that came, in order."""
        came: dict[Key, list[Payload]] = {}
        for key, payload in events:
            came.setdefault(key, []).append(payload)
        keys = {key for commit in commits for key in commit} | self._known.keys() | came.keys()
        for key in sorted(keys):
            self._check(key, [commit.get(key) for commit in commits], came.get(key, []))
        self._checked = commits[-1]

    def _check(self, key: Key, states: list[State | None], came: list[Payload]) -> None:
        ways: set[tuple[Seen | None, tuple[Expected, ...]]] = {(seen, ()) for seen in self._known.get(key, {None})}
        for number, state in enumerate(states, 1):
            stepped = {_way(key[0], way, state) for way in ways}
            ways = stepped if number == len(states) else ways | stepped
        checked = self._checked.get(key)
        older = {one for state in states if state for one in state.older} - (checked.rows if checked else frozenset())
        superseded = {payload for _, payload in older}
        newest = [one for one in came if one not in superseded]
        readings = [came, newest, [*newest, *came[-1:]]]
        if older and newest[-1:] == came[-1:]:
            readings.append(newest[:-1])  # told once more, for it is what it was before an older row was seen
        fitting = {seen for seen, expected in ways if any(_fits(expected, one) for one in readings)}
        shown = sorted({tuple(tuple(map(_short, one)) for one in expected) for _, expected in ways})
        assert fitting, f"{key}: came {[_short(one) for one in came]}, expected one of {shown}"
        self._known[key] = fitting


def _way(
    kind: str, way: tuple[Seen | None, tuple[Expected, ...]], state: State | None
) -> tuple[Seen | None, tuple[Expected, ...]]:
    seen, pushed = way
    after, event = _step(kind, seen, state)
    return after, pushed if event is None else (*pushed, event)


def _fits(expected: tuple[Expected, ...], came: list[Payload]) -> bool:
    return len(expected) == len(came) and all(one in any_of for one, any_of in zip(came, expected, strict=True))


def _short(payload: Payload) -> str:
    owner, body = payload
    return f"{owner}: {body if len(body) < 200 else f'{body[:100]}...{len(body)} bytes'}"
