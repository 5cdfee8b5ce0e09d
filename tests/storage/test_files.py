"""What a path names, and whether what SQLite keeps beside it is what the writer keeps there."""

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from storage.errors import DatabaseUnusable
from storage.files import beside, is_mounted_alone
from storage.legacy import LegacyDatabase
from tests.storage.legacy_writer import writer_process

HOST = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
CONTAINER = "22 1 0:50 / / rw - overlay overlay rw\n"
BIND = 'mount --bind "$0" "$1" && shift && exec "$@"'
READ = """
import sys
from pathlib import Path
from storage.errors import DatabaseUnusable
from storage.legacy import LegacyDatabase
legacy = LegacyDatabase(Path(sys.argv[1]))
legacy.open()
try:
    with legacy.snapshot():
        print(legacy.connection.execute("SELECT count(*) FROM messages").fetchone()[0])
except DatabaseUnusable as error:
    print(error)
legacy.close()
"""


@pytest.mark.parametrize(
    ("mounts", "is_alone"),
    [
        (HOST, False),
        (f"{CONTAINER}23 22 8:1 /srv/chat /data rw - ext4 /dev/sda1 rw\n", False),
        (f"{CONTAINER}23 22 8:1 /srv/chat/chat.db /data/chat.db rw - ext4 /dev/sda1 rw\n", True),
        (f"{HOST}23 22 8:1 /srv/chat.db /data/chat.db rw - ext4 /dev/sda1 rw\n", True),
        (f"{HOST}23 22 8:1 /data/chat.db /data/chat.db ro - ext4 /dev/sda1 rw\n", False),  # over itself
        (
            f"{CONTAINER}23 22 8:1 /@/srv /data rw - btrfs /dev/sda1 rw\n"
            "24 23 8:1 /@/srv/chat.db /data/chat.db ro - btrfs /dev/sda1 rw\n",
            False,
        ),
        (
            f"{CONTAINER}23 22 8:1 /srv /data rw - ext4 /dev/sda1 rw\n"
            "24 23 8:2 /srv/chat.db /data/chat.db ro - ext4 /dev/sdb1 rw\n",
            True,
        ),
        (f"{HOST}23 22 8:1 /srv/chat.db /data/chat.db.old rw - ext4 /dev/sda1 rw\n", False),
        ("nothing of the kind", False),
    ],
)
def test_a_file_is_mounted_alone_if_its_folder_is_another(tmp_path: Path, mounts: str, *, is_alone: bool) -> None:
    """As the system's list of mounts tells; without one there is nothing to object to."""
    (tmp_path / "mounts").write_text(mounts)
    assert is_mounted_alone(Path("/data/chat.db"), tmp_path / "mounts") is is_alone
    assert not is_mounted_alone(Path("/data/chat.db"), tmp_path / "none")


def test_names_with_blanks_are_found_in_the_list_of_mounts(tmp_path: Path) -> None:
    """They are written in octal there."""
    (tmp_path / "mounts").write_text(f"{HOST}23 22 8:1 /a\\040b.db /my\\040data/a\\134b.db rw - ext4 /dev/sda1 rw\n")
    assert is_mounted_alone(Path("/my data/a\\b.db"), tmp_path / "mounts")


def test_side_files_stand_beside_the_target_of_a_link(tmp_path: Path) -> None:
    """Through as many links as there are; a name that is none stands for itself, and need not exist."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.db").touch()
    (tmp_path / "middle").symlink_to("far/real.db")
    (tmp_path / "link").symlink_to("middle")
    assert beside(tmp_path / "link", "-wal") == tmp_path / "far" / "real.db-wal"
    assert beside(tmp_path / "far" / "real.db", "-wal") == tmp_path / "far" / "real.db-wal"
    assert beside(tmp_path / "none.db", "") == tmp_path / "none.db"


def _may_mount() -> bool:
    """Whether this process may make mounts of its own, seen by nobody else."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-m", "mount", "--bind", "/tmp", "/tmp"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="this user may not mount")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_without_its_folder_is_not_read_in_wal_mode(tmp_path: Path, mode: str) -> None:
    """There the last commits are in a log that cannot be seen, and all would seem well."""
    ours, alone = tmp_path / "ours.db", tmp_path / "alone" / "ours.db"
    alone.parent.mkdir()
    alone.touch()
    with writer_process() as writer:
        writer.open(ours)
        writer.sql(f"PRAGMA journal_mode={mode}", "CREATE TABLE messages(x)", "INSERT INTO messages VALUES (1)")
        for place in (alone, ours):
            program = [sys.executable, "-c", READ, str(place)]
            shell = ["unshare", "-m", "sh", "-c", BIND, str(ours), str(place), *program]
            done = subprocess.run(shell, capture_output=True, text=True, check=True)
            if mode == "wal" and place == alone:
                assert "mounted alone" in done.stdout
            else:
                assert done.stdout == "1\n"


def test_what_is_mounted_alone_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no snapshot of it stays open."""
    path = tmp_path / "legacy.db"
    with writer_process() as writer:
        writer.open(path)
        writer.sql("PRAGMA journal_mode=wal", "CREATE TABLE messages(x)")
        with monkeypatch.context() as patched, closing(LegacyDatabase(path)) as legacy:
            patched.setattr("storage.legacy.is_mounted_alone", lambda _: True)
            legacy.open()
            with pytest.raises(DatabaseUnusable, match="mounted alone"), legacy.snapshot():
                pass
            patched.setattr("storage.legacy.is_mounted_alone", lambda _: False)
            with legacy.snapshot():
                assert not legacy.connection.execute("SELECT * FROM messages").fetchall()
