"""Bad input: each with its exit code, the name of the thing, and how to mend it. Nothing is written to the database."""

from __future__ import annotations

import hashlib
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import subject_of, subscriber
from tests.e2e.harness import run_to_its_end, served
from tests.e2e.legacy_process import legacy

SCHEMA = """
CREATE TABLE messages(id TEXT PRIMARY KEY, conversation_id TEXT, role TEXT, body TEXT, owner TEXT);
INSERT INTO messages VALUES ('m0', 'c', 'user', 'hello', 'anna');
"""
MAPPING = """\
[messages]
table           = "messages"
id              = "id"
conversation_id = "conversation_id"
role            = "role"
content         = "body"
owner           = "owner"
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database that could be served."""
    path = tmp_path / "legacy.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path


def refusal(database: Path, mapping: str = MAPPING, *options: object) -> tuple[int, str]:
    """The exit code and the words of a `serve` that refuses."""
    file = database.with_name("mapping.toml")
    file.write_text(mapping, encoding="utf-8")
    done = run_to_its_end("--db", database, "--map", file, "--port", 0, *options)
    assert "listening" not in done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


CHATS = "[conversations]\ntable = 'messages'\nid = 'conversation_id'\nowner = 'owner'\n"
ROLE, CONTENT = 'role            = "role"', 'content         = "body"'


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ('table           = "messages"', 'table = "mesages"', 3, ["mesages", 'did you mean "messages"']),
        (CONTENT, 'content = "boddy"', 3, ["mapping.toml:6: [messages] content", "boddy", 'did you mean "body"']),
        (ROLE, "role = 'lowr(role)'", 3, ["mapping.toml:5: [messages] role", "lowr", 'did you mean "lower"']),
        (ROLE, "role = '(SELECT id FROM mesages)'", 3, ["mapping.toml:5", "mesages", 'did you mean "messages"']),
        (CONTENT, "content = '\"text\"'", 3, ["content", 'no column "text"', "single quotes"]),
        (ROLE, 'role = "lower(role"', 3, ["role", "lower(role", "mend"]),
        (ROLE, 'role = "(DELETE FROM messages)"', 3, ["role", "DELETE", "mend"]),
        (ROLE, 'role = "role; DELETE FROM messages"', 3, ["role", "DELETE", "mend"]),
        (ROLE, "role = \"load_extension('x')\"", 3, ["role", "load_extension", "refused", "mend"]),
        (ROLE, "role = \"'' || random()\"", 3, ["role", "random", "refused", "mend"]),
        (ROLE, "role = \"(ATTACH 'x.db' AS x)\"", 3, ["role", "ATTACH", "mend"]),
        (ROLE, "role = \"(SELECT * FROM pragma_journal_mode('wal'))\"", 3, ["role", "pragma", "mend"]),
        (ROLE, 'role = "count(*)"', 3, ["mapping.toml:5: [messages] role", "count()", "sub-select"]),
        (ROLE, f"where = \"writefile('x', body)\"\n{ROLE}", 3, ["mapping.toml:5: [messages] where", "writefile"]),
        (ROLE, f"{ROLE}\ndepends_on = [{{table = 'part', message_id = 'id'}}]", 3, ["mapping.toml:6", "part", "mend"]),
        ("[messages]", f"{CHATS}name = 'titel'\n[messages]", 3, ["mapping.toml:5: [conversations] name", "titel"]),
        (ROLE, 'rolle = "role"', 2, ["mapping.toml:5", "rolle", 'did you mean "role"']),
        (ROLE, "role = 5", 2, ["mapping.toml:5", "role", "mend"]),
        (ROLE, "role = role", 2, ["mapping.toml", "line 5", "mend"]),
        ('owner           = "owner"', "", 2, ["owner", "missing", "never guesses"]),
        ("[messages]", "[mesages]", 2, ["mapping.toml:1", "mesages", 'did you mean "messages"']),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused_by_name(
    database: Path, old: str, new: str, code: int, words: list[str]
) -> None:
    """3 where it does not fit the database or would do more than read, 2 with the line where the file is wrong."""
    before = database.read_bytes()
    assert old in MAPPING
    given, said = refusal(database, MAPPING.replace(old, new))
    assert (given, [word for word in words if word not in said]) == (code, []), said
    assert database.read_bytes() == before


def test_a_missing_database_is_refused_unless_it_is_to_be_waited_for(tmp_path: Path) -> None:
    """3, and nothing is made in its place."""
    code, said = refusal(tmp_path / "nowhere.db")
    assert code == 3
    assert "nowhere.db" in said
    assert "mend" in said
    assert not (tmp_path / "nowhere.db").exists()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """3, and the file stays as it is."""
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database\n" * 100)
    code, said = refusal(path)
    assert code == 3
    assert "notes.db is not an SQLite database" in said
    assert "mend" in said
    assert path.read_text().startswith("these are my notes")


def test_a_folder_in_place_of_a_database_is_refused(tmp_path: Path) -> None:
    """3, whatever SQLite calls it."""
    folder = tmp_path / "folder.db"
    folder.mkdir()
    code, said = refusal(folder)
    assert (code, "folder.db" in said, "mend" in said) == (3, True, True), said


