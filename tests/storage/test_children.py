"""A change in a child table is a change of the rows that depend on it, and of no others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.mapping import Mapping, parse_mapping
from storage.compare import compare_children
from storage.errors import MappingMisfit
from storage.types import Change, Known, Op, Row, Section
from tests.storage.capture_rig import ENGINES, DiskFull, Killed, Rig

MAPPING = """\
[messages]
table = "messages"
where = "EXISTS (SELECT 1 FROM parts p WHERE p.message_id = messages.id)"
id = "id"
conversation_id = "chat"
role = "'user'"
content = "(SELECT json_group_array(json(p.data)) FROM parts p WHERE p.message_id = messages.id)"
owner = "(SELECT owner FROM chats WHERE chats.id = messages.chat)"
depends_on = [{ table = "parts", message_id = "message_id" }]

[tasks]
table = "tasks"
id = "id"
conversation_id = "chat"
state = "state"
history = '''(SELECT json_group_array(json_object('role', 'agent', 'text', e.text))
    FROM task_events e WHERE json_extract(e.data, '$.task') = tasks.id)'''
owner = "(SELECT owner FROM chats WHERE chats.id = tasks.chat)"
depends_on = [
    { table = "task_events", task_id = "json_extract(data, '$.task')" },
    { table = "chats", conversation_id = "id" },
]
"""
TABLES = """
CREATE TABLE chats(id TEXT PRIMARY KEY, owner TEXT);
INSERT INTO chats VALUES ('c', 'anna');
CREATE TABLE messages(id {id}, chat TEXT);
CREATE TABLE parts(id {child}, message_id {ref}, data TEXT){options};
CREATE TABLE tasks(id {id}, chat TEXT, state TEXT);
CREATE TABLE task_events(id {child}, data TEXT, text TEXT){options};
CREATE INDEX tasks_chat ON tasks(chat);
"""
SHAPES = {
    "plain": ("TEXT PRIMARY KEY", "INTEGER PRIMARY KEY", ""),
    "unindexed": ("TEXT", "TEXT PRIMARY KEY", ""),
    "numbers": ("INTEGER PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT", ""),
    "without-rowid": ("TEXT PRIMARY KEY", "INTEGER PRIMARY KEY NOT NULL", " WITHOUT ROWID"),
}


def event(number: int, task: int, text: str = "hi") -> str:
    return f"INSERT INTO task_events VALUES ({number}, '{json.dumps({'task': task})}', '{text}')"


def part(number: int, message: int, text: str = "hi") -> str:
    return f"INSERT INTO parts VALUES ({number}, {message}, '{json.dumps({'text': text})}')"


class Stage:
    """A writer, and a bridge at rest."""

    def __init__(
        self,
        folder: Path,
        shape: str = "plain",
        engine: str = "pages",
        mode: str = "wal",
        existing: str = "",
        mapping: str = MAPPING,
    ) -> None:
        self.path = folder / "legacy.db"
        self.writer = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        self.writer.execute(f"PRAGMA journal_mode={mode}")
        self.writer.execute("PRAGMA synchronous=OFF")
        id_, child, options = SHAPES[shape]
        ref = id_.partition(" ")[0]
        self.writer.executescript(TABLES.format(id=id_, child=child, options=options, ref=ref) + existing)
        self.rig = Rig(self.path, watched(parse_mapping(mapping, "map.toml")), ENGINES[engine])

    def started(self) -> Stage:
        """Attached, and every row known."""
        self.rig.start()
        self.rig.settle()
        assert self.rig.events() == []
        return self

    def commit(self, *statements: str) -> None:
        """All in one transaction."""
        self.writer.executescript("BEGIN;" + ";".join(statements) + ";COMMIT")

    def came(self, *statements: str) -> list[tuple[str, str, list[str]]]:
        """Commit, let the bridge come to rest: (id, owner, texts) of each event."""
        if statements:
            self.commit(*statements)
        self.rig.settle()
        return [(key[1], owner, texts(json.loads(body))) for key, (owner, body) in self.rig.events()]


def texts(pushed: dict[str, dict[str, list[dict[str, object]]]]) -> list[str]:
    """The texts of a message, or of a task's history."""
    if "message" in pushed:
        return [str(one["text"]) for one in pushed["message"]["content"]]
    return [str(one["text"]) for turn in pushed["task"]["history"] for one in turn["parts"]]  # type: ignore[attr-defined]


