"""Filters: which of its owner's events a client gets, asked for in the query and changed by frames."""

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.filters import (
    DEFAULT_TYPES,
    EVENT_TYPES,
    EVERYTHING,
    MOST_CHARACTERS,
    MOST_CONVERSATIONS,
    BadFilter,
    Filter,
)
from bridge.hub import Hub
from bridge.outbox import Bound, Outbox
from bridge.session import Session
from storage.types import Event
from tests.bridge.fakes import GENTLE, ROOMY, ListSink, Peer, frames, new_hub


def event(conversation: str, kind: str = "new_message", subject: str = "m", seq: int = 1) -> Event:
    body = json.dumps({"type": kind, "conversation_id": conversation, "id": subject, "n": seq}).encode()
    return Event(seq, kind, conversation, subject, body, (("anna", seq - 1),))


def wanted(asked: Filter, *conversations: str) -> list[str]:
    """Those of which a message comes."""
    return [name for name in conversations if asked.wants(event(name))]


def test_who_asks_for_nothing_gets_everything_of_the_seed() -> None:
    """No filter: every conversation, `new_message` and `task_update`, and nothing of the types that came later."""
    assert Filter.asked([], []) is EVERYTHING
    assert {kind for kind in EVENT_TYPES if EVERYTHING.wants(event("a", kind))} == {"new_message", "task_update"}


def test_conversations_and_types_narrow_together() -> None:
    """An event has to be of a conversation and of a type that are asked for."""
    asked = Filter.asked(["a", "b"], ["task_update, message_deleted"])
    assert asked.wants(event("a", "task_update"))
    assert asked.wants(event("b", "message_deleted"))
    assert not asked.wants(event("a", "new_message"))
    assert not asked.wants(event("c", "task_update"))


def test_an_event_without_a_conversation_is_asked_for_by_an_empty_id() -> None:
    """A row whose conversation is NULL belongs to none; `conversation_id=` names that."""
    assert wanted(Filter.asked([""], []), "", "a") == [""]


@pytest.mark.parametrize("types", [["wishes"], [""], ["new_message,"], ["new_message", "NEW_MESSAGE"]])
def test_an_unknown_type_is_refused(types: list[str]) -> None:
    """A name that is none of the five is a mistake, and the answer lists the five."""
    with pytest.raises(BadFilter, match="message_update, message_deleted, task_deleted") as bad:
        Filter.asked([], types)
    assert bad.value.code == "bad_events"


def test_the_first_subscription_narrows_and_the_last_one_leaves_nothing() -> None:
    """From everything to one, to two, to one, to none; and then one again."""
    one = EVERYTHING.subscribed("a")
    assert wanted(one, "a", "b") == ["a"]
    two = one.subscribed("b")
    assert wanted(two, "a", "b", "c") == ["a", "b"]
    none = two.unsubscribed("a").unsubscribed("b")
    assert wanted(none, "a", "b", "c", "") == []
    assert wanted(none.subscribed("c"), "a", "c") == ["c"]


def test_what_is_unsubscribed_does_not_come_even_where_all_come() -> None:
    """Without a subscription, `unsubscribe` mutes one conversation; a first `subscribe` narrows as ever."""
    muted = EVERYTHING.unsubscribed("a").unsubscribed("b")
    assert wanted(muted, "a", "b", "c") == ["c"]
    assert wanted(muted.subscribed("a"), "a", "b", "c") == ["a"]
    assert wanted(muted.subscribed("c"), "a", "b", "c", "d") == ["c"]


def test_frames_keep_the_types() -> None:
    """`subscribe` changes the conversations alone."""
    asked = Filter.asked([], ["task_update"]).subscribed("a")
    assert asked.wants(event("a", "task_update"))
    assert not asked.wants(event("a"))


def test_what_a_client_can_make_us_keep_is_bounded() -> None:
    """So many conversations and so long an id, by query and by frames."""
    names = [str(number) for number in range(MOST_CONVERSATIONS)]
    full = Filter.asked(names, [])
    assert full.subscribed("7") == full
    with pytest.raises(BadFilter) as bad:
        full.subscribed("one more")
    assert bad.value.code == "too_many_conversations"
    with pytest.raises(BadFilter):
        Filter.asked([*names, "one more"], [])
    with pytest.raises(BadFilter) as bad:
        EVERYTHING.unsubscribed("x" * (MOST_CHARACTERS + 1))
    assert bad.value.code == "bad_conversation_id"
    muted = Filter(muted=frozenset(names))
    with pytest.raises(BadFilter):
        muted.unsubscribed("one more")


def test_the_last_word_on_a_conversation_holds() -> None:
    """Whatever came before: what was last subscribed comes, what was last unsubscribed does not.

    Every history of up to five frames over three conversations: all there are, so nothing is left to chance.
    """
    words = list(product((True, False), "abc"))
    for history in (each for length in range(6) for each in product(words, repeat=length)):
        asked, last = EVERYTHING, dict[str, bool]()
        for is_subscribed, name in history:
            asked = asked.subscribed(name) if is_subscribed else asked.unsubscribed(name)
            last[name] = is_subscribed
        assert asked.types == DEFAULT_TYPES
        assert {name: asked.wants(event(name)) for name in last} == last, history


# -- through the hub and a session


def test_the_hub_gives_each_session_what_it_wants() -> None:
    """One event, three sessions of the owner: all of it, the conversation, another conversation."""
    hub = new_hub()
    plain, narrow, other = Peer(hub, "anna"), Peer(hub, "anna"), Peer(hub, "anna")
    narrow.session.filter, other.session.filter = Filter.asked(["a"], []), Filter.asked(["b"], [])
    for peer in (plain, narrow, other):
        hub.register(peer.session)
    hub.publish("e1", [event("a")])
    assert [len(peer.payloads) for peer in (plain, narrow, other)] == [1, 1, 0]


