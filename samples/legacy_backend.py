"""A simulated chat and agent backend, such as a team may already run.

It keeps its conversations, messages and tasks in one SQLite file and knows nothing of anybody who reads along:

    python samples/legacy_backend.py demo.db --rate 2

Only the standard library is needed, and legacy_dialogs.toml beside this file, which holds what is said. Every step of
a dialog is one transaction. The backend runs until it has made ``--count`` steps or gets SIGTERM or SIGINT, and removes
its oldest rows as it goes, so that the file stays small. It prints nothing; errors go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeAlias

DEMO_WALLETS = (
    "4QggbWjwr778v4mEMCVQ2qHqTHWn7wbWCAhaoNSd3LWU",
    "87KgTefPaFY9MJtWJq7tAqdnKntUbHhNjtrMSYVAbaUV",
)

DIALOGS = Path(__file__).with_name("legacy_dialogs.toml")

KEEP_MESSAGES = 500
"""How many messages of a wallet survive pruning."""
KEEP_TASKS = 100
"""How many tasks of a wallet survive pruning."""
PRUNE_EVERY = 50
"""Steps between two prunings."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, wallet_address TEXT NOT NULL, title TEXT, created_at TEXT);
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, conversation_id TEXT REFERENCES conversations, role TEXT, body TEXT, created_at TEXT);
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, conversation_id TEXT, session_id TEXT, owner TEXT, status TEXT, history TEXT, artifacts TEXT);
"""

Part: TypeAlias = dict[str, object]
Statement: TypeAlias = tuple[str, tuple[str, ...]]
Step: TypeAlias = list[Statement]
"""The statements of one transaction."""


# --- what the dialogs are about ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A scripted dialog. All texts are templates over one of ``variants`` and one number for each of ``numbers``."""

    title: str
    asks: Sequence[str]
    plan: str
    work: Sequence[tuple[str, str]]
    """What the agent is doing, and what it adds to the artifact by it (may be empty)."""
    artifact: str
    result: str
    question: str
    reply: str
    failure: str
    follow_ups: Sequence[tuple[str, str]]
    variants: Sequence[Mapping[str, str]]
    numbers: Mapping[str, tuple[int, int]]
    """The lowest and the highest value of each."""


def load_scenarios() -> list[Scenario]:
    with DIALOGS.open("rb") as file:
        return [Scenario(**entry) for entry in tomllib.load(file)["scenario"]]


# --- rows -------------------------------------------------------------------------------------------------------------


