"""The program under test, in a process of its own: started, asked, ended, killed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).parent.parent.parent
SOON = 60.0
"""The failure bound of each wait, in seconds."""
TICK = 0.02

Frame = dict[str, Any]


async def eventually(condition: Callable[[], bool], what: str = "") -> None:
    """Wait until something holds that nobody announces; SOON bounds the wait."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, f"did not come true in {SOON:g} s: {what or condition}"
        await asyncio.sleep(TICK)


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def _environment() -> dict[str, str]:
    """Ours without what the developer of the day has set for the program."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WALCAST_")}


def command(*options: object) -> list[str]:
    """The command line of `serve`."""
    return [sys.executable, str(REPO / "server.py"), "serve", *map(str, options)]


def run_to_its_end(*options: object) -> subprocess.CompletedProcess[str]:
    """Run `serve` where it is expected to refuse; its exit code and what it printed."""
    return subprocess.run(
        command(*options), capture_output=True, text=True, timeout=SOON, env=_environment(), check=False
    )


class Walcast:
    """`serve`, which may be started again after its end. Its log goes to a file, shown when something is wrong."""

    def __init__(
        self, database: Path, *options: object, state: Path | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """`prefix` is a program that runs another one in its own place, as `prlimit` and `env` do.

        Without `state` it finds its own, beside the database.
        """
        self.database = database
        self.state = state or database.with_name(database.name + ".walcast")
        self.log = self.state.with_name(self.state.name + ".log")
        given = () if state is None else ("--state", state)
        self._command = [*prefix, *command("--db", database, *given, "--port", 0, *options)]
        self._process: subprocess.Popen[bytes] | None = None
        self._printed = b""
        self.port: int | None = None

    # -- starting

    def spawn(self) -> None:
        """Start the process, and do not wait for anything."""
        assert self._process is None, "it runs already"
        self.port, self._printed = None, b""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=_environment()
            )

    def start(self) -> Walcast:
        """Start the process and wait for the line that says where it listens."""
        self.spawn()
        assert self._wait_for_line(SOON), f"it does not listen:\n{self.said}"
        return self

    async def listening(self) -> None:
        """Wait for the line that says where it listens, and let others run meanwhile."""
        await eventually(lambda: self._wait_for_line(0), "listening")

    def _wait_for_line(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        assert self._process is not None
        assert self._process.stdout is not None
        while self.port is None:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            piece = os.read(self._process.stdout.fileno(), 4096)
            assert piece, f"it ended before it listened:\n{self.said}"
            self._printed += piece
            if self._printed.endswith(b"\n"):
                line = self._printed.decode().splitlines()[0]
                assert line.startswith("walcast listening on http://"), line
                self.port = int(line.rpartition(":")[2])
        return True

    async def ready(self) -> Walcast:
        """Wait until /readyz says so."""
        await self.listening()
        await eventually(lambda: self.get("/readyz").status == 200, "ready")
        return self

    async def caught_up(self) -> Walcast:
        """Wait until no commit that it knows of waits to be looked for: it is ready with a pass still to come, too."""
        await self.ready()
        await eventually(lambda: self.get("/readyz").json.get("lag_ms") == 0, "caught up")
        return self

    @property
    def said(self) -> str:
        """What it logged so far."""
        return self.log.read_text(errors="replace")[-4000:]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    # -- asking

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """`GET`, whatever the answer is."""
        assert self.port is not None, "it does not listen"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """One figure of /metrics, labels included in the name; 0 while it is not there."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def address(self) -> str | None:
        """Where it listens now, None while it does not."""
        return None if self.port is None else f"127.0.0.1:{self.port}"

    # -- ending

    def kill(self) -> None:
        """`kill -9`; safe when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, or whatever the signal says, and do not wait for it."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self._ended()

    def terminate(self) -> int:
        """Ask it to end; its exit code."""
        self.signal()
        return self.wait()

    def _ended(self) -> int:
        assert self._process is not None
        process, self._process, self.port = self._process, None, None
        try:
            return process.wait(SOON)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def served(database: Path, *options: object, state: Path | None = None, start: bool = True) -> Iterator[Walcast]:
    """A running `serve` that is gone at the end of the block."""
    server = Walcast(database, *options, state=state)
    try:
        yield server.start() if start else server
    finally:
        server.kill()
