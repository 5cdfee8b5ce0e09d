"""The legacy databases of the benchmarks: the reference schema, filled with rows of about 300 bytes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from samples.legacy_backend import SCHEMA

OWNER = "bench-owner"
PER_CONVERSATION = 100

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)"

_CONVERSATIONS = f"""
INSERT INTO conversations {_NUMBERS}
SELECT 'c' || i, :owner, 'Conversation ' || i, '2026-01-01T00:00:00.000Z' FROM n WHERE i <= :rows / {PER_CONVERSATION}
"""

_MESSAGES = f"""
INSERT INTO messages {_NUMBERS}
SELECT printf('m%09d', i), 'c' || (i / {PER_CONVERSATION}), iif(i % 2, 'agent', 'user'),
    printf('Message %d: ', i) || substr(:filler, 1, 200), '2026-01-01T00:00:00.000Z' FROM n
"""

_TASKS = f"""
INSERT INTO tasks {_NUMBERS}
SELECT printf('t%09d', i), 'c' || (i / {PER_CONVERSATION}), printf('s%09d', i / 10), :owner,
    json_object('state', 'working', 'message', 'step 0', 'timestamp', '2026-01-01T00:00:00.000Z'),
    json_array(json_object('role', 'user', 'parts',
        json_array(json_object('type', 'text', 'text', substr(:filler, 1, 40))))),
    json_array(json_object('name', 'notes', 'parts',
        json_array(json_object('type', 'text', 'text', substr(:filler, 1, 40))))) FROM n
"""

_FILLER = "the quick brown fox jumps over the lazy dog and goes on to the next field; " * 4


def fill(path: Path, rows: int, journal: str = "wal") -> None:
    """Make a database with so many messages and as many tasks, all of one owner."""
    values = {"rows": max(rows, 1), "owner": OWNER, "filler": _FILLER}
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode=OFF")
        sql.execute("PRAGMA synchronous=OFF")
        sql.executescript(SCHEMA)
        sql.execute("BEGIN")
        for statement in (_CONVERSATIONS, _MESSAGES, _TASKS):
            sql.execute(statement, values)
        sql.execute("COMMIT")
    set_journal(path, journal)


def set_journal(path: Path, journal: str) -> None:
    """Change the journal mode of a database that nobody else has open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        (found,) = sql.execute(f"PRAGMA journal_mode={journal}").fetchone()
        if found != journal:
            raise RuntimeError(f"journal mode is {found}, not {journal}")


def add_conversation(path: Path, conversation: str, owner: str) -> None:
    """One more conversation."""
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.execute("INSERT INTO conversations VALUES (?, ?, 'Bench', '2026-01-01')", (conversation, owner))
