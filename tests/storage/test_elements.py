"""Sections with `each`, rule by rule: what the call may be, and which elements of an array are pushed, in order."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from storage.elements import ElementReader, parse_call, reader_for
from storage.errors import MappingMisfit
from storage.legacy import connect
from storage.types import Section, key_of
from tests.storage.capture_rig import ENGINES, Rig

EACH = "json_each(chats.doc, '$.messages')"
TABLE = "CREATE TABLE chats(id TEXT PRIMARY KEY, owner TEXT, type TEXT, value TEXT, doc TEXT)"


def field(name: str) -> str:
    return f"json_extract(value, '$.{name}')"


def section(each: str = EACH, where: str | None = None, kind: str = "message", **given: str) -> Section:
    fields = {"id": field("id"), "owner": "owner", "conversation_id": "chats.id"}
    fields |= {"role": "'user'", "content": field("text")} if kind == "message" else {"session_id": "'s'"}
    if kind == "task":
        fields |= {"state": field("text")} | dict.fromkeys(
            ("status_message", "timestamp", "history", "artifacts"), "NULL"
        )
    return Section(0, "messages", kind, "chats", tuple((fields | given).items()), where, each=each)  # type: ignore[arg-type]


def elements(*names: str | tuple[str | None, str] | None) -> str:
    """A document; a name is an id, or an id and its text."""
    pairs = [name if isinstance(name, tuple) else (name, "x") for name in names]
    return json.dumps({"messages": [{"id": number, "text": text} for number, text in pairs]})


# -- what a mapping may say


@pytest.fixture
def legacy(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.execute(TABLE)
        with closing(connect(tmp_path / "legacy.db")) as connection:
            yield connection


@pytest.mark.parametrize(
    ("each", "arguments", "name"),
    [
        ("json_each(doc)", "doc", "json_each"),
        (" JSON_TREE ( chats.doc , '$.a' ) ", " chats.doc , '$.a' ", "JSON_TREE"),
        ("json_each(doc, '$.\")\"') AS e", "doc, '$.\")\"'", "e"),
        ("json_each(CAST(doc AS TEXT), '$.m') e", "CAST(doc AS TEXT), '$.m'", "e"),
        ("json_each((SELECT doc FROM chats c WHERE c.id = chats.id /* ) */))", None, "json_each"),
    ],
)
def test_one_call_of_a_json_table_is_taken(each: str, arguments: str | None, name: str) -> None:
    """With any arguments, and with a name of its own."""
    call = parse_call(each)
    assert call is not None
    assert (call.arguments, call.name) == (arguments or each[10:-1], name)


@pytest.mark.parametrize(
    ("each", "said"),
    [
        ("messages", "is not one call"),
        ("json_each()", "is not one call"),
        ("json_each(doc", "is not one call"),
        ("json_each(doc) JOIN chats", "is not one call"),
        ("json_each(doc), json_each(doc)", "is not one call"),
        ("json_each(doc) WHERE 1", "is not one call"),
        ("json_each(doc); DELETE FROM chats", "is not one call"),
        ("pragma_table_info('chats')", "is not one call"),
        ("(SELECT 1 AS value)", "is not one call"),
        ("json_each(dox)", 'did you mean "doc"?'),
        ("json_each(chats.dco, '$.m')", 'did you mean "doc"?'),
        ("json_each(key)", "no such column"),
        ("json_each(type)", "chats.type"),
        ("json_each(doc, '$', 1)", "too many arguments"),
        ("json_each(random())", "refused"),
        ("json_each(json_array(datetime('now')))", "present time"),
        ("json_each(max(doc))", "misuse of aggregate"),
        ("json_each(?)", "binding"),
        ('json_each("dox")', 'no column "dox"'),
    ],
)
def test_anything_else_is_refused_with_its_mend(legacy: sqlite3.Connection, each: str, said: str) -> None:
    """It names the section and the key, says why, and how to mend it."""
    with pytest.raises(MappingMisfit) as caught:
        reader_for(legacy, section(each))
    told = f"{caught.value}"
    assert told.startswith(f'[messages] each = "{each}"'), told
    assert said in told, told
    assert caught.value.hint


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("id", b"c1"),
        ("chats.id", b"c1"),
        ("id || ':' || key", b"c1:0"),
        ("type", b"row"),
        ("json_each.type", b"object"),
        ("chats.value", b"of the row"),
        ("json_extract(value, '$.id')", b"m1"),
        ('json_extract("value", \'$.id\') || "id"', b"m1c1"),
        ("(SELECT max(c.id) FROM chats c WHERE c.id = chats.id) || type", b"c1row"),
        ("fullkey", b"$.messages[0]"),
    ],
)
def test_a_name_of_both_is_the_rows_but_for_key_and_value(
    tmp_path: Path, legacy: sqlite3.Connection, expression: str, value: bytes
) -> None:
    """SQLite calls it ambiguous; most tables have an `id`, and so has each element."""
    with closing(sqlite3.connect(tmp_path / "legacy.db")) as writer:
        writer.execute("INSERT INTO chats VALUES ('c1', 'w', 'row', 'of the row', ?)", (elements("m1"),))
        writer.commit()
    reader = reader_for(legacy, section(content=expression))
    [row] = reader.chunk(None, 10).rows
    assert row.values[-1] == value


@pytest.mark.parametrize("expression", ["bdoy", "id || bdoy", "max(id)", "id || random()", "json_each.bdoy"])
def test_a_field_that_does_not_fit_is_named(legacy: sqlite3.Connection, expression: str) -> None:
    """As it stands in the mapping, whatever was made of it."""
    with pytest.raises(MappingMisfit) as caught:
        reader_for(legacy, section(content=expression))
    assert str(caught.value).startswith(f'[messages] content = "{expression}"')


# -- reading


@pytest.mark.parametrize("stored", ["text", "blob"])
def test_json_in_a_blob_is_read_through_a_cast(tmp_path: Path, stored: str) -> None:
    """From SQLite 3.45 on a BLOB would else be taken for SQLite's own binary JSON."""
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.execute(TABLE)
        writer.execute(f"INSERT INTO chats(id, doc) VALUES ('c1', CAST(? AS {stored}))", (elements("m1", "m2"),))
        with closing(connect(tmp_path / "legacy.db")) as connection:
            reader = reader_for(connection, section("json_each(CAST(doc AS TEXT), '$.messages')"))
            assert [row.values[0] for row in reader.chunk(None, 10).rows] == [b"m1", b"m2"]


