"""A changed row becomes exactly the seed's event, or is only remembered."""

import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.decide import OWNER_LIMIT, Unrenderable, decide, encode, render
from bridge.mapping import REFERENCE, parse_mapping
from storage.types import (
    NOWHERE,
    Change,
    Draft,
    Home,
    Known,
    Op,
    Outcome,
    Row,
    Value,
    digest_of,
    place_of,
    text_of,
)

MESSAGES, TASKS = parse_mapping(REFERENCE).sections


def message(**given: Value) -> Row:
    values = {"id": b"m1", "owner": b"W", "conversation_id": b"c1", "role": b"user", "content": b"hi", **given}
    return row_of(values, [name for name, _ in MESSAGES.fields])


def task(**given: Value) -> Row:
    values: dict[str, Value] = {
        "id": b"t1",
        "owner": b"W",
        "conversation_id": b"c1",
        "session_id": b"s1",
        "state": b"working",
        "status_message": None,
        "timestamp": None,
        "history": None,
        "artifacts": None,
        **given,
    }
    return row_of(values, [name for name, _ in TASKS.fields])


def row_of(values: dict[str, Value], order: list[str]) -> Row:
    ordered = tuple(values[name] for name in order)
    assert len(values) == len(ordered)
    return Row(1, digest_of(ordered), ordered)


def known(row: Row, *, pending: bool = False, place: bytes | None = None) -> Known:
    return Known(row.loc, row.key, row.digest, place_of(MESSAGES, row.values) if place is None else place, pending)


def pushed(row: Row) -> Any:
    section = MESSAGES if len(row.values) == len(MESSAGES.fields) else TASKS
    return json.loads(render(section, row, ("W",)).body, parse_constant=pytest.fail)


def test_a_message_has_the_fields_of_the_seed_and_no_other() -> None:
    """`new_message`, to the byte."""
    draft = render(MESSAGES, message(content="你好".encode()), ("W",))
    assert draft.body.decode() == (
        '{"type":"new_message","conversation_id":"c1","message":'
        '{"id":"m1","role":"user","content":[{"type":"text","text":"你好"}]}}'
    )
    assert (draft.type, draft.conversation_id, draft.subject, draft.owners) == ("new_message", "c1", "m1", ("W",))


def test_a_task_has_the_fields_of_the_seed_and_no_other() -> None:
    """`task_update`, to the byte."""
    row = task(
        status_message=b"soon",
        timestamp=b"2024-01-01T00:00:00Z",
        history=b'[{"role": "user", "parts": [{"kind": "text", "text": "q"}], "messageId": "x"}]',
        artifacts=b'[{"artifactId": "a", "name": "out", "parts": [{"text": "r"}]}]',
    )
    draft = render(TASKS, row, ("W",))
    assert draft.body == (
        b'{"type":"task_update","conversation_id":"c1","task":{"id":"t1","sessionId":"s1",'
        b'"status":{"state":"working","message":"soon","timestamp":"2024-01-01T00:00:00Z"},'
        b'"history":[{"role":"user","parts":[{"type":"text","text":"q"}]}],'
        b'"artifacts":[{"name":"out","parts":[{"type":"text","text":"r"}]}]}}'
    )
    assert (draft.type, draft.subject) == ("task_update", "t1")


def test_ids_are_strings_whatever_the_column_holds() -> None:
    """An INTEGER key is pushed as text; a NULL conversation is null."""
    event = pushed(message(id=7, conversation_id=None))
    assert (event["message"]["id"], event["conversation_id"]) == ("7", None)


@pytest.mark.parametrize("stamp", [1, 1.5, None, b"now"])
def test_a_timestamp_keeps_its_type(stamp: Value) -> None:
    """A number stays a number."""
    assert pushed(task(timestamp=stamp))["task"]["status"]["timestamp"] == (
        stamp.decode() if isinstance(stamp, bytes) else stamp
    )