def now() -> str:
    """The time in UTC with milliseconds, as this backend writes it everywhere."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id(rng: random.Random, prefix: str) -> str:
    return f"{prefix}-{rng.getrandbits(64):016x}"


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass
class Task:
    """One task while it runs; ``save`` writes all of it."""

    keys: tuple[str, str, str, str]
    """Its id, conversation, session and owner."""
    artifact_name: str
    history: list[dict[str, object]] = field(default_factory=list)
    sections: list[Part] = field(default_factory=list)

    def say(self, role: str, text: str) -> None:
        self.history.append({"role": role, "parts": [text_part(text)]})

    def save(self, state: str, message: str) -> Statement:
        artifacts = [{"name": self.artifact_name, "parts": self.sections}] if self.sections else []
        status = {"state": state, "message": message, "timestamp": now()}
        return (
            "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET status = excluded.status, history = excluded.history, artifacts = excluded.artifacts",
            (*self.keys, dump(status), dump(self.history), dump(artifacts)),
        )


# --- dialogs ----------------------------------------------------------------------------------------------------------


class Dialog:
    """One conversation of one wallet: a scenario with its random pieces filled in, as a series of steps."""

    def __init__(self, rng: random.Random, wallet: str, scenario: Scenario) -> None:
        self._rng = rng
        self._wallet = wallet
        self._scenario = scenario
        self._id = new_id(rng, "conv")
        self._session = new_id(rng, "sess")
        self._numbers = {name: rng.randint(*limits) for name, limits in scenario.numbers.items()}
        self._facts: dict[str, object] = {**rng.choice(scenario.variants), **self._numbers}

    def steps(self) -> Iterator[Step]:
        """The whole conversation: a request, its task, and perhaps some talk afterwards."""
        ask = self._fill(self._rng.choice(self._scenario.asks))
        yield [self._conversation(), self._message("user", ask)]
        yield [self._message("agent", self._fill(self._scenario.plan))]
        yield from self._task(ask)
        for question, answer in self._scenario.follow_ups:
            if self._rng.random() < 0.6:
                yield [self._message("user", self._fill(question))]
                yield [self._message("agent", self._fill(answer))]

    def _task(self, ask: str) -> Iterator[Step]:
        script = self._scenario
        artifact = self._fill(script.artifact).replace(" ", "-")
        task = Task((new_id(self._rng, "task"), self._id, self._session, self._wallet), artifact)
        task.say("user", ask)
        yield [task.save("submitted", "Waiting for a free agent")]
        yield from self._work(task, script.work[:2])
        if self._rng.random() < 0.25:
            yield from self._ask_back(task)
        if self._rng.random() < 0.15:
            yield [task.save("failed", self._fill(script.failure)), self._message("agent", self._apology())]
            return
        yield from self._work(task, script.work[2:])
        result = self._fill(script.result)
        task.say("agent", result)
        yield [task.save("completed", f"{artifact} is ready"), self._result(result, artifact)]

    def _work(self, task: Task, work: Sequence[tuple[str, str]]) -> Iterator[Step]:
        for activity, section in work:
            doing = self._fill(activity)
            yield [task.save("working", doing)]
            task.say("agent", doing)
            if section:
                task.sections.append(text_part(self._fill(section)))
            yield [task.save("working", f"{doing}: done")]

    def _ask_back(self, task: Task) -> Iterator[Step]:
        question, reply = self._fill(self._scenario.question), self._fill(self._scenario.reply)
        task.say("agent", question)
        yield [task.save("input-required", question), self._message("agent", question)]
        task.say("user", reply)
        yield [self._message("user", reply), task.save("working", "Continuing with your answer")]

    def _apology(self) -> str:
        return f"I had to give up on this one. {self._fill(self._scenario.failure)} Shall I try again later?"

    def _result(self, text: str, artifact: str) -> Statement:
        """The last answer of a task: text and the file, now and then with the numbers behind it."""
        parts = [text_part(text), {"type": "file", "file": {"name": artifact, "mimeType": "text/markdown"}}]
        if self._rng.random() < 0.4:
            parts.append({"type": "data", "data": dict(self._numbers)})
        return self._message_row("agent", dump(parts))

    def _message(self, role: str, text: str) -> Statement:
        """A message in one of the three forms that have come into use in this backend over the years."""
        forms = (text, text, dump(text_part(text)), dump([text_part(text)]))
        return self._message_row(role, self._rng.choice(forms))

    def _message_row(self, role: str, body: str) -> Statement:
        row = (new_id(self._rng, "msg"), self._id, role, body, now())
        return "INSERT INTO messages VALUES (?, ?, ?, ?, ?)", row

    def _conversation(self) -> Statement:
        row = (self._id, self._wallet, self._fill(self._scenario.title), now())
        return "INSERT INTO conversations VALUES (?, ?, ?, ?)", row

    def _fill(self, template: str) -> str:
        return template.format_map(self._facts)


class Wallet:
    """The conversations that one wallet has going on at the same time."""

    def __init__(self, rng: random.Random, address: str, scenarios: Sequence[Scenario]) -> None:
        self.address = address
        self._rng = rng
        self._scenarios = scenarios
        self._open: list[Iterator[Step]] = []
        self._deck: list[Scenario] = []

    def next_step(self) -> Step:
        """One more step of any of the conversations, or the first one of a new conversation."""
        while True:
            if len(self._open) < 2 or (len(self._open) < 4 and self._rng.random() < 0.05):
                self._open.append(Dialog(self._rng, self.address, self._draw()).steps())
                return next(self._open[-1])
            dialog = self._rng.choice(self._open)
            step = next(dialog, None)
            if step is not None:
                return step
            self._open.remove(dialog)

    def _draw(self) -> Scenario:
        """A scenario from a shuffled deck, so that the same one does not come twice in a row."""
        if not self._deck:
            self._deck = self._rng.sample(self._scenarios, len(self._scenarios))
        return self._deck.pop()


# --- the database -----------------------------------------------------------------------------------------------------


def open_database(path: str, journal: str) -> sqlite3.Connection:
    """Opens the file and makes the tables. Raises sqlite3.Error if it is no database or the journal cannot be set."""
    connection = sqlite3.connect(path, timeout=10)
    try:
        (mode,) = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        if mode != journal:
            raise sqlite3.OperationalError(f"journal mode is {mode}, not {journal}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def commit(connection: sqlite3.Connection, step: Step) -> None:
    with connection:
        for statement, parameters in step:
            connection.execute(statement, parameters)


def cancel_interrupted(connection: sqlite3.Connection, wallets: Sequence[str]) -> None:
    """Ends the tasks that an earlier run left behind: nobody works on them any more."""
    status = dump({"state": "canceled", "message": "Interrupted by a restart", "timestamp": now()})
    ended = "('completed', 'failed', 'canceled')"
    sql = f"UPDATE tasks SET status = ? WHERE owner = ? AND json_extract(status, '$.state') NOT IN {ended}"
    commit(connection, [(sql, (status, wallet)) for wallet in wallets])


def prune(connection: sqlite3.Connection, wallet: str) -> None:
    """Removes all but the newest rows of a wallet, and conversations of which nothing is left."""
    own = "SELECT id FROM conversations WHERE wallet_address = ?"
    commit(connection, [
        (f"DELETE FROM messages WHERE rowid IN (SELECT rowid FROM messages WHERE conversation_id IN ({own})"
         f" ORDER BY rowid DESC LIMIT -1 OFFSET {KEEP_MESSAGES})", (wallet,)),
        ("DELETE FROM tasks WHERE rowid IN (SELECT rowid FROM tasks WHERE owner = ?"
         f" ORDER BY rowid DESC LIMIT -1 OFFSET {KEEP_TASKS})", (wallet,)),
        ("DELETE FROM conversations AS c WHERE wallet_address = ?"
         " AND NOT EXISTS (SELECT 1 FROM messages WHERE conversation_id = c.id)"
         " AND NOT EXISTS (SELECT 1 FROM tasks WHERE conversation_id = c.id)", (wallet,)),
    ])


def seeded(connection: sqlite3.Connection, seed: int | None) -> random.Random:
    """The same seed gives the same dialogs, but never the ids that an earlier run has used up in this file."""
    if seed is None:
        return random.Random()
    (written,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM messages").fetchone()
    return random.Random(f"{seed}:{written}")


# --- running ----------------------------------------------------------------------------------------------------------


class Stop:
    """Says when to end: after SIGTERM or SIGINT and, if asked to ``watch_input``, once standard input ends.

    Standard input ends when the parent process dies, however it dies. All of them are seen by one ``select``, for
    which the signal handler writes to a pipe.
    """

    def __init__(self, watch_input: bool) -> None:
        self._requests, self._request = os.pipe()
        self._sources = [self._requests, *([0] if watch_input else [])]

    def _handle(self, *_: object) -> None:
        os.write(self._request, b".")

    def requested_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while ready := select.select(self._sources, [], [], max(0.0, end - time.monotonic()))[0]:
            if self._requests in ready or not os.read(0, 4096):
                return True
        return False

    def __enter__(self) -> Self:
        # Handlers can be set in the main thread alone; in any other, ending is the business of whoever started it.
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if in_main else ()
        self._previous = [(number, signal.signal(number, self._handle)) for number in signals]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
        os.close(self._request)
        os.close(self._requests)


def pause(rate: float) -> float:
    """Seconds until the next step: irregular, as people are."""
    return random.uniform(0.5, 1.5) / rate if rate else 0


def simulate(connection: sqlite3.Connection, wallets: Sequence[Wallet], rate: float, count: int, stop: Stop) -> None:
    """Makes one step after the other, for the wallets in turn, until the count is reached or a stop is requested."""
    made = 0
    while not stop.requested_within(pause(rate)):
        wallet = wallets[made % len(wallets)]
        commit(connection, wallet.next_step())
        made += 1
        if made % PRUNE_EVERY == 0:
            for each in wallets:
                prune(connection, each.address)
        if made == count:
            return


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="A simulated chat and agent backend that writes to an SQLite file.")
    result.add_argument("database", metavar="FILE.db", help="made if it does not exist")
    result.add_argument("--wallet", action="append", metavar="W", help="repeatable; default: two demo wallets")
    result.add_argument("--rate", type=float, default=2.0, help="steps per second, all in all; 0: no pause (default 2)")
    result.add_argument("--journal", choices=("wal", "delete"), default="wal", help="journal mode (default wal)")
    result.add_argument("--seed", type=int, help="the same seed gives the same dialogs")
    result.add_argument("--count", type=int, default=0, help="end after so many steps; 0: never (default)")
    result.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the backend; 0 after an orderly end, 1 if the database cannot be used, 2 on wrong usage."""
    options = parser().parse_args(argv)
    if options.rate < 0 or options.count < 0:
        parser().error("--rate and --count must not be negative")
    addresses = list(dict.fromkeys(options.wallet or DEMO_WALLETS))
    try:
        with (
            Stop(options.exit_with_stdin) as stop,
            closing(open_database(options.database, options.journal)) as connection,
        ):
            cancel_interrupted(connection, addresses)
            rng, scenarios = seeded(connection, options.seed), load_scenarios()
            wallets = [Wallet(rng, address, scenarios) for address in addresses]
            simulate(connection, wallets, options.rate, options.count, stop)
    except sqlite3.Error as error:
        sys.stderr.write(f"legacy backend: {options.database}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