def test_a_chunk_counts_rows_of_the_table_and_cuts_none_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it ends because it grew too big."""
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.execute(TABLE)
        for chat in "abc":
            writer.execute("INSERT INTO chats(id, doc) VALUES (?, ?)", (chat, elements(f"{chat}1", f"{chat}2")))
        with closing(connect(tmp_path / "legacy.db")) as connection:
            reader = reader_for(connection, section())
            assert [len(reader.chunk(None, limit).rows) for limit in (1, 2, 3)] == [2, 4, 6]
            monkeypatch.setattr("storage.reader.CHUNK_BYTES", 1)
            chunk = reader.chunk(None, 3)
            assert ([row.loc for row in chunk.rows], chunk.last) == ([1, 1], (1,))
            assert isinstance(reader, ElementReader)
            assert reader.holds(1, key_of(b"a2"), filtered=True)
            assert not reader.holds(2, key_of(b"a2"), filtered=True)
            writer.execute("UPDATE chats SET doc = ? WHERE id = 'a'", (elements("a1"),))
            assert not reader.holds(1, key_of(b"a2"), filtered=True)


# -- what is pushed


class Stage:
    """A writer of documents, a bridge at rest, and what came since the last question."""

    def __init__(self, folder: Path, engine: str, mode: str, mapped: Sequence[Section], *existing: str) -> None:
        self.writer = sqlite3.connect(folder / "legacy.db", isolation_level=None, timeout=0)
        self.writer.execute(f"PRAGMA journal_mode={mode}")
        self.writer.execute(TABLE)
        for number, doc in enumerate(existing, 1):
            self.put(f"c{number}", doc)
        self.rig = Rig(folder / "legacy.db", mapped, ENGINES[engine])
        self.rig.start()
        self.came()

    def put(self, chat: str, doc: str, owner: str | None = "W", verb: str = "upsert") -> None:
        """Write a document whole."""
        upsert = " ON CONFLICT(id) DO UPDATE SET doc = excluded.doc, owner = excluded.owner" if verb == "upsert" else ""
        self.writer.execute(
            f"{'INSERT' if upsert else verb} INTO chats(id, owner, doc) VALUES (?, ?, ?){upsert}", (chat, owner, doc)
        )

    def came(self) -> list[str]:
        """The ids of the events."""
        self.rig.settle()
        return [key[1] for key, _ in self.rig.events()]

    def came_after(self, chat: str, doc: str, owner: str | None = "W", verb: str = "upsert") -> list[str]:
        """Write a document, let the bridge come to rest."""
        self.put(chat, doc, owner, verb)
        return self.came()

    def end(self) -> None:
        self.rig.kill()
        self.writer.close()


@pytest.fixture(params=[f"{engine}-{mode}" for engine in sorted(ENGINES) for mode in ("wal", "delete")])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    engine, mode = request.param.split("-")
    stage = Stage(tmp_path, engine, mode, [section(where=f"{field('text')} <> 'draft'")], elements("old"))
    yield stage
    stage.end()


def test_rewriting_a_document_pushes_the_elements_that_are_new_in_their_order(stage: Stage) -> None:
    """Ids say nothing of the order; and what was there before is not pushed again."""
    assert stage.came_after("c1", elements("old", "z", "a", "m")) == ["z", "a", "m"]
    assert stage.came_after("c1", elements("b", "old", "z", "a", "m", "c")) == ["b", "c"]
    assert stage.came_after("c2", elements("y", "x")) == ["y", "x"]
    assert stage.came_after("c2", elements("x", "y"), verb="REPLACE") == []


def test_an_element_that_is_edited_is_not_new(stage: Stage) -> None:
    """Nor is one that leaves `where` and comes back; one that comes to fulfil it for the first time is."""
    assert stage.came_after("c1", elements(("old", "edited"), ("n", "draft"))) == []
    assert stage.came_after("c1", elements(("old", "draft"), ("n", "done"))) == ["n"]
    assert stage.came_after("c1", elements(("old", "again"), ("n", "done"))) == []


def test_an_element_that_was_taken_out_and_comes_again_is_new(stage: Stage) -> None:
    """As a row that was deleted; and with its row all its elements go."""
    assert stage.came_after("c1", elements()) == []
    assert stage.came_after("c1", elements("old", "n")) == ["old", "n"]
    stage.writer.execute("DELETE FROM chats")
    assert stage.came() == []
    assert stage.came_after("c1", elements("n", "old")) == ["n", "old"]


def test_a_row_that_moves_repeats_nothing(stage: Stage) -> None:
    """REPLACE on a text key gives another rowid, VACUUM may."""
    stage.put("c2", elements("a", "b"))
    stage.came()
    assert stage.came_after("c1", elements("old", "n"), verb="REPLACE") == ["n"]
    stage.writer.execute("DELETE FROM chats WHERE id = 'c2'")
    stage.writer.execute("VACUUM")
    assert stage.came() == []
    assert stage.came_after("c1", elements("old", "n", "m"), verb="REPLACE") == ["m"]


@pytest.mark.parametrize("verb", ["upsert", "REPLACE"])
def test_a_document_that_cannot_be_read_waits_and_repeats_nothing(stage: Stage, verb: str) -> None:
    """It is a failed row; others go on; mended, it gives what is new in it."""
    stage.put("c2", elements("a"))
    assert stage.came() == ["a"]
    assert stage.came_after("c2", elements("a", "b")[:-3], verb=verb) == []
    assert stage.rig.capture.failed_rows == 1
    assert stage.came_after("c1", elements("old", "n")) == ["n"]
    stage.rig.kill()
    stage.rig.start()
    assert stage.came() == []
    assert stage.came_after("c2", elements("a", "b"), verb=verb) == ["b"]
    assert stage.rig.capture.failed_rows == 0
    assert stage.came_after("c2", elements("b"), verb=verb) == []
    assert stage.came_after("c2", elements("b", "a"), verb=verb) == ["a"]


def test_an_element_without_an_id_is_a_failed_row_until_it_has_one(stage: Stage) -> None:
    """As a row is whose id is NULL; the elements beside it are pushed meanwhile."""
    assert stage.came_after("c1", elements("old", None, "n")) == ["n"]
    assert stage.rig.capture.failed_rows == 1
    assert stage.came_after("c1", elements("old", None, "n", "m")) == ["m"]
    assert stage.rig.capture.failed_rows == 1
    assert stage.came_after("c1", elements("old", "late", "n", "m")) == ["late"]
    assert stage.rig.capture.failed_rows == 0


def test_a_late_owner_gets_every_element_once(stage: Stage) -> None:
    """In their order."""
    assert stage.came_after("c2", elements("b", "a"), None) == []
    assert stage.came_after("c2", elements("b", "a"), "W") == ["b", "a"]
    assert stage.came_after("c2", elements("b", "a"), "V") == []


def test_the_same_id_twice_in_an_array_is_one_message(stage: Stage) -> None:
    """The first of them; and when that one is gone the other stands for it."""
    assert stage.came_after("c1", elements("old", "n", ("n", "other"))) == ["n"]
    assert stage.came_after("c1", elements("old", ("n", "other"))) == []


def test_the_same_id_in_two_rows_is_one_message(stage: Stage) -> None:
    """As with rows: when the one is gone the other stands for it, which makes it one of another conversation."""
    stage.put("c2", elements("old", "n"))
    assert stage.came() == ["n"]
    assert stage.came_after("c1", elements()) == ["old"]
    assert stage.came_after("c2", elements("old", "n", "m")) == ["m"]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_of_a_task_that_is_twice_in_an_array_the_later_counts(tmp_path: Path, engine: str) -> None:
    """Any change of it is an update; a change of the earlier is none."""
    stage = Stage(tmp_path, engine, "wal", [section(kind="task")], elements(("t", "1")))
    try:
        assert stage.came_after("c1", elements(("t", "1"), ("t", "2"))) == ["t"]
        assert stage.came_after("c1", elements(("t", "5"), ("t", "2"))) == []
        assert stage.came_after("c1", elements(("t", "5"), ("t", "3"), ("u", "1"))) == ["t", "u"]
        assert stage.came_after("c1", elements(("t", "5"))) == ["t"]
    finally:
        stage.end()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_one_element_more_in_a_big_document_costs_one_row(tmp_path: Path, mode: str) -> None:
    """Ten thousand elements of five megabytes: one row is read, one is remembered, one event comes."""
    names = [(f"m{number}", "x" * 480) for number in range(10_000)]
    stage = Stage(tmp_path, "pages", mode, [section()], elements(*names))
    try:
        before, known = stage.rig.capture.rows_read, stage.rig.state.count_known(section())
        assert known == 10_000
        assert stage.came_after("c1", elements(*names, "one more")) == ["one more"]
        assert stage.rig.state.count_known(section()) == known + 1
        if mode == "wal":  # where no hint can be missed
            assert stage.rig.capture.rows_read == before + 1
    finally:
        stage.end()


def test_an_element_that_comes_before_the_baseline_is_taken_is_not_lost(tmp_path: Path) -> None:
    """Which of its page were there before cannot be told, so all of them come; of rows that were taken only the new."""
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=wal")
        writer.execute(TABLE)
        for chat in "abcdef":
            writer.execute("INSERT INTO chats(id, owner, doc) VALUES (?, 'W', ?)", (chat, elements(f"{chat}1")))
        rig = Rig(tmp_path / "legacy.db", [section()], ENGINES["pages"])
        rig.chunk_rows = 1
        rig.start()
        try:
            while (rig.capture.watched[0].position or 0) < 2:
                rig.turn()
            for chat in "af":
                writer.execute("UPDATE chats SET doc = ? WHERE id = ?", (elements(f"{chat}1", f"{chat}2"), chat))
            rig.settle()
            came = [key[1] for key, _ in rig.events()]
            assert {"a2", "f1", "f2"} <= {*came} <= {"a2", "c1", "d1", "e1", "f1", "f2"}
            assert len(came) == len({*came})
        finally:
            rig.kill()


def test_another_each_takes_the_baseline_anew_and_other_sections_keep_theirs(tmp_path: Path) -> None:
    """What is an element of which array is part of who it is."""
    plain = Section(0, "messages", "message", "chats", section().fields)
    assert section().identity != section("json_each(doc)").identity
    assert plain.identity == repr(("message", "chats", field("id")))
