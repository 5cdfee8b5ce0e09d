"""The catcher of journals: each is kept from the moment it is created, and each that is not is counted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.catcher import JournalCatcher


class Hesitant(JournalCatcher):
    """One whose next attempt to open the journal comes just before a journal is created."""

    creates: bytes = b""

    def _open(self) -> int | None:
        if self.creates:
            journal = Path(self._journal)
            content, self.creates = self.creates, b""
            assert not journal.exists()
            journal.write_bytes(content)
            return None
        return super()._open()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "legacy.db-journal"


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[Hesitant]:
    made = Hesitant(tmp_path / "legacy.db")
    if not made.start():
        pytest.skip("this system has no inotify")
    yield made
    made.stop()


def test_a_journal_created_after_the_attempt_to_open_it_is_opened_all_the_same(
    catcher: Hesitant, journal: Path
) -> None:
    """What wakes the catcher is often the end of the journal before, and the next one is there an instant later."""
    catcher.creates = b"content"
    assert catcher.take().missed == 0
    journal.unlink()
    caught = catcher.take()
    assert (caught.missed, caught.ended) == (0, [b"content"])
    catcher.release()


def test_what_is_taken_stays_readable_until_it_is_released(catcher: Hesitant, journal: Path) -> None:
    """Closing is what takes time, so it is put off."""
    for number in range(3):
        catcher.creates = b"%d" % number
        assert catcher.take().missed == 0
        journal.unlink()
        assert catcher.take().ended == [b"%d" % number]
    catcher.release()
    catcher.release()


def test_a_pause_catches_nothing_and_a_start_after_it_begins_anew(catcher: Hesitant, journal: Path) -> None:
    """What came and went in between is neither caught nor missed."""
    catcher.creates = b"before"
    catcher.take()
    catcher.pause()
    assert not catcher.is_running
    journal.unlink()
    journal.write_bytes(b"between")
    journal.unlink()
    journal.write_bytes(b"at the end")
    caught = catcher.take()
    assert (caught.missed, caught.ended) == (0, [])
    assert catcher.start()
    journal.unlink()
    caught = catcher.take()
    assert (caught.missed, caught.ended) == (0, [b"at the end"])
    catcher.creates = b"after"
    catcher.take()
    journal.unlink()
    assert catcher.take().ended == [b"after"]


def test_a_journal_that_came_and_went_unseen_is_missed(catcher: Hesitant, journal: Path) -> None:
    """The lock of the catcher is held meanwhile, so that its thread cannot be quicker."""
    with catcher._lock:
        journal.write_bytes(b"")
        journal.unlink()
    assert catcher.take().missed == 1