@pytest.mark.parametrize("name", ["parts", "content", "text"])
def test_history_and_artifacts_are_pushed_as_parts(name: str) -> None:
    """Their text may stand in `parts`, `content` or `text`."""
    stored = json.dumps([{"role": "user", "name": "n", name: "hi"}]).encode()
    said = pushed(task(history=stored, artifacts=stored))["task"]
    assert said["history"] == [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]
    assert said["artifacts"] == [{"name": "n", "parts": [{"type": "text", "text": "hi"}]}]


def test_elements_that_are_no_objects_are_told_without_a_role_or_a_name() -> None:
    """A list of plain texts is a history too."""
    said = pushed(task(history=b'["hi"]', artifacts=b'["out"]'))["task"]
    assert said["history"] == [{"role": None, "parts": [{"type": "text", "text": "hi"}]}]
    assert said["artifacts"] == [{"name": None, "parts": [{"type": "text", "text": "out"}]}]


@pytest.mark.parametrize(
    ("stored", "role"), [("ROLE_AGENT", "agent"), ("ROLE_USER", "user"), ("user", "user"), (None, None)]
)
def test_a_role_of_a2a_1_0_is_told_by_its_plain_name(stored: str | None, role: str | None) -> None:
    """Protocol buffers write the name of the enumeration."""
    assert pushed(task(history=json.dumps([{"role": stored}]).encode()))["task"]["history"][0]["role"] == role


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (None, None),
        (b"plain", "plain"),
        (b'{"role": "agent", "parts": [{"kind": "text", "text": "a"}, {"text": "b"}]}', "ab"),
        (b'{"kind": "text", "text": "a"}', "a"),
        (b'{"role": "agent", "parts": []}', ""),
        (b"{not json", "{not json"),
    ],
)
def test_a_status_message_is_text(stored: bytes | None, text: str | None) -> None:
    """Text as it is; of a message object the joined text parts."""
    assert pushed(task(status_message=stored))["task"]["status"]["message"] == text


@pytest.mark.parametrize("field", ["history", "artifacts"])
@pytest.mark.parametrize("stored", [None, b"", b"  ", b"null", b"[]"])
def test_nothing_stored_is_an_empty_list(field: str, stored: Value) -> None:
    """A client need not ask whether the list is there."""
    assert pushed(task(**{field: stored}))["task"][field] == []


@pytest.mark.parametrize(
    "stored", [b"{}", b"3", b"[", b"\xff", b"[" * 100_000], ids=["object", "number", "half", "bytes", "deep"]
)
@pytest.mark.parametrize("field", ["history", "artifacts"])
def test_a_list_that_is_none_keeps_the_row_with_its_reason(field: str, stored: bytes) -> None:
    """The row is kept as failed, names the field, and is looked at again."""
    change = Change(TASKS, Op.NEW, task(**{field: stored}), None)
    outcome = decide(change)
    assert outcome.draft is None
    assert outcome.pending
    assert field in (outcome.problem or "")


def test_a_null_id_is_a_problem_of_the_row() -> None:
    """Without an id nothing can be pushed."""
    with pytest.raises(Unrenderable, match="id is NULL"):
        render(MESSAGES, message(id=None), ("W",))


@pytest.mark.parametrize(
    "stored",
    [
        b'[{"role": "a", "parts": [{"data": NaN}]}]',
        b'[{"role": Infinity, "text": "x"}]',
        b'[{"role": "a", "parts": [{"data": -1e999}]}]',
        b'[{"role": "a", "parts": [{"data": 1e999}, {"text": "\\ud800"}]}]',
    ],
)
def test_nan_is_never_pushed(stored: bytes) -> None:
    """NaN and Infinity, which backends do store, are null: the frame stays JSON."""
    assert "null" in json.dumps(pushed(task(history=stored)))


def test_an_infinite_timestamp_is_null() -> None:
    """SQLite has infinities: 9e999 is one."""
    assert pushed(task(timestamp=float("inf")))["task"]["status"]["timestamp"] is None


