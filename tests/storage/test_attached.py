"""A writer that commits to two files at once: each journal names a super-journal, and both commit or neither."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import writer_process
from tests.storage.oracle import Schema

if sys.platform == "linux":
    from inotify_simple import INotify, flags

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")

INSERT = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', 'x', 'w')"


@pytest.mark.parametrize("is_main", [True, False], ids=["main", "attached"])
@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_a_commit_over_two_attached_databases_is_pushed_once(tmp_path: Path, mode: str, is_main: bool) -> None:
    """Whichever of them the legacy database is; and nothing of one that is rolled back."""
    schema, ours, other = Schema(), tmp_path / "legacy.db", tmp_path / "other.db"
    with writer_process() as writer, closing(INotify()) as folder:
        for path, tables in ((ours, schema.tables()), (other, ["CREATE TABLE elsewhere(x)"])):
            writer.open(path)
            writer.sql("PRAGMA journal_mode=" + (mode if path == ours else "delete"), *tables)
        first, second = (ours, other) if is_main else (other, ours)
        writer.open(first)
        writer.run(("ATTACH ? AS attached", [str(second)]))
        writer.sql(f"PRAGMA {'main' if is_main else 'attached'}.journal_mode={mode}")
        rig = Rig(ours, schema.sections(), ENGINES["pages"])
        rig.start()
        try:
            rig.settle()
            folder.add_watch(tmp_path, flags.CREATE)
            for number, ending in enumerate(("COMMIT", "ROLLBACK", "COMMIT", "COMMIT")):
                passes = rig.capture.passes
                writer.sql("BEGIN", INSERT, f"INSERT INTO elsewhere VALUES ({number})", ending)
                rig.settle()
                assert len(rig.events()) == (ending == "COMMIT")
                # A journal that is deleted may be missed, one that is emptied cannot be caught.
                assert mode != "wal" or rig.capture.passes == passes, "the pages did not tell"
            made = [event.name for event in folder.read(timeout=0)]
            assert any(name.startswith(f"{first.name}-mj") for name in made) == (mode != "wal")
        finally:
            rig.stop()
