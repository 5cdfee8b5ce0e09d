"""Rows against what is known of them, as pure decisions."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.compare import Comparison, compare
from storage.types import Known, Op, Row, Section, digest_of, key_of, place_of

MESSAGES = Section(
    0, "messages", "message", "m", (("id", "id"), ("owner", "o"), ("conversation_id", "c"), ("content", "b"))
)
TASKS = Section(1, "tasks", "task", "t", (("id", "id"), ("owner", "o"), ("conversation_id", "c"), ("state", "s")))


def row(loc: int, name: str, content: str = "x", conversation: str = "c") -> Row:
    values = (name.encode(), b"W", conversation.encode(), content.encode())
    return Row(loc, digest_of(values), values)


def known(of: Row, loc: int | None = None, *, pending: bool = False) -> Known:
    return Known(of.loc if loc is None else loc, of.key, of.digest, place_of(MESSAGES, of.values), pending)


def compared(
    section: Section,
    rows: list[Row],
    entries: list[Known],
    elsewhere: Iterable[Known] = (),
    *,
    stand: Iterable[Known] = (),
) -> Comparison:
    """`elsewhere` is known too, but not of these places; of what is known, `stand` still stands where it stood."""
    everything = {entry.key: entry for entry in (*entries, *elsewhere)}
    standing = list(stand)
    return compare(section, rows, entries, everything.get, lambda entry: entry in standing)


def ops(comparison: Comparison) -> list[tuple[Op, int | None]]:
    return [(change.op, change.row.loc if change.row else None) for change in comparison.changes]


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_what_is_as_it_was_is_no_change(section: Section) -> None:
    """Nothing to decide, nothing missing."""
    rows = [row(1, "a"), row(2, "b")]
    assert compared(section, rows, [known(one) for one in rows]) == Comparison([], [])


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_an_unknown_id_is_new_and_a_known_one_with_another_digest_changed(section: Section) -> None:
    """In the order of the rows."""
    found = compared(section, [row(1, "a", "y"), row(2, "b")], [known(row(1, "a"))])
    assert ops(found) == [(Op.CHANGED, 1), (Op.NEW, 2)]
    assert found.changes[0].known == known(row(1, "a"))
    assert found.missing == []


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_an_id_that_stands_elsewhere_now_moved_and_is_not_missing(section: Section) -> None:
    """As INSERT OR REPLACE does on a text key, and VACUUM."""
    found = compared(section, [row(9, "a")], [known(row(1, "a"))])
    assert ops(found) == [(Op.MOVED, 9)]
    assert found.missing == []


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_a_known_row_that_is_not_there_is_missing(section: Section) -> None:
    """Whether it is gone is not decided here: it may stand where nobody looked."""
    found = compared(section, [], [known(row(1, "a"))])
    assert (ops(found), found.missing) == ([], [known(row(1, "a"))])


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_a_reused_rowid_is_a_new_row_and_a_missing_one(section: Section) -> None:
    """The rowid says where it stands, never who it is."""
    found = compared(section, [row(1, "b")], [known(row(1, "a"))])
    assert (ops(found), found.missing) == ([(Op.NEW, 1)], [known(row(1, "a"))])


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_rows_that_swapped_their_ids_moved(section: Section) -> None:
    """Neither is new, neither is missing."""
    before = [known(row(1, "a")), known(row(2, "b"))]
    found = compared(section, [row(1, "b"), row(2, "a")], before)
    assert (ops(found), found.missing) == ([(Op.MOVED, 1), (Op.MOVED, 2)], [])


def test_of_several_rows_with_one_message_id_the_first_counts() -> None:
    """Both at once, or one after another."""
    assert ops(compared(MESSAGES, [row(1, "a"), row(2, "a", "y")], [])) == [(Op.NEW, 1)]
    first = known(row(1, "a"))
    assert ops(compared(MESSAGES, [row(2, "a", "y")], [], [first], stand=[first])) == []


def test_of_several_rows_with_one_message_id_another_counts_when_the_first_is_gone() -> None:
    """It stands for the same message from then on."""
    assert ops(compared(MESSAGES, [row(2, "a", "y")], [], [known(row(1, "a"))])) == [(Op.MOVED, 2)]


def test_of_several_rows_with_one_task_id_the_highest_rowid_counts() -> None:
    """Both at once; and a later one goes before what is known, and an earlier one does not."""
    assert ops(compared(TASKS, [row(1, "a"), row(2, "a", "y"), row(3, "b")], [])) == [(Op.NEW, 2), (Op.NEW, 3)]
    second = known(row(2, "a"))
    assert ops(compared(TASKS, [row(3, "a")], [], [second], stand=[second])) == [(Op.MOVED, 3)]
    assert ops(compared(TASKS, [row(1, "a")], [], [second], stand=[second])) == []
    assert ops(compared(TASKS, [row(1, "a")], [], [second])) == [(Op.MOVED, 1)]


def test_two_that_are_known_in_one_place_are_both_accounted_for() -> None:
    """A row took another's place, and the pass that would have found the other gone was torn."""
    here, gone = known(row(1, "a")), known(row(1, "b"))
    for order in ([here, gone], [gone, here]):
        for now in (row(1, "a"), row(1, "a", "y")):
            found = compared(MESSAGES, [now], order)
            assert found.missing == [gone]
            assert ops(found) == ([] if now == row(1, "a") else [(Op.CHANGED, 1)])
        assert sorted(entry.key for entry in compared(MESSAGES, [], order).missing) == sorted([here.key, gone.key])


