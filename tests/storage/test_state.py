"""The bridge's own file: one transaction per look, epochs that tell the truth, and nobody else's file touched."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from storage import state
from storage.errors import StateUnusable
from storage.schema import APPLICATION_ID, FORMAT
from storage.state import CHECKPOINT, RARE_CHECKPOINT, StateFile
from storage.transaction import Transaction
from storage.types import Draft, Outcome, Section
from tests.storage.state_rig import OTHER_FIELD, OTHER_ID, SECTION, kill, log, opened, outcome, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


# -- the log


def test_events_are_numbered_and_chained_by_owner(path: Path) -> None:
    """Each route names the event before it for that owner, also after a new start."""
    with opened(path) as file:
        with file.transaction():
            events = file.record([outcome(1, "A"), outcome(2, "A", "B"), outcome(3, "B")])
        assert [(event.seq, event.routes) for event in events] == [
            (1, (("A", 0),)), (2, (("A", 1), ("B", 0))), (3, (("B", 2),)),
        ]  # fmt: skip
    with opened(path) as file:
        assert file.head == 3
        with file.transaction():
            (event,) = file.record([outcome(4, "A", "B")])
        assert (event.seq, event.routes) == (4, (("A", 2), ("B", 3)))


def test_what_is_remembered_and_what_is_logged_go_together(path: Path) -> None:
    """Known rows with their place and whether they wait; events only where there is a draft."""
    with opened(path) as file:
        with file.transaction():
            assert len(file.record([outcome(1, "A"), outcome(2, pending=True)])) == 1
        remembered = file.known_between(SECTION, None, None)
        assert [(entry.loc, entry.pending) for entry in remembered] == [(1, False), (2, True)]
        assert file.pending(SECTION, None, 10) == [2]
        assert (file.count_known(SECTION), file.last_known_loc(SECTION)) == (2, 2)
        assert [entry.loc for entry in file.known_between(SECTION, 1, None)] == [2]
        assert [entry.loc for entry in file.known_between(SECTION, None, 1)] == [1]
        assert [entry.loc for entry in file.known_at(SECTION, [2, 7])] == [2]
        found = file.known_at(SECTION, [1])[0]
        assert file.find(SECTION, found.key) is None
        file.index_keys(SECTION)
        assert file.find(SECTION, found.key) == found


def test_rows_are_found_however_far_behind_the_last_one_they_came_to_stand(path: Path) -> None:
    """A row behind all others is not asked for: appended, sheltered, taken back or read from the file, it counts."""
    with opened(path) as file:
        assert file.known_at(SECTION, [1]) == []
        with file.transaction():
            file.record([outcome(5)])
        assert [entry.loc for entry in file.known_at(SECTION, [4, 5, 6])] == [5]
        assert file.known_at(SECTION, [6]) == []
        with file.transaction():
            file.shelter(SECTION, [(file.known_at(SECTION, [5])[0], 9)])
        assert [entry.loc for entry in file.known_at(SECTION, [9])] == [9]
        with suppress(RuntimeError), file.transaction():
            file.record([outcome(20)])
            raise RuntimeError
        with file.transaction():
            file.record([outcome(12)])
        assert [entry.loc for entry in file.known_at(SECTION, [20, 12])] == [12]
    with opened(path) as file:
        assert [entry.loc for entry in file.known_at(SECTION, [12])] == [12]


@pytest.mark.parametrize(
    "statement", ["INSERT INTO events", "INSERT INTO routes", "INSERT OR REPLACE INTO seen", "DELETE", "COMMIT"]
)
def test_a_failure_at_any_statement_leaves_everything_as_it_was(path: Path, statement: str) -> None:
    """Neither rows nor events nor numbers: the next look does it all again."""
    with opened(path, keep_events=2) as file:
        log(file, 1, 4, "A")
        before = everything(file)
        real, whole = file._connection, file._transaction
        file._connection = failing = Failing(real, statement)  # type: ignore[assignment]
        file._transaction = Transaction(failing, file._undo)  # type: ignore[arg-type]
        with pytest.raises(sqlite3.OperationalError, match="disk is full"), file.transaction():
            file.record([outcome(5, "A"), outcome(6, "B")])
        file._connection, file._transaction = real, whole
        assert everything(file) == before
        with file.transaction():
            (event,) = file.record([outcome(5, "A")])
        assert (event.seq, event.routes) == (5, (("A", 4),))


@pytest.mark.parametrize("draft", [None, Draft("new_message", "c", "m", b"{}", ("A", "B"))], ids=["begun", "whole"])
@pytest.mark.parametrize("statement", ["BEGIN", "SELECT", "INSERT", "nothing"])
def test_a_rehearsal_changes_nothing_and_its_failure_is_nobodys(
    path: Path, statement: str, draft: Draft | None
) -> None:
    """The look that comes says what is wrong, if it still is."""
    with opened(path) as file:
        file.index_keys(SECTION)
        log(file, 1, 4, "A")
        before = everything(file)
        real, whole = file._connection, file._transaction
        file._connection = failing = Failing(real, statement)  # type: ignore[assignment]
        file._transaction = Transaction(failing, file._undo)  # type: ignore[arg-type]
        file.rehearse(SECTION, draft)
        file._connection, file._transaction = real, whole
        assert everything(file) == before
        log(file, 5, 5, "A")
        assert file.head == 5
        assert rows(path, "SELECT owner, seq, prev FROM routes WHERE seq > 3") == [("A", 4, 3), ("A", 5, 4)]


def test_beside_a_writer_that_never_rests_the_file_is_synced_rarely_and_then_as_always(path: Path) -> None:
    """Its log grows meanwhile, by no more than is said, and is cut to what it was as soon as that is over."""
    wal = path.with_name(f"{path.name}-wal")
    ordinary = 4120 * CHECKPOINT + 5_000_000  # a commit of the test has a megabyte
    with opened(path) as file:

        def megabytes(first: int, last: int) -> int:
            for loc in range(first, last + 1):
                with file.transaction():
                    file.record([large(loc)])
            return wal.stat().st_size

        assert megabytes(1, 40) < ordinary
        file.spare_disk(is_on=True)
        assert megabytes(41, 85) > 40_000_000
        assert megabytes(86, 140) < 4120 * RARE_CHECKPOINT + 5_000_000
        megabytes(141, 180)
        file.spare_disk(is_on=False)
        assert megabytes(181, 200) < ordinary
    assert rows(path, "SELECT count(*), sum(length(body)) FROM events") == [(200, 200_000_000)]


def large(loc: int) -> Outcome:
    done = outcome(loc, "W")
    assert done.draft is not None
    return done._replace(draft=done.draft._replace(body=bytes(1_000_000)))


def everything(file: StateFile) -> tuple[object, ...]:
    """What is kept in memory, and what is on disk."""
    tables = [rows(file.path, f"SELECT * FROM {table}") for table in ("seen", "events", "routes", "meta")]
    return file.epoch, file.head, file.pruned, tables


class Failing:
    """A connection on which one kind of statement fails."""

    def __init__(self, real: sqlite3.Connection | None, statement: str) -> None:
        assert real is not None
        self._real, self._statement = real, statement

    def _check(self, sql: str) -> None:
        if sql.startswith(self._statement):
            raise sqlite3.OperationalError("database or disk is full")

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        self._check(sql)
        return self._real.execute(sql, parameters)

    def executemany(self, sql: str, parameters: list[tuple[object, ...]]) -> sqlite3.Cursor:
        self._check(sql)
        return self._real.executemany(sql, parameters)


# -- epochs


def test_a_stop_and_a_kill_keep_the_epoch(path: Path) -> None:
    """What a client holds is still good, however the process ended."""
    with opened(path) as file:
        epoch = file.epoch
        log(file, 1, 3, "A")
    with opened(path) as file:
        assert (file.epoch, file.head) == (epoch, 3)
        kill(file)
    with opened(path) as file:
        assert (file.epoch, file.head) == (epoch, 3)


def test_a_machine_that_stopped_without_a_clean_close_begins_an_epoch(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last transactions may be lost, and their numbers would be given a second time. A clean close loses none."""
    with opened(path) as file:
        epoch = file.epoch
        log(file, 1, 3, "A")
    monkeypatch.setattr(state, "boot_id", lambda: "another boot")
    with opened(path) as file:
        assert file.epoch == epoch
        kill(file)
    monkeypatch.setattr(state, "boot_id", lambda: "a third boot")
    with opened(path) as file:
        assert file.epoch != epoch
        assert (file.head, file.pruned) == (3, 3)
        with file.transaction():
            (event,) = file.record([outcome(4, "A")])
        assert (event.seq, event.routes) == (4, (("A", 0),))


