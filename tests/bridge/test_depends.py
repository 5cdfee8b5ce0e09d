"""`depends_on`: child tables become sections of their own, and mistakes in it are named with their line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.inspect.findings import Finding
from bridge.inspect.preflight import preflight
from bridge.mapping import parse_mapping
from storage.errors import ConfigurationError
from tests.bridge.test_mapping import MESSAGES, TASKS

EVENTS = '{ table = "events", task_id = "task" }'


def test_a_child_table_becomes_a_section_behind_those_of_the_user() -> None:
    """It is no section of the mapping, and has what its row refers to for its only field."""
    mapping = parse_mapping(f"{MESSAGES}{TASKS}depends_on = [{EVENTS}]\n")
    assert [section.number for section in mapping.sections] == [0, 1]
    (child,) = mapping.children
    assert (child.number, child.kind, child.table, child.fields) == (2, "child", "events", (("task_id", "task"),))
    assert child.feeds == ((1, "id"),)
    assert child.title == "[tasks] depends_on events"


def test_a_child_table_that_several_sections_share_is_watched_once() -> None:
    """If its rows refer to them by the same expression."""
    messages = MESSAGES + 'depends_on = [{ table = "E", conversation_id = "c" }, { table = "e", message_id = "m" }]\n'
    tasks = TASKS + 'depends_on = [{ table = "e", conversation_id = "c" }]\n'
    first, second = parse_mapping(messages + tasks).children
    assert (first.number, first.feeds) == (2, ((0, "conversation_id"), (1, "conversation_id")))
    assert (second.number, second.feeds) == (3, ((0, "id"),))


def test_what_depends_on_a_child_is_part_of_its_definition_and_not_of_its_identity() -> None:
    """Its rows stay known when another section comes to depend on it; the section's own rows are not touched."""
    plain, depending = parse_mapping(TASKS), parse_mapping(f"{TASKS}depends_on = [{EVENTS}]")
    assert plain.sections[0].definition == depending.sections[0].definition
    both = parse_mapping(f"[[tasks]]\n{TASKS[8:]}depends_on = [{EVENTS}]\n" * 2).children
    assert both[0].identity == depending.children[0].identity
    assert both[0].definition != depending.children[0].definition


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[{ table = 'e' }]", ["map.toml:7: [tasks] depends_on: say which rows", "task_id or conversation_id"]),
        ("[{ table = 'e', task_id = 'x', conversation_id = 'c' }]", ["map.toml:7", "either task_id"]),
        ("[{ table = 'e', message_id = 'x' }]", ["depends_on message_id is not a key", "there are: table,"]),
        ("[\n{ table = 'e', task_id = 'x' },\n{ tabel = 'e' }]", ["map.toml:9: ", "tabel", 'did you mean "table"']),
        ("[{ task_id = 'x' }]", ["map.toml:7: [tasks] depends_on table: is missing", "write depends_on = ["]),
        ("[{ table = 'e', task_id = 7 }]", ["map.toml:7: [tasks] depends_on task_id: ", "write depends_on = ["]),
        ("'e'", ["map.toml:7: [tasks] depends_on: ", "write depends_on = ["]),
    ],
)
def test_a_mistake_is_named_with_its_line(given: str, words: list[str]) -> None:
    """And with what is right."""
    with pytest.raises(ConfigurationError) as caught:
        parse_mapping(f"{TASKS}depends_on = {given}\n", "map.toml")
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_every_key_knows_its_line() -> None:
    """Those of a preset, and those that are left out, have the line of the preset or of the section's header."""
    text = f"{MESSAGES}\n{TASKS}\n[conversations]\ntable = 'c'\nid = 'c'\nowner = 'o'\n"
    mapping = parse_mapping(text, "map.toml")
    assert [mapping.sections[0].origins[key] for key in ("table", "where", "content")] == [
        "map.toml:2", "map.toml:1", "map.toml:6",
    ]  # fmt: skip
    assert mapping.sections[1].named("state") == "map.toml:13: [tasks] state"
    assert mapping.others[0].named("owner") == "map.toml:19: [conversations] owner"
    preset = parse_mapping("[messages]\nowner = 'o'\npreset = 'openai-agents'\n", "map.toml").sections[0]
    assert (preset.origins["owner"], preset.origins["content"]) == ("map.toml:2", "map.toml:3")


# -- check


def checked(folder: Path, schema: str, mapping: str) -> list[Finding]:
    path, target = folder / "legacy.db", folder / "map.toml"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; CREATE TABLE t(id TEXT PRIMARY KEY, c, s, o); {schema}")
    target.write_text(mapping, encoding="utf-8")
    return preflight(path, target, folder / "state", outbox_bytes=1 << 20, owner_format="any")


def test_check_names_what_does_not_fit_in_all_sections(tmp_path: Path) -> None:
    """Child tables and conversations too, each with its line and the nearest right name."""
    conversations = "[conversations]\ntable = 't'\nid = 'c'\nowner = 'o'\nname = 'titel'\n"
    mapping = f"{conversations}{TASKS}depends_on = [\n{EVENTS}, {EVENTS.replace('events', 'event')}\n]\n"
    found = checked(tmp_path, "CREATE TABLE events(id INTEGER PRIMARY KEY, tsk TEXT)", mapping)
    said = "\n".join(f"{one.what}; {one.mend}" for one in found if one.exit_code == 3)
    for words in (
        'map.toml:5: [conversations] name = "titel": no such column: titel',
        'map.toml:13: [tasks] depends_on table = "event": no such table; did you mean "events"?',
        'map.toml:13: [tasks] depends_on task_id = "task": no such column: task; did you mean "tsk"?',
    ):
        assert words in said


def test_check_says_what_a_missing_index_costs(tmp_path: Path) -> None:
    """A note, since it is the writer's to make one; none where there is one."""
    mapping = f"{TASKS}depends_on = [{EVENTS}]\n"
    found = checked(tmp_path, "CREATE TABLE events(id INTEGER PRIMARY KEY, task TEXT)", mapping)
    assert [(one.level, one.what) for one in found if "index" in one.what] == [
        (
            "note",
            "[tasks] depends_on events: no index on task: each look at a row that depends on it may read all of it",
        )
    ]
    (tmp_path / "legacy.db").unlink()
    schema = "CREATE TABLE events(id INTEGER PRIMARY KEY, task TEXT); CREATE INDEX by_task ON events(task)"
    assert checked(tmp_path, schema, mapping) == []
