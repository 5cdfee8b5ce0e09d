"""What a watcher without hints pays per look: read every row of both tables and take its digest."""

from __future__ import annotations

import sqlite3
import sys
import time
from hashlib import blake2b
from marshal import dumps

from bench.peer import orders, reply

QUERIES = (
    "SELECT rowid, id, conversation_id, role, body FROM messages",
    "SELECT rowid, id, conversation_id, session_id, owner, status, history, artifacts FROM tasks",
)


def scan(sql: sqlite3.Connection) -> int:
    """Rows read."""
    rows = 0
    for query in QUERIES:
        for row in sql.execute(query):
            blake2b(dumps(row, 2), digest_size=16).digest()
            rows += 1
    return rows


def main(path: str) -> None:
    """One scan for each order."""
    sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    sql.text_factory = bytes
    reply(ready=True)
    for _ in orders():
        began = time.process_time()
        rows = scan(sql)
        reply(rows=rows, cpu=time.process_time() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
