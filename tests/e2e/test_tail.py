"""`walcast tail`: the subscriber for the terminal, as a process beside the server's."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.e2e.harness import REPO, SOON
from tests.e2e.legacy_process import legacy
from tests.e2e.situations import SCHEMA, VARIANTS, message, prepared

TAIL = [sys.executable, str(REPO / "server.py"), "tail"]


@contextmanager
def tailing(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A tail that runs until the end of the block, and then ends as asked."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([*TAIL, *options], stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.communicate()


def line(stream: IO[str] | None) -> str:
    """The next line of a pipe; the suite's timeout bounds the wait."""
    assert stream is not None
    return stream.readline().strip()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tail_prints_what_comes_and_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    """It resumes from its last cursor, on the same address."""
    port = free_port()
    server = prepared(tmp_path, VARIANTS[0], "--port", port)
    with legacy(server.database, SCHEMA, VARIANTS[0].journal) as writer:
        try:
            server.start()
            with tailing(f"http://127.0.0.1:{port}", "--owner", "anna", "--json") as tail:
                assert "connected" in line(tail.stderr)
                writer.commit(message("m1", "anna"))
                first = json.loads(line(tail.stdout))
                assert (first["type"], first["message"]["id"]) == ("new_message", "m1")
                server.kill()
                writer.commit(message("m2", "anna"))
                server.start()
                second = json.loads(line(tail.stdout))
                assert (second["message"]["id"], second["prev"]) == ("m2", first["cursor"])
        finally:
            server.kill()


def test_tail_says_what_is_wrong_with_an_address_and_ends_with_2() -> None:
    """Wrong usage names the thing and the mend."""
    done = subprocess.run([*TAIL, "nonsense", "--owner", "anna"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense is not an address" in done.stderr
    assert "http://HOST:PORT" in done.stderr