def test_a_frame_is_in_effect_before_the_next_pong() -> None:
    """`subscribe` has no answer; the pong to a ping sent after it proves that it was taken."""
    hub = new_hub()
    peer = Peer(hub, "anna")
    hub.register(peer.session)
    peer.session.receive_text('{"type":"subscribe","conversation_id":"a"}', 1.0)
    assert peer.payloads == []
    peer.session.receive_text('{"type":"ping","timestamp":1}', 1.0)
    hub.publish("e1", [event("b", seq=1), event("a", seq=2)])
    assert [payload["type"] for payload in peer.payloads] == ["pong", "new_message"]
    peer.session.receive_text('{"type":"unsubscribe","conversation_id":"a"}', 1.0)
    hub.publish("e1", [event("a", seq=3)])
    assert len(peer.payloads) == 2


@pytest.mark.parametrize(
    "value", ["", ',"conversation_id":null', ',"conversation_id":true', ',"conversation_id":["a"]']
)
def test_a_frame_without_a_conversation_is_an_error(value: str) -> None:
    """An error frame with its code; the filter stays as it was."""
    hub = new_hub()
    peer = Peer(hub, "anna")
    peer.session.receive_text(f'{{"type":"subscribe"{value}}}', 1.0)
    [answer] = peer.payloads
    assert (answer["type"], answer["code"]) == ("error", "bad_conversation_id")
    assert peer.session.filter is EVERYTHING


def test_a_number_is_the_id_it_is_pushed_as() -> None:
    """A legacy id of INTEGER type is pushed as text; a client may name it either way."""
    peer = Peer(new_hub(), "anna")
    peer.session.receive_text('{"type":"subscribe","conversation_id":7}', 1.0)
    assert wanted(peer.session.filter, "7", "8") == ["7"]


# -- a waiting task_update makes room for a newer one


def stuck(hub: Hub, *, resumable: bool, bound: Bound = ROOMY) -> tuple[Session, ListSink]:
    """A session whose peer takes nothing."""
    sink = ListSink()
    sink.buffered = 1 << 30
    session = Session("anna", Outbox(sink, bound), lambda _: None, hub, GENTLE, resumable=resumable)
    hub.register(session)
    return session, sink


def drained(hub: Hub, sink: ListSink) -> list[int]:
    """The numbers of the events that came, once the peer reads again."""
    sink.buffered = 0
    while hub.flush_congested():
        sink.buffered = 0
    return [json.loads(payload)["n"] for payload in frames(sink.writes)]


def test_a_waiting_task_update_is_replaced_by_a_newer_one() -> None:
    """Only the newest state of a task waits, at its own place in the order; messages and other tasks all come."""
    hub = new_hub()
    _, sink = stuck(hub, resumable=False)
    kinds = [
        ("task_update", "t"),
        ("new_message", "t"),
        ("task_update", "u"),
        ("task_update", "t"),
        ("new_message", "n"),
    ]
    for seq, (kind, subject) in enumerate(kinds, 1):
        hub.publish("e1", [event("c", kind, subject, seq)])
    assert drained(hub, sink) == [2, 3, 4, 5]


def test_a_resumable_client_gets_every_update() -> None:
    """Its `prev` chain proves that nothing is missing, so nothing is left out."""
    hub = new_hub()
    _, sink = stuck(hub, resumable=True)
    for seq in range(1, 5):
        hub.publish("e1", [event("c", "task_update", "t", seq)])
    assert drained(hub, sink) == [1, 2, 3, 4]


def test_a_task_that_changes_all_the_time_costs_one_place() -> None:
    """Neither the count nor the bytes nor the memory grow with the updates that were replaced."""
    hub = new_hub()
    session, sink = stuck(hub, resumable=False, bound=Bound(10_000, 5))
    hub.publish("e1", [event("c", "new_message", "m", 1)])
    for seq in range(2, 5000):
        hub.publish("e1", [event("c", "task_update", f"t{seq % 2}", seq)])
    assert not session.is_closing
    assert len(session.outbox) == 3
    assert len(session.outbox._frames) < 10
    assert drained(hub, sink) == [1, 4998, 4999]


@given(st.lists(st.tuples(st.sampled_from(["m", "t", "u", "flush", "partly"]), st.integers(1, 40))))
def test_an_outbox_sends_every_message_and_the_last_update(steps: list[tuple[str, int]]) -> None:
    """Whatever is put, replaced and flushed in whatever order: what leaves is what a list would have sent."""
    sink = ListSink()
    outbox, expected, sent = Outbox(sink, Bound(1 << 20, 1000)), list[tuple[str, bytes]](), list[bytes]()
    for number, (what, size) in enumerate(steps):
        if what in ("flush", "partly"):
            sink.buffered = 0 if what == "flush" else (256 << 10) - size
            outbox.flush()
            written = b"".join(sink.writes)
            while sum(map(len, sent)) < len(written):
                sent.append(expected.pop(0)[1])
            assert b"".join(sent) == written
        else:
            frame = f"{number};".encode().rjust(size)
            if what != "m":
                expected = [entry for entry in expected if entry[0] != what]
            expected.append((what, frame))
            outbox.put(frame, None if what == "m" else what)
        assert (len(outbox), outbox.size) == (len(expected), sum(len(frame) for _, frame in expected))
