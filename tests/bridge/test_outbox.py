"""Bounded, in order, one write at a time, and never more than the peer has room for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.outbox import HIGH_WATER, Bound, Outbox
from tests.bridge.fakes import ROOMY, ListSink


def test_nothing_leaves_before_flush_and_all_leaves_in_one_write() -> None:
    """Frames that one look has for a connection are one system call."""
    sink = ListSink()
    outbox = Outbox(sink, ROOMY)
    for frame in (b"a", b"b", b"c"):
        outbox.put(frame)
    assert sink.writes == []
    assert (len(outbox), outbox.size) == (3, 3)
    assert outbox.flush()
    assert sink.writes == [b"abc"]
    assert (len(outbox), outbox.size) == (0, 0)


def test_an_empty_outbox_writes_nothing() -> None:
    """A flush for nothing costs no system call."""
    sink = ListSink()
    assert Outbox(sink, ROOMY).flush()
    assert sink.writes == []


def test_a_full_transport_is_left_alone() -> None:
    """What its peer has not taken counts; what has no room waits here."""
    sink = ListSink()
    outbox = Outbox(sink, ROOMY)
    sink.buffered = HIGH_WATER
    outbox.put(b"a")
    assert outbox.flush()
    assert sink.writes == []
    sink.buffered = HIGH_WATER - 1
    assert outbox.flush()
    assert sink.writes == [b"a"]


def test_what_has_room_goes_and_the_rest_waits() -> None:
    """Whole frames only, and at least one: a frame bigger than the room would else never leave."""
    sink = ListSink()
    sink.is_stuck = True
    outbox = Outbox(sink, Bound(10 * HIGH_WATER, 10))
    for size in (HIGH_WATER // 2, HIGH_WATER // 2, 1, 2 * HIGH_WATER):
        outbox.put(b"x" * size)
    outbox.flush()
    assert [len(data) for data in sink.writes] == [HIGH_WATER]
    sink.drain()
    outbox.flush()
    assert [len(data) for data in sink.writes] == [HIGH_WATER, 1]
    sink.drain()
    outbox.flush()
    assert [len(data) for data in sink.writes] == [HIGH_WATER, 1, 2 * HIGH_WATER]


@pytest.mark.parametrize("bound", [Bound(10, 100), Bound(1000, 2)])
def test_more_than_the_bound_is_told(bound: Bound) -> None:
    """In bytes and in frames; up to the bound all is well."""
    sink = ListSink()
    sink.buffered = HIGH_WATER
    outbox = Outbox(sink, bound)
    for _ in range(2):
        outbox.put(b"12345")
        assert outbox.flush()
    outbox.put(b"")
    outbox.put(b"6")
    assert not outbox.flush()
    outbox.clear()
    assert outbox.flush()
    assert outbox.within(bound.size, bound.frames)
    assert not outbox.within(bound.size + 1, 0)
    assert not outbox.within(0, bound.frames + 1)


def test_a_closing_transport_gets_nothing() -> None:
    """Writing to it would only warn."""
    sink = ListSink()
    sink.closing = True
    outbox = Outbox(sink, ROOMY)
    outbox.put(b"a")
    outbox.flush()
    assert sink.writes == []


@given(st.lists(st.tuples(st.lists(st.binary(max_size=HIGH_WATER // 3), max_size=4), st.integers(0, HIGH_WATER + 10))))
def test_whatever_the_peer_takes_order_and_bytes_are_kept(turns: list[tuple[list[bytes], int]]) -> None:
    """Nothing lost, nothing twice, nothing overtaken, and the size is what waits."""
    sink = ListSink()
    outbox = Outbox(sink, Bound(1 << 30, 1 << 30))
    sent = b""
    for put, buffered in turns:
        sink.buffered = buffered
        for frame in put:
            outbox.put(frame)
            sent += frame
        outbox.flush()
        assert outbox.size == len(sent) - sum(map(len, sink.writes))
    sink.buffered = 0
    while len(outbox):
        outbox.flush()
    assert b"".join(sink.writes) == sent
    assert outbox.size == 0
