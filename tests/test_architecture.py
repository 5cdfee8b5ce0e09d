"""The walls of the house: imports run one way, each room has its own libraries, and few places start anything."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

REPO = Path(__file__).parent.parent
CODE = ("server.py", "handlers", "bridge", "storage", "samples")
LONGEST_FILE = 400

# What each room may import of ours.
ARROWS = {
    "server": {"handlers", "bridge", "storage", "samples"},
    "handlers": {"bridge"},
    "bridge": {"storage"},
    "storage": set(),
    "samples": set(),
}

# The libraries of each room; server.py wires and may use them all.
LIBRARIES = {
    "handlers": {"aiohttp", "msgspec", "prometheus_client"},
    "bridge": {"base58", "cryptography", "msgspec", "prometheus_client", "pydantic", "pydantic_settings", "rich"},
    "storage": {"aiosqlite", "inotify_simple"},
    "samples": set[str](),
}

# Modules of the standard library that belong to some rooms only.
STANDARD = {"sqlite3": {"storage", "samples"}}

# Where the command line is, or stands in for one.
MAY_PRINT = ("server.py", "samples/", "bench/")

# The owners of a task or a thread: whoever starts one registers, cancels and awaits it.
STARTERS = {"create_task", "ensure_future", "Thread"}
MAY_START = {
    "server.py": "the terminal subscriber beside the wait for a signal; whichever ends first ends both",
    "handlers/connections.py": "the pulse of all sockets and the farewell of each one; the registry ends both",
    "handlers/websocket.py": "the replay of a connection, in a task group that ends with it",
    "storage/catcher.py": "the one thread that opens journals the moment they are created; the hints end it",
    "storage/worker.py": "the one thread that reads the legacy database",
}

Rule = Callable[[PurePosixPath, ast.Module], Iterator[str]]


def room_of(path: PurePosixPath) -> str:
    """The room of a file, named by its path from the top: ``server`` or a folder."""
    return path.parts[0].removesuffix(".py")


def imports(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and top-level name of every import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, room_of(path) if node.level else str(node.module).partition(".")[0]


def calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and last name of everything called: ``create_task`` of ``group.create_task(...)``."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
                yield node.lineno, name


def wrong_arrows(path: PurePosixPath, tree: ast.Module) -> Iterator[str]:
    """Imports of ours that run against ``server -> handlers -> bridge -> storage``."""
    room = room_of(path)
    allowed = ARROWS[room]
    for line, name in imports(path, tree):
        if name in {*ARROWS, "tests", "bench"} - {room} - allowed:
            yield f"{path}:{line} imports {name}; {room} may import of ours: {', '.join(sorted(allowed)) or 'nothing'}"


def foreign_libraries(path: PurePosixPath, tree: ast.Module) -> Iterator[str]:
    """Libraries of another room."""
    room = room_of(path)
    for line, name in imports(path, tree):
        if name in sys.stdlib_module_names:
            if room not in STANDARD.get(name, {room}):
                yield f"{path}:{line} imports {name}, which is for {', '.join(sorted(STANDARD[name]))}"
        elif name not in ARROWS and room in LIBRARIES and name not in LIBRARIES[room]:
            yield f"{path}:{line} imports {name}; {room} has: {', '.join(sorted(LIBRARIES[room])) or 'none'}"


def prints(path: PurePosixPath, tree: ast.Module) -> Iterator[str]:
    """Prints outside the command line."""
    if not str(path).startswith(MAY_PRINT):
        yield from (f"{path}:{line} prints" for line, name in calls(tree) if name == "print")


def starts(path: PurePosixPath, tree: ast.Module) -> Iterator[str]:
    """Tasks and threads started where nobody is known to own them."""
    if str(path) not in MAY_START:
        yield from (f"{path}:{line} calls {name}; see MAY_START" for line, name in calls(tree) if name in STARTERS)


def source_files(*roots: str) -> list[Path]:
    """The Python files at or below ``roots``, in order."""
    places = [REPO / root for root in roots]
    return sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))


def parse(file: Path) -> tuple[PurePosixPath, ast.Module]:
    """A file's path from the top, and its tree."""
    return PurePosixPath(file.relative_to(REPO).as_posix()), ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("rule", [wrong_arrows, foreign_libraries, prints, starts])
def test_the_house_keeps_its_walls(rule: Rule) -> None:
    """No file of ours breaks the rule."""
    files = source_files(*CODE)
    broken = [line for file in files for line in rule(*parse(file))]
    assert files
    assert not broken, "\n".join(["", *broken])


def test_no_file_holds_two_nouns() -> None:
    """A file longer than this is two files."""
    files = source_files(*CODE, "tests", "bench")
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    too_long = [f"{file.relative_to(REPO)}: {n} lines" for file, n in lengths.items() if n > LONGEST_FILE]
    assert not too_long, "\n".join(["", *too_long])


def test_every_permission_to_start_a_task_is_used() -> None:
    """An entry of MAY_START names a file that starts something."""
    unused = [
        path
        for path in MAY_START
        if not (REPO / path).exists() or STARTERS.isdisjoint(name for _, name in calls(parse(REPO / path)[1]))
    ]
    assert not unused


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (wrong_arrows, "storage/log.py", "import bridge.events"),
        (wrong_arrows, "bridge/hub.py", "def late():\n    from handlers import socket"),
        (wrong_arrows, "handlers/ws.py", "from storage.log import Log"),
        (wrong_arrows, "samples/legacy_backend.py", "from bridge import hub"),
        (wrong_arrows, "bridge/hub.py", "import tests.helpers"),
        (foreign_libraries, "storage/log.py", "import pydantic"),
        (foreign_libraries, "bridge/hub.py", "from aiohttp import web"),
        (foreign_libraries, "bridge/deep/hub.py", "import sqlite3"),
        (foreign_libraries, "samples/legacy_backend.py", "import click"),
        (prints, "bridge/hub.py", "print('here')"),
        (starts, "handlers/ws.py", "async def f(group):\n    group.create_task(f(group))"),
        (starts, "bridge/hub.py", "threading.Thread(target=print)"),
    ],
)
def test_a_breach_is_seen(rule: Rule, path: str, source: str) -> None:
    """Each rule finds what it is there to find."""
    assert len(list(rule(PurePosixPath(path), ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (wrong_arrows, "bridge/deep/hub.py", "from ..events import Event\nfrom storage.types import Row"),
        (foreign_libraries, "storage/log.py", "import sqlite3, aiosqlite\nfrom . import errors"),
        (foreign_libraries, "server.py", "import click, uvloop, handlers"),
        (prints, "samples/legacy_backend.py", "print('here')"),
        (prints, "bridge/hub.py", "'print(1)'  # print(2)"),
    ],
)
def test_what_is_allowed_is_let_through(rule: Rule, path: str, source: str) -> None:
    """A rule finds nothing else."""
    assert not list(rule(PurePosixPath(path), ast.parse(source)))