def test_without_a_boot_id_every_commit_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a crash of the machine loses nothing either."""
    monkeypatch.setattr(state, "boot_id", lambda: None)
    with opened(path) as file:
        assert file._sql.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize(
    ("section", "database", "reason", "remains"),
    [
        (SECTION, "1", None, 1),
        (OTHER_FIELD, "1", "mapping_changed", 1),
        (OTHER_ID, "1", "mapping_changed", 0),
        (SECTION, "2", "database_replaced", 1),
    ],
)
def test_another_mapping_or_database_begins_an_epoch(
    path: Path, section: Section, database: str, reason: str | None, remains: int
) -> None:
    """Rows stay known unless they are other rows now."""
    with opened(path) as file:
        assert file.adopt([SECTION], "1") is None
        file.set_baseline(SECTION, "done", 7, None)
        epoch = file.epoch
        log(file, 1, 1, "A")
    with opened(path) as file:
        assert file.adopt([section], database) == reason
        assert (file.epoch == epoch) == (reason is None)
        assert file.count_known(section) == remains
        baselines = {SECTION: ("done", 7, None), OTHER_FIELD: ("redigest", 7, None), OTHER_ID: ("new", None, None)}
        assert file.baseline(section) == baselines[section]


def test_a_section_that_is_no_longer_mapped_is_forgotten(path: Path) -> None:
    """Its rows would never be compared again."""
    with opened(path) as file:
        file.adopt([SECTION], "1")
        log(file, 1, 1, "A")
        file.adopt([], "1")
        assert rows(path, "SELECT * FROM seen") == []


# -- whose file it is


def test_a_file_of_somebody_else_is_refused_and_untouched(path: Path) -> None:
    """--state may be mistyped as the name of the legacy database."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE precious(x)")
    before = path.read_bytes()
    with pytest.raises(StateUnusable, match="is not a walcast state file"), opened(path):
        pass
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"state", "state.lock"}


