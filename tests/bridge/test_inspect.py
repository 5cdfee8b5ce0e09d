"""Inspect: databases that it has never seen, and what it makes of them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bridge.discover import mapping_for
from bridge.inspect.inspection import Inspection, as_json, inspect_database, save
from bridge.inspect.toml import string
from bridge.inspect.words import OWNER, bare_state, role_of, tokens_of, weight
from bridge.mapping import load_mapping, parse_mapping
from storage.errors import DatabaseUnusable, MappingMisfit
from tests.bridge.inspect_schemas import SCHEMAS, Schema, said
from tests.bridge.inspect_score import BEGIN, DOCS, END, inspected, misses, table
from tests.bridge.inspect_writers import WRITERS

MAPPED = [schema for schema in (*WRITERS, *SCHEMAS) if "note" not in schema.expected]


def looked_at(folder: Path, *statements: str, rows: list[tuple[object, ...]] | None = None) -> Inspection:
    """The look at a database of these statements; the last is run for each of the rows."""
    path = folder / "legacy.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements[:-1] if rows else statements:
            connection.execute(statement)
        connection.executemany(statements[-1], rows or [])
    return inspect_database(path)


@pytest.mark.parametrize("schema", MAPPED, ids=lambda schema: schema.name)
def test_a_schema_never_seen_is_mapped_as_a_person_would(schema: Schema, tmp_path: Path) -> None:
    """Tables, ids, roles, contents, states and owners, presets off."""
    assert misses(schema, inspected(schema, tmp_path)) == []


@pytest.mark.parametrize("schema", MAPPED, ids=lambda schema: schema.name)
def test_a_proposal_is_a_mapping_that_fits(schema: Schema, tmp_path: Path) -> None:
    """The saved file parses, every row of the newest renders, and three samples at most are shown."""
    looked = inspected(schema, tmp_path)
    target = tmp_path / "mapping.toml"
    save(looked, target)
    assert len(load_mapping(target).sections) == len(looked.trials)
    assert all(not tried.bad and tried.read for tried in looked.trials)
    assert 1 <= len(looked.samples) <= 3
    json.dumps(as_json(looked))


def test_every_line_has_a_confidence_and_a_reason(tmp_path: Path) -> None:
    """In the file they stand above the line."""
    looked = inspected(WRITERS[1], tmp_path)
    for draft in looked.drafts:
        assert all(0 <= choice.score <= 1 and choice.reason for choice in draft.lines.values())
    lines = looked.text.splitlines()
    owner = next(number for number, line in enumerate(lines) if line.startswith("owner"))
    assert lines[owner - 1].startswith("# CONFIRM (50 %): no owner column; session_id looks like OWNER/CONV")


def test_rows_that_are_no_messages_are_left_out(tmp_path: Path) -> None:
    """Calls of tools share the table: they have no role."""
    looked = inspected(WRITERS[1], tmp_path)
    (messages,) = [draft for draft in looked.drafts if draft.kind == "messages"]
    assert messages.condition is not None
    assert "json_extract(message_data, '$.role') IS NOT NULL" in messages.condition


def test_a_streaming_writers_empty_message_is_waited_for(tmp_path: Path) -> None:
    """It becomes a message when it is filled."""
    rows: list[tuple[object, ...]] = [
        (f"c{n % 3}", ("user", "assistant")[n % 2], said(n) if n < 29 else "", "u1") for n in range(30)
    ]
    looked = looked_at(
        tmp_path,
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, chat_id TEXT, role TEXT, content TEXT, user_id TEXT)",
        "INSERT INTO messages(chat_id, role, content, user_id) VALUES (?, ?, ?, ?)",
        rows=rows,
    )
    assert looked.drafts[-1].condition == "content <> ''"


def test_an_owner_that_only_the_users_rows_carry_stands_for_the_conversation(tmp_path: Path) -> None:
    """The assistant's rows have none of their own."""
    rows: list[tuple[object, ...]] = [
        (f"c{n % 4}", ("user", "assistant")[n // 4 % 2], said(n), f"wallet-{n % 4 % 2}" if n // 4 % 2 == 0 else None)
        for n in range(40)
    ]  # fmt: skip
    looked = looked_at(
        tmp_path,
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, chat_id TEXT, role TEXT, content TEXT, wallet TEXT)",
        "INSERT INTO messages(chat_id, role, content, wallet) VALUES (?, ?, ?, ?)",
        rows=rows,
    )
    (tried,) = looked.trials
    assert tried.unowned == 0
    assert tried.owners == {"wallet-0", "wallet-1"}


def test_no_owner_in_the_data_is_said_and_nobody_gets_anything(tmp_path: Path) -> None:
    """The way out of one fixed owner is named; the saved mapping is valid and sends to nobody."""
    looked = inspected(WRITERS[-1], tmp_path)
    assert any("owner = \"'NAME'\"" in line for line in looked.missing)
    assert not looked.is_certain
    assert all(tried.unowned == tried.read for tried in looked.trials)


def test_an_empty_database_is_never_certain(tmp_path: Path) -> None:
    """Names alone do not tell."""
    looked = looked_at(
        tmp_path,
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, conversation_id TEXT, role TEXT, content TEXT, user_id TEXT)",
    )
    assert [draft.table.name for draft in looked.drafts] == ["messages"]
    assert not looked.is_certain


