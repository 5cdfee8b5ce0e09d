"""A legacy backend in a process of its own, which the test tells what to write. It knows nothing of walcast.

Run as a program it obeys one JSON command a line on standard input and answers each with a line; `storm` writes at
random until its standard input ends.
"""

from __future__ import annotations

import json
import random
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Statement = tuple[str, Sequence[object]]


# -- the test's end


class LegacyError(Exception):
    """What SQLite said to the writer."""


@dataclass(frozen=True)
class Poured:
    """What became of a flood: the size of the log, which is the most it ever was unless it was truncated, in bytes."""

    log_bytes: int
    checkpoints: int
    busy: int
    """Checkpoints that say in their row that they were in somebody's way."""


class Legacy:
    """The writer as the test sees it: each call returns when the other process has done it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, do: str, **what: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the writer died"
        answer = json.loads(line)
        if "error" in answer:
            raise LegacyError(answer["error"])
        return answer["rows"]

    def open(self, journal: str = "", path: Path | None = None) -> None:
        """Open a connection, and keep it."""
        self._ask("open", path=str(path or self.path), journal=journal)

    def close(self) -> None:
        """Close the connection."""
        self._ask("close")

    def commit(self, *statements: Statement) -> None:
        """All statements in one transaction."""
        self._ask("commit", statements=statements)

    def pour(
        self,
        numbers: range,
        *statements: str,
        per_second: float = 0,
        of_which: int = 1,
        checkpoints: Sequence[str] = (),
    ) -> Poured:
        """All statements for each number (`:n`), `of_which` numbers in a commit, so many commits or all it can.

        After every tenth commit a checkpoint, of each kind by turns. A commit that is refused is an error.
        """
        first, last = numbers[0], numbers[-1]
        options = {"per_second": per_second, "of_which": of_which, "checkpoints": checkpoints}
        return Poured(*self._ask("pour", first=first, last=last, statements=statements, **options))

    def rolled_back(self, *statements: Statement) -> None:
        """All statements in one transaction that is given up."""
        self._ask("rollback", statements=statements)

    def run(self, sql: str) -> list[list[Any]]:
        """One statement outside of a transaction; its rows."""
        rows: list[list[Any]] = self._ask("run", sql=sql)
        return rows

    def script(self, sql: str) -> None:
        """Several statements, as in a schema."""
        self._ask("script", sql=sql)

    def kill(self) -> None:
        """End the process as `kill -9` does: its log stays as it is."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def legacy(path: Path, schema: str = "", journal: str = "") -> Iterator[Legacy]:
    """A writer that is gone at the end of the block; with a journal mode its database is open."""
    writer = Legacy(path)
    try:
        if journal:
            writer.open(journal)
        if schema:
            writer.script(schema)
        yield writer
    finally:
        writer.end()


@contextmanager
def storm(path: Path, *, rate: float, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A writer that goes on by itself until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, __file__, "storm", str(path), str(rate), str(seed)], stdin=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


# -- the other end


class _Writer:
    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    @property
    def _sql(self) -> sqlite3.Connection:
        assert self._connection is not None, "not open"
        return self._connection

    def open(self, path: str, journal: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        if journal:
            self._sql.execute(f"PRAGMA journal_mode={journal}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def commit(self, statements: list[Statement], end: str = "COMMIT") -> None:
        self._sql.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            self._sql.execute(sql, parameters)
        self._sql.execute(end)

    def pour(
        self, first: int, last: int, statements: list[str], per_second: float, of_which: int, checkpoints: list[str]
    ) -> list[int]:
        started, tried, busy = time.monotonic(), 0, 0
        for commit, begin in enumerate(range(first, last + 1, of_which)):
            due = started + commit / per_second if per_second else 0.0
            time.sleep(max(0.0, due - time.monotonic()))
            self._sql.execute("BEGIN IMMEDIATE")
            for n in range(begin, min(begin + of_which, last + 1)):
                for sql in statements:
                    self._sql.execute(sql, {"n": n})
            self._sql.execute("COMMIT")
            if checkpoints and commit % 10 == 9:
                kind = checkpoints[tried % len(checkpoints)]
                busy += self._sql.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0]
                tried += 1
        [[_, _, path]] = self._sql.execute("PRAGMA database_list").fetchall()
        log = Path(f"{path}-wal")
        return [log.stat().st_size if log.exists() else 0, tried, busy]

    def rollback(self, statements: list[Statement]) -> None:
        self.commit(statements, "ROLLBACK")

    def run(self, sql: str) -> list[Any]:
        return self._sql.execute(sql).fetchall()

    def script(self, sql: str) -> None:
        self._sql.executescript(sql)


def _obey() -> None:
    writer = _Writer()
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            answer: dict[str, object] = {"rows": getattr(writer, do)(**request)}
        except sqlite3.Error as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    writer.close()


CONVERSATIONS = 6


def _storm(path: str, rate: float, seed: int) -> None:
    """Messages and tasks of two owners, as a backend writes them, and a few that it takes back."""
    chance = random.Random(seed)
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        number = int(sql.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()[0])
        while not select.select([0], [], [], chance.uniform(0, 2) / rate)[0]:
            number = _turn(sql, chance, number)


def _turn(sql: sqlite3.Connection, chance: random.Random, number: int) -> int:
    sql.execute("BEGIN IMMEDIATE")
    kind, first = chance.random(), number
    if kind < 0.55:
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            number += 1
            conversation = f"c{chance.randrange(CONVERSATIONS)}"
            body = f"[{number}] " + "x" * chance.choice((5, 50, 50, 9000))
            sql.execute("INSERT INTO messages VALUES (?, ?, 'user', ?)", (number, conversation, body))
    elif kind < 0.7 and number:
        old = chance.randint(max(1, number - 20), number)
        verb = chance.choice(
            (
                "UPDATE messages SET body = body || '+' WHERE id = ?",
                "REPLACE INTO messages SELECT id, conversation_id, role, body || '!' FROM messages WHERE id = ?",
            )
        )
        sql.execute(verb, (old,))
    else:
        _task(sql, chance)
    if chance.random() < 0.05:
        sql.execute("ROLLBACK")
        return first
    sql.execute("COMMIT")
    return number


def _task(sql: sqlite3.Connection, chance: random.Random) -> None:
    task, stamp = f"t{chance.randrange(12)}", time.monotonic_ns()
    found = sql.execute("SELECT history FROM tasks WHERE id = ?", (task,)).fetchone()
    history = json.loads(found[0])[-4:] if found else []
    history.append({"role": "agent", "parts": [{"type": "text", "text": f"step {stamp}"}]})
    artifacts = [{"name": "out", "parts": [{"type": "text", "text": "y" * chance.choice((1, 5000))}]}]
    sql.execute(
        "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET "
        "state = excluded.state, stamp = excluded.stamp, history = excluded.history, artifacts = excluded.artifacts",
        (
            task,
            f"c{int(task[1:]) % CONVERSATIONS}",
            chance.choice(("submitted", "working", "completed")),
            stamp,
            json.dumps(history),
            json.dumps(artifacts),
        ),
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _storm(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    else:
        _obey()