def watched(mapping: Mapping) -> list[Section]:
    return [*mapping.sections, *mapping.children]


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["wal", "delete"])
def stage(request: pytest.FixtureRequest, tmp_path: Path, shape: str, engine: str) -> Iterator[Stage]:
    stage = Stage(tmp_path, shape, engine, request.param).started()
    yield stage
    stage.rig.kill()
    stage.writer.close()


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes stages, and clears them away."""
    stages: list[Stage] = []

    def make(**given: str) -> Stage:
        stages.append(Stage(tmp_path, **given))
        return stages[-1]

    yield make
    for stage in stages:
        stage.rig.kill()
        stage.writer.close()


def test_each_change_in_a_child_row_is_a_change_of_its_task(stage: Stage) -> None:
    """Insert, update, delete, and another task: then both of them."""
    tasks = "INSERT INTO tasks VALUES (1, 'c', 'working')", "INSERT INTO tasks VALUES (2, 'c', 'working')"
    assert sorted(stage.came(*tasks)) == [("1", "anna", []), ("2", "anna", [])]
    assert stage.came(event(1, 1, "a")) == [("1", "anna", ["a"])]
    assert stage.came("UPDATE task_events SET text = 'b'") == [("1", "anna", ["b"])]
    moved = stage.came(event(1, 2, "b").replace("INSERT", "REPLACE"))
    assert sorted(moved) == [("1", "anna", []), ("2", "anna", ["b"])]
    assert stage.came("DELETE FROM task_events") == [("2", "anna", [])]
    assert stage.came(event(7, 99), part(7, 99)) == []


def test_a_message_is_pushed_once_when_it_has_its_parts(stage: Stage) -> None:
    """Its row comes first, alone; its parts in later commits. More parts, or none any more, give no second event."""
    assert stage.came("INSERT INTO messages VALUES (1, 'c')", "INSERT INTO messages VALUES (2, 'c')") == []
    assert stage.came(part(1, 1, "one"), part(2, 1, "two")) == [("1", "anna", ["one", "two"])]
    assert stage.came(part(3, 1)) == []
    assert stage.came("DELETE FROM parts") == []
    assert stage.came(part(4, 1), part(5, 2)) == [("2", "anna", ["hi"])]


def test_a_row_that_is_complete_at_once_is_pushed_once(stage: Stage) -> None:
    """The child's row and the row itself, changed in one commit, are one change."""
    assert stage.came("INSERT INTO messages VALUES (1, 'c')", part(1, 1)) == [("1", "anna", ["hi"])]
    task = "INSERT INTO tasks VALUES (1, 'c', 'working')"
    assert stage.came(task, event(1, 1)) == [("1", "anna", ["hi"])]
    assert stage.came("UPDATE tasks SET state = 'done'", event(2, 1)) == [("1", "anna", ["hi", "hi"])]


def test_rows_may_depend_on_their_conversation(stage: Stage) -> None:
    """A new owner, who is found by a join, gets the task."""
    stage.came("INSERT INTO tasks VALUES (1, 'c', 'working')", "INSERT INTO tasks VALUES (2, 'd', 'working')")
    assert stage.came("UPDATE chats SET owner = 'bert'") == [("1", "bert", [])]
    assert stage.came("INSERT INTO chats VALUES ('d', 'carl')") == [("2", "carl", [])]


def test_what_a_child_row_changed_while_the_bridge_was_down_is_pushed_once(stage: Stage) -> None:
    """Inserted, changed, deleted and moved."""
    tasks = [f"INSERT INTO tasks VALUES ({number}, 'c', 'working')" for number in (1, 2, 3, 4)]
    stage.came(*tasks, event(1, 1, "a"), event(2, 2, "b"), event(3, 3, "c"))
    stage.rig.stop()
    stage.commit("UPDATE task_events SET text = 'A' WHERE id = 1", "DELETE FROM task_events WHERE id = 2")
    stage.commit(event(3, 4, "c").replace("INSERT", "REPLACE"), "INSERT INTO messages VALUES (1, 'c')", part(1, 1))
    stage.rig.start()
    came = [("1", "anna", ["A"]), ("1", "anna", ["hi"]), ("2", "anna", []), ("3", "anna", []), ("4", "anna", ["c"])]
    assert sorted(stage.came()) == came
    stage.rig.stop()
    stage.rig.start()
    assert stage.came() == []


