"""What every test runs under: no blocking call on the loop, nothing left behind, and a list of what was skipped."""

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Generator, Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.terminal import TerminalReporter
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

REPO = Path(__file__).parent.parent

# Calls that may block the loop: (call, end of the file's name, function). Each needs a reason beside it.
MAY_BLOCK: tuple[tuple[str, str, str], ...] = ()

# What ends on its own gets this long, in seconds, before it counts as left behind.
GRACE = 2.0

pytest.register_assert_rewrite("tests.e2e.storms", "tests.e2e.clients", "tests.e2e.harness")

settings.register_profile("ci", derandomize=False, print_blob=True, deadline=None)
settings.register_profile("long", parent=settings.get_profile("ci"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_failed = pytest.StashKey[bool]()


def _room(name: str) -> ModuleType:
    """Names a room to blockbuster by its place, so that a test of one room imports no other."""
    room = ModuleType(name)
    room.__file__ = str(REPO / name)
    return room


_ROOMS = [_room(name) for name in ("server.py", "handlers/", "bridge/", "storage/")]


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call that one of our rooms makes on a running loop raises; what the test itself does may block."""
    with blockbuster_ctx(_ROOMS) as guard:
        for call, file, function in MAY_BLOCK:
            guard.functions[call].can_block_in(file, function)
        yield guard


@pytest.fixture(scope="session", autouse=True)
def programs_take_hangups() -> Iterator[None]:
    """A suite that is started to outlive its terminal ignores SIGHUP, and whatever it starts would inherit that."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: None)  # ignores it as well, but a handler is not inherited
    yield
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _threads() -> dict[Hashable, str]:
    """Threads that keep the interpreter from ending, and those of ours whether they do or not."""
    frames = sys._current_frames()
    found: dict[Hashable, str] = {}
    for thread in threading.enumerate():
        if not thread.daemon or thread.name.startswith("walcast-"):
            place = "".join(traceback.format_stack(frames.get(thread.ident or 0), 3))
            found[thread] = f"thread {thread.name!r} still runs, at\n{place}"
    return found


def _children() -> dict[Hashable, str]:
    """Child processes, ended but not waited for included; the tracker that multiprocessing keeps is not a leak."""
    found: dict[Hashable, str] = {}
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in map(int, children.read_text().split()):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if "multiprocessing.resource_tracker" not in command:
                    found[pid] = f"process {pid} was not ended and waited for: {command or '(a zombie)'}"
    return found


def _descriptors(folder: Path) -> dict[Hashable, str]:
    found: dict[Hashable, str] = {}
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            target = str(link.readlink())
            if target.startswith(f"{folder}/"):
                found[link.name, target] = f"file descriptor {link.name} is still open on {target}"
    return found


def _held(folder: Path) -> dict[Hashable, str]:
    """What outlives a test if nobody ends it, each with the line that reports it."""
    return {**_threads(), **_children(), **_descriptors(folder)}


def _list_of(what: str, lines: Iterable[str], most: int = 10) -> str:
    shown = list(lines)
    return "\n".join([f"{what} ({len(shown)}):", *(f"  {line}" for line in shown[:most])])


def _end(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test ends the threads and processes that it started and closes the files that it opened below tmp_path."""
    folder = tmp_path_factory.getbasetemp()
    before = _held(folder).keys()
    yield
    deadline = time.monotonic() + GRACE
    while (left := {key: line for key, line in _held(folder).items() if key not in before}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.01)
    for key in left:
        if isinstance(key, int):
            _end(key)
    if left and not request.node.stash.get(_failed, False):
        pytest.fail(_list_of("the test left behind", left.values()), pytrace=False)


@pytest.fixture
async def no_task_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A test ends the asyncio tasks that it started: the loop's own tidying would hide them."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE)
    if left and not request.node.stash.get(_failed, False):
        pytest.fail(_list_of("the test left tasks running", map(repr, left)), pytrace=False)


@pytest.fixture(autouse=True)
def guards(request: pytest.FixtureRequest, nothing_left: None, blockbuster: BlockBuster) -> None:
    """Puts the guards around all other fixtures of a test; only a test on a loop gets the one that needs a loop."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("no_task_left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers a failure, so that what a failed test leaves behind does not bury its message."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is marked ``needs(program, package)`` where the program is missing."""
    for marker in item.iter_markers("needs"):
        program, package = marker.args
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install {package}")


def _tell_seed(terminalreporter: TerminalReporter) -> None:
    """Of a run with a seed (`make prove`), how to repeat each failure."""
    seed = terminalreporter.config.getoption("--hypothesis-seed")
    failed = terminalreporter.stats.get("failed", ())
    if seed is not None and failed:
        terminalreporter.section("to repeat")
        for report in failed:
            name = report.location[2].partition("[")[0]
            terminalreporter.line(f"make prove ARGS='--hypothesis-seed={seed} -k {name}'  # {report.nodeid}")


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Lists how to repeat what failed, what did not run and how to get it, just above pytest's closing line."""
    _tell_seed(terminalreporter)
    skipped, deselected = (terminalreporter.stats.get(outcome, ()) for outcome in ("skipped", "deselected"))
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    heavy = sum(1 for item in deselected if item.get_closest_marker("heavy"))
    if heavy:
        reasons['heavy: make test ARGS="-m heavy"'] = heavy
    if reasons:
        terminalreporter.section("did not run, and how to get it")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:4} x {reason}")