def test_without_a_mapping_an_unknown_schema_is_refused(database: Path) -> None:
    """3, and it says what tables it found."""
    done = run_to_its_end("--db", database, "--port", 0)
    assert done.returncode == 3
    assert "legacy.db" in done.stderr
    assert "messages" in done.stderr
    assert "--map" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-such-option"], ["--no-such-option"]),
        (["--port", "70000"], ["port", "70000"]),
        (["--retention-seconds", "inf"], ["retention-seconds", "finite", "inf"]),
        (["--poll-interval", "nan"], ["poll-interval", "finite", "nan"]),
        (["--poll-interval", "soon"], ["poll-interval", "soon"]),
        (["--auth", "trust"], ["auth", "header"]),
        (["--host", "0.0.0.0"], ["--host 0.0.0.0", "--auth signed", "--trust-header"]),
        (["--host", "192.0.2.1"], ["192.0.2.1", "--trust-header"]),
        (["--config", "none.toml"], ["none.toml"]),
        (["--map", "none.toml"], ["none.toml"]),
    ],
)
def test_wrong_usage_ends_with_exit_code_two(database: Path, options: list[str], words: list[str]) -> None:
    """And the option is named."""
    code, said = refusal(database, MAPPING, *options)
    assert (code, [word for word in words if word not in said]) == (2, []), said


@pytest.mark.parametrize(
    ("config", "word"), [("prot = 8080\n", "prot"), ("port = 'many'\n", "port"), ("port = \n", "line 1")]
)
def test_a_config_file_that_cannot_be_used_is_refused(database: Path, config: str, word: str) -> None:
    """2, and the key is named."""
    file = database.with_name("walcast.toml")
    file.write_text(config)
    done = run_to_its_end("--db", database, "--config", file)
    assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_without_a_database_it_says_so() -> None:
    """2: wrong usage."""
    done = run_to_its_end("--port", 0)
    assert done.returncode == 2
    assert "--db" in done.stderr


def test_a_port_in_use_is_exit_code_four(database: Path) -> None:
    """And it says which, and what to do."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        code, said = refusal(database, MAPPING, "--port", port)
    assert code == 4
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


def test_a_state_file_belongs_to_one_instance(database: Path) -> None:
    """2 for the second one, by whatever name it calls the file; another --state lets it run."""
    file, link = database.with_name("mapping.toml"), database.with_name("link.state")
    file.write_text(MAPPING)
    with served(database, "--map", file) as server:
        link.symlink_to(server.state)
        for state in (server.state, link):
            code, said = refusal(database, MAPPING, "--state", state)
            assert code == 2
            assert str(state) in said
            assert "--state" in said
        with served(database, "--map", file, state=database.with_name("second.state")) as second:
            assert second.get("/healthz").status == 200


def test_a_foreign_state_file_is_not_touched(database: Path) -> None:
    """2 for a database of somebody else, or the legacy database itself."""
    for state in (database, database.with_name("foreign.db")):
        if state != database:
            with closing(sqlite3.connect(state)) as connection:
                connection.execute("CREATE TABLE theirs(x)")
        before = state.read_bytes()
        code, said = refusal(database, MAPPING, "--state", state)
        assert (code, str(state) in said, "another --state" in said) == (2, True, True), said
        assert state.read_bytes() == before


# -- nothing is written


@contextmanager
def untouched(*files: Path) -> Iterator[None]:
    """These files have the same bytes and times after the block."""

    def now() -> list[tuple[str, int, int]]:
        return [
            (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns, file.stat().st_ino)
            for file in files
        ]

    before = now()
    yield
    assert now() == before


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_nothing_is_written_to_the_legacy_database(tmp_path: Path, journal: str) -> None:
    """Not a byte of the file, and in WAL mode no checkpoint, by a start, a look, a client or an end of the bridge."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    with legacy(database, SCHEMA, journal) as writer:
        files = [database] if journal == "DELETE" else [database, tmp_path / "legacy.db-wal"]
        row = "INSERT INTO messages VALUES (?, 'c', 'user', 'hello', 'anna')"
        with served(database, "--map", mapping, "--owner-format", "any", start=False) as server:
            with untouched(*files):
                server.start()
                await server.ready()
            async with subscriber(server, "anna", "resume=1") as client:
                writer.commit((row, ("m1",)))
                with untouched(*files):
                    assert subject_of(await client.next()) == "m1"
            with untouched(*files):
                assert server.terminate() == 0
        others = {file.name for file in tmp_path.iterdir()} - {"mapping.toml"}
        assert {name for name in others if ".walcast" not in name} <= {"legacy.db", "legacy.db-wal", "legacy.db-shm"}


async def test_an_idle_wal_database_is_not_checkpointed_by_the_last_to_leave(tmp_path: Path) -> None:
    """The writer is gone and left its -wal behind, as a crash does: the bridge reads it and leaves it."""
    source, database, mapping = tmp_path / "source.db", tmp_path / "legacy.db", tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    with legacy(source, SCHEMA, "WAL") as writer:
        writer.commit(("INSERT INTO messages VALUES ('m1', 'c', 'user', 'hello', 'anna')", ()))
        for suffix in ("", "-wal"):
            database.with_name(f"legacy.db{suffix}").write_bytes(source.with_name(f"source.db{suffix}").read_bytes())
    with (
        untouched(database, tmp_path / "legacy.db-wal"),
        served(database, "--map", mapping, "--owner-format", "any") as server,
    ):
        await server.ready()
        assert server.terminate() == 0