@pytest.mark.parametrize("where", ["decide", "record", "publish"])
@pytest.mark.parametrize("error", [Killed(), DiskFull("full")], ids=["killed", "full"])
def test_a_child_row_is_never_known_before_its_task_is(
    made: Callable[..., Stage], engine: str, where: str, error: BaseException
) -> None:
    """Whatever ends a look: the change is pushed afterwards, or is in the log already."""
    stage = made(engine=engine).started()
    stage.came("INSERT INTO tasks VALUES (1, 'c', 'working')", event(1, 1, "a"))
    stage.commit("UPDATE task_events SET text = 'b'")
    stage.rig.fails_at = where, error
    with pytest.raises(type(error)):
        stage.rig.settle()
    if isinstance(error, Killed):
        stage.rig.kill()
        stage.rig.start()
    else:
        stage.rig.capture.restart()
    assert stage.came() == [("1", "anna", ["b"])]
    assert stage.came() == []


# -- baseline


def rows(count: int) -> str:
    """As many tasks, each with five events."""
    return f"""
    WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
    INSERT INTO tasks SELECT i, 'c', 'working' FROM n;
    WITH n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {5 * count} - 1)
    INSERT INTO task_events SELECT i + 1, json_object('task', i / 5 + 1), 'old' FROM n;
    """


@pytest.mark.parametrize("turns", [1, 4, 9, 30])
def test_a_baseline_of_a_child_table_hides_no_change(
    made: Callable[..., Stage], shape: str, engine: str, turns: int
) -> None:
    """Changed, deleted, moved and added in the middle of it: the last state of each task is told, if it was known."""
    stage = made(shape=shape, engine=engine, existing=rows(12))
    stage.rig.chunk_rows = 2
    stage.rig.start()
    for _ in range(turns):
        stage.rig.turn()
    stage.commit("UPDATE task_events SET text = 'new' WHERE id = 58", "DELETE FROM task_events WHERE id = 2")
    stage.commit(event(61, 6, "more"), event(30, 11, "moved").replace("INSERT", "REPLACE"))
    stage.rig.settle()
    last = {key[1]: texts(json.loads(body)) for key, (_, body) in stage.rig.events()}
    if turns == 30:  # by then every task is known
        assert {*last} == {"12", "1", "6", "11"}
    assert last.get("12", ["new"]).count("new") == 1
    assert len(last.get("1", [""] * 4)) == 4
    assert sorted(stage.came("UPDATE task_events SET text = text")) == []
    told = {task: texts for task, _, texts in stage.came("UPDATE task_events SET text = upper(text)")}
    assert {task: len(texts) for task, texts in told.items()} == {
        str(task): {1: 4, 6: 5, 11: 6}.get(task, 5) for task in range(1, 13)
    }


def test_a_baseline_counts_the_child_table_in_its_progress(made: Callable[..., Stage]) -> None:
    """And takes it chunk by chunk; it is named after the section that depends on it."""
    stage = made(existing=rows(12))
    stage.rig.chunk_rows = 2
    stage.rig.start()
    assert "[tasks] depends_on task_events: 0 of 60" in stage.rig.capture.progress
    stage.rig.settle()
    assert stage.rig.capture.is_baselined
    stage.rig.events()


# -- cost


def test_a_change_in_a_child_row_costs_no_pass(made: Callable[..., Stage]) -> None:
    """A look reads the row that changed and the task that it is of, however many there are of either."""
    stage = made(existing=rows(200)).started()
    stage.came("UPDATE task_events SET text = 'a' WHERE id = 500")  # the first look at a page reads its rows
    before = stage.rig.capture.rows_read, stage.rig.capture.passes
    for text in "bcdef":
        assert len(stage.came(f"UPDATE task_events SET text = '{text}' WHERE id = 500")) == 1
    assert stage.rig.capture.passes == before[1]
    assert stage.rig.capture.rows_read - before[0] <= 5 * 4


