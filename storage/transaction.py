"""A transaction for the length of a block. Not a generator: it is on the way of each commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress


class Transaction:
    """BEGIN IMMEDIATE ... COMMIT, rolled back on any error. Inside another it is part of that one."""

    __slots__ = ("_depth", "_sql", "_undo")

    def __init__(self, sql: sqlite3.Connection, undo: Callable[[], None]) -> None:
        """`undo` makes what is kept in memory follow what is on disk, before the rollback."""
        self._sql, self._undo, self._depth = sql, undo, 0

    @property
    def is_open(self) -> bool:
        """Whether a block is running."""
        return self._depth > 0

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(is_good=kind is None)

    def begin(self) -> None:
        """Enter a block. Raises sqlite3.Error; then none was entered."""
        if not self._depth:
            self._sql.execute("BEGIN IMMEDIATE")
        self._depth += 1

    def end(self, *, is_good: bool) -> None:
        """Leave a block; the outermost commits or takes all back. Raises sqlite3.Error, and then it is taken back."""
        self._depth -= 1
        if self._depth:
            return
        try:
            if is_good:
                self._sql.execute("COMMIT")
                return
        except BaseException:
            self._roll_back()
            raise
        self._roll_back()

    def _roll_back(self) -> None:
        self._undo()
        with suppress(sqlite3.Error):
            self._sql.execute("ROLLBACK")
