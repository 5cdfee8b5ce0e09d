"""A state file in the test's own process, and rows to record in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from storage.state import StateFile
from storage.types import Change, Draft, Op, Outcome, Row, Section, digest_of

SECTION = Section(0, "messages", "message", "m", (("id", "id"), ("owner", "o"), ("conversation_id", "c")))
OTHER_FIELD = Section(0, "messages", "message", "m", (("id", "id"), ("owner", "o2"), ("conversation_id", "c")))
OTHER_ID = Section(0, "messages", "message", "m", (("id", "id2"), ("owner", "o"), ("conversation_id", "c")))


@contextmanager
def opened(path: Path, keep_events: int = 1000, keep_seconds: float = 3600) -> Iterator[StateFile]:
    file = StateFile(path, keep_events=keep_events, keep_seconds=keep_seconds)
    file.open()
    try:
        yield file
    finally:
        file.close()


def kill(file: StateFile) -> None:
    """What is left when the process is gone: nothing more is written, and the lock falls."""
    assert file._connection is not None
    file._connection.close()
    file._connection = None
    file._lock.release()


def outcome(loc: int, *owners: str, pending: bool = False) -> Outcome:
    values = (f"m{loc}".encode(), b"W", b"c")
    change = Change(SECTION, Op.NEW, Row(loc, digest_of(values), values), None)
    draft = Draft("new_message", "c", f"m{loc}", b'{"n":%d}' % loc, owners) if owners else None
    return Outcome(change, draft, pending)


def log(file: StateFile, first: int, last: int, *owners: str) -> None:
    with file.transaction():
        file.record(outcome(loc, *owners) for loc in range(first, last + 1))


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()
