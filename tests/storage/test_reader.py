"""Rows of a section through SQL: what an expression may be, and that one bad row harms no other."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from storage import reader as reader_module
from storage.errors import MappingMisfit
from storage.legacy import connect
from storage.names import table_names
from storage.reader import SectionReader
from storage.types import Section, key_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "CREATE TABLE m(id TEXT, owner TEXT, c TEXT, body TEXT);"
            "CREATE TABLE other(x TEXT); CREATE VIEW v AS SELECT * FROM m;"
        )
        yield connection


@pytest.fixture
def legacy(path: Path, writer: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        yield connection


def section(content: str = "body", where: str | None = None, table: str = "m", key: str = "id") -> Section:
    fields = (("id", key), ("owner", "owner"), ("conversation_id", "c"), ("content", content))
    return Section(0, "messages", "message", table, fields, where)


def misfit(legacy: sqlite3.Connection, given: Section) -> str:
    with pytest.raises(MappingMisfit) as caught:
        SectionReader(legacy, given)
    return str(caught.value)


# -- what is refused


@pytest.mark.parametrize(
    "expression",
    [
        "DELETE FROM m",
        "(DELETE FROM m RETURNING id)",
        "1; DELETE FROM m",
        "1); DELETE FROM m; SELECT (1",
        "body) FROM m; --",
        "ATTACH 'x' AS y",
        "PRAGMA user_version = 1",
        "(SELECT * FROM pragma_user_version)",
        "(SELECT * FROM pragma_function_list)",
        "load_extension('x')",
        "writefile('x', 'y')",
        "readfile('x')",
        "random()",
        "RANDOM()",
        "hex(randomblob(4))",
        "changes()",
        "total_changes()",
        "last_insert_rowid()",
        "current_timestamp",
        "julianday('now')",
        "datetime()",
        "CURRENT_DATE",
        "current_time",
        "count(*)",
        "max(body)",
        "group_concat(body)",
        "row_number() OVER ()",
        "?",
        ":name",
        "?1",
        "body, body",
        "*",
        "m.*",
        "(SELECT 1, 2)",
        "",
        "bdoy",
        "m.bdoy",
        "nosuch(body)",
        "(SELECT x FROM nosuch)",
        '"bdoy"',
        'json_extract(body, "$.text")',
        "body FROM other",
        "(body",
        "body)",
        "RAISE(ABORT, 'x')",
        "body), (body",
        "id) FROM m UNION SELECT (1",
        "'unclosed",
        "/* unclosed",
        "CASE WHEN",
        "x'0'",
        "body\0",
        "\ud800",
    ],
)
@pytest.mark.parametrize("place", ["content", "where", "id"])
def test_what_is_not_one_expression_that_only_reads_is_refused(
    legacy: sqlite3.Connection, writer: sqlite3.Connection, expression: str, place: str
) -> None:
    """Refused when it is prepared, naming the field it stands in; and nothing was done."""
    if place == "where" and expression == "body FROM other":
        expression = "body FROM other --"
    given = {"content": section(expression), "where": section(where=expression), "id": section(key=expression)}[place]
    said = misfit(legacy, given)
    assert said.startswith(f"[messages] {place} = ")
    assert writer.execute("SELECT count(*) FROM m").fetchone() == (0,)


@pytest.mark.parametrize(
    "expression",
    [
        "body",
        "m.body",
        '"body"',
        "[body]",
        "`body`",
        "m.rowid",
        "NULL",
        "'text'",
        "1 + 1",
        "json_extract(body, '$.text')",
        "(SELECT x FROM other LIMIT 1)",
        "(SELECT group_concat(x) FROM other)",
        "(SELECT max(x) FROM other o WHERE o.x = m.body)",
        "body -- with a remark",
        "body /* with a remark */",
        "CASE WHEN body IS NULL THEN 'a' ELSE \"body\" END",
        "EXISTS (SELECT 1)",
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n)",
        "max(body, c)",
        "'it''s \"quoted\"'",
        "json_group_array(1) FILTER (WHERE 0) OVER (ORDER BY 1)",
        "printf('%s', body)",
        "body COLLATE nocase",
    ],
)
def test_any_expression_that_only_reads_is_taken(
    legacy: sqlite3.Connection, writer: sqlite3.Connection, expression: str
) -> None:
    """SQLite's own language, with remarks, sub-selects and its three ways to quote."""
    if "OVER" in expression:
        expression = f"(SELECT {expression})"
    writer.execute("INSERT INTO m VALUES ('a', 'W', 'c', '{\"text\": 1}')")
    assert len(SectionReader(legacy, section(expression)).chunk(None, 10).rows) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (section(table="mm"), 'no such table; did you mean "m"?'),
        (section(table="zzzzz"), "tables there are: m, other, v"),
        (section(table="v"), "is a view; name the table behind it"),
        (section("bdoy"), 'no such column: bdoy; did you mean "body"?'),
        (section('"bdoy"'), 'no column "bdoy"; did you mean "body"? (text stands in \'single quotes\')'),
        (section("random()"), "is refused"),
    ],
)
def test_a_misfit_says_what_was_probably_meant(legacy: sqlite3.Connection, given: Section, said: str) -> None:
    """The nearest name that there is, or all of them."""
    assert said in misfit(legacy, given)


