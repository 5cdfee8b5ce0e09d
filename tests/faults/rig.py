"""A server under a fault: small disks, failing system calls, limits; and what has to hold when the fault is over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.clients import Resuming, subject_of
from tests.e2e.harness import SOON, TICK, Walcast, eventually
from tests.e2e.legacy_process import Legacy, legacy
from tests.e2e.situations import MAPPING, SCHEMA, message

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its way to provoke this fault")


@contextmanager
def attached(
    folder: Path, *options: object, state: Path | None = None, prefix: Sequence[str] = (), journal: str = "WAL"
) -> Iterator[tuple[Legacy, Walcast]]:
    """A database of the situations' schema, its writer, and a running server."""
    mapping, database = folder / "mapping.toml", folder / "legacy.db"
    mapping.write_text(MAPPING, encoding="utf-8")
    given = ("--map", mapping, "--owner-format", "any", *options)
    server = Walcast(database, *given, state=state, prefix=prefix)
    server.log = folder / "log"
    with legacy(database, SCHEMA, journal) as writer:
        try:
            yield writer, server.start()
        finally:
            server.kill()


@asynccontextmanager
async def connected(server: Walcast, owner: str = "anna") -> AsyncIterator[Resuming]:
    """A client that resumes, connected, with a server that is ready."""
    await server.ready()
    async with Resuming(server, owner) as client:
        await client.connected()
        yield client


async def unready(server: Walcast, *words: str) -> None:
    """Wait until /readyz is 503 and says all of this."""

    def says_so() -> bool:
        answer = server.get("/readyz")
        return answer.status == 503 and all(word in answer.json["detail"] for word in words)

    await eventually(says_so, f"/readyz says {words}; it was: {server.get('/readyz').body.decode()}")
    assert server.get("/healthz").status == 200


def write(writer: Legacy, names: Sequence[str], owner: str = "anna", size: int = 5) -> None:
    """Messages, each in a commit of its own."""
    for name in names:
        writer.commit(message(name, owner, "x" * size))


async def has_all(writer: Legacy, client: Resuming, *, but: Sequence[str] = ()) -> None:
    """Everything that was written for the client's owner has come, once, in the order of the commits, and no more.

    `but` has come as well, and is gone since.
    """
    writer.commit(message("the-last-one", client.owner))
    await client.saw("the-last-one")
    rows = writer.run(f"SELECT id FROM named WHERE owner = '{client.owner}' ORDER BY rowid")
    came = [subject_of(event) for event in client.events]
    assert [name for name in came if name not in but] == [name for (name,) in rows]


def said(server: Walcast, word: str) -> int:
    """How many lines of the log have a word."""
    return sum(word in line for line in server.log.read_text(errors="replace").splitlines())


# -- faults


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own. `grow` gives it more room."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"needs the right to mount a tmpfs (root): {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder: Path, kilobytes: int) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a small disk."""
    with suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _is_traced(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


@contextmanager
def injected(server: Walcast, calls: str, fault: str, *paths: Path) -> Iterator[None]:
    """While in the block these system calls of the server end so, on these files alone: `error=EIO`, `delay_enter=1`.

    strace attaches to the running process and lets go of it at the end.
    """
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    only = [part for path in paths for part in ("-P", str(path))]
    with server.log.with_name("strace").open("wb") as log:
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-p", str(server.pid), *only, "-e", f"trace={calls}",
             "-e", f"inject={calls}:{fault}", "-o", os.devnull],
            stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SOON
        while not _is_traced(server.pid):
            if tracer.poll() is not None:
                reason = server.log.with_name("strace").read_text(errors="replace").strip()
                pytest.skip(f"needs the right to trace a process: {reason}")
            assert time.monotonic() < deadline, "strace did not attach"
            time.sleep(TICK)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(SOON)


def side_files(path: Path) -> tuple[Path, Path]:
    """A database and its log."""
    return path, path.with_name(path.name + "-wal")
