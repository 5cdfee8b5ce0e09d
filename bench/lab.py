"""What every benchmark is given: a folder, how much to do, and the processes it may start."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import data
from bench.peer import Message, Peer, peer, whole
from bench.served import Served, served


@dataclass(frozen=True, slots=True)
class Scale:
    """How much each benchmark does."""

    name: str
    latency_commits: int
    latency_rounds: int
    sizes: tuple[int, ...]
    noticing_commits: int
    noticing_rounds: int
    idle_seconds: float
    idle_clients: int
    idle_rounds: int
    crowds: tuple[int, ...]
    singles: int
    bursts: int
    fanout_rounds: int
    memory_clients: tuple[int, ...]
    harm_seconds: float
    harm_swaps: int
    harm_pairs: int
    resume_events: int
    resume_rounds: int


FULL = Scale(
    "full", latency_commits=120, latency_rounds=5, sizes=(10_000, 100_000, 1_000_000), noticing_commits=60,
    noticing_rounds=5, idle_seconds=20, idle_clients=1000, idle_rounds=2, crowds=(1, 100, 1000), singles=40, bursts=5,
    fanout_rounds=5, memory_clients=(1000, 5000), harm_seconds=4, harm_swaps=4, harm_pairs=2,
    resume_events=10_000, resume_rounds=5,
)  # fmt: skip
QUICK = Scale(
    "quick", latency_commits=15, latency_rounds=1, sizes=(1000, 3000), noticing_commits=6, noticing_rounds=1,
    idle_seconds=0.5, idle_clients=50, idle_rounds=1, crowds=(1, 50), singles=4, bursts=1, fanout_rounds=1,
    memory_clients=(50, 100), harm_seconds=0.2, harm_swaps=1, harm_pairs=1, resume_events=500, resume_rounds=1,
)  # fmt: skip
TINY = Scale(
    "tiny", latency_commits=8, latency_rounds=1, sizes=(100, 200), noticing_commits=2, noticing_rounds=1,
    idle_seconds=0.2, idle_clients=5, idle_rounds=1, crowds=(1, 3), singles=2, bursts=1, fanout_rounds=1,
    memory_clients=(2, 5), harm_seconds=0.1, harm_swaps=1, harm_pairs=1, resume_events=50, resume_rounds=1,
)  # fmt: skip


class Lab:
    """Databases are made once and kept for the benchmarks that follow; processes end with their blocks."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.scale = folder, scale
        self._made = 0
        self._marks = itertools.count(1)
        self._sized: dict[int, Path] = {}

    def say(self, text: str) -> None:
        """Progress, to standard error."""
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def database(self, rows: int, journal: str = "wal") -> Path:
        """A new database of its own folder."""
        self._made += 1
        folder = self.folder / str(self._made)
        folder.mkdir()
        path = folder / "legacy.db"
        data.fill(path, rows, journal)
        return path

    def sized(self, rows: int, journal: str = "wal") -> Path:
        """A database that several benchmarks share, with the baseline that an earlier one has taken."""
        if rows not in self._sized:
            self.say(f"making {rows:,} messages and {rows:,} tasks")
            self._sized[rows] = self.database(rows)
        data.set_journal(self._sized[rows], journal)
        return self._sized[rows]

    @contextmanager
    def bridge(self, database: Path, *options: str) -> Iterator[Served]:
        """A server that is ready and at rest."""
        with served(database, *options) as bridge:
            bridge.await_ready()
            bridge.await_rest()
            yield bridge

    @contextmanager
    def writer(self, database: Path, journal: str = "wal", synchronous: str = "normal") -> Iterator[Writer]:
        """A writer process."""
        with peer("writer", str(database), journal, synchronous) as process:
            process.answer()
            yield Writer(process, self._marks)

    @contextmanager
    def clients(self) -> Iterator[Clients]:
        """A process of subscribers."""
        with peer("clients") as process:
            yield Clients(process)


MARKS = 10_000_000
"""Marks that one order may use."""


class Writer:
    """Orders to a writer process. No mark is given twice: an update to what a row holds already would be none."""

    def __init__(self, process: Peer, marks: Iterator[int]) -> None:
        self._process, self._marks = process, marks

    def write(
        self,
        *,
        count: int = 0,
        seconds: float = 0,
        rate: float = 0,
        kind: str = "message",
        conversation: str = "c0",
        rows: int = 0,
        per_commit: int = 1,
        stamps: bool = False,
        busy_timeout: int = 5000,
    ) -> Message:
        """Commit, and wait until it is done."""
        first = next(self._marks) * MARKS
        return self._process.ask(
            "write", count=count, seconds=seconds, rate=rate, kind=kind, conversation=conversation, rows=rows,
            per_commit=per_commit, stamps=stamps, busy_timeout=busy_timeout, first=first,
        )  # fmt: skip


class Clients:
    """Orders to a process of subscribers."""

    def __init__(self, process: Peer) -> None:
        self._process = process

    def open(
        self,
        port: int,
        count: int = 1,
        *,
        owner: str = data.OWNER,
        query: str = "",
        plain: bool = False,
        stamps: bool = False,
    ) -> Message:
        """Connect so many; returns when each has been welcomed."""
        return self._process.ask("open", port=port, count=count, owner=owner, query=query, plain=plain, stamps=stamps)

    def wait(self, frames: int, patience: float = 60) -> Message:
        """Until so many frames have come since the last reset. Raises RuntimeError if they do not, or too many do."""
        seen = self._process.ask("wait", frames=frames, patience=patience, timeout=patience + 30)
        if whole(seen, "frames") != frames or whole(seen, "lost"):
            raise RuntimeError(f"{frames} frames were due, {seen['frames']} came, {seen['lost']} connections were lost")
        return seen

    def reset(self, *, stamps: bool = False) -> None:
        """Count from zero; `stamps` records when each mark comes."""
        self._process.ask("reset", stamps=stamps)

    def close(self) -> None:
        """Close all connections."""
        self._process.ask("close")