def test_a_table_without_rowid_is_named_with_its_engine(tmp_path: Path) -> None:
    """No page tells its rows."""
    rows: list[tuple[object, ...]] = [
        (f"m{n}", f"c{n % 3}", ("user", "assistant")[n % 2], said(n), "u1") for n in range(30)
    ]
    looked = looked_at(
        tmp_path,
        "CREATE TABLE messages(id TEXT PRIMARY KEY, chat_id TEXT, role TEXT, content TEXT, user_id TEXT) WITHOUT ROWID",
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
        rows=rows,
    )
    assert any("WITHOUT ROWID" in line for line in looked.notes)


def test_a_table_of_other_things_is_no_message_and_no_task(tmp_path: Path) -> None:
    """Users with a status, products with a description: exit 3 with what there is."""
    with pytest.raises(MappingMisfit, match="its tables are: users, products"):
        looked_at(
            tmp_path,
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, status TEXT)",
            "CREATE TABLE products(id INTEGER PRIMARY KEY, title TEXT, description TEXT)",
            "INSERT INTO users VALUES (1, 'n', 'active')",
            "INSERT INTO products VALUES (1, 't', 'a very good product')",
        )


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """Not with a traceback."""
    path = tmp_path / "notes.txt"
    path.write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(DatabaseUnusable):
        inspect_database(path)


def test_the_database_is_not_written_to(tmp_path: Path) -> None:
    """Byte for byte as before."""
    path = WRITERS[0].build(tmp_path / "a.db")
    before = path.read_bytes()
    inspect_database(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


def test_names_are_read_however_they_are_written() -> None:
    """Camel case, snake case, glued."""
    assert tokens_of("threadId") == tokens_of("thread_id") == tokens_of("threadid") == ("thread", "id")
    assert weight("walletAddress", OWNER) == weight("wallet_address", OWNER) == 1
    assert role_of("HumanMessage") == role_of("user_message") == role_of("ROLE_USER") == "user"
    assert bare_state("TASK_STATE_INPUT_REQUIRED") == "input-required"


@pytest.mark.parametrize(
    "text", ["plain", 'a "quoted" name', "it's", "both ' and \"", "back\\slash", "line\nbreak", "\x07", "编号"]
)
def test_any_expression_survives_the_file(text: str) -> None:
    """A TOML string gives back what was put in."""
    document = f"[tasks]\ntable = {string(text)}\nid = 'i'\nowner = 'o'\nconversation_id = 'c'\nstate = 's'\n"
    assert parse_mapping(document).sections[0].table == text


def test_serve_takes_what_is_certain_and_refuses_the_rest(tmp_path: Path) -> None:
    """A doubt is named with the way to a mapping file."""
    certain = mapping_for(SCHEMAS[1].build(tmp_path / "german.db"), None, wait=False)
    assert [section.table for section in certain.sections] == ["nachrichten"]
    with pytest.raises(MappingMisfit, match=r"no mapping is certain .*not certain: \[messages\] owner") as refused:
        mapping_for(WRITERS[1].build(tmp_path / "ids.db"), None, wait=False)
    assert "walcast inspect" in refused.value.hint


def test_the_table_in_the_docs_is_what_the_script_makes() -> None:
    """`python -m tests.bridge.inspect_score` writes it anew."""
    page = DOCS.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table()
