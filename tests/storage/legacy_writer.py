"""A legacy backend that does as it is told: one JSON command a line in, one JSON answer a line out.

Run as a program it is a process of its own, with a connection that knows nothing of us. `Writer` is the other end.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = "int | float | str | None"
Statement = tuple[str, Sequence[Value]]


class Refused(Exception):
    """SQLite refused a command of the writer; an open transaction was rolled back."""


class Writer:
    """Drives the other process. Every call returns when the command has been carried out."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def _tell(self, command: dict[str, object]) -> list[list[Value]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        rows: list[list[Value]] = answer["rows"]
        return rows

    def open(self, path: Path) -> None:
        """Open a database, closing the one before."""
        self._tell({"open": str(path)})

    def close(self) -> None:
        """Close the connection."""
        self._tell({"close": True})

    def run(self, *statements: Statement) -> list[list[Value]]:
        """Carry out statements in order; the rows of the last. Raises Refused."""
        return self._tell({"run": statements})

    def sql(self, *statements: str) -> list[list[Value]]:
        """The same for statements without parameters."""
        return self.run(*((statement, ()) for statement in statements))


@contextmanager
def writer_process() -> Iterator[Writer]:
    """A writer that ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-S", str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Writer(process)
        finally:
            process.kill()


def _main() -> None:
    connection = sqlite3.connect(":memory:")
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, object] = {"rows": []}
        try:
            if "open" in command or "close" in command:
                connection.close()
            if "open" in command:
                connection = sqlite3.connect(command["open"], isolation_level=None, timeout=0)
            for sql, parameters in command.get("run", ()):
                answer["rows"] = connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            answer = {"error": str(error)}
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
