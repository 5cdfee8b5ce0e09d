"""The one-file program as somebody uses it who has no Python: started with an empty environment, used, and ended."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import aiohttp
import base58
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

REPO = Path(__file__).parent.parent
WALLET = base58.b58encode(bytes(range(32))).decode()

# The first build installs PyInstaller and takes a minute or two; the tests themselves take seconds.
pytestmark = [pytest.mark.timeout(900), pytest.mark.needs("make", "make"), pytest.mark.needs("objdump", "binutils")]

# The failure bound of each wait, in seconds.
SOON = 60.0

PORT = ("--port", "0")

SCHEMA = """
CREATE TABLE conversations (id TEXT PRIMARY KEY, wallet_address TEXT NOT NULL);
CREATE TABLE messages (id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL, role TEXT NOT NULL, body TEXT NOT NULL);
"""

MAPPING = """
[messages]
table           = "messages"
id              = "id"
conversation_id = "conversation_id"
role            = "role"
content         = "body"
owner           = "(SELECT wallet_address FROM conversations c WHERE c.id = messages.conversation_id)"
"""


class Process(NamedTuple):
    """A process that cannot be taken for a later one with the same number: ``start`` is in clock ticks since boot."""

    pid: int
    start: int
    name: str


def processes() -> dict[Process, int]:
    """Every process that has not ended, with the number of its parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name may hold anything and ends at the last parenthesis; then come state, parent, and later the start.
            name, _, rest = stat.read_text().rpartition(")")
            state, parent, *_ = fields = rest.split()
            if state != "Z":
                found[Process(int(stat.parent.name), int(fields[19]), name.partition("(")[2])] = int(parent)
    return found


@dataclass
class Program:
    """The running binary, leader of a process group of its own, and what it has printed so far."""

    process: asyncio.subprocess.Process
    printed: list[str] = field(default_factory=list)

    async def says(self, pattern: str) -> str:
        """The first group of ``pattern`` in the first line of standard output that holds it."""
        assert self.process.stdout
        seen = 0
        async with asyncio.timeout(SOON):
            while True:
                for line in self.printed[seen:]:
                    if match := re.search(pattern, line):
                        return match[1]
                seen = len(self.printed)
                line = (await self.process.stdout.readline()).decode()
                assert line, f"the program ended its output without {pattern!r}; it printed {self.printed}"
                self.printed.append(line)

    async def terminate(self) -> int:
        """Asks the program to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SOON):
            return await self.process.wait()

    def family(self) -> set[Process]:
        """The program's process and all that descend from it, in whatever session they are."""
        children = processes()
        family = {process for process in children if process.pid == self.process.pid}
        while more := {child for child, parent in children.items() if parent in {m.pid for m in family}} - family:
            family |= more
        return family