def test_table_and_column_names_may_be_anything(
    path: Path, writer: sqlite3.Connection, legacy: sqlite3.Connection
) -> None:
    """Quotes and blanks in them, other scripts, and another case than was declared."""
    writer.execute('CREATE TABLE "my ""消息"(id, owner, c, body)')
    writer.execute('INSERT INTO "my ""消息" VALUES (1, 2, 3, 4)')
    assert SectionReader(legacy, section(table='my "消息')).chunk(None, 9).rows[0].values == (1, 2, 3, 4)
    assert SectionReader(legacy, section(table="M")).count() == 0
    assert table_names(legacy) == ["m", 'my "消息', "other"]


# -- rows


def test_a_row_has_its_place_its_key_and_its_digest(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """TEXT comes as bytes, whatever is in it; equal values give equal digests, and no others do."""
    writer.executemany(
        "INSERT INTO m VALUES (?, ?, ?, CAST(? AS TEXT))",
        [("a", "W", "c", b"\xff"), ("a", "W", "c", b"x"), ("a", "W", "c", b"x")],
    )
    rows = SectionReader(legacy, section()).chunk(None, 10).rows
    assert [row.loc for row in rows] == [1, 2, 3]
    assert rows[0].values == (b"a", b"W", b"c", b"\xff")
    assert rows[0].key == key_of(b"a")
    assert rows[0].digest != rows[1].digest == rows[2].digest


def test_where_chooses_rows_and_null_is_no(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """As in SQL, in chunks and at places alike."""
    writer.executemany("INSERT INTO m VALUES (?, 'W', 'c', ?)", [("a", "x"), ("b", None), ("c", "y")])
    reader = SectionReader(legacy, section(where="body <> 'y' -- remark"))
    assert [row.loc for row in reader.chunk(None, 10).rows] == [1]
    assert [row.loc for row in reader.at([1, 2, 3]).rows] == [1]
    assert reader.key_at(3, filtered=True) is None
    assert reader.key_at(3, filtered=False) == key_of(b"c")
    assert reader.key_at(9, filtered=False) is None
    assert reader.all_keys(filtered=False).keys() == {1, 2, 3}
    assert reader.all_keys(filtered=True) == {1: key_of(b"a")}


@pytest.mark.parametrize(
    "declared",
    [
        "id INTEGER PRIMARY KEY, owner, c, body",
        "id INTEGER PRIMARY KEY AUTOINCREMENT, owner, c, body",
        "id, owner, c, body",
        "id PRIMARY KEY, owner, c, body) WITHOUT ROWID --",
        "id, owner, c, body, PRIMARY KEY(c, id)) WITHOUT ROWID --",
        "id, owner, c, body, PRIMARY KEY(id DESC)) WITHOUT ROWID --",
        "rowid, id, owner, c, body",
        "rowid, oid, _rowid_, id, owner, c, body",
        "id TEXT COLLATE nocase PRIMARY KEY, owner, c, body) WITHOUT ROWID --",
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_paging_reads_every_row_once(
    writer: sqlite3.Connection, legacy: sqlite3.Connection, declared: str, limit: int
) -> None:
    """Whatever the key is: negative integers, floats, texts with quotes, blobs with zeros, mixed, descending."""
    writer.execute(
        f"CREATE TABLE keyed({declared}\n)" if not declared.endswith("--") else f"CREATE TABLE keyed({declared}"
    )
    keys: list[object] = [-5, 0, 3, 1 << 62, -(1 << 63)]
    if "INTEGER" not in declared:
        keys += [1.5, 2.5 if "TEXT" in declared else 1e300, "", "it's", "你\n", "\0z", b"", b"\x00\xff", "A", "b"]
    writer.executemany("INSERT INTO keyed(id, owner, c, body) VALUES (?, 'W', 'c', 'x')", [(key,) for key in keys])
    if declared.startswith("rowid, oid"):
        reader_for = SectionReader(legacy, section(table="keyed"))
        assert reader_for.rowid is None
        assert len(reader_for.chunk(None, 100).rows) == len(keys)
        return
    reader = SectionReader(legacy, section(table="keyed"))
    assert (reader.rowid is None) == ("WITHOUT" in declared)
    rows, after = [], None
    for _ in range(len(keys) + 2):
        chunk = reader.chunk(after, limit)
        rows += chunk.rows
        after = chunk.last
        if after is None:
            break
    assert after is None
    assert len(rows) == len(keys) == reader.count()
    assert len({row.loc for row in rows}) == len(keys)
    assert {row.loc: row.key for row in rows} == reader.all_keys(filtered=False)
    expected = {key_of(key.encode() if isinstance(key, str) else key) for key in keys}  # type: ignore[arg-type]
    assert {row.key for row in rows} == expected


def test_a_chunk_ends_early_when_its_rows_are_big(
    writer: sqlite3.Connection, legacy: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded however large the rows are, and the next chunk goes on behind the last row."""
    monkeypatch.setattr(reader_module, "CHUNK_BYTES", 1000)
    writer.executemany("INSERT INTO m VALUES (?, 'W', 'c', ?)", [(str(n), "x" * 400) for n in range(8)])
    reader = SectionReader(legacy, section())
    sizes, after = [], None
    while True:
        chunk = reader.chunk(after, 100)
        sizes.append(len(chunk.rows))
        after = chunk.last
        if after is None:
            break
    assert sizes == [3, 3, 2]
    assert len(reader.chunk((7,), 1).rows) == 1


def test_the_last_chunk_may_be_full(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """Then an empty one follows, which says that the table ends."""
    writer.executemany("INSERT INTO m VALUES (?, 'W', 'c', 'x')", [("a",), ("b",)])
    reader = SectionReader(legacy, section())
    first = reader.chunk(None, 2)
    assert (len(first.rows), first.last) == (2, (2,))
    rest = reader.chunk(first.last, 2)
    assert (rest.rows, rest.bad, rest.last) == ([], [], None)


# -- bad rows


@pytest.mark.parametrize("without_rowid", [False, True])
def test_a_row_whose_expression_fails_harms_no_other(
    writer: sqlite3.Connection, legacy: sqlite3.Connection, without_rowid: bool
) -> None:
    """It is named with its reason and its place; the rest of the chunk is read, and the next begins behind it."""
    if without_rowid:
        writer.execute("DROP TABLE m")
        writer.execute("CREATE TABLE m(id TEXT PRIMARY KEY, owner TEXT, c TEXT, body TEXT) WITHOUT ROWID")
    writer.executemany(
        "INSERT INTO m VALUES (?, 'W', 'c', ?)", [("a", "{}"), ("b", "{not json"), ("c", '{"t": 1}'), ("d", "[")]
    )
    reader = SectionReader(legacy, section("json_extract(body, '$.t')"))
    rows, bad, after = [], [], None
    while True:
        chunk = reader.chunk(after, 3)
        rows += chunk.rows
        bad += chunk.bad
        after = chunk.last
        if after is None:
            break
    assert [row.values[0] for row in rows] == [b"a", b"c"]
    assert len(bad) == 2
    assert all("malformed JSON" in one.reason for one in bad)
    assert not {one.loc for one in bad} & {row.loc for row in rows}
    if not without_rowid:
        found = reader.at([2, 3, 4])
        assert ([row.loc for row in found.rows], [one.loc for one in found.bad]) == ([3], [2, 4])


def test_a_bad_row_that_where_leaves_out_is_not_bad(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """It is none of ours. A `where` that fails itself is the row's fault, too."""
    writer.executemany("INSERT INTO m VALUES (?, 'W', ?, ?)", [("a", "c", "[1"), ("b", "d", "{}"), ("c", "d", "[1")])
    reader = SectionReader(legacy, section("json_extract(body, '$.t')", "c = 'd'"))
    chunk = reader.chunk(None, 10)
    assert ([row.loc for row in chunk.rows], [bad.loc for bad in chunk.bad]) == ([2], [3])
    failing = SectionReader(legacy, section("c", "json_extract(body, '$.t') IS NULL")).chunk(None, 10)
    assert ([row.loc for row in failing.rows], [bad.loc for bad in failing.bad]) == ([2], [1, 3])


def test_an_error_of_the_database_is_not_put_on_a_row(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """A column that went away meanwhile is a change of the schema."""
    writer.execute("INSERT INTO m VALUES ('a', 'W', 'c', 'x')")
    reader = SectionReader(legacy, section())
    writer.execute("ALTER TABLE m RENAME COLUMN body TO text")
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        reader.chunk(None, 10)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        reader.at([1])


# -- what the page hints ask


def test_rowids_are_compared_with_those_of_a_page(writer: sqlite3.Connection, legacy: sqlite3.Connection) -> None:
    """A leaf is of this table if the rowids from its first to its last are just those."""
    writer.executemany("INSERT INTO m(rowid, id) VALUES (?, 'x')", [(n,) for n in (2, 4, 6, 8)])
    reader = SectionReader(legacy, section())
    assert reader.has_exactly([4, 6])
    assert reader.has_exactly([2, 4, 6, 8])
    assert not reader.has_exactly([4, 8])
    assert not reader.has_exactly([4, 5, 6])
    assert not reader.has_exactly([3])
    assert reader.neighbours(4, 6) == (2, 8)
    assert reader.neighbours(2, 8) == (None, None)
    assert not reader.is_empty()
    assert reader.last_loc() == 8