def test_json_at_the_limit_of_depth_is_a_problem_of_its_row() -> None:
    """What the reader can still read the writer may not: that must not end the capture thread."""
    outcomes = []
    for depth in (
        *range(10, sys.getrecursionlimit(), 97),
        *range(sys.getrecursionlimit() - 60, sys.getrecursionlimit() + 10),
    ):
        for innermost in (b"", b"1e999", b'"\\ud800"'):
            deep = b'{"data": ' + b"[" * depth + innermost + b"]" * depth + b"}"
            outcomes.append(decide(Change(TASKS, Op.NEW, task(history=b'[{"parts": [' + deep + b"]}]"), None)))
            outcomes.append(decide(Change(MESSAGES, Op.NEW, message(content=deep), None)))
    assert all((outcome.draft is None) == (outcome.problem is not None) for outcome in outcomes)
    assert outcomes[0].draft is not None
    assert any(outcome.problem == "the row's JSON is nested too deeply" for outcome in outcomes)


def test_a_lone_surrogate_is_pushed_as_an_escape() -> None:
    """It is no UTF-8, but JSON can say it."""
    body = render(TASKS, task(history=b'[{"role": "a", "text": "\\ud800"}]'), ("W",)).body
    assert body.decode("utf-8").count("\\ud800") == 1
    assert json.loads(body)["task"]["history"][0]["parts"][0]["text"] == "\ud800"


def test_bytes_that_are_no_utf_8_are_pushed_with_replacements() -> None:
    """A TEXT column may hold anything."""
    assert pushed(message(content=b"a\xffb"))["message"]["content"][0]["text"] == "a\ufffdb"


def test_a_huge_integer_does_no_harm() -> None:
    """Python refuses to read or write integers of more than 4300 digits; the row must not stop the bridge."""
    stored = b'[{"role": "a", "parts": [{"data": ' + b"9" * 5000 + b"}]}]"
    outcome = decide(Change(TASKS, Op.NEW, task(history=stored), None))
    assert (outcome.draft is None) == (outcome.problem is not None)


# -- owners


@pytest.mark.parametrize(
    ("stored", "owners"),
    [
        (b"W", ("W",)),
        (7, ("7",)),
        (b'["A", "B", "A"]', ("A", "B")),
        (b'["A", null, ""]', ("A",)),
        (b"[not json", ("[not json",)),
        (b"x" * OWNER_LIMIT, ("x" * OWNER_LIMIT,)),
    ],
)
def test_owners_are_one_string_or_a_json_array(stored: Value, owners: tuple[str, ...]) -> None:
    """Each of them gets the event, and each once."""
    outcome = decide(Change(MESSAGES, Op.NEW, message(owner=stored), None))
    assert outcome.draft is not None
    assert outcome.draft.owners == owners


@pytest.mark.parametrize("stored", [None, b"", b"[]", b"[null]"])
def test_a_row_without_an_owner_waits(stored: Value) -> None:
    """Nobody gets it, and it is looked at again."""
    outcome = decide(Change(MESSAGES, Op.NEW, message(owner=stored), None))
    assert (outcome.draft, outcome.pending, outcome.problem) == (None, True, None)


def test_an_owner_that_is_too_long_is_a_problem_of_the_row() -> None:
    """Such a name could never connect."""
    outcome = decide(Change(MESSAGES, Op.NEW, message(owner=b"x" * (OWNER_LIMIT + 1)), None))
    assert (outcome.draft, outcome.pending) == (None, True)
    assert "owner" in (outcome.problem or "")


# -- what is due


def test_a_message_that_was_pushed_is_not_pushed_again() -> None:
    """An edit and a rewrite are told as that, to who asks for it; a move is nothing."""
    for op in (Op.CHANGED, Op.MOVED):
        outcome = decide(Change(MESSAGES, op, message(content=b"edited"), known(message())))
        assert outcome.draft is not None
        assert (outcome.draft.type, outcome.draft.is_optional, outcome.pending) == ("message_update", True, False)
        assert (outcome.farewell, decide(Change(MESSAGES, op, message(), known(message()))).draft) == (None, None)