@asynccontextmanager
async def running(binary: Path, folder: Path, *args: str, **environment: str) -> AsyncIterator[Program]:
    """Starts the program in ``folder`` with nothing else in its environment; none of it outlives the test."""
    process = await asyncio.create_subprocess_exec(
        binary, *args, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        yield Program(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@asynccontextmanager
async def subscriber(url: str, wallet: str, query: str = "") -> AsyncIterator[ClientConnection]:
    """A WebSocket client that has been told that its connection is established."""
    address = f"{url.replace('http', 'ws', 1)}/api/ws?publicKey={wallet}&{query}"
    async with connect(address, proxy=None) as socket:
        greeting = await next_frame(socket)
        assert (greeting["type"], greeting["wallet_address"]) == ("connection_established", wallet)
        yield socket


async def next_frame(socket: ClientConnection) -> dict[str, Any]:
    """The next frame, decoded."""
    async with asyncio.timeout(SOON):
        frame: dict[str, Any] = json.loads(await socket.recv())
    return frame


async def fetch(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


@pytest.fixture(scope="session")
def binary() -> Path:
    """``dist/walcast``, built anew if any source is newer: make knows."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    build = subprocess.run(["make", "binary"], cwd=REPO, env=inherited, capture_output=True, text=True)
    if "PythonLibraryNotFoundError" in build.stderr + build.stdout:
        pytest.skip("needs the library of this Python: apt-get install libpython3-dev")
    assert build.returncode == 0, build.stdout + build.stderr
    return REPO / "dist" / "walcast"


async def test_the_demo_serves_its_page_and_pushes(binary: Path, tmp_path: Path) -> None:
    """Alone in an empty folder the binary shows the sample page, pushes the demo's events, and ends when asked."""
    async with running(binary, tmp_path, "demo", *PORT) as program:
        url = await program.says(r"^walcast listening on (http://\S+)$")
        page = await program.says(r"(http://\S+[?&]publicKey=\S+)")
        [wallet] = parse_qs(urlsplit(page).query)["publicKey"]

        status, _ = await fetch(f"{url}/healthz")
        assert status == HTTPStatus.OK
        for address in (page, f"{url}/samples/websocket_client_example.html"):
            status, text = await fetch(address)
            assert status == HTTPStatus.OK
            assert "WebSocket" in text
        async with subscriber(url, wallet) as socket:
            assert (await next_frame(socket))["type"] in {"new_message", "task_update"}

        family = program.family()
        assert await program.terminate() == 0
        assert not family & processes().keys()


async def test_serve_pushes_what_another_program_writes(binary: Path, tmp_path: Path) -> None:
    """A row that somebody else commits to a database reaches its owner, who is named by a mapping file."""
    database, mapping = tmp_path / "legacy.db", tmp_path / "legacy.toml"
    mapping.write_text(MAPPING)
    with closing(sqlite3.connect(database)) as legacy:
        legacy.executescript(SCHEMA)
        legacy.execute("INSERT INTO conversations VALUES ('c1', ?)", [WALLET])
        legacy.commit()
        async with running(binary, tmp_path, "serve", "--db", database.name, "--map", mapping.name, *PORT) as program:
            url = await program.says(r"^walcast listening on (http://\S+)$")
            async with subscriber(url, WALLET) as socket:
                legacy.execute("INSERT INTO messages VALUES ('m1', 'c1', 'agent', '你好')")
                legacy.commit()
                assert await next_frame(socket) == {
                    "type": "new_message",
                    "conversation_id": "c1",
                    "message": {"id": "m1", "role": "agent", "content": [{"type": "text", "text": "你好"}]},
                }

            family = program.family()
            assert await program.terminate() == 0
            assert not family & processes().keys()


def hang_up_the_one_that_was_started(program: Program, _: Path) -> None:
    """As a supervisor does: it knows the process that unpacked the program, which passes the signal on."""
    program.process.send_signal(signal.SIGHUP)


def hang_up_both(program: Program, _: Path) -> None:
    """The one that works hears it twice."""
    os.killpg(program.process.pid, signal.SIGHUP)


def exchange_and_hang_up(program: Program, binary: Path) -> None:
    """Another version takes the program's place, as an update does."""
    shutil.copy(binary, binary.with_name("new"))
    binary.with_name("new").replace(binary)
    program.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("hang_up", [hang_up_the_one_that_was_started, hang_up_both, exchange_and_hang_up])
async def test_a_hangup_starts_it_again_where_it_is(
    binary: Path, tmp_path: Path, hang_up: Callable[[Program, Path], None]
) -> None:
    """The same address; 4200, then resumed without a loss. The same processes and no second unpacking, if the program
    is the same; and nothing is left of any of it in the end."""
    program_file, unpacked = tmp_path / "walcast", tmp_path / "tmp"
    shutil.copy(binary, program_file)
    unpacked.mkdir()
    (tmp_path / "legacy.toml").write_text(MAPPING)
    options = ("serve", "--db", "legacy.db", "--map", "legacy.toml", *PORT)
    with closing(sqlite3.connect(tmp_path / "legacy.db", isolation_level=None)) as legacy:
        legacy.executescript(SCHEMA)
        legacy.execute("INSERT INTO conversations VALUES ('c1', ?)", [WALLET])
        async with running(program_file, tmp_path, *options, TMPDIR=str(unpacked)) as program:
            url = await program.says(r"^walcast listening on (http://\S+)$")
            family = program.family()
            for run in range(2):
                async with subscriber(url, WALLET, "resume=1") as socket:
                    legacy.execute(f"INSERT INTO messages VALUES ('seen{run}', 'c1', 'agent', 'hello')")
                    cursor = (await next_frame(socket))["cursor"]
                    program.printed.clear()
                    hang_up(program, program_file)
                    with pytest.raises(ConnectionClosed) as closed:
                        await next_frame(socket)
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 4200
                legacy.execute(f"INSERT INTO messages VALUES ('missed{run}', 'c1', 'agent', 'hello')")
                assert await program.says(r"^walcast listening on (http://\S+)$") == url
                async with subscriber(url, WALLET, f"since={cursor}") as socket:
                    assert (await next_frame(socket))["message"]["id"] == f"missed{run}"
            if hang_up is exchange_and_hang_up:
                assert family <= program.family()
            else:
                assert family == program.family()
                assert len(list(unpacked.iterdir())) == 1
            family = program.family()
            assert await program.terminate() == 0
            assert not family & processes().keys()
            assert not list(unpacked.iterdir())
