"""Preflight: what would make serve misbehave is found beforehand, each with its mend."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.inspect.findings import Finding
from bridge.inspect.preflight import file_system, preflight
from bridge.mapping import REFERENCE
from server import cli
from storage.state import StateFile
from tests.bridge.inspect_schemas import SCHEMAS, said
from tests.bridge.inspect_writers import WRITERS

MESSAGES = """\
[messages]
table = "m"
id = "id"
conversation_id = "conv"
role = "json_extract(data, '$.role')"
content = "json_extract(data, '$.text')"
owner = "owner"
"""
WALLET = "4QggbWjwr778v4mEMCVQ2qHqTHWn7wbWCAhaoNSd3LWU"


def built(
    folder: Path, rows: Sequence[tuple[object, ...]], more: str = "", mapping: str = MESSAGES
) -> tuple[Path, Path]:
    """A database of messages in WAL mode, and its mapping."""
    path, target = folder / "legacy.db", folder / "mapping.toml"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE m(id TEXT, conv TEXT, data TEXT, owner TEXT){more}")
        connection.executemany("INSERT INTO m VALUES (?, ?, ?, ?)", rows)
        with suppress(sqlite3.IntegrityError):  # where they are what the test is about
            connection.execute("CREATE UNIQUE INDEX key ON m(id)")
    target.write_text(mapping, encoding="utf-8")
    return path, target


def row(number: int, **changed: object) -> tuple[object, ...]:
    """A good row, but for what is changed."""
    good = {
        "id": f"m{number}",
        "conv": "c",
        "data": json.dumps({"role": "user", "text": said(number)}),
        "owner": WALLET,
    }
    return tuple((good | changed).values())


def found(folder: Path, rows: Sequence[tuple[object, ...]], outbox_bytes: int = 4 << 20) -> list[Finding]:
    """The findings about a database of these rows."""
    path, mapping = built(folder, rows)
    return preflight(path, mapping, folder / "state", outbox_bytes=outbox_bytes, owner_format="solana")


def walcast(*arguments: object) -> Result:
    """The program, in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_clean_database_is_clean(tmp_path: Path) -> None:
    """Nothing found, exit 0."""
    path, mapping = built(tmp_path, [row(n) for n in range(20)])
    done = walcast("check", "--db", path, "--map", mapping)
    assert (done.exit_code, "clean" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("bad", "said_"),
    [
        ({"data": "{broken"}, "the expressions fail for 3 of 13 rows"),
        ({"id": "m1"}, "3 of 13 rows repeat an id (m1)"),
        ({"id": None}, "3 of 13 rows have no id"),
        ({"owner": None}, "3 of 13 rows (23 %) have no owner"),
        ({"owner": "x" * 300}, "3 of 13 rows cannot be rendered: an owner has more than 256 characters"),
        ({"data": json.dumps({"role": "user", "text": "x" * 3000})}, "is more than may wait for a client"),
    ],
    ids=["invalid JSON", "repeated id", "no id", "no owner", "unrenderable", "huge"],
)
def test_rows_that_will_go_wrong_are_counted(tmp_path: Path, bad: dict[str, object], said_: str) -> None:
    """A problem each, with its mend."""
    findings = found(
        tmp_path, [*(row(n) for n in range(10)), *(row(10 + n, **bad) for n in range(3))], outbox_bytes=2048
    )
    problems = [finding for finding in findings if finding.level == "problem"]
    assert any(said_ in finding.what for finding in problems), findings
    assert all(finding.mend for finding in findings)


def test_a_few_rows_without_an_owner_are_worth_a_note(tmp_path: Path) -> None:
    """They are delivered if it comes."""
    findings = found(tmp_path, [*(row(n) for n in range(19)), row(20, owner=None)])
    assert [(finding.level, "(5 %) have no owner" in finding.what) for finding in findings] == [("note", True)]


