"""A database that is named by a symbolic link: SQLite keeps its side files beside the file, not beside the link."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from storage.wake import Waker
from tests.storage.capture_rig import ENGINES, Rig
from tests.storage.legacy_writer import writer_process
from tests.storage.oracle import Schema

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")

INSERT = "INSERT INTO messages(conversation_id, role, body, owner) VALUES ('c', 'user', '{0}', 'w')"
COMMITS = 12
"""More than there may be gaps in a row before an engine says that it scans."""
LONG = 20.0


def linked(link: Path, target: Path) -> None:
    """Give the link this target, in one step, as whoever switches from one release to the next."""
    made = link.with_name("new")
    made.symlink_to(os.path.relpath(target, link.parent))
    made.replace(link)


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_the_pages_of_a_linked_database_tell_what_changed(tmp_path: Path, mode: str) -> None:
    """Also after the link was given another target."""
    schema, link = Schema(), tmp_path / "link" / "current.db"
    link.parent.mkdir()
    targets = [tmp_path / "data" / name for name in ("one.db", "two.db")]
    targets[0].parent.mkdir()
    with writer_process() as writer:
        for target in targets:
            writer.open(target)
            writer.sql(f"PRAGMA journal_mode={mode}", *schema.tables(), INSERT.format("first"))
        rig = Rig(link, schema.sections(), ENGINES["pages"])
        linked(link, targets[0])
        rig.start()
        try:
            epochs = set()
            for target in targets:
                writer.open(target)
                linked(link, target)
                rig.settle()
                rig.events()
                epochs.add(rig.state.epoch)
                passes = rig.capture.passes
                for text in range(COMMITS):
                    writer.sql(INSERT.format(text))
                    rig.settle()
                    assert len(rig.events()) == 1
                assert rig.hints.mode == ("wal-pages" if mode == "wal" else "journal-pages")
                assert mode != "wal" or rig.capture.passes == passes, "the pages did not tell"
            assert len(epochs) == len(targets), "another file is another database"
        finally:
            rig.stop()


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_write_beside_the_linked_file_wakes(tmp_path: Path, suffix: str) -> None:
    """And so does a new target of the link, whose files are watched from then on."""
    link = tmp_path / "link" / "current.db"
    link.parent.mkdir()
    targets = [tmp_path / name / "data.db" for name in ("one", "two")]
    for target in targets:
        target.parent.mkdir()
        target.touch()
    linked(link, targets[0])
    with closing(Waker(link)) as waker:
        for target in targets:
            linked(link, target)
            assert waker.wait(LONG)
            file = target.with_name(target.name + suffix)
            file.touch()
            while waker.wait(0):
                pass
            with file.open("ab") as opened:
                opened.write(b"x")
            assert waker.wait(LONG)
