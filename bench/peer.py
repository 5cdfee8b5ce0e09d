"""A helper process that obeys one JSON object a line on standard input and answers each with one line."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

REPO = Path(__file__).resolve().parent.parent

Scalar: TypeAlias = str | int | float | bool | None
Message: TypeAlias = dict[str, object]


class PeerFailed(RuntimeError):
    """A helper process ended, or took too long."""


class Peer:
    """The near side. `ask` sends an order and waits for its answer; `tell` and `answer` are its two halves."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._name = process, name
        self._in: IO[bytes] = process.stdin
        self._out: IO[bytes] = process.stdout

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, op: str, **fields: Scalar) -> None:
        """Send an order."""
        self._in.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        self._in.flush()

    def answer(self, timeout: float = 300) -> Message:
        """The answer to the oldest order not yet answered. Raises PeerFailed."""
        if not select.select([self._out], [], [], timeout)[0]:
            raise PeerFailed(f"{self._name} has not answered within {timeout:g} s")
        line = self._out.readline()
        if not line:
            raise PeerFailed(f"{self._name} has ended with code {self._process.wait()}")
        answer: Message = json.loads(line)
        return answer

    def ask(self, op: str, timeout: float = 300, **fields: Scalar) -> Message:
        """Send an order and wait for its answer. Raises PeerFailed."""
        self.tell(op, **fields)
        return self.answer(timeout)


@contextmanager
def peer(module: str, *arguments: str) -> Iterator[Peer]:
    """`python -m bench.MODULE ARGUMENTS`, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{module}", *arguments],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Peer(process, module)
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def orders() -> Iterator[Message]:
    """The far side: orders as they come, until the near side is gone."""
    for line in sys.stdin:
        order: Message = json.loads(line)
        yield order


def reply(**fields: object) -> None:
    """The far side's answer."""
    print(json.dumps(fields), flush=True)


def whole(message: Message, name: str) -> int:
    """A whole number of a message."""
    return int(str(message[name]))


def real(message: Message, name: str) -> float:
    """A number of a message."""
    return float(str(message[name]))


def stamp_list(message: Message) -> list[tuple[int, int]]:
    """(mark, nanoseconds of time.monotonic_ns()): one of each mark and client."""
    found = message["stamps"]
    assert isinstance(found, list)
    return [(int(mark), int(when)) for mark, when in found]


def stamps(message: Message) -> dict[int, int]:
    """Nanoseconds of time.monotonic_ns() by mark."""
    return dict(stamp_list(message))