@pytest.mark.parametrize("section", [MESSAGES, TASKS])
def test_several_that_stand_in_one_place_are_told_apart_by_their_ids(section: Section) -> None:
    """The elements of a row: one as it was, one edited, one taken out, one new, one moved here, in their order."""
    before = [known(row(1, name)) for name in "abc"]
    elsewhere = [known(row(2, "m"))]
    now = [row(1, "n"), row(1, "b"), row(1, "a", "y"), row(1, "m")]
    found = compared(section, now, before, elsewhere)
    assert [(change.op, change.row and change.row.values[0]) for change in found.changes] == [
        (Op.NEW, b"n"), (Op.CHANGED, b"a"), (Op.MOVED, b"m"),
    ]  # fmt: skip
    assert (found.missing, found.has_repeats) == ([before[2]], False)
    assert compared(section, now, before, elsewhere, stand=elsewhere).has_repeats


names = st.sampled_from("abcd")


@given(
    st.lists(st.tuples(names, st.sampled_from("xy")), max_size=5),
    st.dictionaries(st.integers(0, 6), st.tuples(names, st.sampled_from("xy")), max_size=5),
    st.sampled_from([MESSAGES, TASKS]),
)
def test_every_row_and_every_known_entry_is_accounted_for(
    stored: list[tuple[str, str]], before: dict[int, tuple[str, str]], section: Section
) -> None:
    """At most one change per id, nothing missing that was found, and applying the changes leaves nothing to do."""
    rows = [row(loc, *content) for loc, content in enumerate(stored)]
    state: dict[bytes, Known] = {}
    for loc, content in before.items():
        state[row(loc, *content).key] = known(row(loc, *content))

    def stands(entry: Known) -> bool:
        return any(one.loc == entry.loc and one.key == entry.key for one in rows)

    for expected in ("anything", "nothing"):
        found = compare(section, rows, list(state.values()), state.get, stands)
        changed = [change.row.key for change in found.changes if change.row is not None]
        assert len(changed) == len(set(changed)) == len(found.changes)
        assert not {entry.key for entry in found.missing} & {one.key for one in rows}
        assert (found.changes, found.missing) == ([], []) or expected == "anything"
        for entry in found.missing:
            del state[entry.key]
        for change in found.changes:
            assert change.row is not None
            state[change.row.key] = known(change.row)
    assert state.keys() == {key_of(name.encode()) for name, _ in stored}
    if section is TASKS:
        assert all(entry.loc == max(one.loc for one in rows if one.key == entry.key) for entry in state.values())