def test_an_id_that_no_key_keeps_apart_is_worth_a_note(tmp_path: Path) -> None:
    """It may stand twice some day."""
    path, mapping = built(tmp_path, [row(n) for n in range(20)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX key")
    findings = preflight(path, mapping, tmp_path / "state", outbox_bytes=4 << 20, owner_format="solana")
    assert [(finding.level, "no key" in finding.what) for finding in findings] == [("note", True)]


def test_a_mapping_that_does_not_fit_is_a_problem_for_each_section(tmp_path: Path) -> None:
    """With the nearest right name."""
    path, mapping = built(tmp_path, [row(1)], mapping=MESSAGES.replace('"conv"', '"conf"'))
    done = walcast("check", "--db", path, "--map", mapping)
    assert done.exit_code == 3
    assert "no such column: conf" in done.stdout
    assert 'did you mean "conv"?' in done.stdout


@pytest.mark.parametrize("text", ["[messages", "[mesages]\n"])
def test_a_mapping_that_is_none_is_a_problem(tmp_path: Path, text: str) -> None:
    """Named, not raised."""
    path, mapping = built(tmp_path, [row(1)], mapping=text)
    done = walcast("check", "--db", path, "--map", mapping)
    assert done.exit_code == 3
    assert "problem" in done.stdout


def test_a_database_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """And one that is none."""
    (tmp_path / "mapping.toml").write_text(REFERENCE)
    (tmp_path / "text.db").write_text("text " * 1000)
    for name, told in (("none.db", "is not there"), ("text.db", "is not an SQLite database")):
        done = walcast("check", "--db", tmp_path / name, "--map", tmp_path / "mapping.toml")
        assert (done.exit_code, told in done.stdout) == (3, True)


def test_notes_leave_the_exit_code_alone(tmp_path: Path) -> None:
    """A rollback journal, WITHOUT ROWID and owners of another form are worth knowing."""
    path = SCHEMAS[1].build(tmp_path / "a.db")
    done = walcast("check", "--db", path)
    assert done.exit_code == 0, done.stdout
    assert "the journal mode is delete" in done.stdout
    assert "serve with --owner-format any" in done.stdout


def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path) -> None:
    """The longest mount above the file counts."""
    mounts = tmp_path / "mounts"
    share = tmp_path / "my share"
    share.mkdir()
    escaped = str(share.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\n")
    assert file_system(share / "a.db", mounts) == "nfs4"
    assert file_system(tmp_path / "a.db", mounts) == "ext4"
    assert file_system(tmp_path / "a.db", tmp_path / "none") == ""


def test_dead_letters_are_listed(tmp_path: Path) -> None:
    """From the state file, with the table, the row and the reason."""
    state = tmp_path / "state"
    path, _ = built(tmp_path, [row(1)])
    with closing(sqlite3.connect(state)) as connection, connection:
        connection.execute("CREATE TABLE sections(number INTEGER PRIMARY KEY, identity TEXT)")
        connection.execute("CREATE TABLE failed(section INTEGER, loc INTEGER, reason TEXT, at INTEGER)")
        connection.execute("INSERT INTO sections VALUES (0, ?)", (repr(("message", "m", "id")),))
        connection.execute("INSERT INTO failed VALUES (0, 7, 'malformed JSON', 1700000000000)")
    done = walcast("check", "--db", path, "--state", state, "--dead-letters")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].split() == ["m", "7", "2023-11-14T22:13:20+00:00", "malformed", "JSON"]
    assert walcast("check", "--db", path, "--state", tmp_path / "none", "--dead-letters").exit_code == 2


def test_how_serve_found_changes_is_told_from_its_state_file(tmp_path: Path) -> None:
    """Its engine and its fallbacks, the most frequent first; without a state file, or with another, nothing."""
    path, state = WRITERS[0].build(tmp_path / "a.db"), tmp_path / "state"
    file = StateFile(state, keep_events=1, keep_seconds=1)
    file.open()
    assert "last serve" not in walcast("inspect", path, "--state", state).stdout
    file.note_capture("journal-pages", {"start": 1, "journal_missed": 2345})
    file.close()
    told = walcast("inspect", path, "--state", state).stdout
    expected = "by journal-pages; fell back to a pass over the tables: journal_missed 2,345, start 1"
    assert f"last serve    {expected}" in told
    run = json.loads(walcast("inspect", path, "--state", state, "--json").stdout)["last_run"]
    assert run == {"engine": "journal-pages", "fallbacks": {"start": 1, "journal_missed": 2345}}
    for other in (tmp_path / "none", path):
        assert json.loads(walcast("inspect", path, "--state", other, "--json").stdout)["last_run"] is None


def test_the_command_prints_saves_and_answers_scripts(tmp_path: Path) -> None:
    """`inspect` in its forms."""
    path, target = WRITERS[0].build(tmp_path / "a.db"), tmp_path / "mapping.toml"
    done = walcast("inspect", path, "--write", target)
    assert done.exit_code == 0, done.output
    assert "a2a-sdk" in done.stdout
    assert "journal mode  delete" in done.stdout
    assert walcast("check", "--db", path, "--map", target).exit_code == 0
    told = json.loads(walcast("inspect", path, "--json", "--no-presets").stdout)
    assert (told["preset"], told["certain"], told["journal_mode"]) == (None, True, "delete")
    assert told["sections"][0]["lines"]["id"]["confidence"] >= 85
    assert len(told["samples"]) == 3
    again = walcast("inspect", path, "--write", target)
    assert again.exit_code == 0
    assert (tmp_path / "mapping.toml.bak").is_file()


def test_the_command_lists_presets_and_refuses_what_is_none(tmp_path: Path) -> None:
    """Exit 3 for a database that cannot be used, 2 for none given."""
    assert "openai-agents" in walcast("inspect", "--presets").stdout
    assert walcast("inspect").exit_code == 2
    assert walcast("inspect", tmp_path / "none.db").exit_code == 3
    empty = tmp_path / "empty.db"
    empty.touch()
    assert walcast("inspect", empty).exit_code == 3
