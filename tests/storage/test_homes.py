"""What the state file keeps for edits and deletions: where rows were told, and a second chain of events."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from storage import homes
from storage.eventlog import EventLog, Wanted
from storage.schema import FORMAT
from storage.types import NOBODY, Change, Event, Home, Op, Outcome, Row, digest_of
from tests.storage.state_rig import SECTION, log, opened, outcome, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def optional(loc: int, *owners: str) -> Outcome:
    """An event that only comes to who asks for it."""
    made = outcome(loc, *owners)
    assert made.draft is not None
    return made._replace(draft=made.draft._replace(is_optional=True))


def test_optional_events_have_a_chain_of_their_own(path: Path) -> None:
    """Who does not ask for them finds the event before in `prev` as if they were not; also after a new start."""
    with opened(path) as file, file.transaction():
        made = file.record([outcome(1, "A"), optional(2, "A"), outcome(3, "A", "B"), optional(4, "B")])
    assert [(event.routes, event.wide) for event in made] == [
        ((("A", 0),), {}),
        ((("A", 1),), {}),
        ((("A", 1), ("B", 0)), {"A": 2}),
        ((("B", 3),), {}),
    ]
    for seq, last in ((5, 3), (6, 5)):
        with opened(path) as file, file.transaction():
            (event,) = file.record([outcome(seq, "B")])
            assert (event.seq, event.routes, event.wide) == (seq, (("B", last),), {"B": 4} if seq == 5 else {})
    with opened(path, keep_events=1) as file:
        log(file, 7, 8, "C")
        with file.transaction():
            (event,) = file.record([outcome(9, "B")])
        assert (event.routes, event.wide) == ((("B", 0),), {})


def test_a_home_is_kept_once_for_all_rows_that_share_it(path: Path) -> None:
    """In the transaction of its rows: what is rolled back is not remembered in memory either."""
    with opened(path) as file:
        with suppress(RuntimeError), file.transaction():
            file.record([outcome(1, "A")])
            raise RuntimeError
        assert rows(path, "SELECT * FROM homes") == []
        log(file, 1, 3, "A")
        assert rows(path, "SELECT * FROM homes") == [(1, "c", b"W")]
        assert rows(path, "SELECT DISTINCT home, typeof(id) FROM seen") == [(1, "text")]
        (known, *_) = file.known_at(SECTION, [1])
        assert (known.id, file.home(known)) == ("m1", Home("c", b"W"))
        assert file.home(replace(known, home=None)) is None
    with opened(path) as file:
        log(file, 4, 4, "A")
        assert rows(path, "SELECT count(*) FROM homes") == [(1,)]


def test_homes_of_rows_that_are_gone_are_cleared_when_they_are_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and while it runs; the homes of rows that are known stay."""
    monkeypatch.setattr(homes, "SPARE", 3)
    with opened(path) as file:
        for loc in range(1, 9):
            values = (b"m", b"W", f"c{loc}".encode())
            moved = Change(SECTION, Op.CHANGED, Row(1, digest_of(values), values), None)
            with file.transaction():
                file.record([Outcome(moved)])
        file.clear_homes()
        assert rows(path, "SELECT conversation_id FROM homes") == [("c8",)]
        (known,) = file.known_at(SECTION, [1])
        assert file.home(known) == Home("c8", b"W")


def test_a_file_of_format_1_is_taken_over(path: Path) -> None:
    """Rows, events and cursors stay; of its rows it is not known whose they were."""
    with opened(path) as file:
        log(file, 1, 2, "A")
        epoch = file.epoch
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "ALTER TABLE seen DROP COLUMN id; ALTER TABLE seen DROP COLUMN home; DROP TABLE homes;"
            "ALTER TABLE events DROP COLUMN optional; ALTER TABLE routes DROP COLUMN wide; PRAGMA user_version=1"
        )
    with opened(path) as file:
        assert (file.epoch, file.head) == (epoch, 2)
        (known,) = file.known_at(SECTION, [1])
        assert (known.id, known.home, known.is_told) == (None, None, False)
        log(file, 3, 3, "A")
        assert rows(path, "SELECT seq, prev, wide FROM routes") == [(1, 0, None), (2, 1, None), (3, 2, None)]
    assert rows(path, "PRAGMA user_version") == [(FORMAT,)]


def test_a_row_that_comes_back_broken_is_hidden_no_more(path: Path) -> None:
    """It waits to be mended, and is not taken for changed at every look."""
    with opened(path) as file:
        log(file, 1, 1, "A")
        for change in (
            Change(SECTION, Op.HIDDEN, None, file.known_at(SECTION, [1])[0]),
            Change(SECTION, Op.CHANGED, outcome(1).change.row, None),
        ):
            with file.transaction():
                known = file.known_at(SECTION, [1])[0]
                file.record([Outcome(change._replace(known=known), pending=change.op is Op.CHANGED, problem="broken")])
        (known,) = file.known_at(SECTION, [1])
        assert (known.home, known.pending) == (NOBODY, True)


def test_an_optional_event_of_an_ordinary_type_is_replayed_to_who_asked_for_more(path: Path) -> None:
    """A task that is back as it was: who was never told of its end has missed nothing."""
    with opened(path) as file:
        with file.transaction():
            file.record([outcome(1, "A"), optional(2, "A"), outcome(3, "A")])
        for is_wide, seqs in ((True, [1, 2, 3]), (False, [1, 3])):
            page, count = asyncio.run(replayed(path, Wanted(frozenset({"new_message"}), optional=is_wide)))
            assert [event.seq for event in page] == seqs
            assert [event.previous("A", wide=is_wide) for event in page] == [0, *seqs[:-1]]
            assert count == len(seqs)


async def replayed(path: Path, wanted: Wanted) -> tuple[list[Event], int]:
    """What the log gives, and counts."""
    reader = EventLog(path)
    await reader.open()
    try:
        return await reader.page("A", 0, 9, 9, wanted), await reader.count("A", 0, 9, wanted)
    finally:
        await reader.close()
