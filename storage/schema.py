"""The tables of the state file, and how those of an older walcast become them."""

from __future__ import annotations

import sqlite3

FORMAT = 2
APPLICATION_ID = 0x77616C63  # "walc"

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sections(
    number INTEGER PRIMARY KEY, identity TEXT NOT NULL, definition TEXT NOT NULL,
    floor INTEGER, position INTEGER, baseline TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen(
    section INTEGER NOT NULL, loc INTEGER NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, place BLOB NOT NULL,
    pending INTEGER NOT NULL, id, home INTEGER, PRIMARY KEY(section, loc, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_pending ON seen(section, loc) WHERE pending;
CREATE TABLE IF NOT EXISTS homes(number INTEGER PRIMARY KEY, conversation_id TEXT, owner);
CREATE INDEX IF NOT EXISTS homes_by_value ON homes(conversation_id, owner);
CREATE TABLE IF NOT EXISTS failed(
    section INTEGER NOT NULL, loc INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY(section, loc)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events(
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, type TEXT NOT NULL, conversation_id TEXT NOT NULL,
    subject TEXT NOT NULL, owners TEXT NOT NULL, body BLOB NOT NULL, optional INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS routes(
    owner TEXT NOT NULL, seq INTEGER NOT NULL, prev INTEGER NOT NULL, wide INTEGER, PRIMARY KEY(owner, seq))
    WITHOUT ROWID;
"""

REMEMBER = "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
APPEND = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ROUTE = "INSERT INTO routes VALUES (?, ?, ?, ?)"

_FROM_1 = (
    "ALTER TABLE seen ADD COLUMN id",
    "ALTER TABLE seen ADD COLUMN home INTEGER",
    "ALTER TABLE events ADD COLUMN optional INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE routes ADD COLUMN wide INTEGER",
)
"""Format 1 did not remember whose a row is: of such a row no deletion can be told until it changes."""


def migrate(connection: sqlite3.Connection, found: int) -> bool:
    """Bring a file of another format to this one, whole or not at all; False if it cannot be. Raises sqlite3.Error."""
    if found == 1:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _FROM_1:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    return found in (1, FORMAT)