def test_an_id_in_another_conversation_is_another_message() -> None:
    """A deleted id that is given again must not pass for an edit."""
    before = known(message())
    assert kind_of(message(conversation_id=b"c2"), before) == "new_message"
    assert kind_of(message(conversation_id=None), before) == "message_update"
    assert kind_of(message(content=b"edited"), known(message(), place=NOWHERE)) == "message_update"
    assert kind_of(message(), known(message(), place=NOWHERE)) is None


def kind_of(row: Row, before: Known) -> str | None:
    """The type of the event that a changed message gives."""
    draft = decide(Change(MESSAGES, Op.CHANGED, row, before)).draft
    return None if draft is None else draft.type


def test_a_row_that_waited_is_pushed_when_its_owner_appears() -> None:
    """However else it changed."""
    waiting = known(message(owner=None), pending=True)
    assert decide(Change(MESSAGES, Op.CHANGED, message(), waiting)).draft is not None
    assert decide(Change(TASKS, Op.CHANGED, task(), known(task(), pending=True, place=NOWHERE))).draft is not None


def test_a_task_is_pushed_when_anything_mapped_changed() -> None:
    """And not when it only moved."""
    before = known(task(), place=NOWHERE)
    assert decide(Change(TASKS, Op.CHANGED, task(state=b"completed"), before)).draft is not None
    assert decide(Change(TASKS, Op.MOVED, task(), before)).draft is None


def test_a_row_that_is_gone_is_only_forgotten() -> None:
    """Where it is not known whose it was; else they are told, if they ask for it."""
    gone = known(task(), place=NOWHERE)
    outcome = decide(Change(TASKS, Op.GONE, None, gone))
    assert outcome == Outcome(outcome.change)
    homed = Change(TASKS, Op.GONE, None, replace(gone, id="t1", home=1), Home("c1", b'["V", "W"]'))
    body = b'{"type":"task_deleted","conversation_id":"c1","task_id":"t1"}'
    assert decide(homed).farewell == Draft("task_deleted", "c1", "t1", body, ("V", "W"), is_optional=True)
    assert decide(homed).draft is None


def test_an_owner_that_cannot_be_told_any_more_hides_the_message_from_those_before() -> None:
    """Too long a name for anybody to connect with; nothing waits for it, as the message is not new."""
    before = replace(known(message()), id="m1", home=1)
    outcome = decide(Change(MESSAGES, Op.CHANGED, message(owner=b"x" * 300), before, Home("c1", b"W")))
    assert (outcome.draft, outcome.pending, outcome.problem) == (None, False, None)
    assert outcome.farewell is not None
    assert (outcome.farewell.type, outcome.farewell.owners) == ("message_deleted", ("W",))


values = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.sampled_from(
        [b"[NaN]", b'{"parts": [{"text": "\\udfff"}]}', b'[{"role": 1, "text": 2}]', b'["A", 3]', b"[[[]]]", b"[1e999]"]
    )
)


@given(st.tuples(*[values] * len(TASKS.fields)), st.tuples(*[values] * len(MESSAGES.fields)))
def test_no_row_can_stop_the_bridge(of_task: tuple[Value, ...], of_message: tuple[Value, ...]) -> None:
    """Whatever stands in a row: an event that is strict JSON, or a reason, or it waits."""
    for section, stored in ((TASKS, of_task), (MESSAGES, of_message)):
        outcome = decide(Change(section, Op.NEW, Row(1, digest_of(stored), stored), None))
        assert (outcome.draft is None) == outcome.pending
        if outcome.draft is not None:
            json.loads(outcome.draft.body, parse_constant=pytest.fail)
            assert encode(json.loads(outcome.draft.body)) == outcome.draft.body
        home = Home(text_of(stored[2]), stored[1])
        entry = Known(1, b"", b"", b"", False, "x", 1)
        for change in (
            Change(section, Op.CHANGED, Row(1, digest_of(stored), stored), entry, replace(home, owner=b"W")),
            Change(section, Op.GONE, None, entry, home),
        ):
            outcome = decide(change)
            for draft in (outcome.draft, outcome.farewell):
                if draft is not None:
                    json.loads(draft.body, parse_constant=pytest.fail)
