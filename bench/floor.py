"""The floor of latency, as simple as can be: a file event, one SELECT of the new row, one socket write.

No mapping, no digest, no log, no owner, no frame, one client. What the bridge needs beyond this is its own doing.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from inotify_simple import INotify, flags

from bench.peer import reply

SPIN = 0.00005
"""Seconds between tries after a file event that came before its commit could be seen."""
PATIENCE = 0.05
"""Seconds for which an event is believed."""


def events(path: Path, journal: str) -> Iterator[None]:
    """In WAL mode each write to `-wal`; else the deletion of `-journal`, which is the commit."""
    inotify = INotify()
    if journal == "wal":
        inotify.add_watch(f"{path}-wal", flags.MODIFY)
    else:
        inotify.add_watch(path.parent, flags.DELETE)
    while True:
        if any(journal == "wal" or event.name == f"{path.name}-journal" for event in inotify.read()):
            yield


def main(name: str, journal: str) -> None:
    """Serve one client until it is gone."""
    path = Path(name).resolve()
    sql = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=0)
    (last,) = sql.execute("SELECT coalesce(max(rowid), 0) FROM messages").fetchone()
    listener = socket.create_server(("127.0.0.1", 0))
    reply(port=listener.getsockname()[1])
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in events(path, journal):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                rows = sql.execute("SELECT rowid, body FROM messages WHERE rowid > ?", (last,)).fetchall()
            except sqlite3.OperationalError:  # the writer holds its lock for another moment
                rows = []
            if rows:
                last = rows[-1][0]
                client.sendall("".join(f"{body}\n" for _, body in rows).encode())
                break
            time.sleep(SPIN)


if __name__ == "__main__":
    main(*sys.argv[1:])
