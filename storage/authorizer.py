"""What a connection to the legacy database may be asked to do: read, and give the same answer at each look."""

from __future__ import annotations

import sqlite3

_ALLOWED_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION}
)
_ALLOWED_PRAGMAS = frozenset(
    {
        "data_version",
        "schema_version",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "function_list",
        "journal_mode",
        "page_size",
        "query_only",
        "busy_timeout",
    }
)
_REFUSED_FUNCTIONS = frozenset(
    {
        "load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "eval", "sha3_query",  # side effects
        "random", "randomblob", "changes", "total_changes", "last_insert_rowid",  # another value at each look
        "current_timestamp", "current_time", "current_date",
    }
)  # fmt: skip


def authorize(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    """The authorizer of every connection to the legacy database (sqlite.org/c3ref/set_authorizer.html)."""
    if action == sqlite3.SQLITE_FUNCTION:
        refused = (second or "").lower() in _REFUSED_FUNCTIONS
    elif action == sqlite3.SQLITE_PRAGMA:
        refused = (first or "").lower() not in _ALLOWED_PRAGMAS
    else:
        refused = action not in _ALLOWED_ACTIONS
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK
