"""The bridge under test: `walcast serve` in a process of its own, with the settings an operator gets by default."""

from __future__ import annotations

import http.client
import json
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import proc
from bench.peer import REPO, Message
from bridge.mapping import REFERENCE

AT_REST = 0.01
"""A bridge that uses less than this share of a core has nothing left to do."""
LOOK = 0.3


class BridgeFailed(RuntimeError):
    """The server did not start, did not become ready, or does not come to rest."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Processor time used so far, and when that was read; both in seconds."""

    cpu: float
    at: float


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self.port = process, port
        self._idle = 0.0

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return proc.cpu_seconds(self.pid)

    def memory(self) -> proc.Resident:
        """What is resident now."""
        return proc.resident(self.pid)

    def get(self, path: str) -> tuple[int, Message]:
        """Status and JSON body of a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body: Message = json.loads(response.read())
            return response.status, body
        finally:
            connection.close()

    def mode(self) -> str:
        """The capture mode that runs now."""
        capture = self.get("/api/websocket-info")[1]["capture"]
        assert isinstance(capture, dict)
        return str(capture["mode"])

    def cursor(self) -> str:
        """The newest event."""
        return str(self.get("/api/websocket-info")[1]["cursor"])

    def await_ready(self, patience: float = 1200) -> None:
        """Until /readyz says so. Raises BridgeFailed."""
        until = time.monotonic() + patience
        while (answer := self.get("/readyz"))[0] != 200:
            if time.monotonic() > until:
                raise BridgeFailed(f"not ready after {patience:g} s: {answer[1]}")
            time.sleep(0.1)

    def await_rest(self, patience: float = 300) -> Meter:
        """Until nothing is left to do, judged by its processor time alone; returns the reading after a quiet while."""
        until = time.monotonic() + patience
        before = self._read()
        while time.monotonic() < until:
            time.sleep(LOOK)
            now = self._read()
            if now.cpu - before.cpu < AT_REST * LOOK:
                return now
            before = now
        raise BridgeFailed(f"still working after {patience:g} s")

    def learn_idle(self, seconds: float) -> None:
        """Measure what it uses when there is nothing to do; `work` leaves that out."""
        before = self.await_rest()
        time.sleep(seconds)
        now = self._read()
        self._idle = (now.cpu - before.cpu) / (now.at - before.at)

    def work(self, since: Meter) -> float:
        """Seconds of processor time from one rest to the next, without what idling would have used."""
        now = self.await_rest()
        return max(0.0, now.cpu - since.cpu - self._idle * (now.at - since.at))

    def _read(self) -> Meter:
        return Meter(self.cpu(), time.monotonic())


@contextmanager
def served(database: Path, *options: str) -> Iterator[Served]:
    """Start a server on a database, wait until it listens, and stop it with the block. Raises BridgeFailed."""
    mapping, errors = database.with_suffix(".toml"), database.with_suffix(".log")
    mapping.write_text(REFERENCE, encoding="utf-8")
    with errors.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable, str(REPO / "server.py"), "serve", "--db", str(database), "--map", str(mapping),
                "--port", "0", "--owner-format", "any", "--max-connections-per-owner", "20000",
                "--log-level", "warning",
                *options,
            ],
            stdout=subprocess.PIPE, stderr=log, cwd=REPO,
        )  # fmt: skip
    try:
        yield Served(process, _port(process, errors))
    finally:
        _stop(process)


def _port(process: subprocess.Popen[bytes], errors: Path) -> int:
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], 60)[0]
    line = process.stdout.readline().decode() if ready else ""
    found = re.search(r"listening on http://.*:(\d+)", line)
    if found is None:
        said = errors.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BridgeFailed(f"the server did not start: {line!r}\n{said}")
    return int(found[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