def test_a_commit_that_names_very_many_tasks_is_a_pass(
    made: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded steps, and every task is told."""
    monkeypatch.setattr("storage.children.PARENT_ROWS", 10)
    stage = made(existing=rows(30)).started()
    passes = stage.rig.capture.passes
    assert len(stage.came("UPDATE task_events SET text = 'new' WHERE id % 5 = 0")) == 30
    assert stage.rig.capture.passes == passes + 1


# -- what does not fit


def test_a_child_row_that_cannot_be_read_is_counted_until_it_is_mended(made: Callable[..., Stage]) -> None:
    """Its task is told that it is gone, and that it is back."""
    mapping = MAPPING.replace("json_extract(e.data, '$.task') = tasks.id", "e.data LIKE '%' || tasks.id || '%'")
    stage = made(mapping=mapping).started()
    stage.came("INSERT INTO tasks VALUES (1, 'c', 'working')", event(1, 1, "a"))
    assert stage.came("UPDATE task_events SET data = '{'") == [("1", "anna", [])]
    assert stage.rig.capture.failed_rows == 1
    assert stage.came("UPDATE task_events SET data = '{\"task\": 1}'") == [("1", "anna", ["a"])]
    assert stage.rig.capture.failed_rows == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"task_events"', '"task_event"', ['map.toml:20: [tasks] depends_on table = "task_event"', '"task_events"']),
        ("json_extract(data,", "json_extract(dta,", ["map.toml:20: [tasks] depends_on task_id", "dta", '"data"']),
        ('conversation_id = "id" }', 'conversation_id = "idd" }', ["map.toml:21: [tasks] depends_on", "idd", '"id"']),
        ("FROM task_events e", "FROM task_evnts e", ["map.toml:16: [tasks] history", "task_evnts", '"task_events"']),
        ("e.text)", "e.txt)", ["map.toml:16: [tasks] history", "txt", '"text"']),
        (
            "SELECT json_group_array(json(p.data))",
            "SELECT json_group_aray(p.data)",
            ["map.toml:7: [messages] content", "json_group_array"],
        ),
    ],
)
def test_a_dependency_that_does_not_fit_is_refused_by_name(
    made: Callable[..., Stage], old: str, new: str, words: list[str]
) -> None:
    """With its line, and the nearest name that there is."""
    assert MAPPING.count(old) == 1
    stage = made(mapping=MAPPING.replace(old, new))
    with pytest.raises(MappingMisfit) as caught:
        stage.rig.start()
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_child_table_that_vanishes_pauses_and_comes_back(made: Callable[..., Stage]) -> None:
    """As any table that the mapping names; what changed meanwhile is told."""
    stage = made().started()
    stage.came("INSERT INTO tasks VALUES (1, 'c', 'working')", event(1, 1, "a"))
    assert stage.came("ALTER TABLE task_events RENAME TO gone") == []
    assert any("task_events" in misfit for misfit in stage.rig.capture.misfits)
    assert stage.came("ALTER TABLE gone RENAME TO task_events", "UPDATE task_events SET text = 'b'") == [
        ("1", "anna", ["b"])
    ]


# -- the comparison alone

CHILD = Section(2, "tasks", "child", "task_events", (("task_id", "task"),), feeds=((1, "id"),))


def row(loc: int, digest: bytes, parent: bytes) -> Row:
    return Row(loc, digest, (parent,))


def known(loc: int, digest: bytes, parent: bytes) -> Known:
    return Known(loc, b"key", digest, parent)


def test_a_child_row_is_known_by_where_it_stands() -> None:
    """New, changed, unchanged and gone."""
    rows = [row(1, b"a", b"t1"), row(2, b"B", b"t2"), row(4, b"d", b"t1")]
    before = [known(1, b"a", b"t1"), known(2, b"b", b"t1"), known(3, b"c", b"t9")]
    assert compare_children(CHILD, rows, before) == [
        Change(CHILD, Op.CHANGED, rows[1], before[1]),
        Change(CHILD, Op.NEW, rows[2], None),
        Change(CHILD, Op.GONE, None, before[2]),
    ]
