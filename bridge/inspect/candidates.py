"""Candidates: everything in a table that could be a field: its columns, and the paths inside its JSON columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from bridge.content import Json
from bridge.inspect.words import listed
from storage.profile import Cell, Column, Table

Value: TypeAlias = "Json | bytes"
DEEPEST = 4
MOST_PATHS = 120
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS = listed(
    "add all alter and as autoincrement between by case check collate column commit constraint create cross current "
    "default deferrable delete desc distinct do drop each else end escape except exists explain fail filter "
    "following for foreign from "
    "full glob group having if ignore immediate in index indexed initially inner insert instead intersect into is "
    "isnull join key last left like limit match natural no not nothing notnull null nulls of offset on or order "
    "outer over "
    "partition plan pragma preceding primary query raise range recursive references regexp reindex release rename "
    "replace restrict returning right rollback row rows savepoint select set table temp then ties to transaction "
    "trigger unbounded union unique update using vacuum values view virtual when where window with without "
    "current_date current_time current_timestamp generated always"
)


def ident(name: str) -> str:
    """An identifier for SQL, quoted only where it must be."""
    if _PLAIN_KEY.match(name) and name.lower() not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """A string for SQL."""
    return "'" + str(text).replace("'", "''") + "'"


@dataclass(frozen=True)
class Candidate:
    """One thing that could be a field. `values` stand beside the sampled rows, one each."""

    table: Table
    column: Column
    path: tuple[str, ...]
    values: tuple[Value, ...]
    is_blob: bool = False
    is_guarded: bool = False
    """Some values of the column are no JSON: a path must not fail on them."""

    @property
    def name(self) -> str:
        """The last name: of the column, or of the key in its JSON."""
        return self.path[-1] if self.path else self.column.name

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return f"{self.column.name} {json_path(self.path)}" if self.path else self.column.name

    def sql(self, prefix: str = "") -> str:
        """The expression over one row; `prefix` names the table where a sub-select needs it."""
        column = prefix + ident(self.column.name)
        if not self.path:
            return column
        column = f"CAST({column} AS TEXT)" if self.is_blob else column
        found = f"json_extract({column}, {literal(json_path(self.path))})"
        return f"CASE WHEN json_valid({column}) THEN {found} END" if self.is_guarded else found

    @cached_property
    def present(self) -> list[Value]:
        """The values that are there: not NULL and not empty."""
        return [value for value in self.values if value is not None and value not in ("", b"")]

    @cached_property
    def coverage(self) -> float:
        """In how many of the sampled rows there is a value, 0 to 1."""
        return len(self.present) / len(self.values) if self.values else 0.0

    @cached_property
    def distinct(self) -> int:
        """How many different values there are."""
        return len({repr(value) for value in self.present})

    @property
    def is_unique(self) -> bool:
        """Whether every sampled row has a value of its own."""
        return bool(self.values) and self.distinct == len(self.values)


def json_path(keys: Sequence[str]) -> str:
    """The path as SQLite's JSON functions read it."""
    return "$" + "".join(f".{key}" if _PLAIN_KEY.match(key) else f'."{key}"' for key in keys)


def candidates_of(table: Table) -> list[Candidate]:
    """The columns first, then the paths inside them."""
    columns = [Candidate(table, column, (), table.values(column.name)) for column in table.columns]
    return columns + [inner for column in columns for inner in _inside(column)]


def parsed(value: Cell | Value) -> Json:
    """The JSON object or array that a stored value is; None if it is none."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            found: Json = json.loads(value)
        except (ValueError, RecursionError):
            return None
        return found
    return value if isinstance(value, (dict, list)) else None


def _inside(column: Candidate) -> Iterator[Candidate]:
    documents = [parsed(value) for value in column.values]
    objects = [document for document in documents if isinstance(document, dict)]
    if len(objects) * 2 < len(column.present) or not objects:
        return
    is_guarded = any(value is not None and not _is_json(value) for value in column.values)
    is_blob = any(isinstance(value, bytes) for value in column.values)
    least = max(1, len(objects) // 50)
    for path in list(_paths(objects, least))[:MOST_PATHS]:
        yield Candidate(
            column.table, column.column, path, tuple(_at(document, path) for document in documents), is_blob, is_guarded
        )


def _is_json(value: Value) -> bool:
    try:
        json.loads(value if isinstance(value, (str, bytes)) else json.dumps(value))
    except (ValueError, RecursionError):
        return False
    return True


def _paths(objects: Sequence[dict[str, Json]], least: int) -> Iterator[tuple[str, ...]]:
    """Paths that occur often enough, the shallow ones first; objects whose keys are ids have none in common."""
    level: list[tuple[tuple[str, ...], list[dict[str, Json]]]] = [((), list(objects))]
    for _ in range(DEEPEST):
        deeper: list[tuple[tuple[str, ...], list[dict[str, Json]]]] = []
        for path, documents in level:
            keys: dict[str, list[Json]] = {}
            for document in documents:
                for key, value in document.items():
                    keys.setdefault(key, []).append(value)
            if len(keys) > 60:
                continue
            for key, values in keys.items():
                if len(values) >= least and '"' not in key and "\\" not in key:
                    yield (*path, key)
                    deeper.append(((*path, key), [value for value in values if isinstance(value, dict)]))
        level = [(path, documents) for path, documents in deeper if documents]


def _at(document: Json, path: Sequence[str]) -> Json:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return int(document) if isinstance(document, bool) else document
