"""Names: what a mapping names wrongly, and the nearest right one that the database has."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from difflib import get_close_matches


def quoted(name: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: object) -> str:
    """A name as SQLite gives it, which may be bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """`did you mean ...?`, or all that there are."""
    names = sorted(names)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else f"{what} there are: {', '.join(names) or 'none'}"


def table_names(connection: sqlite3.Connection) -> list[str]:
    """The tables of a database, without SQLite's own."""
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    )
    return [text(name) for (name,) in found]


def column_names(connection: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table, in its order."""
    return [text(record[1]) for record in connection.execute(f"PRAGMA table_xinfo({quoted(table)})")]


def reason_of(error: Exception) -> str:
    """Why an expression was refused, in the operator's words."""
    said = str(error)
    if "not authorized" in said or "prohibited" in said:
        return f"is refused ({said}): an expression may only read, and must give the same value at each look"
    if "one statement at a time" in said or "binding" in said:
        return f"is not one SQL expression ({said})"
    return said


def hint_for(
    connection: sqlite3.Connection, table: str, expression: str, said: str, elements: Iterable[str] = ()
) -> str:
    """How to mend an expression over a table, and over the columns of `elements`, of which SQLite said something."""
    if missing := re.search(r"no such column: (?:(.*)\.)?(.+)$", said):
        return _nearest_column(connection, table, expression, missing[1], missing[2], elements)
    if missing := re.search(r"no such table: (?:main\.)?(.+)$", said):
        return nearest(missing[1], table_names(connection), "tables")
    if missing := re.search(r"no such function: (.+)$", said):
        return _nearest_function(connection, missing[1])
    if ambiguous := re.search(r"ambiguous column name: (.+)$", said):
        return f"say of which table: {table}.{ambiguous[1]}"
    if "misuse of aggregate" in said:
        return "an expression is over one row; count others in a sub-select: (SELECT count(*) FROM ... WHERE ...)"
    if "not authorized" in said or "prohibited" in said:
        return "leave out what writes, loads code, or gives another value each time"
    return "a field is one SQL expression over a row of the table; try it alone with SELECT (...) FROM the table"


def _nearest_column(
    connection: sqlite3.Connection,
    table: str,
    expression: str,
    qualifier: str | None,
    name: str,
    elements: Iterable[str],
) -> str:
    """Among the columns of the section's table and of those that a sub-select names."""
    words = {word.lower() for word in re.findall(r"\w+", expression)}
    others = [other for other in table_names(connection) if other.lower() in words and other.lower() != table.lower()]
    columns = {column for one in (table, *others) for column in column_names(connection, one)} | {*elements}
    aliases = {table.lower(), *(other.lower() for other in others)}
    if qualifier is not None and name.lower() in {column.lower() for column in columns}:
        return nearest(qualifier, aliases, "tables of the expression")
    return nearest(name, columns, "columns")


def _nearest_function(connection: sqlite3.Connection, name: str) -> str:
    try:
        known = {text(record[0]) for record in connection.execute("PRAGMA function_list")}
    except sqlite3.Error:  # left out of some builds
        known = set()
    close = get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else "functions are SQLite's own; see sqlite.org/lang_corefunc.html"