def test_a_file_of_another_format_is_refused_and_untouched(path: Path) -> None:
    """A newer walcast may have written it."""
    with opened(path) as file:
        file._sql.execute(f"PRAGMA user_version={FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(StateUnusable, match=f"has format {FORMAT + 1}"), opened(path):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"x"])
def test_a_file_that_is_no_database_is_refused_and_untouched(path: Path, content: bytes) -> None:
    """Text, or a damaged file."""
    path.write_bytes(content)
    with pytest.raises(StateUnusable), opened(path):
        pass
    assert path.read_bytes() == content


def test_an_empty_file_is_taken(path: Path) -> None:
    """As `mktemp` makes one."""
    path.touch()
    with opened(path):
        pass
    assert rows(path, "PRAGMA application_id") == [(APPLICATION_ID,)]


def test_two_instances_cannot_share_a_file(path: Path) -> None:
    """The second is refused while the first runs, and only then; a refusal does not take the first one's lock."""
    with opened(path):
        for _ in range(2):
            with pytest.raises(StateUnusable, match="belongs to another running walcast"), opened(path):
                pass
    with opened(path):
        pass


def test_a_refused_file_gives_its_lock_back(path: Path) -> None:
    """Else it could not be used in this process again."""
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateUnusable), opened(path):
        pass
    path.unlink()
    with opened(path):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With a hint what to do."""
    with pytest.raises(StateUnusable, match="cannot be written"), opened(tmp_path / "no" / "state"):
        pass


def test_a_closed_file_says_so(path: Path) -> None:
    """And closing twice is no error."""
    file = StateFile(path, keep_events=1, keep_seconds=1)
    file.close()
    with pytest.raises(StateUnusable, match="is not open"):
        file.count_known(SECTION)


def test_failures_are_kept_by_place(path: Path) -> None:
    """With their reason, until they are mended."""
    with opened(path) as file:
        file.set_failures(SECTION, {1: "bad", 5: "worse"}, [])
        assert file.failures(SECTION, None, None) == {1: "bad", 5: "worse"}
        assert file.failures(SECTION, 1, 5) == {5: "worse"}
        file.set_failures(SECTION, {5: "other"}, [1])
        assert (file.failures(SECTION, None, None), file.count_failures(SECTION)) == ({5: "other"}, 1)
