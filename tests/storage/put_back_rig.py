"""A bridge, a writer in another process, and what an administrator does who puts a backup back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.hints import PageHints
from tests.storage.capture_rig import Rig
from tests.storage.legacy_writer import Writer, writer_process
from tests.storage.oracle import Schema

SCHEMA = Schema()
COUNTED = Schema("INTEGER PRIMARY KEY AUTOINCREMENT")
INSERT = "INSERT INTO messages(id, conversation_id, role, body, owner) VALUES ({0}, 'c', 'user', 'text {0}', 'W')"

NEXT = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', 'x', 'W')"


class Stage:
    """A bridge, a writer in a process of its own, and the files between them."""

    def __init__(self, folder: Path, schema: Schema, writer: Writer) -> None:
        self.path, self.writer = folder / "legacy.db", writer
        writer.open(self.path)
        writer.sql("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", *schema.tables())
        self.rig = Rig(self.path, schema.sections(), PageHints)
        self.rig.start()
        assert self.came() == []

    def came(self, *numbers: int) -> list[str]:
        """Write these messages, let the bridge come to rest: the ids of what came."""
        for number in numbers:
            self.writer.sql(INSERT.format(number))
        self.rig.settle()
        return [key[1] for key, _ in self.rig.events()]

    @property
    def epochs(self) -> dict[str, int]:
        """The epochs that began since the last start, by reason."""
        return {str(reason): count for reason, count in self.rig.state.epochs_begun.items()}

    def side_file(self, suffix: str) -> Path:
        """A file beside the database."""
        return Path(f"{self.path}{suffix}")

    def backup(self) -> bytes:
        """The database as it is now, its log in it."""
        self.writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.read_bytes()

    def remove_log(self) -> None:
        """What an administrator does first, when the backend has been stopped."""
        self.writer.close()
        for suffix in ("-wal", "-shm"):
            self.side_file(suffix).unlink(missing_ok=True)

    def overwrite(self, content: bytes) -> None:
        """`cp backup legacy.db`."""
        with open(self.path, "wb") as file:
            file.write(content)


@contextmanager
def staged(folder: Path, schema: Schema = SCHEMA) -> Iterator[Stage]:
    with writer_process() as writer:
        stage = Stage(folder, schema, writer)
        try:
            yield stage
        finally:
            stage.rig.kill()
