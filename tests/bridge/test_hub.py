"""Events to their owners' sessions and to nobody else, encoded once, written once."""


from bridge import protocol
from bridge.filters import DEFAULT_TYPES, EVENT_TYPES, Filter
from bridge.outbox import HIGH_WATER, Bound
from bridge.protocol import Close, Cursor, Form
from storage.types import Event
from tests.bridge.fakes import Peer, event, new_hub


def test_an_event_reaches_all_sessions_of_its_owners_and_no_other() -> None:
    """Several sessions of one owner, several owners of one event."""
    hub = new_hub()
    first, second, other, third = (Peer(hub, owner) for owner in ("A", "A", "B", "C"))
    for peer in (first, second, other, third):
        hub.register(peer.session)
    hub.publish("e1", [event(1, ("A", 0)), event(2, ("A", 1), ("B", 0)), event(3, ("D", 0))])
    assert [[said["n"] for said in peer.payloads] for peer in (first, second, other, third)] == [
        [1, 2],
        [1, 2],
        [2],
        [],
    ]


def test_an_event_is_encoded_once_for_all_who_get_the_same() -> None:
    """Once in each form for each owner, however many sessions there are."""
    made: list[tuple[str, int]] = []

    def form(name: str) -> Form:
        def encoded(one: Event, epoch: str, prev: int) -> bytes:
            made.append((name, prev))
            return protocol.text_frame(one.body)

        return encoded

    plain, resumable = form("plain"), form("resumable")
    hub = new_hub()
    peers = [Peer(hub, owner) for owner in "AB" for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.session.form = (plain, resumable)[number % 2]
        hub.register(peer.session)
    hub.publish("e1", [event(9, ("A", 3), ("B", 4))])
    assert sorted(made) == [("plain", 3), ("plain", 4), ("resumable", 3), ("resumable", 4)]
    assert len({id(peer.sink.writes[0]) for peer in peers}) == 4


def test_what_one_publish_has_for_a_session_leaves_in_one_write() -> None:
    """In order, plain or with cursors."""
    hub = new_hub()
    plain, resumable = Peer(hub, "A"), Peer(hub, "A", resumable=True)
    for peer in (plain, resumable):
        hub.register(peer.session)
    hub.publish("e1", [event(seq, ("A", seq - 1)) for seq in range(1, 101)])
    assert [len(peer.sink.writes) for peer in (plain, resumable)] == [1, 1]
    assert [said["n"] for said in plain.payloads] == list(range(1, 101))
    assert "cursor" not in plain.payloads[0]
    assert [(said["prev"], said["cursor"]) for said in resumable.payloads] == [
        (f"e1:{seq - 1}", f"e1:{seq}") for seq in range(1, 101)
    ]


def test_registering_gives_the_position_that_live_events_follow() -> None:
    """The newest event that has been given out, in the newest epoch."""
    hub = new_hub()
    hub.begin("e1", 5)
    assert hub.register(Peer(hub, "A").session) == Cursor("e1", 5)
    hub.publish("e1", [event(6, ("Z", 0))])
    assert hub.cursor == Cursor("e1", 6)
    hub.publish("e2", [])
    assert hub.cursor == Cursor("e2", 6)


def test_counts_follow_registering_and_leaving() -> None:
    """Leaving twice, or without having come, changes nothing; an owner without sessions is forgotten."""
    hub = new_hub()
    first, second, stranger = Peer(hub, "A"), Peer(hub, "A"), Peer(hub, "A")
    hub.register(first.session)
    hub.register(second.session)
    assert (hub.count, hub.connections_of("A"), hub.connections_of("B")) == (2, 2, 0)
    for peer in (stranger, first, first):
        hub.unregister(peer.session)
    assert (hub.count, hub.connections_of("A")) == (1, 1)
    hub.unregister(second.session)
    hub.publish("e1", [event(1, ("A", 0))])
    assert (hub.count, hub._sessions, first.sink.writes) == (0, {}, [])


def test_a_slow_session_is_tried_again_and_delays_nobody() -> None:
    """It says that something waits; the others have had theirs."""
    hub = new_hub()
    asked: list[bool] = []
    hub.on_congested = lambda: asked.append(True)
    slow, quick = Peer(hub, "A"), Peer(hub, "A")
    for peer in (slow, quick):
        hub.register(peer.session)
    slow.sink.buffered = HIGH_WATER
    hub.publish("e1", [event(1, ("A", 0))])
    assert ([said["n"] for said in quick.payloads], slow.payloads, asked) == ([1], [], [True])
    assert hub.flush_congested()
    slow.sink.drain()
    assert not hub.flush_congested()
    assert [said["n"] for said in slow.payloads] == [1]


def test_a_task_stands_for_no_other_with_its_id_in_another_conversation() -> None:
    """Two tables count their tasks from 1: of one that waited the last state was left out for the other's."""
    hub = new_hub()
    slow = Peer(hub, "A")
    hub.register(slow.session)
    slow.sink.buffered = HIGH_WATER
    first = [event(seq, ("A", 0), kind="task_update")._replace(subject="1") for seq in (1, 2)]
    other = event(3, ("A", 0), kind="task_update")._replace(subject="1", conversation_id="d")
    hub.publish("e1", [*first, other])
    slow.sink.drain()
    hub.flush_congested()
    assert [said["n"] for said in slow.payloads] == [2, 3]


def test_what_was_held_back_and_finds_no_room_is_tried_again() -> None:
    """The end of a replay is no publish: without this it would wait for the next event of the owner."""
    hub = new_hub()
    peer = Peer(hub, "A", resumable=True)
    hub.register(peer.session)
    peer.session.hold()
    hub.publish("e1", [event(1, ("A", 0))])
    peer.sink.buffered = HIGH_WATER
    peer.session.release()
    hub.flush(peer.session)
    assert peer.payloads == []
    peer.sink.drain()
    assert not hub.flush_congested()
    assert [said["n"] for said in peer.payloads] == [1]


def test_a_session_that_is_too_slow_is_closed_and_tried_no_more() -> None:
    """4100, in the middle of a publish, which goes on for the others."""
    hub = new_hub()
    slow, quick = Peer(hub, "A", bound=Bound(1 << 20, 2)), Peer(hub, "A")
    for peer in (slow, quick):
        hub.register(peer.session)
    slow.sink.buffered = HIGH_WATER
    hub.publish("e1", [event(seq, ("A", seq - 1)) for seq in (1, 2, 3)])
    assert (slow.closed, len(quick.payloads)) == ([Close.TOO_SLOW], 3)
    assert not hub.flush_congested()


def test_a_session_that_leaves_while_it_is_slow_is_forgotten() -> None:
    """Nothing waits for somebody who is gone."""
    hub = new_hub()
    slow = Peer(hub, "A")
    hub.register(slow.session)
    slow.sink.buffered = HIGH_WATER
    hub.publish("e1", [event(1, ("A", 0))])
    hub.unregister(slow.session)
    assert not hub.flush_congested()


def test_the_sweep_pings_the_silent_and_names_the_dead() -> None:
    """Silent for half a heartbeat: one ping; for two: dead. Who was just heard is left alone."""
    hub = new_hub()
    fresh, silent, dead = Peer(hub, "A"), Peer(hub, "B"), Peer(hub, "C")
    for peer, heard in ((fresh, 96.0), (silent, 85.0), (dead, 79.9)):
        peer.session.last_heard = heard
        hub.register(peer.session)
    assert list(hub.sweep(100.0, 10.0)) == [dead.session]
    assert [peer.sink.writes for peer in (fresh, silent, dead)] == [[], [protocol.PING_FRAME], []]


def test_the_sweep_bears_sessions_that_leave_meanwhile() -> None:
    """Closing a dead one takes it out of the hub while the sweep goes on."""
    hub = new_hub()
    peers = [Peer(hub, "A") for _ in range(5)]
    for peer in peers:
        hub.register(peer.session)
    for session in hub.sweep(1000.0, 10.0):
        hub.unregister(session)
    assert hub.count == 0


def test_closing_all_closes_each_with_the_code() -> None:
    """Also where closing takes the session out of the hub at once."""
    hub = new_hub()
    peers = [Peer(hub, owner) for owner in "AAB"]
    for peer in peers:
        hub.register(peer.session)
    hub.close_all(Close.GOING_AWAY)
    assert [peer.closed for peer in peers] == [[Close.GOING_AWAY]] * 3


def test_a_waiting_state_is_never_sent_after_the_end_of_its_task() -> None:
    """Of what waits only an older state of the same thing makes room; an end and a new beginning stay in order."""
    hub = new_hub()
    peer = Peer(hub, "A")
    peer.session.filter = Filter(frozenset(EVENT_TYPES))
    hub.register(peer.session)
    peer.sink.buffered = HIGH_WATER
    kinds = [
        ("task_update", "t"), ("message_update", "t"), ("task_deleted", "t"), ("task_update", "t"),
        ("task_update", "t"), ("message_update", "t"), ("task_deleted", "t"), ("message_deleted", "t"),
    ]  # fmt: skip
    events = [
        Event(seq, kind, "c", subject, b'{"n":%d}' % seq, (("A", 0),), kind not in DEFAULT_TYPES)
        for seq, (kind, subject) in enumerate(kinds, 1)
    ]
    hub.publish("e1", events)
    peer.sink.drain()
    hub.flush_congested()
    assert [said["n"] for said in peer.payloads] == [3, 5, 6, 7, 8]


def test_prev_is_of_what_a_client_asked_for() -> None:
    """Who gets more has another event before it; both forms are made once."""
    hub = new_hub()
    narrow, wide = Peer(hub, "A", resumable=True), Peer(hub, "A", resumable=True)
    wide.session.filter = Filter(frozenset(EVENT_TYPES))
    for peer in (narrow, wide):
        hub.register(peer.session)
    hub.publish("e1", [
        Event(1, "new_message", "c", "m1", b'{"n":1}', (("A", 0),)),
        Event(2, "message_update", "c", "m1", b'{"n":2}', (("A", 1),), True),
        Event(3, "new_message", "c", "m2", b'{"n":3}', (("A", 1),), False, {"A": 2}),
        Event(4, "task_update", "c", "t", b'{"n":4}', (("A", 3),), True),
    ])  # fmt: skip
    assert [(said["n"], said["prev"]) for said in narrow.payloads] == [(1, "e1:0"), (3, "e1:1")]
    assert [(said["n"], said["prev"]) for said in wide.payloads] == [
        (1, "e1:0"), (2, "e1:1"), (3, "e1:2"), (4, "e1:3"),
    ]  # fmt: skip


def test_a_pong_that_finds_no_room_is_sent_as_soon_as_there_is_some() -> None:
    """Not with the next event: a client that waits for its pong would take the connection for dead."""
    hub, told = new_hub(), list[bool]()
    hub.on_congested = lambda: told.append(True)
    peer = Peer(hub, "A")
    hub.register(peer.session)
    peer.sink.is_stuck, peer.sink.buffered = True, HIGH_WATER
    peer.session.receive_text('{"type":"ping","timestamp":5}', 0.0)
    assert (peer.payloads, told) == ([], [True])
    assert hub.flush_congested()
    peer.sink.drain()
    assert not hub.flush_congested()
    assert peer.payloads == [{"type": "pong", "timestamp": 5}]


def test_who_has_left_is_not_tried_again() -> None:
    """A frame that is sent to a session after its end keeps nobody busy."""
    hub = new_hub()
    peer = Peer(hub, "A")
    hub.register(peer.session)
    hub.unregister(peer.session)
    peer.sink.is_stuck, peer.sink.buffered = True, HIGH_WATER
    peer.session.receive_text('{"type":"ping","timestamp":5}', 0.0)
    assert not hub.flush_congested()
