"""Survey: counts over a whole table that tell beforehand what would go wrong, and what has gone wrong already."""

from __future__ import annotations

import ast
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storage.errors import StateUnusable
from storage.names import quoted
from storage.reader import source_of
from storage.types import Section, text_of

COUNTED_ROWS = 200_000
"""Only so many rows are counted: a preflight takes a moment, not minutes."""


@dataclass(frozen=True, slots=True)
class Ids:
    """How unique the ids of a section are."""

    rows: int
    missing: int
    repeated: int
    """Rows whose id another row has too, without the first of each."""
    examples: tuple[str, ...]


def ids_of(connection: sqlite3.Connection, section: Section) -> Ids | None:
    """Count ids; None if the expression fails for some row."""
    condition = f"WHERE ({section.where}\n)" if section.where else ""
    some = f"SELECT ({section.fields[0][1]}\n) AS id FROM {source_of(section)} {condition} LIMIT {COUNTED_ROWS}"
    try:
        rows, present, different = connection.execute(
            f"SELECT count(*), count(id), count(DISTINCT id) FROM ({some})"
        ).fetchone()
        examples = connection.execute(
            f"SELECT id FROM ({some}) WHERE id IS NOT NULL GROUP BY id HAVING count(*) > 1 LIMIT 3"
        ).fetchall() if present > different else []  # fmt: skip
    except sqlite3.OperationalError:
        return None
    return Ids(rows, rows - present, present - different, tuple(str(text_of(value)) for (value,) in examples))


def is_indexed(connection: sqlite3.Connection, table: str, expression: str) -> bool:
    """Whether SQLite finds the rows of which an expression has a value without reading the others."""
    sql = f"EXPLAIN QUERY PLAN SELECT 1 FROM {quoted(table)} WHERE ({expression}\n) = ?"
    try:
        plan = connection.execute(sql, (b"",)).fetchall()
    except sqlite3.OperationalError:
        return False
    return str(text_of(plan[0][3])).startswith("SEARCH ")


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the last `serve` found changes, or the one that runs: its engine, and how often that had to fall back."""

    engine: str
    fallbacks: dict[str, int]
    """Looks for which a pass over the tables was needed, by reason."""


def last_run(state: Path) -> LastRun | None:
    """What a state file says of it; None if there is no state file, or one that says nothing."""
    if not state.is_file():
        return None
    try:
        noted = _read(state, "SELECT value FROM meta WHERE name = 'capture'")
        if not noted:
            return None
        run = json.loads(noted[0][0])
        return LastRun(str(run["engine"]), {str(reason): int(count) for reason, count in run["fallbacks"].items()})
    except (StateUnusable, ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(state: Path, sql: str) -> list[tuple[Any, ...]]:
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(state.absolute()))}?mode=ro", uri=True, timeout=5)
        ) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error as error:
        raise StateUnusable(f"the state file {state} cannot be read ({error})", "check --state") from error


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that could not be pushed, as the state file remembers it. `at` is in milliseconds since 1970."""

    table: str
    rowid: int
    reason: str
    at: int


def dead_letters(state: Path) -> list[DeadLetter]:
    """The rows that wait to be mended, the newest first. Raises StateUnusable."""
    if not state.is_file():
        raise StateUnusable(f"the state file {state} is not there", "name it with --state; serve makes it")
    found = _read(
        state,
        "SELECT s.identity, f.loc, f.reason, f.at FROM failed f LEFT JOIN sections s ON s.number = f.section "
        "ORDER BY f.at DESC, f.loc DESC",
    )
    return [DeadLetter(_table_of(identity), int(loc), str(reason), int(at)) for identity, loc, reason, at in found]


def _table_of(identity: str | None) -> str:
    try:
        return str(ast.literal_eval(identity or "")[1])
    except (ValueError, SyntaxError, IndexError):
        return "?"
