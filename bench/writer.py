"""The legacy writer, in a process of its own: it knows nothing of anybody who reads along."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from bench.peer import Message, orders, real, reply, whole
from bench.stats import percentile

PADDING = "a line of talk that makes the pushed frame about 290 bytes long, as they are in this trade. " * 2
BEGINNING = 0.5
"""Seconds that count as the beginning of an order: until the bridge knows that the writer does not rest."""
LOOK_AT_WAL = 64
"""Commits between two looks at the size of the write-ahead log."""


@dataclass(slots=True)
class Tally:
    """What happened while one order was carried out."""

    stamps: list[tuple[int, int]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    beginning: int = 0
    """Commits in the first half second."""
    busy: int = 0
    wal_peak: int = 0


class Writer:
    """One connection. `busy_timeout` is in milliseconds; with 0 a commit that meets a lock is tried again at once."""

    def __init__(self, path: str, journal: str, synchronous: str) -> None:
        self._wal = f"{path}-wal"
        self._sql = sqlite3.connect(path, isolation_level=None, timeout=5)
        (found,) = self._sql.execute(f"PRAGMA journal_mode={journal}").fetchone()
        if found != journal:
            raise RuntimeError(f"journal mode is {found}, not {journal}")
        self._sql.execute(f"PRAGMA synchronous={synchronous}")
        self._run = f"{os.getpid():x}-{time.monotonic_ns():x}"

    def close(self) -> None:
        """Close the connection."""
        self._sql.close()

    def write(self, order: Message) -> Tally:
        """Commit as ordered: `count` commits or for `seconds`, `rate` a second (0: flat out), from mark `first` on."""
        self._sql.execute(f"PRAGMA busy_timeout={whole(order, 'busy_timeout')}")
        tally, per_commit, keep = Tally(), whole(order, "per_commit"), bool(order["stamps"])
        beginning = time.perf_counter() + BEGINNING
        for number in paced(whole(order, "count"), real(order, "seconds"), real(order, "rate")):
            mark = whole(order, "first") + number * per_commit
            statements = [self._statement(order, mark + place) for place in range(per_commit)]
            began = time.perf_counter()
            self._commit(statements, tally)
            if keep:
                tally.stamps.append((mark + per_commit - 1, time.monotonic_ns()))
            now = time.perf_counter()
            tally.took.append(now - began)
            tally.beginning += now < beginning
            if number % LOOK_AT_WAL == 0:
                tally.wal_peak = max(tally.wal_peak, self._wal_size())
        return tally

    def _statement(self, order: Message, mark: int) -> tuple[str, tuple[str, ...]]:
        if order["kind"] == "message":
            row = (
                f"{self._run}-{mark}",
                str(order["conversation"]),
                "agent",
                f"#{mark}# {PADDING[:150]}",
                "2026-01-01",
            )
            return "INSERT INTO messages VALUES (?, ?, ?, ?, ?)", row
        status = json.dumps({"state": "working", "message": f"#{mark}#", "timestamp": "2026-01-01T00:00:00.000Z"})
        return "UPDATE tasks SET status = ? WHERE id = ?", (
            status,
            f"t{random.Random(mark).randrange(whole(order, 'rows')):09d}",
        )

    def _commit(self, statements: list[tuple[str, tuple[str, ...]]], tally: Tally) -> None:
        tally.busy += self._insist("BEGIN IMMEDIATE")
        for statement, values in statements:
            self._sql.execute(statement, values)
        tally.busy += self._insist("COMMIT")

    def _insist(self, statement: str) -> bool:
        """Whether it was refused at least once: a writer without patience would have failed here."""
        refused = False
        while True:
            try:
                self._sql.execute(statement)
                return refused
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                refused = True

    def _wal_size(self) -> int:
        with suppress(OSError):
            return os.stat(self._wal).st_size
        return 0


def paced(count: int, seconds: float, rate: float) -> Iterator[int]:
    """0, 1, 2 ... at a rate, until the count or the time is up; 0 is no limit."""
    began = time.perf_counter()
    number = 0
    while not (count and number >= count) and not (seconds and time.perf_counter() - began >= seconds):
        if rate:
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        yield number
        number += 1


def main(path: str, journal: str, synchronous: str) -> None:
    """Carry out orders until there are no more."""
    with closing(Writer(path, journal, synchronous)) as writer:
        reply(ready=True)
        for order in orders():
            began = time.perf_counter()
            tally = writer.write(order)
            took = tally.took
            reply(
                commits=len(took),
                elapsed=time.perf_counter() - began,
                beginning=tally.beginning,
                busy=tally.busy,
                wal_peak=tally.wal_peak,
                median=percentile(took, 0.5),
                p99=percentile(took, 0.99),
                slowest=max(took),
                stamps=tally.stamps,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
