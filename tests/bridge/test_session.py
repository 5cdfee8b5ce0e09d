"""One connection's side of the protocol: what it answers, what it holds back, and when it gives up."""

import json

import pytest

from bridge import protocol
from bridge.outbox import HIGH_WATER, Bound
from bridge.protocol import Close, Cursor
from bridge.session import Limits
from tests.bridge.fakes import Peer, event, new_hub

PING = '{"type": "ping", "timestamp": 1}'


def test_a_ping_is_answered_at_once() -> None:
    """With its timestamp; a client that asked for nothing gets no cursor."""
    peer = Peer(new_hub(), "W")
    peer.session.receive_text(PING, 0.0)
    assert peer.payloads == [{"type": "pong", "timestamp": 1}]


def test_a_ping_without_a_timestamp_is_answered_with_null() -> None:
    """It is a valid frame."""
    peer = Peer(new_hub(), "W")
    peer.session.receive_text('{"type": "ping"}', 0.0)
    assert peer.payloads == [{"type": "pong", "timestamp": None}]


def test_a_bad_frame_is_answered_and_the_connection_stays_until_there_are_too_many() -> None:
    """The last one is answered too, then 4008; text and binary count alike."""
    peer = Peer(new_hub(), "W", limits=Limits(bad_frames=3, frames_per_second=100))
    peer.session.receive_text("{", 0.0)
    peer.session.receive_binary(0.0)
    assert [said["code"] for said in peer.payloads] == ["invalid_json", "binary"]
    assert peer.closed == []
    peer.session.receive_text(PING, 0.0)
    peer.session.receive_text('{"type": "x"}', 0.0)
    assert peer.payloads[-1]["code"] == "unknown_type"
    assert peer.closed == [Close.BAD_FRAMES]


def test_a_client_may_send_so_many_frames_per_second_on_average() -> None:
    """Two seconds' worth may come at once; then one at a time, as time goes by."""
    peer = Peer(new_hub(), "W", limits=Limits(bad_frames=3, frames_per_second=5))
    now = 1000.0
    for _ in range(10):
        peer.session.receive_text(PING, now)
    for _ in range(20):
        now += 0.2001
        peer.session.receive_text(PING, now)
    assert peer.closed == []
    assert len(peer.payloads) == 30
    peer.session.receive_text(PING, now)
    assert peer.closed == [Close.RATE]


@pytest.mark.parametrize("is_text", [True, False])
def test_a_flood_is_closed_before_it_is_read(is_text: bool) -> None:
    """Whether its frames are good or not."""
    peer = Peer(new_hub(), "W", limits=Limits(bad_frames=1000, frames_per_second=1))
    for _ in range(10):
        if is_text:
            peer.session.receive_text("{", 5.0)
        else:
            peer.session.receive_binary(5.0)
    assert peer.closed == [Close.RATE]
    assert len(peer.payloads) == 2


def test_close_is_called_once_and_nothing_is_sent_after_it() -> None:
    """What waited is given up; whatever comes later is ignored."""
    peer = Peer(new_hub(), "W")
    peer.session.put(b"\x81\x01x")
    peer.session.close(Close.GOING_AWAY)
    peer.session.close(Close.TOO_SLOW)
    peer.session.put(b"\x81\x01x")
    peer.session.flush()
    peer.session.send(b"\x81\x01x")
    peer.session.receive_text(PING, 0.0)
    peer.session.release()
    peer.session.flush()
    assert (peer.closed, peer.sink.writes, len(peer.session.outbox)) == ([Close.GOING_AWAY], [], 0)


def test_a_peer_that_takes_nothing_is_closed_when_the_bound_is_passed() -> None:
    """4100, and what waited is freed."""
    peer = Peer(new_hub(), "W", bound=Bound(1000, 2))
    peer.sink.buffered = HIGH_WATER
    for _ in range(2):
        peer.session.send(b"\x81\x01x")
    assert peer.closed == []
    assert peer.session.is_congested
    peer.session.send(b"\x81\x01x")
    assert peer.closed == [Close.TOO_SLOW]
    assert not peer.session.is_congested


