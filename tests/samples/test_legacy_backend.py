"""The simulated legacy backend: what it writes, and that it ends when it should and never otherwise."""

import itertools
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import base58
import pytest

from samples.legacy_backend import DEMO_WALLETS, KEEP_MESSAGES, KEEP_TASKS, Dialog, Scenario, load_scenarios, main

PROGRAM = Path(__file__).parents[2] / "samples" / "legacy_backend.py"
SCENARIOS = load_scenarios()

# The failure bound of each wait, in seconds.
SOON = 30

Process = subprocess.Popen[bytes]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db"


def command(database: Path, *options: str) -> list[str]:
    return [sys.executable, str(PROGRAM), str(database), *options]


def run(database: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(database, *options), capture_output=True, text=True, timeout=SOON)


@contextmanager
def running(database: Path, *options: str) -> Iterator[Process]:
    """A backend that writes for ever; a test that fails does not leave it behind."""
    with subprocess.Popen(command(database, "--rate", "50", *options), stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def rows(database: Path, sql: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", timeout=SOON, uri=True)) as connection:
        return connection.execute(sql).fetchall()


def count(database: Path, table: str) -> int:
    return int(rows(database, f"SELECT count(*) FROM {table}")[0][0])


def await_messages(process: Process, database: Path, more_than: int = 5) -> None:
    """Looks until the backend has written so many messages, which it must live to do."""

    def written() -> int:
        try:
            return count(database, "messages")
        except sqlite3.OperationalError:  # the file or the table is not there yet
            return 0

    while written() <= more_than:
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended with {process.wait(0.01)}")


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_makes_so_many_steps_and_ends(database: Path, journal: str) -> None:
    """With --count it ends by itself, has made the schema, and the journal mode is the one asked for."""
    result = run(database, "--count", "60", "--rate", "0", "--journal", journal)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert rows(database, "PRAGMA journal_mode") == [(journal,)]
    assert all(count(database, table) > 1 for table in ("conversations", "messages", "tasks"))
    assert {owner for (owner,) in rows(database, "SELECT wallet_address FROM conversations")} == set(DEMO_WALLETS)


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_on_a_signal(database: Path, journal: str, number: signal.Signals) -> None:
    """It goes on until a signal comes, then closes the database, so that no file stays beside it."""
    with running(database, "--journal", journal) as process:
        await_messages(process, database)
        process.send_signal(number)
        assert process.wait(SOON) == 0
    assert [file.name for file in database.parent.iterdir()] == [database.name]


def test_ends_with_its_standard_input_if_asked_to(database: Path) -> None:
    """Data on standard input means nothing; its end, as when the parent dies, ends the backend."""
    with running(database, "--exit-with-stdin") as process:
        assert process.stdin
        process.stdin.write(b"hello\n" * 10_000)
        process.stdin.flush()
        await_messages(process, database)
        process.stdin.close()
        assert process.wait(SOON) == 0


def test_does_not_care_for_standard_input_otherwise(database: Path) -> None:
    """Without the option it goes on after the end of its input."""
    with running(database) as process:
        assert process.stdin
        process.stdin.close()
        await_messages(process, database)
        process.terminate()
        assert process.wait(SOON) == 0


def test_old_rows_are_removed(database: Path) -> None:
    """A demo that runs all day stays small: each wallet keeps its newest rows, and no conversation is left empty."""
    steps = 5000
    assert main([str(database), "--wallet", "A", "--count", str(steps), "--rate", "0", "--seed", "1"]) == 0
    assert count(database, "messages") == KEEP_MESSAGES
    assert count(database, "tasks") == KEEP_TASKS
    used = "SELECT conversation_id FROM messages UNION SELECT conversation_id FROM tasks"
    assert rows(database, f"SELECT id FROM conversations EXCEPT SELECT * FROM ({used})") == []


def test_the_same_seed_gives_the_same_dialogs(tmp_path: Path) -> None:
    """Two runs with one seed say the same; a second run in the same file says something else under other ids."""
    bodies = []
    for name in ("one.db", "two.db"):
        assert main([str(tmp_path / name), "--count", "50", "--rate", "0", "--seed", "7"]) == 0
        bodies.append(rows(tmp_path / name, "SELECT id, body FROM messages ORDER BY rowid"))
    assert bodies[0] == bodies[1]
    assert main([str(tmp_path / "one.db"), "--count", "50", "--rate", "0", "--seed", "7"]) == 0
    assert count(tmp_path / "one.db", "messages") > len(bodies[0])


def test_a_restart_cancels_what_was_left_unfinished(database: Path) -> None:
    """No task of an earlier run stays in work for ever, and tasks of others are left alone."""
    for wallet in ("A", "B"):
        assert main([str(database), "--wallet", wallet, "--count", "12", "--rate", "0", "--seed", "3"]) == 0
    states = "SELECT DISTINCT owner, json_extract(status, '$.state') FROM tasks"
    assert ("A", "working") in rows(database, states)
    assert main([str(database), "--wallet", "A", "--count", "1", "--rate", "0"]) == 0
    assert {state for owner, state in rows(database, states) if owner == "A"} <= {"completed", "failed", "canceled"}
    assert ("B", "working") in rows(database, states)


def test_bodies_come_in_every_form(database: Path) -> None:
    """Plain text, a JSON part, and a JSON array of parts, as the years have left them."""
    assert main([str(database), "--count", "200", "--rate", "0", "--seed", "1"]) == 0
    forms = {body[0] if body[0] in "[{" else "text" for (body,) in rows(database, "SELECT body FROM messages")}
    assert forms == {"[", "{", "text"}


def test_main_puts_signal_handlers_back(database: Path) -> None:
    """Called from another program it leaves no trace there."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main([str(database), "--count", "1", "--rate", "0"]) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_unusable_database_is_reported(tmp_path: Path) -> None:
    """What is no database is left as it is; the reason stands on standard error."""
    file = tmp_path / "notes.txt"
    file.write_text("These are not the tables you are looking for. " * 100)
    result = run(file, "--count", "1")
    assert result.returncode == 1
    assert "file is not a database" in result.stderr
    assert "Traceback" not in result.stderr


def test_demo_wallets_are_solana_addresses() -> None:
    """Base58 of exactly 32 bytes, or the server would not let them in."""
    assert [len(base58.b58decode(wallet)) for wallet in DEMO_WALLETS] == [32, 32]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.artifact for scenario in SCENARIOS])
def test_a_dialog_is_well_formed(scenario: Scenario) -> None:
    """Every blank is filled in, and a task only ever grows, from submitted to an end."""
    endings = set()
    for seed in range(60):
        steps = list(Dialog(random.Random(seed), "W", scenario).steps())
        tasks = [row for step in steps for sql, row in step if sql.startswith("INSERT INTO tasks")]
        states = [json.loads(status)["state"] for *_, status, _, _ in tasks]
        assert states[0] == "submitted"
        assert set(states[1:-1]) <= {"working", "input-required"}
        endings.add(states[-1])
        assert_growing([json.loads(history) for *_, history, _ in tasks])
        assert_growing([[part for artifact in json.loads(row[-1]) for part in artifact["parts"]] for row in tasks])
        assert "{" not in "".join(row[3] for sql, row in messages_of(steps) if row[3][0] not in "[{")
    assert endings == {"completed", "failed"}


def messages_of(steps: list[list[tuple[str, tuple[str, ...]]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    return (statement for step in steps for statement in step if statement[0].startswith("INSERT INTO messages"))


def assert_growing(lists: list[list[object]]) -> None:
    """Each list begins with the one before it, and the last is longer than the first."""
    for before, after in itertools.pairwise(lists):
        assert after[: len(before)] == before
    assert len(lists[-1]) > len(lists[0])