def test_live_events_wait_while_the_past_is_replayed() -> None:
    """First the replay, then what came meanwhile, each once and in order."""
    hub = new_hub()
    peer = Peer(hub, "W", resumable=True)
    hub.register(peer.session)
    peer.session.hold()
    hub.publish("e1", [event(3, ("W", 2))])
    peer.session.replay([event(1, ("W", 0)), event(2, ("W", 1))], "e1")
    hub.publish("e1", [event(4, ("W", 3))])
    assert [said["n"] for said in peer.payloads] == [1, 2]
    peer.session.release()
    peer.session.flush()
    hub.publish("e1", [event(5, ("W", 4))])
    assert [said["n"] for said in peer.payloads] == [1, 2, 3, 4, 5]
    assert [said["prev"] for said in peer.payloads] == [f"e1:{seq}" for seq in range(5)]


def test_the_cursor_of_a_pong_is_never_ahead_of_what_was_sent() -> None:
    """A client that resumes from it must miss nothing: during a replay it is the replay's own place."""
    hub = new_hub()
    peer = Peer(hub, "W", resumable=True)
    hub.publish("e1", [event(1, ("W", 0)), event(2, ("W", 1))])
    hub.register(peer.session)
    peer.session.hold()
    peer.session.receive_text(PING, 0.0)
    peer.session.resume_at(Cursor("e1", 0))
    peer.session.send(protocol.established("W", Cursor("e1", 0)))
    peer.session.receive_text(PING, 0.0)
    peer.session.replay([event(1, ("W", 0))], "e1")
    peer.session.receive_text(PING, 0.0)
    peer.session.release()
    peer.session.receive_text(PING, 0.0)
    cursors = [said.get("cursor") for said in peer.payloads if said["type"] == "pong"]
    assert cursors == [None, "e1:0", "e1:1", "e1:2"]


def test_nothing_is_answered_before_the_welcome() -> None:
    """`connection_established` is the first frame, also for who pings while it is looked up what was missed."""
    hub = new_hub()
    peer = Peer(hub, "W", resumable=True)
    hub.register(peer.session)
    peer.session.hold()
    peer.session.receive_text(PING, 0.0)
    peer.session.receive_text("{}", 0.0)
    assert peer.payloads == []
    peer.session.resume_at(Cursor("e1", 0))
    peer.session.send(protocol.established("W", Cursor("e1", 0)))
    peer.session.receive_text(PING, 0.0)
    assert [said["type"] for said in peer.payloads] == ["connection_established", "pong", "error", "pong"]


def test_answers_that_wait_for_the_welcome_count_against_the_bound() -> None:
    """And are counted no longer once they are sent."""
    hub = new_hub()
    patient, hasty = (Peer(hub, "W", resumable=True, bound=Bound(170, 100)) for _ in range(2))
    for peer, pings in ((patient, 2), (hasty, 6)):
        hub.register(peer.session)
        peer.session.hold()
        for _ in range(pings):
            peer.session.receive_text(PING, 0.0)
    assert (patient.closed, hasty.closed) == ([], [Close.TOO_SLOW])
    patient.session.resume_at(Cursor("e1", 0))
    patient.session.send(protocol.text_frame(b"{}"))
    hub.publish("e1", [event(seq, ("W", seq - 1)) for seq in range(1, 3)])
    assert patient.closed == []


def test_what_is_held_back_counts_against_the_bound() -> None:
    """A replay that does not come to its end must not fill the memory."""
    hub = new_hub()
    peer = Peer(hub, "W", resumable=True, bound=Bound(1 << 20, 3))
    hub.register(peer.session)
    peer.session.hold()
    for seq in range(1, 4):
        hub.publish("e1", [event(seq, ("W", seq - 1))])
    assert peer.closed == []
    hub.publish("e1", [event(4, ("W", 3))])
    assert peer.closed == [Close.TOO_SLOW]


def test_what_was_held_back_counts_once() -> None:
    """After `release` it is in the outbox, and no longer in what is held."""
    hub = new_hub()
    peer = Peer(hub, "W", resumable=True, bound=Bound(200, 100))
    hub.register(peer.session)
    peer.session.hold()
    hub.publish("e1", [event(1, ("W", 0))])
    peer.session.release()
    peer.session.flush()
    for seq in range(2, 20):
        hub.publish("e1", [event(seq, ("W", seq - 1))])
    assert peer.closed == []
    assert [json.loads(json.dumps(said))["n"] for said in peer.payloads] == list(range(1, 20))
